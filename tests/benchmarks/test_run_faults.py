"""Faults under the runner: a kill, a damaged cache, a full disk, a diverged encoder, odd labels."""

import errno
import json
import signal
import time
from pathlib import Path

import pytest
import torch

from benchmarks.run import run
from benchmarks.suites import runner
from benchmarks.tasks.retrieval import Retrieval
from ssvid import registry
from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.engine import features
from tests import warm
from tests.helpers import tells

SUITE = "cells: [{task: classify, probe: prototypes}, {task: retrieval, ks: [1]}]"
NET = "tests.benchmarks.test_run:tiny_vit"


def broken_vit(**kwargs) -> Encoder:
    """As a training that diverged leaves it."""
    from tests.benchmarks.test_run import tiny_vit

    net = tiny_vit(**kwargs)
    with torch.no_grad():
        net.norm.weight[0] = float("nan")
    return net


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    manifest = registry.datasets["synthetic"](
        str(tmp_path_factory.mktemp("set")), train=48, labelled=48, val=8, test=12
    )
    assert isinstance(manifest, Manifest)
    return manifest


PART = 16  # rows of a file of features, so that there are several


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "PART_ROWS", PART)


@pytest.fixture
def suite(tmp_path: Path) -> str:
    (tmp_path / "s.yaml").write_text(SUITE)
    return str(tmp_path / "s.yaml")


def ask(data: Manifest, suite: str, out: Path, encoder: tuple[str, ...] = (NET,)):
    settings = {"suite": suite, "cache": str(out.parent / "cache")}
    return run(list(encoder), str(out), data=data, workers=0, threads=1, devices="cpu", **settings)


def numbers(printed) -> list[tuple[str, float]]:
    return [(row["cell"], row.get("top1", row.get("recall1"))) for row in printed["results"]]


@pytest.mark.slow
def test_after_a_kill_it_goes_on_and_says_the_same(data: Manifest, suite: str, tmp_path: Path):
    """SIGKILL once the first part of the features exists: the second run reuses it."""
    script = (
        "import time; from benchmarks.run import run; from ssvid import registry; "
        f"from ssvid.engine import features; features.PART_ROWS = {PART}; "
        "write = features.write_bytes_whole; "
        # It sleeps until it is killed.
        "features.write_bytes_whole = lambda *part: (write(*part), time.sleep(600)); "
        f"data = registry.datasets['synthetic']({str(data.root.parent)!r}, "
        "train=48, labelled=48, val=8, test=12); "
        f"run([{NET!r}], {str(tmp_path / 'out')!r}, data=data, suite={suite!r}, "
        f"cache={str(tmp_path / 'cache')!r}, "
        "workers=0, threads=1, devices='cpu', batch_size=1)"
    )
    process = warm.start("-c", script)
    features = tmp_path / "cache" / "features"
    while process.poll() is None and not list(features.rglob("*.safetensors")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not list((tmp_path / "out").glob("*.json"))
    times = {file: file.stat().st_mtime_ns for file in features.rglob("*.safetensors")}
    printed = ask(data, suite, tmp_path / "out")
    for file, time_ns in times.items():
        assert file.stat().st_mtime_ns == time_ns
    assert len(printed["results"]) == 2
    assert numbers(printed) == numbers(ask(data, suite, tmp_path / "fresh" / "out"))


def test_a_part_that_was_cut_short_is_made_again(data: Manifest, suite: str, tmp_path: Path):
    before = numbers(ask(data, suite, tmp_path / "one"))
    for file in (tmp_path / "cache" / "features").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert numbers(ask(data, suite, tmp_path / "two")) == before


def test_a_full_disk_costs_its_cell_alone(data: Manifest, suite: str, tmp_path: Path, monkeypatch):
    write = runner.write_result

    def full(path: Path, result) -> None:
        if "classify" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, result)

    monkeypatch.setattr(runner, "write_result", full)
    printed = ask(data, suite, tmp_path / "out")
    (failed,) = printed["failed"]
    assert printed["exit_code"] == 3 and [row["cell"] for row in printed["results"]] == [
        "retrieval"
    ]
    assert failed["cell"] == "classify.prototypes" and tells(failed["why"], "No space left")
    monkeypatch.undo()
    again = ask(data, suite, tmp_path / "out")
    assert again["exit_code"] == 0 and len(again["results"]) == 2


