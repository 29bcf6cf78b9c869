"""Which differences are real: a clear one is, none is not, and many cells do not make one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.compare import apply_holm, compare
from ssvid.errors import UserError
from ssvid.results import Answers
from ssvid.statistics import sign_flip
from tests.benchmarks.made import old_result, put, result_of
from tests.helpers import facts


def write_clips(
    folder: Path, cell: str, correct: torch.Tensor, paths: int = 0, title: str = "net"
) -> None:
    saved = result_of(title, cell, {"encoder": correct.tolist()})
    names = [f"{paths}/{i}" for i in range(len(correct))]
    put(
        folder,
        replace(saved, test=replace(saved.test, paths=names)),
    )


def write_ranking(folder: Path, cell: str, value: float, draws: torch.Tensor) -> None:
    test = Answers(
        paths=["a"], groups=list(map(str, range(40))), units=9, draws={"encoder": draws.tolist()}
    )
    saved = result_of("net", cell, {"encoder": [1.0]}, test=test, metric="map")
    put(folder, replace(saved, score=replace(saved.score, value=value)))


def test_rankings_are_compared_by_their_redrawings(tmp_path: Path):
    """p is twice the share of redrawings on the other side: 5 of 99 make 2 * (5 + 1) / 100."""
    change = torch.cat([torch.full((94,), 0.1), torch.full((5,), -0.1)])
    other = torch.full((99,), 0.3)
    write_ranking(tmp_path / "a", "close", 0.4, other + change)
    write_ranking(tmp_path / "b", "close", 0.3, other)
    write_ranking(tmp_path / "a", "clear", 0.4, other + 0.1)
    write_ranking(tmp_path / "b", "clear", 0.3, other)
    clear, close = compare(str(tmp_path / "a"), str(tmp_path / "b"))["cells"]
    rows = {"clear": clear, "close": close}
    assert (clear["cell"], close["cell"]) == ("clear", "close")
    assert rows["close"]["p"] == pytest.approx(0.12) and not rows["close"]["real"]
    assert rows["clear"]["p"] == pytest.approx(0.02) and rows["clear"]["real"]
    assert rows["clear"]["difference"] == pytest.approx(0.1)


def test_a_clear_difference_is_real_and_none_is_not(tmp_path: Path):
    draw = torch.Generator().manual_seed(0)
    better = (torch.rand(200, generator=draw) < 0.8).double()
    worse = (torch.rand(200, generator=draw) < 0.5).double()
    coin_flips = (torch.rand(200, generator=draw) < 0.5).double()
    write_clips(tmp_path / "a", "clear", better)
    write_clips(tmp_path / "b", "clear", worse)
    write_clips(tmp_path / "a", "none", coin_flips)
    write_clips(tmp_path / "b", "none", worse)
    write_clips(tmp_path / "a", "moved", coin_flips)
    write_clips(tmp_path / "b", "moved", coin_flips, paths=1)
    write_clips(tmp_path / "b", "alone", coin_flips)
    compared = compare(str(tmp_path / "a"), str(tmp_path / "b"))
    assert {row["cell"]: row["real"] for row in compared["cells"]} == {"clear": True, "none": False}
    clear = compared["cells"][0]
    assert (
        clear["difference"] == pytest.approx((better - worse).mean().item())
        and clear["interval"][0] > 0
    )
    assert [text.split()[0] for text in compared["left_out"]] == ["alone", "moved"]


def test_a_linear_probe_of_before_is_compared_with_a_suites(tmp_path: Path):
    """Of the same encoder, clips and settings: their answers are the same."""
    for kind in ("linear_probe", "benchmark"):
        (tmp_path / f"{kind}.json").write_text(json.dumps(old_result(kind)))
    (row,) = compare(str(tmp_path / "linear_probe.json"), str(tmp_path / "benchmark.json"))["cells"]
    assert row["cell"] == "classify.linear" and row["difference"] == 0 and not row["real"]


def test_holm_by_hand():
    rows = [{"p": 0.03}, {"p": 0.01}, {"p": 0.04}]
    apply_holm(rows)
    # 0.01 <= 0.05 / 3, but 0.03 > 0.05 / 2.
    assert [row["real"] for row in rows] == [False, True, False]


def test_the_sign_flips_of_three_groups():
    """All eight are as likely; two of them are as far from 0 as 1 + 2 + 3."""
    assert sign_flip(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), 0) == pytest.approx(
        0.25, abs=0.02
    )
    assert sign_flip(torch.zeros(3, dtype=torch.float64), 0) == 1.0


def test_what_cannot_be_compared(tmp_path: Path):
    a, b = tmp_path / "a", tmp_path / "b"
    write_clips(a, "x", torch.ones(4))
    write_clips(b, "y", torch.ones(4))
    with pytest.raises(UserError, match=facts("cell")):
        compare(str(a), str(b))
    write_clips(a, "x", torch.ones(4), title="other")
    for folder, fact in ((a, "2"), (tmp_path / "none", str(tmp_path / "none"))):
        with pytest.raises(UserError, match=facts(fact)):
            compare(str(folder), str(b))
