"""The ledger counts distinct encoders, whatever else is going on."""

import multiprocessing
from pathlib import Path

from ssvid.results.ledger import record_readers

TEST_SET = "d" * 64


def make_hash(number: int) -> str:
    return f"{number:016x}"


def record_many(cache: str, first: int) -> None:
    for number in range(first, first + 30):
        record_readers(Path(cache), TEST_SET, [make_hash(number)])


def test_distinct_encoders_are_counted(tmp_path: Path):
    assert record_readers(tmp_path, TEST_SET, []) == 0
    assert record_readers(tmp_path, TEST_SET, [make_hash(1)]) == 1
    assert record_readers(tmp_path, TEST_SET, [make_hash(1)]) == 1
    assert record_readers(tmp_path, TEST_SET, [make_hash(2), make_hash(3), make_hash(2)]) == 3
    assert record_readers(tmp_path, "e" * 64, [make_hash(1)]) == 1  # another test set
    assert record_readers(tmp_path, TEST_SET, []) == 3


def test_a_cut_file_loses_one_encoder_at_most(tmp_path: Path):
    for number in range(4):
        record_readers(tmp_path, TEST_SET, [make_hash(number)])
    (file,) = (tmp_path / "ledger").glob("*.txt")
    file.write_bytes(file.read_bytes()[:-5] + b"\xff\0")
    assert record_readers(tmp_path, TEST_SET, [make_hash(9)]) == 4
    file.write_bytes(b"")
    assert record_readers(tmp_path, TEST_SET, [make_hash(9)]) == 1


def test_two_processes_lose_nothing(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    workers = []
    for first in (0, 15):  # half of the encoders are the same
        workers.append(context.Process(target=record_many, args=(str(tmp_path), first)))
        workers[-1].start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert record_readers(tmp_path, TEST_SET, []) == 45
