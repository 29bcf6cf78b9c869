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


def clips(
    folder: Path, cell: str, correct: torch.Tensor, paths: int = 0, title: str = "net"
) -> None:
    made = result_of(title, cell, {"encoder": correct.tolist()})
    put(
        folder,
        replace(made, test=replace(made.test, paths=[f"{paths}/{i}" for i in range(len(correct))])),
    )


def ranking(folder: Path, cell: str, value: float, draws: torch.Tensor) -> None:
    test = Answers(
        paths=["a"], groups=[str(i) for i in range(40)], units=9, draws={"encoder": draws.tolist()}
    )
    made = result_of("net", cell, {"encoder": [1.0]}, test=test, metric="map")
    put(folder, replace(made, score=replace(made.score, value=value)))


def test_rankings_are_compared_by_their_redrawings(tmp_path: Path):
    """p is twice the share of redrawings on the other side: 5 of 99 there make 2 * (5 + 1) / 100."""
    change = torch.cat([torch.full((94,), 0.1), torch.full((5,), -0.1)])
    other = torch.full((99,), 0.3)
    (
        ranking(tmp_path / "a", "close", 0.4, other + change),
        ranking(tmp_path / "b", "close", 0.3, other),
    )
    ranking(tmp_path / "a", "clear", 0.4, other + 0.1), ranking(tmp_path / "b", "clear", 0.3, other)
    rows = {row["cell"]: row for row in compare(str(tmp_path / "a"), str(tmp_path / "b"))["cells"]}
    assert rows["close"]["p"] == pytest.approx(0.12) and not rows["close"]["real"]
    assert rows["clear"]["p"] == pytest.approx(0.02) and rows["clear"]["real"]
    assert rows["clear"]["difference"] == pytest.approx(0.1)


def test_a_clear_difference_is_real_and_none_is_not(tmp_path: Path):
    draw = torch.Generator().manual_seed(0)
    better, worse = ((torch.rand(200, generator=draw) < p).double() for p in (0.8, 0.5))
    alike = (torch.rand(200, generator=draw) < 0.5).double()
    clips(tmp_path / "a", "clear", better), clips(tmp_path / "b", "clear", worse)
    clips(tmp_path / "a", "none", alike), clips(tmp_path / "b", "none", worse)
    clips(tmp_path / "a", "moved", alike), clips(tmp_path / "b", "moved", alike, paths=1)
    clips(tmp_path / "b", "alone", alike)
    found = compare(str(tmp_path / "a"), str(tmp_path / "b"))
    assert {row["cell"]: row["real"] for row in found["cells"]} == {"clear": True, "none": False}
    clear = found["cells"][0]
    assert (
        clear["difference"] == pytest.approx((better - worse).mean().item())
        and clear["interval"][0] > 0
    )
    assert [text.split()[0] for text in found["left_out"]] == ["alone", "moved"]


def test_a_linear_probe_of_before_is_compared_with_a_suites(tmp_path: Path):
    """Of the same encoder, clips and settings: their answers are the same."""
    for kind in ("linear_probe", "benchmark"):
        (tmp_path / f"{kind}.json").write_text(json.dumps(old_result(kind)))
    (row,) = compare(str(tmp_path / "linear_probe.json"), str(tmp_path / "benchmark.json"))["cells"]
    assert row["cell"] == "classify.linear" and row["difference"] == 0 and not row["real"]


def test_holm_by_hand():
    rows = [{"p": p} for p in (0.03, 0.01, 0.04)]
    apply_holm(rows)
    assert [row["real"] for row in rows] == [
        False,
        True,
        False,
    ]  # 0.01 <= 0.05 / 3, but 0.03 > 0.05 / 2


def test_the_sign_flips_of_three_groups():
    """All eight are as likely; two of them are as far from 0 as 1 + 2 + 3."""
    assert sign_flip(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), 0) == pytest.approx(
        0.25, abs=0.02
    )
    assert sign_flip(torch.zeros(3, dtype=torch.float64), 0) == 1.0


def test_what_cannot_be_compared(tmp_path: Path):
    a, b = tmp_path / "a", tmp_path / "b"
    clips(a, "x", torch.ones(4)), clips(b, "y", torch.ones(4))
    with pytest.raises(UserError, match=facts("cell")):
        compare(str(a), str(b))
    clips(a, "x", torch.ones(4), title="other")
    for folder, fact in ((a, "2"), (tmp_path / "none", str(tmp_path / "none"))):
        with pytest.raises(UserError, match=facts(fact)):
            compare(str(folder), str(b))
