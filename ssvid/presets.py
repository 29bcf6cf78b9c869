"""Flags of the user -> the flags that lie below them: an objective's defaults, and a preset.

From the bottom up: the command's own defaults, `default_flags` of the objective, the preset's file,
`preset_flags` of the objective, and at the top what the user gave, by recipe or by word. Flags of
the objective that are its own settings have their defaults in its signature as ever.
"""

from pathlib import Path
from typing import Any

from ssvid import registry
from ssvid.errors import UserError
from ssvid.log import log_once
from ssvid.recipe import Recipe, load_recipe, merge_recipes, with_name

PRESETS = Path(__file__).parents[1] / "recipes" / "presets"
LENGTHS = {"steps", "epochs"}  # of which a command takes one
SPACINGS = {"fps", "stride", "whole"}  # of a clip, which takes one
SHOWN = 12  # flags of a preset that are logged


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
    names an encoder gets it with its own defaults.
    """
    objective = read_name(flags.get("objective"))
    entry: Any = registry.objectives[objective] if objective else None
    below: Recipe = dict(entry.default_flags) if entry else {}
    preset = flags.get("preset")
    if preset is not None:
        below = merge_recipes(below, load_preset(str(preset), command))
        if entry:
            below = merge_recipes(below, entry.preset_flags.get(preset, {}))
    if read_name(flags.get("encoder")) or (entry and entry.reads_features):
        below = drop_keys(below, {"encoder", "clip"})
    if SPACINGS & (flags.get("clip") or {}).keys():
        below["clip"] = drop_keys(below.get("clip", {}), SPACINGS)
    if any(flags.get(length) is not None for length in LENGTHS):
        below = drop_keys(below, LENGTHS)
    if "objective" in below:  # the parser takes settings of an objective with its name alone
        below["objective"] = {"name": objective, **below["objective"]}
    return below


def merge(below: Recipe, flags: Recipe) -> Recipe:
    """The user's flags over those below. Of settings, those that the user left out stay."""
    merged = {**below, **flags}
    for flag in below.keys() & flags.keys():
        if isinstance(below[flag], dict):
            merged[flag] = {**below[flag], **(with_name(flags[flag]) or {})}
    return merged


def drop_keys(flags: Recipe, keys: set[str]) -> Recipe:
    return {flag: value for flag, value in flags.items() if flag not in keys}


def fit_batch(command: str, config: Recipe, videos: int) -> int:
    """The batch of a run. That of a preset is never larger than the number of videos.

    A batch that the user typed stays, and so does every other batch without a preset.
    """
    batch: int = config["batch_size"]
    if config["preset"] is None or batch <= videos:
        return batch
    flags = {"objective": config.get("objective"), "preset": config["preset"]}
    return videos if lay_below(command, flags).get("batch_size") == batch else batch


def read_name(value: Any) -> str | None:
    """The registered name in the value of a flag; None if it has none."""
    value = with_name(value)
    if not isinstance(value, dict):
        return None
    return value.get("name") or value.get("class_path")


def name_run(flags: Recipe) -> str:
    """The folder of a run whose --out is left out."""
    name = str(read_name(flags.get("objective")))
    return f"runs/{name.replace(':', '.').rpartition('.')[2]}"


def announce(flags: Recipe, below: Recipe) -> None:
    """Log what the user did not say: the encoder, the folder, and what the preset sets."""
    chosen = [*describe_flags({flag: below[flag] for flag in ("encoder", "out") if flag in below})]
    if chosen and "objective" in flags:
        log_once(f"Left out, so chosen here: {', '.join(chosen)}.")
    if (preset := flags.get("preset")) is None:
        return
    words = []
    for flag, value in below.items():
        if flag not in flags and flag not in ("encoder", "out"):
            words += describe_flags({flag: value})
    more = ", ..." if len(words) > SHOWN else ""
    log_once(f"--preset {preset} sets {', '.join(words[:SHOWN])}{more}. Flags of yours win.")


def describe_flags(flags: Recipe) -> list[str]:
    """`--flag value` of each flag. The settings of a name stand in brackets behind it."""
    words = []
    for flag, value in flags.items():
        settings = dict(value) if isinstance(value, dict) else {}
        name = settings.pop("name", "" if settings else value)
        text = ", ".join(f"{key} {setting}" for key, setting in settings.items())
        words.append(f"--{flag} {'null' if name is None else name}{f' ({text})' if text else ''}")
    return words