def test_a_fault_of_the_code_is_shown_with_its_traceback(
    data: Manifest, suite: str, tmp_path: Path, monkeypatch, caplog
):
    """A bug (here: a misspelt attribute) is no mistake of the user, so its traceback is shown.

    Other cells still run.
    """
    caplog.set_level("INFO", logger="ssvid")
    monkeypatch.setattr(Retrieval, "answer", lambda task, bench, source: bench.sourcces)
    printed = ask(data, suite, tmp_path / "out")
    assert printed["exit_code"] == 3 and [row["cell"] for row in printed["results"]] == [
        "classify.prototypes"
    ]
    assert printed["failed"][0]["cell"] == "retrieval" and printed["failed"][0]["why"].startswith(
        "AttributeError: "
    )
    shown = caplog.text
    assert "Traceback" in shown and "bench.sourcces" in shown
    monkeypatch.undo()
    caplog.clear()
    monkeypatch.setattr(Retrieval, "answer", lambda *_: Path("/nowhere").read_text())
    # A file that does not exist is a mistake of the user.
    printed = ask(data, suite, tmp_path / "out")
    assert "No such file" in printed["failed"][0]["why"] and "Traceback" not in caplog.text


def test_an_encoder_that_diverged_costs_its_own_cells(data: Manifest, suite: str, tmp_path: Path):
    printed = ask(
        data, suite, tmp_path / "out", ("tests.benchmarks.test_run_faults:broken_vit", NET)
    )
    assert {row["encoder"].split("_")[-2] for row in printed["failed"]} == {"broken"} and len(
        printed["failed"]
    ) == 2
    assert (
        all("NaN or infinity" in row["why"] for row in printed["failed"])
        and len(printed["results"]) == 2
    )


def test_clips_that_hold_no_token_cost_their_cells_alone(data: Manifest, tmp_path: Path):
    small_set = (
        f"name: synthetic, root: {data.root.parent}, train: 48, labelled: 48, val: 8, test: 12"
    )
    sets = f"{{small: {{{small_set}, at_most: {{size: 4}}}}, plain: {{{small_set}}}}}"
    (tmp_path / "s.yaml").write_text(
        f"sets: {sets}\ncells: [{{task: retrieval, data: small}}, {{task: retrieval, data: plain}}]"
    )
    settings = {"suite": str(tmp_path / "s.yaml"), "cache": str(tmp_path / "cache")}
    printed = run([NET], str(tmp_path / "out"), workers=0, threads=1, devices="cpu", **settings)
    assert [row["cell"] for row in printed["results"]] == ["plain.retrieval"] and printed[
        "exit_code"
    ] == 3
    assert printed["failed"][0]["cell"] == "small.retrieval"


def test_every_clip_a_group_of_its_own(data: Manifest, suite: str, tmp_path: Path):
    counts = {"train": 6, "val": 2, "test": 3}  # of each class
    folders = []
    for split, n in counts.items():
        folders += [(split, "a")] * n + [(split, "b")] * n
    for number, (split, name) in enumerate(folders):
        file = tmp_path / "v" / split / name / f"{number}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(data.path(number))
    manifest = registry.datasets["folder"](str(tmp_path / "v"))
    printed = ask(manifest, suite, tmp_path / "out")
    assert printed["exit_code"] == 0
    for row in printed["results"]:
        assert row["chance"] == 0.5
    result = json.loads(next((tmp_path / "out").glob("*classify*.json")).read_text())
    assert (
        result["data"]["groups"]["test"] == 6
        and result["interval"][0] <= result["top1"] <= result["interval"][1]
    )
