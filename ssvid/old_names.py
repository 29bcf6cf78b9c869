"""Names of the version before -> the names of today. They work for one version, with a warning.

Flags and recipe keys are renamed where they are read. Hashes of sweeps, protocols and runs are made
of the old names, because files exist that hold those hashes.
"""

from collections.abc import Callable
from typing import Any

from ssvid.errors import UserError
from ssvid.log import log_once

Recipe = dict[str, Any]

FLAGS = {
    "drops": "lr_milestones",
    "keep": "keep_checkpoints",
    "short": "short_videos",
}
# Flag and registered name -> its settings.
SETTINGS = {
    ("objective", "partial_mae"): {"drop": "drop_ratio", "part": "predict_ratio"},
    ("objective", "two_view"): {"apart_s": "max_gap_s"},
}

SUITES = {"videoglue": "videoglue_head"}


# Flags that runs of an earlier version do not have -> what they did then.
NEW_FLAGS = {"lr_decay": "cosine", "head": "linear", "new_rate": 1.0}


def rename_suite(suite: str) -> str:
    """Today's name of a suite. An old one is logged."""
    today = SUITES.get(suite, suite)
    if today != suite:
        log_once(
            f"The suite {suite} is now called {today}. The old name works for one more version."
        )
    return today


ROWS = {"pixels": "floor"}  # of a result


def rename_row(row: str) -> str:
    """Today's name of a row. An old one is logged."""
    today = ROWS.get(row, row)
    if today != row:
        log_once(f"The row {row} is now called {today}. The old name works for one more version.")
    return today


def rename_flag(flag: str, names: dict[str, str], flags: set[str]) -> str:
    """Today's name of a flag, which may be dotted as `objective.part` is. An old one is logged.

    `names`: the registered names that are chosen, such as {"objective": "partial_mae"}.
    `flags`: the flags that the command has; an old name of another command's flag stays.
    """
    today = find_name(flag, names)
    if today == flag or ("." not in today and today not in flags):
        return flag
    log_once(f"--{flag} is now called --{today}. The old name works for one more version.")
    return today


def find_name(flag: str, names: dict[str, str]) -> str:
    parent, _, setting = flag.partition(".")
    if not setting:
        return FLAGS.get(flag, flag)
    renamed = SETTINGS.get((parent, names.get(parent, "")), {})
    return f"{parent}.{renamed.get(setting, setting)}"


def rename_recipe(recipe: Recipe, names: dict[str, str], flags: set[str]) -> Recipe:
    """A recipe in today's names; see `rename_flag`."""
    names = {**names, **names_in(recipe)}
    return rename_keys(recipe, lambda flag: rename_flag(flag, names, flags))


def rename_config(config: Recipe, flags: Recipe) -> Recipe:
    """The configuration of a run that exists, with today's flags. Nothing is logged.

    `flags`: a configuration of its command with all flags of today.
    """
    new = {flag: before for flag, before in NEW_FLAGS.items() if flag in flags}
    config = {**new, **config}
    encoder, today = config.get("encoder"), flags.get("encoder")
    if isinstance(encoder, dict) and isinstance(today, dict) and "picture_time" in today:
        before = "resize" if has_one_frame(config) else today["picture_time"]  # which does nothing
        config["encoder"] = {"picture_time": before, **encoder}
    names = names_in(config)
    return rename_keys(config, lambda flag: find_name(flag, names))


def has_one_frame(content: Any) -> bool:
    """Whether a configuration has clips of one frame, which are pictures."""
    if not isinstance(content, dict):
        return False
    return content.get("frames") == 1 or any(map(has_one_frame, content.values()))


def rename_keys(recipe: Recipe, rename: Callable[[str], str]) -> Recipe:
    renamed: Recipe = {}
    for flag, value in recipe.items():
        if not isinstance(value, dict):
            renamed[rename(flag)] = value
            continue
        parts = renamed.setdefault(rename(flag), {})
        for setting, part in value.items():
            parts[rename(f"{flag}.{setting}").removeprefix(f"{flag}.")] = part
    return renamed


def names_in(recipe: Recipe) -> dict[str, str]:
    """Flag -> the registered name that a recipe gives it."""
    names = {}
    for flag, value in recipe.items():
        name = value.get("name") if isinstance(value, dict) else value
        if isinstance(name, str):
            names[flag] = name
    return names


def use_old_names(settings: Recipe) -> Recipe:
    """Flat settings under the names that hashes are made of.

    A new flag that does what was done before it is left out.
    """
    settings = {key: x for key, x in settings.items() if NEW_FLAGS.get(key, ...) != x}
    old = {today: before for before, today in FLAGS.items()}
    for (flag, name), renamed in SETTINGS.items():
        if settings.get(f"{flag}.name") == name:
            for before, today in renamed.items():
                old[f"{flag}.{today}"] = f"{flag}.{before}"
    return {old.get(key, key): value for key, value in settings.items()}


def use_old_suite(flags: Recipe | None) -> Recipe | None:
    """The flags of a sweep's suite under the name that hashes are made of."""
    old = {today: before for before, today in SUITES.items()}
    if flags is None or flags.get("suite") not in old:
        return flags
    return {**flags, "suite": old[flags["suite"]]}


def refuse_old_names(plugin: type, names: dict[str, str]) -> None:
    """Raise a UserError if a plug-in was written for attributes that have other names today."""
    for old, today in names.items():
        if old in vars(plugin):
            raise UserError(
                f"{plugin.__module__}.{plugin.__name__} defines `{old}`, which is now called "
                f"`{today}`: rename it."
            )
