"""A run's companions may be damaged: that is one sentence, and nothing is lost."""

import shutil
from pathlib import Path

import pytest

from ssvid.errors import UserError
from tests.helpers import facts, for_each, run_pretrain, tells

STEPS = ("--steps", "4", "--checkpoint_every", "2")


@pytest.fixture(scope="module")
def small_run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("companions") / "run"
    run_pretrain(videos, out, "--steps", "2")
    return out


@for_each(
    "name, content",
    [
        ("config.yaml", b"steps: ["),
        ("config.yaml", b"[1, 2]"),
        ("config.yaml", b"\xff\xfe\x00"),
        ("provenance.json", b'{"hash":'),
        ("provenance.json", b"[]"),
        ("metrics.jsonl", b'{"step": 1}\n\xff\xff\n{"step": 2}\n'),
        ("metrics.jsonl", b'{"loss": 1}\n'),
        ("metrics.jsonl", b'{"step": 1}\n{"a": ' + b"[" * 100_000 + b"\n{}\n"),
        ("metrics.jsonl", b'{"step": %s}\n' % (b"9" * 400)),
        ("config.yaml", b"1: 2\n"),
    ],
)
def test_a_damaged_companion_of_a_run_is_one_sentence(tmp_path, small_run, videos, name, content):
    out = tmp_path / "copy"
    shutil.copytree(small_run, out)
    (out / name).write_bytes(content)
    with pytest.raises(UserError, match=facts(name)):
        run_pretrain(videos, out, *STEPS)
    assert (out / name).read_bytes() == content
    assert sorted((out / "checkpoints").iterdir()) != []


@for_each("name", ["metrics.jsonl", "lock", "tensorboard", "checkpoints"])
def test_nothing_is_written_where_a_link_of_the_folder_leads(tmp_path, small_run, videos, name):
    out = shutil.copytree(small_run, tmp_path / "copy")
    shutil.move(out / name, tmp_path / "outside")
    before = sorted((tmp_path / "outside").rglob("*")) or (tmp_path / "outside").read_bytes()
    (out / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=facts(name)):
        run_pretrain(videos, out, *STEPS)
    after = sorted((tmp_path / "outside").rglob("*")) or (tmp_path / "outside").read_bytes()
    assert after == before


def test_damaged_lines_of_the_list_of_bad_files_are_told(
    small_run: Path, videos: Path, tmp_path: Path, capsys
):
    """They are passed over, because a bad file is met again."""
    copy = shutil.copytree(small_run, tmp_path / "copy")
    (copy / "quarantine.jsonl").write_bytes(b'\xff\n{"why": "x"}\n{"path": "gone.mp4"}\n')
    assert run_pretrain(videos, copy, *STEPS)["bad_files"] == 1
    assert tells(capsys.readouterr().err, "quarantine.jsonl", "2")
