"""One recipe over another, and names as jsonargparse wants them."""

import pytest

from ssvid.errors import UserError
from ssvid.near_names import list_near_names
from ssvid.recipe import (
    SHIPPED,
    find_recipe,
    find_sweep_file,
    load_recipe,
    merge_recipes,
    set_flags,
    to_class_paths,
    to_names,
)
from ssvid.registry import datasets, objectives
from tests.helpers import facts, for_each


def test_a_recipe_over_another_keeps_the_parts_it_does_not_name():
    below = {"clip": {"fps": 5.0, "size": 64}, "objective": {"queue": 8}, "steps": 3}
    above = {"clip": {"size": 32}, "objective": {"name": "infonce"}, "steps": 4}
    clip, objective = {"fps": 5.0, "size": 32}, {"queue": 8, "name": "infonce"}
    merged = {"clip": clip, "objective": objective, "steps": 4}
    assert merge_recipes(below, above) == merged
    assert below["clip"] == {"fps": 5.0, "size": 64} and "name" not in below["objective"]


def test_settings_of_another_name_are_dropped():
    below = {"objective": {"name": "mae", "mask_ratio": 0.5}, "encoder": "vit"}
    assert merge_recipes(below, {"objective": "dpc"})["objective"] == {"name": "dpc"}
    assert merge_recipes(below, {"objective": "mae"})["objective"] == below["objective"]
    assert merge_recipes(below, {"encoder": {"depth": 2}})["encoder"] == {"name": "vit", "depth": 2}


def test_a_flag_replaces_what_a_recipe_merges():
    assert set_flags({"clip": {"fps": 5.0}}, {"clip": {"size": 32}}) == {"clip": {"size": 32}}
    assert set_flags({"clip": {"fps": 5.0}}, {"clip.size": 32}) == {
        "clip": {"fps": 5.0, "size": 32}
    }
    below = {"objective": {"name": "mae", "mask_ratio": 0.9}}
    assert set_flags(below, {"objective": "infonce"})["objective"] == {"name": "infonce"}
    both = set_flags(below, {"objective.dec_dim": 4, "objective": {"name": "mae"}})
    assert both["objective"]["dec_dim"] == 4 and below["objective"]["mask_ratio"] == 0.9
    with pytest.raises(UserError, match="steps"):
        set_flags({"steps": 3}, {"steps.more": 1})


def test_names_become_paths_and_paths_names():
    recipe = {"objective": {"name": "mae", "mask_ratio": 0.5}, "data": "folder", "steps": 3}
    tables = {"objective": objectives, "data": datasets}
    placed = to_class_paths(recipe, tables)
    assert placed["objective"] == {
        "class_path": "objectives.mae.MAE",
        "init_args": {"mask_ratio": 0.5},
    }
    assert to_names(placed, tables) == {**recipe, "data": {"name": "folder"}}


def test_a_recipe_is_a_mapping(tmp_path):
    (tmp_path / "r.yaml").write_text("[1, 2]")
    with pytest.raises(UserError, match=r"r\.yaml"):
        load_recipe(tmp_path / "r.yaml")


def test_a_key_that_is_no_text_and_a_part_of_nothing(tmp_path):
    (tmp_path / "r.yaml").write_text("3: 4\n")
    with pytest.raises(UserError, match="3"):
        load_recipe(tmp_path / "r.yaml")
    assert set_flags({"clip": None}, {"clip.fps": 5}) == {"clip": {"fps": 5}}


@for_each("text", ["demo", "demo.yaml", "recipes/demo.yaml", "./recipes/demo.yaml"])
def test_a_shipped_recipe_has_its_name_in_every_folder(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(text) == SHIPPED / "demo.yaml"
    for sweep in ("recipes/sweeps/smoke.yaml", "sweeps/smoke", "smoke"):
        assert find_sweep_file(sweep) == SHIPPED / "sweeps" / "smoke.yaml"
    file = tmp_path / text
    file.parent.mkdir(exist_ok=True)
    file.write_text("steps: 1\n")
    assert load_recipe(text) == {"steps": 1}, "a file of the user comes first"


@for_each("text, near", [("dmeo", "demo"), ("elsewhere/demo.yml", "demo"), ("../recipe", "demo")])
def test_a_recipe_that_does_not_exist(text, near):
    with pytest.raises(UserError, match=facts(text, near)):
        find_recipe(text)


def test_a_sweep_file_that_does_not_exist():
    with pytest.raises(UserError, match=facts("smok", "smoke")):
        find_sweep_file("sweeps/smok")
    with pytest.raises(UserError, match=facts("demo", "smoke", "status")):
        find_sweep_file("demo", ["status"])
    with pytest.raises(UserError, match=facts("statsu", "status")):
        find_sweep_file("statsu", ["status"])


def test_near_names_have_no_noise():
    flags = ["steps", "threads", "seed", "lr", "out"]
    assert list_near_names("stpes", flags) == ["steps"]
    assert list_near_names("zzz", flags) == []
