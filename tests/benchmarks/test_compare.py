"""Which differences are shown: a clear one is, none is not, and unlike results are left out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.compare import compare
from ssvid.errors import UserError
from ssvid.results import Answers, Result, read_result
from tests.benchmarks.made import encoder_info, old_result, put, result_of
from tests.helpers import facts, tells


def write_clips(
    folder: Path, cell: str, correct: torch.Tensor, paths: int = 0, title: str = "net"
) -> None:
    saved = result_of(title, cell, {"encoder": correct.tolist()})
    names = [f"{paths}/{i}" for i in range(len(correct))]
    put(
        folder,
        replace(saved, test=replace(saved.test, paths=names)),
    )


def write_ranking(folder: Path, cell: str, of_groups: torch.Tensor) -> None:
    groups = [f"g{i:02d}" for i in range(len(of_groups))]
    test = Answers(paths=["a"], groups=groups, units=9, of_groups={"encoder": of_groups.tolist()})
    saved = result_of("net", cell, {"encoder": [1.0]}, test=test, metric="map")
    put(folder, replace(saved, score=replace(saved.score, value=of_groups.mean().item())))


def test_rankings_are_compared_by_what_each_group_says(tmp_path: Path):
    """Six groups of six have the same sign: 2 of 2^6 patterns are as far from zero."""
    base = torch.linspace(0.2, 0.4, 6)
    write_ranking(tmp_path / "a", "map", base + torch.linspace(0.05, 0.1, 6))
    write_ranking(tmp_path / "b", "map", base)
    (row,) = compare(str(tmp_path / "a"), str(tmp_path / "b"))["cells"]
    assert row["p"] == pytest.approx(2 / 2**6) and row["shown"]
    assert row["difference"] == pytest.approx(0.075)


def test_a_clear_difference_is_shown_and_none_is_not(tmp_path: Path):
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
    assert {row["cell"]: row["shown"] for row in compared["cells"]} == {
        "clear": True,
        "none": False,
    }
    clear = compared["cells"][0]
    assert (
        clear["difference"] == pytest.approx((better - worse).mean().item())
        and clear["interval"][0] > 0
    )
    alone, moved = compared["left_out"]
    assert alone.startswith("alone ") and moved.startswith("moved ")


def test_a_linear_probe_of_before_is_compared_with_a_suites(tmp_path: Path):
    """Of the same encoder, clips and settings: their answers are the same."""
    for kind in ("linear_probe", "benchmark"):
        (tmp_path / f"{kind}.json").write_text(json.dumps(old_result(kind)))
    (row,) = compare(str(tmp_path / "linear_probe.json"), str(tmp_path / "benchmark.json"))["cells"]
    assert row["cell"] == "classify.linear" and row["difference"] == 0 and not row["shown"]


def run_of_seed(seed: int, share: float, recipe: str = "r") -> Result:
    draw = torch.Generator().manual_seed(seed)
    correct = (torch.rand(400, generator=draw) < share).double()
    info = encoder_info(f"{recipe}{seed}", recipe=recipe, pretraining_seed=seed)
    return result_of(info.title, "c", {"encoder": correct.tolist()}, encoder=info)


def test_seeds_of_a_side_are_in_the_interval(tmp_path: Path):
    """Three runs a side that differ by seed: their spread widens the interval of one run a side."""
    put(tmp_path / "a", *(run_of_seed(seed, 0.55 + 0.1 * seed) for seed in range(3)))
    put(tmp_path / "b", *(run_of_seed(seed, 0.5 + 0.1 * seed, "s") for seed in range(3)))
    (several,) = compare(str(tmp_path / "a"), str(tmp_path / "b"))["cells"]
    (single,) = compare(str(tmp_path / "a" / "r1"), str(tmp_path / "b" / "s1"))["cells"]
    assert several["seeds"] == [3, 3] and single["seeds"] == [1, 1]
    wide, narrow = several["interval"], single["interval"]
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])


def test_what_differs_is_left_out_by_name(tmp_path: Path):
    correct = torch.ones(40)
    write_clips(tmp_path / "a", "c", correct)
    saved = read_result(tmp_path / "a" / "net.c.json")
    assert saved is not None
    views = {**saved.protocol, "clip": {"frames": 8, "clips": 12}}
    ours = replace(saved, protocol={**saved.protocol, "clip": {"frames": 8, "clips": 1}})
    changes = {
        "clips": replace(ours, protocol=views),
        "poolings": replace(ours, protocol={**ours.protocol, "poolings": ["mean"]}),
        "data": replace(ours, data=replace(ours.data, hash="e" * 64)),
        "groups": replace(ours, test=replace(ours.test, groups=[])),
    }
    ours = replace(ours, protocol={**ours.protocol, "poolings": ["time"]})
    put(tmp_path / "a", ours)
    for fact, other in changes.items():
        if fact != "poolings":
            other = replace(other, protocol={**other.protocol, "poolings": ["time"]})
        folder = put(tmp_path / fact, other)
        with pytest.raises(UserError, match=facts(fact)):
            compare(str(tmp_path / "a"), str(folder))


def test_other_clips_and_old_files_are_told(tmp_path: Path):
    for name, frames in (("a", 4), ("b", 8)):
        saved = result_of("net", "c", {"encoder": [1.0] * 8})
        protocol = {**saved.protocol, "clip": {"frames": frames}}
        old = "old" if name == "a" else None
        put(tmp_path / name, replace(saved, protocol=protocol, inference=old))
    warnings = compare(str(tmp_path / "a"), str(tmp_path / "b"))["warnings"]
    assert tells(warnings[0], "c", "old") and tells(warnings[1], "c", "frames")


def test_damaged_answers_are_one_sentence(tmp_path: Path):
    saved = result_of("net", "c", {"encoder": [1.0] * 8})
    put(tmp_path / "a", saved)
    damages = {"short": {"encoder": [1.0] * 3}, "missing": {"random": [1.0] * 8}}
    for name, correct in damages.items():
        put(tmp_path / name, replace(saved, test=replace(saved.test, correct=correct)))
        with pytest.raises(UserError, match=facts("encoder", "again")):
            compare(str(tmp_path / "a"), str(tmp_path / name))


def test_old_rankings_hold_too_little(tmp_path: Path):
    saved = result_of("net", "c", {"encoder": [1.0, 0.0]})
    test = Answers(groups=["a", "b"], draws={"encoder": [0.1, 0.2]})
    for name in "ab":
        put(tmp_path / name, replace(saved, test=test))
    with pytest.raises(UserError, match=facts("c", "again")):
        compare(str(tmp_path / "a"), str(tmp_path / "b"))


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
