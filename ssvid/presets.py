"""Flags of the user -> the flags that lie below them: an objective's defaults, and a preset.

From the bottom up: the command's own defaults, `default_flags` of the objective (with its
`small_settings`, where the encoder is the small one of these flags), the preset's file,
`preset_flags` of the objective, and at the top what the user gave, by recipe or by word. Other
settings of the objective have their defaults in its signature as ever.
"""

import json
from typing import Any

import yaml

from ssvid import registry
from ssvid.errors import UserError
from ssvid.log import log_once
from ssvid.recipe import SHIPPED, Recipe, load_recipe, merge_recipes, with_name

PRESETS = SHIPPED / "presets"
LENGTHS = {"steps", "epochs"}  # of which a command takes one
SPACINGS = {"fps", "stride", "whole"}  # of a clip, which takes one


def load_preset(name: str, command: str) -> Recipe:
    """The flags that a preset gives to a command. A UserError names the presets that exist."""
    file = PRESETS / f"{name}.yaml"
    if not file.is_file():
        names = sorted(path.stem for path in PRESETS.glob("*.yaml"))
        raise UserError(f"There is no --preset {name}: take {' or '.join(names)}.")
    return load_recipe(file).get(command, {})


def lay_below(command: str, flags: Recipe) -> Recipe:
    """The flags below those of the user. Each that the user gave is left out.

    `flags`: the user's, where names may have settings (`encoder: {name: vit, dim: 96}`). A user who
    names an encoder gets it with its own defaults, and the command's batch.
    """
    objective = read_name(flags.get("objective"))
    entry: Any = registry.objectives[objective] if objective else None
    below: Recipe = dict(entry.default_flags) if entry else {}
    is_named = read_name(flags.get("encoder")) is not None
    if is_named or flags.get("batch_size") is not None:
        below = drop_keys(below, {"batch_size", "lr_batch"})  # they suit the small encoder
    preset = flags.get("preset")
    if preset is not None:
        below = merge_recipes(below, load_preset(str(preset), command))
        if entry:
            below = merge_recipes(below, entry.preset_flags.get(preset, {}))
    if entry and not is_named and below.get("encoder") == entry.default_flags.get("encoder"):
        settings = {**entry.small_settings, **below.get("objective", {})}
        below = {**below, "objective": settings} if settings else below
    if is_named or (entry and (entry.reads_features or entry.brings_encoder)):
        below = drop_keys(below, {"encoder", "clip"})
    clip = flags.get("clip")
    if isinstance(clip, dict) and SPACINGS & clip.keys():
        below["clip"] = drop_keys(below.get("clip", {}), SPACINGS)
    if (flags.get("steps"), flags.get("epochs")) != (None, None):
        below = drop_keys(below, LENGTHS)
    if "objective" in below:  # the parser takes settings of an objective with its name alone
        below["objective"] = {"name": objective, **below["objective"]}
    return below


def merge(below: Recipe, flags: Recipe) -> Recipe:
    """The user's flags over those below. Of settings, those that the user left out stay."""
    merged = {**below, **flags}
    for flag in below.keys() & flags.keys():
        settings = with_name(flags[flag])
        if isinstance(below[flag], dict) and isinstance(settings, dict):
            merged[flag] = {**below[flag], **settings}
    return merged


def list_settings(below: Recipe, flags: Recipe) -> list[str]:
    """The objective's settings below the user's, as words that follow his.

    The parser forgets settings that come before a word that renames the objective.
    """
    words, settings = [], with_name(flags.get("objective")) or {}
    for key, value in below.get("objective", {}).items():
        if key != "name" and key not in settings:
            text = value if isinstance(value, str) else json.dumps(value)
            words.append(f"--objective.{key}={text}")
    return words


def drop_keys(flags: Recipe, keys: set[str]) -> Recipe:
    return {flag: value for flag, value in flags.items() if flag not in keys}


def read_name(value: Any) -> str | None:
    """The registered name in the value of a flag; None if it has none."""
    value = with_name(value)
    if not isinstance(value, dict):
        return None
    name = value.get("name") or value.get("class_path")
    return name if isinstance(name, str) else None


def name_run(flags: Recipe) -> str:
    """The folder of a run whose --out is left out."""
    name = str(read_name(flags.get("objective")))
    return f"runs/{name.replace(':', '.').rpartition('.')[2]}"


def announce(flags: Recipe, below: Recipe) -> None:
    """Log the values of flags that the user left out, and who chose them."""
    words = []
    for flag, value in below.items():
        settings = flags.get(flag)
        if isinstance(value, dict):
            value = drop_keys(
                value, set(settings) - {"name"} if isinstance(settings, dict) else set()
            )
        if value != {} and (
            settings is None or isinstance(value, dict) and value.keys() - {"name"}
        ):
            words.append(describe_flag(flag, value))
    if not words:
        return
    preset = flags.get("preset")
    source = "Left out, so chosen here" if preset is None else f"Chosen by --preset {preset}"
    log_once(f"{source}: {' '.join(words)}. Flags of yours win.")


def describe_flag(flag: str, value: Any) -> str:
    """`--flag value`. The settings of a name stand in brackets behind it."""
    settings = dict(value) if isinstance(value, dict) else {}
    name = settings.pop("name", "" if settings else value)
    if settings:
        name = (
            f"{name} ({yaml.safe_dump(settings, default_flow_style=True, width=999).strip()[1:-1]})"
        )
    return f"--{flag} {'null' if name is None else name}".replace("  ", " ")
