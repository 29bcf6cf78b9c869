"""Sweep files -> cells."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from ssvid.errors import UserError
from ssvid.sweep.plan import read_plan
from tests.helpers import ROOT, facts, for_each
from tests.sweep.fakes import sweep


def test_grid_list_and_random_multiply(tmp_path: Path):
    plan = read_plan(
        sweep(
            tmp_path,
            grid={"seed": [0, 1], "encoder": ["vit_tiny", "vit_small"]},
            list=[{"lr": 0.1, "weight_decay": 0.0}, {"lr": 0.2}],
            random={
                "count": 3,
                "objective.mask_ratio": {"uniform": [0.5, 0.9]},
                "warmup": {"log": [0.001, 0.1]},
            },
        )
    )
    assert len(plan.cells) == 2 * 2 * 2 * 3 == len({one.hash for one in plan.cells})
    assert plan.axes["encoder"] == ["vit_tiny", "vit_small"] and plan.axes["weight_decay"] == [
        "0.0",
        "-",
    ]
    for one in plan.cells:
        config = one.config
        assert config["encoder"]["name"] == one.settings["encoder"]
        assert config["objective"]["mask_ratio"] == one.settings["objective.mask_ratio"]
        assert 0.5 <= config["objective"]["mask_ratio"] <= 0.9 and 0.001 <= config["warmup"] <= 0.1
        assert config["weight_decay"] == one.settings.get(
            "weight_decay", 0.05
        )  # another row's value never stays
        assert isinstance(config["seed"], int) and config["steps"] == 10
    draws = [one.settings["warmup"] for one in plan.cells]
    assert len(set(draws)) == 3 and draws[:3] == draws[3:6]  # the same draws in every combination


def test_draws_are_of_coordinates_and_of_their_range(tmp_path: Path):
    def column(count: int, how: dict[str, Any], seed: int = 0) -> list[Any]:
        plan = read_plan(
            sweep(
                tmp_path,
                random={"count": count, "seed": seed, "batch_size": how},
                grid={"seed": [0]},
            )
        )
        return [one.settings["batch_size"] for one in plan.cells]

    ten = column(10, {"integers": [8, 64]})
    assert column(5, {"integers": [8, 64]}) == ten[:5] != column(5, {"integers": [8, 64]}, seed=1)
    assert all(isinstance(n, int) and 8 <= n <= 64 for n in ten)
    logs = [
        one.settings["lr"]
        for one in read_plan(
            sweep(tmp_path, random={"count": 200, "lr": {"log": [1e-5, 1e-1]}})
        ).cells
    ]
    assert (
        0.4 < sum(rate < 1e-3 for rate in logs) / 200 < 0.6
    )  # as many below the geometric middle as above


def test_a_cell_is_named_by_what_makes_it(tmp_path: Path):
    def hashes(**parts: Any) -> list[str]:
        return [one.hash for one in read_plan(sweep(tmp_path, **parts)).cells]

    plain = hashes(grid={"seed": [0, 1]})
    assert hashes(grid={"seed": [1, 0]}) == plain[::-1]  # not by its place
    assert (
        hashes(grid={"seed": [0, 1]}, set={"workers": 7, "log_every": 3}) == plain
    )  # nor by how it is run
    assert (
        hashes(grid={"seed": [0, 1]}, set={"lr": 1.5e-4}) == plain
    )  # a default that is said is the same
    assert not set(hashes(grid={"seed": [0, 1]}, set={"lr": 1.0})) & set(plain)
    assert not set(hashes(grid={"seed": [0, 1]}, set={"steps": 11})) & set(plain)
    assert not set(hashes(grid={"seed": [0, 1]}, suite="quick")) & set(plain)
    assert len(set(hashes(grid={"workers": [1, 2]}))) == 2  # unless it is an axis


def test_axes_of_the_suite_reach_the_suite(tmp_path: Path):
    plan = read_plan(sweep(tmp_path, grid={"suite.clips": [1, 2]}, suite="quick"))
    assert [one.suite for one in plan.cells] == [
        {"suite": "quick", "clips": 1},
        {"suite": "quick", "clips": 2},
    ]
    assert len(plan.suites) == 2 and "clips" not in plan.cells[0].config


def test_a_frozen_cell_is_a_recipe_of_its_own(tmp_path: Path):
    """What a keeper writes down parses to the same again."""
    from ssvid.cli import resolver
    from ssvid.pretrain import pretrain

    for one in read_plan(
        sweep(tmp_path, grid={"objective": ["mae", {"name": "infonce", "dim": 8}], "lr": [1]})
    ).cells:
        frozen = json.loads(json.dumps(one.to_record()))["config"]
        assert resolver(pretrain)(frozen) == frozen
        assert isinstance(frozen["lr"], float)


@for_each("file", sorted((ROOT / "ssvid" / "recipes" / "sweeps").glob("*.yaml")))
def test_every_sweep_of_ours_is_read(file: Path):
    assert "# Command:" in file.read_text() and read_plan(str(file)).cells


LR = {"grid": {"lr": [0.1]}}
FAULTS = [  # parts of a sweep, and what the refusal names
    ({"grid": {"objective.mask_rato": [0.5]}}, "objective.mask_rato | mask_rato"),
    ({"grid": {"stepz": [1]}}, "stepz"),
    ({"grid": {"lr.x": [1]}}, "lr.x"),
    ({"grid": {"lr": ["fast"]}}, "'fast' | --lr | float"),
    ({"grid": {"lr": [0.1, "fast"]}}, "lr | 'fast'"),
    ({"grid": {"precision": ["fp8"]}}, "precision"),
    ({"grid": {"objective": ["mea"]}}, "'mea' | mae"),
    ({"grid": {"lr": [0.1, 0.10]}}, "lr | hash"),
    ({"list": [{"lr": 1.5e-4}, {"seed": 0}]}, "hash"),
    ({"grid": {"lr": [1.0]}, "list": [{"lr": 2.0}]}, "lr | grid | list"),
    ({}, "axes"),
    ({"grid": {}}, "axes"),
    ({"grid": {"lr": 0.1}}, "list"),
    ({**LR, "gird": {}}, "'gird'"),
    ({**LR, "set": {"out": "x"}}, "'out'"),
    ({"random": {"lr": {"log": [1, 2]}}}, "`count`"),
    ({"random": {"count": 1, "lr": {"log": [2, 1]}}}, "LOW"),
    ({"random": {"count": 1, "lr": {"log": [0, 1]}}}, "0"),
    ({"random": {"count": 1, "lr": {"normal": [0, 1]}}}, "uniform | log"),
    ({"random": {"count": 2, "seed": "x", "lr": {"log": [1, 2]}}}, "`seed`"),
    ({**LR, "cluster": {"gpu": 1}}, "cluster.gpu | gpus"),
    ({**LR, "cluster": {"gpus": "two"}}, "gpus"),
    ({**LR, "cluster": {"gpus": -1}}, "cluster.gpus | -1"),
    ({**LR, "cluster": {"gpus": 2, "tasks": 4}}, "4 | 2"),
    ({**LR, "cluster": {"nodes": 0}}, "cluster.nodes | 0"),
    ({**LR, "cluster": {"time": 2}}, "time"),
    ({**LR, "cluster": {"signal_delay": -5}}, "cluster.signal_delay | -5"),
    ({**LR, "suite": {"out": "x"}}, "`suite`"),
    ({"grid": {1: [2]}}, "1"),
    ({"grid": {"steps.x": [2]}}, "steps"),
    ({"grid": {"steps": [0]}}, "--steps | 0"),
    ({"grid": {"config": ["a.yaml"]}}, "'config'"),
    ({"grid": {"suite.out": ["a"]}, "suite": "quick"}, "'suite.out'"),
    ({"grid": {"data.root": [datetime.date(2026, 1, 1)]}}, "2026-01-01"),
    ({"grid": {"lr": [0.1, -1.0]}}, "--lr | -1.0"),
    ({"grid": {"lr": [float("nan")]}}, "--lr | nan"),
    ({**LR, "best": "classify.linear"}, "`best`"),
    ({**LR, "best": [1], "suite": "quick"}, "`best`"),
    ({**LR, "name": "a/b"}, "a/b"),
]


@for_each("parts, words", FAULTS)
def test_bad_sweeps_are_one_sentence(parts: dict[str, Any], words: str, tmp_path: Path):
    with pytest.raises(UserError, match=facts("try.yaml", *words.split(" | "))) as caught:
        read_plan(sweep(tmp_path, **parts))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_yaml_or_not_there(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("grid: [")
    for file in ("a.yaml", "b.yaml"):
        with pytest.raises(UserError, match=facts(file)):
            read_plan(str(tmp_path / file))
