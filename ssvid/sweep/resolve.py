"""settings of cells -> all flags of ssvid.pretrain for each cell, parsed and with their defaults.

It parses each value of an axis once, not once per cell, so that large sweeps are read quickly.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ssvid.errors import UserError
from ssvid.recipe import NAMED, set_flags

SUITE_PREFIX = "suite."  # of axes that are flags of benchmarks.run
Settings = dict[str, Any]  # flag, dotted or not -> value


class Resolver:
    """Parses the flags of cells that share the recipe `base`.

    Parsing takes 50 ms, which is too slow for a thousand cells. But once the names (objective,
    encoder, data ...) are chosen, a flag's value means the same whatever the other values are. So
    each value is parsed once per choice of names, and numbers are parsed once per type.
    """

    def __init__(self, base: dict[str, Any], path: str) -> None:
        from ssvid.cli import resolver
        from ssvid.pretrain import pretrain

        self.base, self.path = base, path
        self.parser = resolver(pretrain)
        self.configs: dict[str, dict[str, Any]] = {}  # choice of names -> config of its first cell
        self.values: dict[str, Any] = {}  # choice of names, flag and value -> parsed value

    def parse(self, settings: Settings) -> dict[str, Any]:
        return self.parser({**set_flags(self.base, settings), "out": "."})

    def resolve(self, settings: Settings) -> dict[str, Any]:
        """All flags of one cell. UserError: ssvid.pretrain refuses a flag or a value."""
        flags = {key: value for key, value in settings.items() if not key.startswith(SUITE_PREFIX)}
        names = {key: value for key, value in flags.items() if key in (*NAMED, "preset")}
        group = json.dumps([names, list(flags)], sort_keys=True)
        if group not in self.configs:
            with explain_refusal(f"{self.path}: the cell {settings}"):
                self.configs[group] = self.parse(flags)
        config = copy.deepcopy(self.configs[group])
        for key, value in flags.items():
            if key not in NAMED:
                set_dotted(config, key, self.resolve_value(group, names, key, value))
        return config

    def resolve_value(self, group: str, names: Settings, key: str, value: Any) -> Any:
        """The value of one flag as ssvid.pretrain understands it."""
        is_number = isinstance(value, int | float)
        memo = f"{group} {key} {type(value) if is_number else json.dumps(value)}"
        if memo not in self.values:
            with explain_refusal(f"{self.path}: the axis {key} with {value!r}"):
                self.values[memo] = read_dotted(self.parse({**names, key: value}), key)
        parsed = self.values[memo]
        return type(parsed)(value) if is_number and parsed is not None else parsed


def resolve_cells(
    base: dict[str, Any], combinations: list[Settings], path: str
) -> Iterator[dict[str, Any]]:
    """The resolved flags of each combination, in order. UserError names the cell or the axis."""
    from ssvid.engine.train_flags import check_numbers

    resolver = Resolver(base, path)
    for settings in combinations:
        config = resolver.resolve(settings)
        with explain_refusal(f"{path}: the cell {settings}"):
            check_numbers(config)
        yield config


@contextmanager
def explain_refusal(subject: str) -> Iterator[None]:
    """Add to a UserError which sweep and which cell or axis it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"The sweep {subject} is not possible: {error}") from error


def read_dotted(config: dict[str, Any], key: str) -> Any:
    """The value of the flag `key`, which may be dotted."""
    for part in key.split("."):
        config = config[part]
    return config


def set_dotted(config: dict[str, Any], key: str, value: Any) -> None:
    """Set the flag `key`, which may be dotted, to a copy of `value`."""
    parent, _, last = key.rpartition(".")
    (read_dotted(config, parent) if parent else config)[last] = copy.deepcopy(value)
