"""What a bar writes into a log file."""

import logging
import sys

import pytest

from ssvid import progress
from ssvid.log import Screen, log
from ssvid.sweep.status import State
from ssvid.sweep.submission import describe_progress


@pytest.fixture(autouse=True)
def shown_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a command whose standard error is a file."""
    monkeypatch.setattr(log, "handlers", [Screen()])
    monkeypatch.setattr(log, "level", logging.INFO)
    assert not sys.stderr.isatty()


def test_what_is_quick_writes_nothing(capsys: pytest.CaptureFixture[str]):
    with progress.progress_bar(1000, "clip", desc="quick") as bar:
        for _ in range(1000):
            bar.update()
    assert list(progress.progress_bar(3, "clip", iterable=[1, 2, 3])) == [1, 2, 3]
    assert capsys.readouterr().err == ""


def test_what_is_slow_writes_whole_lines(
    capsys: pytest.CaptureFixture[str],
):
    seconds = iter(range(0, 10_000, 5))
    with progress.progress_bar(20, "clip", desc="slow") as bar:
        bar.start_t = bar.last_print_t = next(seconds)
        bar._time = lambda: next(seconds)
        for number in range(20):
            bar.update()
            if number == 10:
                log.info("between")
    lines = capsys.readouterr().err.splitlines(keepends=True)
    bars = [line for line in lines if line.startswith("slow")]
    assert len(bars) == len(lines) - 1 and "between\n" in lines
    assert bars[0].startswith("slow: ") and 2 <= len(bars) <= 7  # 20 updates in 100 seconds
    for line in lines:
        assert line.endswith("\n") and "\r" not in line
    assert "20/20" in bars[-1]


def test_a_waiting_sweep_tells_what_runs():
    running = State("a", "one", "running", False, stage="pretrain", step=3, steps=9)
    probing = State("b", "two", "running", False, stage="suite", step=9, steps=9)
    text = describe_progress([running._replace(seconds_left=200.0), probing])
    assert "2 running" in text and "3/9" in text and "3 min" in text and "suite" in text
    assert describe_progress([State("a", "one", "finished", False)]) == ""
