"""Names of the version before: flags, recipes, sweeps, run folders and plug-ins that use them."""

import logging
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks.reports.cell_titles import list_cells
from benchmarks.suites.loader import load
from ssvid.cli import parse
from ssvid.encoder import Encoder
from ssvid.engine.checkpoint import flatten_config
from ssvid.errors import UserError
from ssvid.log import log_once
from ssvid.objective import Objective
from ssvid.old_names import rename_config, use_old_names
from ssvid.pretrain import pretrain
from ssvid.sweep import plan
from tests.benchmarks.made import pick
from tests.helpers import facts, for_each, pretrain_argv, run_pretrain

OLD = ["--drops", "[0.5]", "--keep", "1", "--short", "drop"]
NOW = ["--lr_milestones", "[0.5]", "--keep_checkpoints", "1", "--short_videos", "drop"]
PARTIAL = {
    "drop": ("drop_ratio", 0.5),
    "part": ("predict_ratio", 0.25),
}


def config_of(argv: list[str]) -> dict:
    return parse(pretrain, argv)["config"]


def test_old_flags_are_todays_and_a_warning_names_the_new_one(
    videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    log_once.cache_clear()
    base = pretrain_argv(videos, tmp_path / "out")
    with caplog.at_level(logging.INFO, logger="ssvid"):
        assert config_of([*base, *OLD]) == config_of([*base, *NOW])
    for flag in NOW[::2]:
        assert len([record for record in caplog.records if flag in record.message]) == 1


@for_each("source", ["flags", "recipe", "recipe without a name"])
def test_old_settings_of_an_objective(source: str, videos: Path, tmp_path: Path):
    argv = ["--encoder", "vit", "--data", "folder", "--data.root", str(videos), "--out", "o"]
    argv += ["--steps", "1"]
    old = {name: value for name, (_, value) in PARTIAL.items()}
    now = {name: value for name, value in PARTIAL.values()}

    def resolve(settings: dict[str, float]) -> dict:
        flags = ["--objective", "partial_mae"]
        if source == "flags":
            for name, value in settings.items():
                flags += [f"--objective.{name}", str(value)]
            return config_of([*argv, *flags])
        recipe = {"objective": dict(settings)}
        if source == "recipe":
            recipe["objective"]["name"], flags = "partial_mae", []
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe))
        return config_of([*argv, *flags, "--config", str(file)])

    assert resolve(old) == resolve(now)
    assert resolve(now)["objective"]["predict_ratio"] == 0.25


def test_an_old_name_of_one_objective_is_no_name_of_another(videos: Path):
    argv = pretrain_argv(videos, Path("out"))  # of mae
    with pytest.raises(UserError, match=facts("part")):
        parse(pretrain, [*argv, "--objective.part", "0.2"])


def test_hashes_are_made_of_the_old_names():
    now = {"lr_milestones": 1, "objective.name": "partial_mae", "objective.drop_ratio": 2}
    old = {"drops": 1, "objective.name": "partial_mae", "objective.drop": 2}
    assert use_old_names(now) == old == use_old_names(old)
    mine = {"objective.name": "stranger:Net", "objective.drop_ratio": 2}
    assert use_old_names(mine) == mine


def test_a_sweep_in_old_names_has_the_cells_of_today(videos: Path, tmp_path: Path):
    base = {"encoder": "vit", "data": {"name": "folder", "root": str(videos)}, "steps": 1}
    base["objective"] = "partial_mae"
    hashes = []
    for short, drop in (("short", "objective.drop"), ("short_videos", "objective.drop_ratio")):
        sweep = {"base": base, "set": {short: "drop"}, "grid": {drop: [0.5, 0.75]}}
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump(sweep))
        cells = plan.read_plan(str(file)).cells
        assert flatten_config(cells[1].config)["objective.drop_ratio"] == 0.75
        hashes.append([cell.hash for cell in cells])
    assert hashes[0] == hashes[1]


def test_a_suite_has_its_old_name_for_one_version(caplog: pytest.LogCaptureFixture):
    log_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="ssvid"):
        old, _ = load("videoglue")
    assert caplog.text.count("videoglue_head") == 1
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="ssvid"):
        now, _ = load("videoglue_head")
        # A result file may hold the old name: nobody is told of it.
        assert list_cells("videoglue") == list_cells("videoglue_head") == pick(now, "name")
    assert not caplog.records
    assert pick(old, "name") == pick(now, "name") and pick(old, "hash") == pick(now, "hash")


def test_a_sweep_keeps_its_cells_when_its_suite_is_renamed(videos: Path, tmp_path: Path):
    base = {"encoder": "vit", "data": {"name": "folder", "root": str(videos)}, "steps": 1}
    base["objective"] = "mae"
    hashes = {}
    for suite in ("videoglue", "videoglue_head", "mini"):
        file = tmp_path / "sweep.yaml"
        sweep = {"base": base, "suite": suite, "grid": {"lr": [0.1]}}
        file.write_text(yaml.safe_dump(sweep))
        (cell,) = plan.read_plan(str(file)).cells
        hashes[suite] = cell.hash
    assert hashes["videoglue"] == hashes["videoglue_head"] != hashes["mini"]


def test_a_run_whose_config_has_the_old_names_goes_on(videos: Path, tmp_path: Path):
    out, flags = tmp_path / "out", ("--lr_milestones", "[0.5]", "--checkpoint_every", "3")
    run_pretrain(videos, out, *flags, "--steps", "3")
    file = out / "config.yaml"
    config = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(use_old_names(config)))
    assert "drops" in file.read_text()
    with pytest.raises(UserError, match=facts("lr_milestones")):
        run_pretrain(videos, out, "--lr_milestones", "[0.6]", "--steps", "6")
    assert run_pretrain(videos, out, *flags, "--steps", "6")["step"] == 6
    assert yaml.safe_load(file.read_text())["lr_milestones"] == [0.5]


@for_each("frames, before", [(1, "resize"), (8, "crop")])
def test_a_run_from_before_picture_time_goes_on_unless_it_has_pictures(frames: int, before: str):
    """Then it would change in the middle: its table of times was resized."""
    now = {"encoder": {"name": "videoprism", "frames": 8, "picture_time": "crop"}}
    config = {"encoder": {"name": "videoprism", "frames": 8}}
    config["data"] = {"parts": {"web": {"clip": {"frames": frames}}}}
    assert rename_config(config, now)["encoder"]["picture_time"] == before
    assert "picture_time" not in rename_config(config, {"encoder": {"name": "vit"}})["encoder"]


def test_plug_ins_of_old_hooks_get_one_sentence():
    with pytest.raises(UserError, match=facts("Mine", "suits", "check_data")):
        type("Mine", (Objective,), {"suits": lambda self: None})
    with pytest.raises(UserError, match=facts("Mine", "exported", "exported_encoders")):
        type("Mine", (Objective,), {"exported": lambda self: {}})
    with pytest.raises(UserError, match=facts("Mine", "published", "rename_published")):
        type("Mine", (Encoder,), {"published": lambda self, state: state})

    def forward(self: Encoder, clip: torch.Tensor, keep: None = None) -> None: ...

    with pytest.raises(UserError, match=facts("Mine", "keep", "visible")):
        type("Mine", (Encoder,), {"forward": forward})
