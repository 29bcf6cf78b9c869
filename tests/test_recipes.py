"""Every recipe is read by its command; those of published size have the published numbers of
parameters and keys.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ssvid import create_encoder, registry
from ssvid.cli import parse
from ssvid.finetune import finetune
from ssvid.objective import Objective
from ssvid.pretrain import pretrain
from ssvid.stages import read_stages, resolve_stage
from ssvid.weights.published import LAYOUTS
from tests.helpers import ROOT, for_each, squares, write_video

RECIPES = ROOT / "ssvid" / "recipes"


@pytest.fixture(scope="module")
def rest(tmp_path_factory) -> list[str]:
    """Flags of small data: what a recipe names is not here."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(2):
        write_video(root / f"{i}.mp4", squares(i))
    return ["--data", "folder", "--data.root", str(root), "--out", "o"]


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")))
def test_every_recipe_parses(recipe: Path, rest: list[str], tmp_path: Path):
    head, given = recipe.read_text(), yaml.safe_load(recipe.read_text())
    assert (
        head.startswith("#") and "# Command:" in head and "core:" in head
    )  # score: measured, or not run
    if "stages" in given:
        whole = read_stages(str(recipe))
        for name in whole["stages"]:
            made = resolve_stage(whole, name, tmp_path)
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(made))
            assert parse(pretrain, ["--config", str(tmp_path / f"{name}.yaml"), *rest])["objective"]
    elif "objective" in given:
        assert parse(pretrain, ["--config", str(recipe), *rest])["objective"]
    else:
        assert (
            parse(finetune, ["--config", str(recipe), *rest, "--encoder", "vit_tiny"])[
                "layer_decay"
            ]
            <= 1
        )


PUBLISHED = [  # recipe, stage, parameters and keys of the published net (shared/facts)
    ("dpc_ucf101", None, "dpc", 14_583_104, 76),
    ("memdpc_ucf101", None, "memdpc", 15_436_608, 149),  # 14 927 712 with 32 slots
    ("coclr_ucf101", "rgb", "infonce", 18_181_696, 1858),
    ("coclr_ucf101", "flow_2", "coclr", 27_272_544, 2789),
]


@for_each("name, part, layout, parameters, keys", PUBLISHED)
def test_published_sizes(name: str, part: str | None, layout: str, parameters: int, keys: int):
    file = RECIPES / f"{name}.yaml"
    given = (
        resolve_stage(read_stages(str(file)), part, Path("o"))
        if part
        else yaml.safe_load(file.read_text())
    )
    objective = on_meta(given)
    assert sum(p.numel() for p in objective.parameters()) == parameters
    (known,) = (one for one in LAYOUTS if one.name == layout)
    assert (
        len(
            {
                row.theirs
                for row in known.list_rows_of_ours(known.before_writing(objective.state_dict()))
            }
        )
        == keys
    )


def on_meta(given: dict[str, Any]) -> Objective:
    encoder, objective = dict(given["encoder"]), dict(given["objective"])
    objective.pop("init", None)
    if "sampler" in objective:
        objective["sampler"] = "random"
    with torch.device("meta"):
        return registry.objectives[objective.pop("name")](
            create_encoder(encoder.pop("name"), **encoder), **objective
        )
