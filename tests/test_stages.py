"""A recipe of stages: one command runs them all, and the same one finishes what is left."""

from pathlib import Path

import pytest
import yaml

from ssvid.errors import UserError
from ssvid.stages import read_stages, resolve_stage, stages
from tests import warm
from tests.helpers import facts, for_each, squares, write_video

SHARED = {
    "encoder": {"name": "resnet18_2d3d", "width": 4, "frames": 4, "stride": 1, "size": 32},
    "data": {"name": "folder"},
    "objective": {"name": "infonce", "dim": 8, "queue": 4},
    **{"batch_size": 4, "steps": 3, "workers": 0, "threads": 1, "checkpoint_every": 1},
}


def recipe(path: Path, **own: dict) -> str:
    path.write_text(yaml.safe_dump({"shared": SHARED, "stages": own}, sort_keys=False))
    return str(path)


def test_a_stage_has_what_all_share_and_over_it_its_own(tmp_path):
    second = {"objective": {"init": "stage:first", "queue": 8}, "steps": 5}
    whole = read_stages(recipe(tmp_path / "r.yaml", first={}, second=second))
    flags = resolve_stage(whole, "second", tmp_path / "out")
    assert flags["objective"] == {
        "name": "infonce",
        "dim": 8,
        "queue": 8,
        "init": str(tmp_path / "out" / "first"),
    }
    assert flags["steps"] == 5 and flags["encoder"] == SHARED["encoder"]
    assert resolve_stage(whole, "first", tmp_path / "out") == SHARED


@for_each(
    "text, word",
    [
        ("steps: 3", "r.yaml"),
        ("stages: {a: {out: x}}", "out"),
        ("stages: {a: [1]}", "r.yaml"),
        ("stages: {../a: {}}", "r.yaml"),
        ("stages: [", "r.yaml"),
    ],
)
def test_what_is_no_recipe_of_stages_is_refused(tmp_path, text, word):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError, match=facts(*word.split(" | "))):
        stages(str(tmp_path / "r.yaml"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_stage_asks_for_earlier_ones_alone(tmp_path):
    file = recipe(tmp_path / "r.yaml", first={"objective": {"init": "stage:second"}}, second={})
    with pytest.raises(UserError, match=facts("first", "stage:second")):
        stages(file, str(tmp_path / "out"))
    with pytest.raises(UserError, match=facts("third")):
        stages(file, str(tmp_path / "out"), only="third")


def test_one_command_runs_all_and_again_what_is_left(tmp_path, monkeypatch):
    started = warm.replace_subprocess(monkeypatch, "ssvid.stages")
    for i in range(4):
        write_video(tmp_path / "set" / f"v{i}.mp4", squares(i))
    file = recipe(
        tmp_path / "r.yaml", first={}, second={"objective": {"init": "stage:first", "queue": 6}}
    )
    argv = [file, "--out", str(tmp_path / "out"), "--", "--data.root", str(tmp_path / "set")]
    with pytest.raises(
        UserError, match="second.* 2"
    ):  # it has a queue for more videos than there are
        stages(*argv[:1], str(tmp_path / "out"), flags=argv[4:])
    assert "--objective.queue 6" in started[-1].stderr
    newest = tmp_path / "out/first/checkpoints/step_00000003.pt"
    made = newest.stat().st_mtime_ns
    file = recipe(tmp_path / "r.yaml", first={}, second={"objective": {"init": "stage:first"}})
    result = stages(*argv[:1], str(tmp_path / "out"), flags=argv[4:])
    assert {name: ran["step"] for name, ran in result["stages"].items()} == {
        "first": 3,
        "second": 3,
    }
    assert newest.stat().st_mtime_ns == made, "the first stage was not trained again"
    recipe(
        tmp_path / "r.yaml",
        first={"steps": 4},
        second={"objective": {"init": "stage:first"}, "steps": 4},
    )
    with pytest.raises(UserError, match=facts("step_00000003", "out/second")):
        stages(*argv[:1], str(tmp_path / "out"), flags=argv[4:])
