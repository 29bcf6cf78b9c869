"""What a library call shows (nothing), and what a command shows of it."""

from pathlib import Path

import pytest

from ssvid import load_encoder
from ssvid.data.clips import Clips
from ssvid.data.datasets.folder import folder
from ssvid.engine.features import Source, extract_from
from ssvid.log import Screen, log, log_once
from ssvid.progress import progress_bar
from ssvid.shapes import Views
from tests.helpers import run_pretrain, squares, write_video


@pytest.fixture
def unshown(monkeypatch: pytest.MonkeyPatch):
    """As in a program that imports ssvid: nobody asked for its log."""
    silent = [handler for handler in log.handlers if not isinstance(handler, Screen)]
    monkeypatch.setattr(log, "handlers", silent)
    log_once.cache_clear()


def open_data(root: Path) -> None:
    """A data set without splits: whole groups are held out, which is logged."""
    for label in ("a", "b"):
        for number in range(10):
            write_video(root / label / f"{number}_x{number}.mp4", squares(number, frames=2))
    folder(str(root))


def test_a_library_call_shows_nothing(
    tmp_path: Path, unshown: None, capsys: pytest.CaptureFixture[str]
):
    open_data(tmp_path)
    log.warning("of no use to anybody")
    assert capsys.readouterr() == ("", "")


def test_a_run_from_python_shows_no_bar_and_goes_on(
    tmp_path: Path, videos: Path, unshown: None, capsys: pytest.CaptureFixture[str]
):
    run_pretrain(videos, tmp_path / "run", "--steps", "2", "--log_every", "1")
    encoder = load_encoder(tmp_path / "run")
    clips = Clips(folder(str(videos)), Views(clips=(encoder.spec,)), seed=0)
    source = Source(
        "encoder",
        "of a test",
        lambda clip, index: {"pooled": encoder(encoder.normalise(clip)).pooled},
    )
    extracted = extract_from(clips, [source], str(tmp_path / "cache"), 4, 0, "cpu", label="net")
    assert len(extracted.features["encoder"]["pooled"]) == 10
    assert capsys.readouterr() == ("", "")


def test_a_command_shows_it_once_and_names_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    log_once.cache_clear()
    open_data(tmp_path)
    folder(str(tmp_path))
    log.warning("mind this")
    lines = capsys.readouterr().err.splitlines()
    facts_of_set = [line for line in lines if str(tmp_path) in line]
    assert len(facts_of_set) == 2 == len(set(facts_of_set))  # the groups, and the splits
    assert lines[-1] == "warning: mind this"


def test_a_bar_in_a_log_file_is_lines(capsys: pytest.CaptureFixture[str]):
    with progress_bar(3, "clip", desc="reading") as bar:
        bar.update(2)
        log.info("between")
        bar.refresh()
    text = capsys.readouterr().err
    assert "\r" not in text and text.endswith("\n")
    lines = text.splitlines()
    assert "between" in lines and len(lines) <= 5
    assert any("2/3" in line and "reading" in line for line in lines)
