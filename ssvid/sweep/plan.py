"""SWEEP.yaml -> cells, all checked before anything is submitted.

base: RECIPE or {flags}     what all cells share: a recipe beside the sweep file, or flags of ssvid.pretrain
set: {FLAG: VALUE}          over the base
grid: {FLAG: [VALUES]}      every combination; FLAG may be dotted (data.root), or `suite.FLAG` of benchmarks.run
list: [{FLAG: VALUE, ...}]  flags that vary together
random: {count: N, seed: S, FLAG: {uniform | log: [LOW, HIGH], integers: [LOW, HIGH], choice: [VALUES]}}
suite: NAME or {flags of benchmarks.run}     absent: no suite
best: CELL                  of the suite: its val score names the best cell
cluster: {see cluster.py}

Cells are grid x list x random. The i-th draw of `random` is the same in every combination of the others.
"""

import copy
import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ssvid.errors import UserError
from ssvid.files import read_yaml
from ssvid.old_names import FLAGS, names_in, rename_flag, rename_recipe, use_old_names
from ssvid.recipe import NAMED, load_recipe, set_flags
from ssvid.sweep.cluster import Cluster, cluster_of

KEYS = ("name", "base", "set", "grid", "list", "random", "suite", "best", "cluster")
SUITE = "suite."
NOT_AXES = ("out", "config", "suite.out", "suite.encoder")
Settings = dict[str, Any]  # flag, dotted maybe -> value


class Cell(NamedTuple):
    hash: str
    name: str
    axes: dict[str, str]  # axis -> label of its value
    settings: Settings
    config: dict[str, Any]  # of ssvid.pretrain, resolved
    suite: dict[str, Any] | None  # flags of benchmarks.run

    def record(self) -> dict[str, Any]:
        kept = {key: value for key, value in self._asdict().items() if key != "hash"}
        return {
            **kept,
            "left": False,
            "cwd": str(Path.cwd()),
        }  # relative paths of its flags count from there


class Plan(NamedTuple):
    name: str
    file: str
    axes: dict[str, list[str]]  # axis -> labels of all its values
    best: str | None
    cells: list[Cell]
    cluster: Cluster

    @property
    def suites(self) -> list[dict[str, Any]]:
        """Each that a cell asks, once."""
        every = {json.dumps(one.suite, sort_keys=True): one.suite for one in self.cells}
        return [suite for suite in every.values() if suite is not None]


def read(path: str) -> Plan:
    """Every fault of the file is one sentence here, before a folder is made."""
    given = read_yaml(path, "sweep")
    if not isinstance(given, dict) or not any(
        given.get(part) for part in ("grid", "list", "random")
    ):
        raise UserError(f"The sweep {path} has no axes: give it `grid`, `list` or `random`.")
    if strange := sorted(set(map(str, given)) - set(KEYS)):
        raise UserError(
            f"The sweep {path} has an entry {strange[0]!r}: there are {', '.join(KEYS)}."
        )
    for axis, value in named_in(given):
        possible(axis, value, path)
    name = str(given.get("name") or Path(path).stem)
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(
            f"The sweep {path} is called {name!r}: a name has letters, digits, - and _ alone."
        )
    cluster = cluster_of(given.get("cluster") or {}, path)
    best = given.get("best")
    base, suite = based(given, path), suited(given.get("suite"), path)
    combinations = [rename_settings(base, settings) for settings in combine(given, path)]
    named, free = labels(combinations), axes_of(combinations)
    cells = [
        cell(settings, config, suite, free, named)
        for settings, config in zip(combinations, resolved(base, combinations, path), strict=True)
    ]
    different(cells, path)
    if best is not None and (not isinstance(best, str) or suite is None):
        raise UserError(
            f"The sweep {path}: `best` is the name of a cell of its suite, and {best!r} is none."
        )
    return Plan(
        name,
        str(Path(path).resolve()),
        {a: list(dict.fromkeys(named[a].values())) for a in free},
        best,
        cells,
        cluster,
    )


def named_in(given: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Axes, as far as they can be told before their parts are looked at, with their values."""
    rows = given.get("list")
    for part in (
        given.get("set"),
        given.get("grid"),
        given.get("random"),
        *(rows if isinstance(rows, list) else []),
    ):
        yield from part.items() if isinstance(part, dict) else ()


def possible(axis: Any, value: Any, path: str) -> None:
    if not isinstance(axis, str) or axis in NOT_AXES:
        raise UserError(
            f"The sweep {path}: {axis!r} is no axis: name a flag of ssvid.pretrain; `out` is each cell's own."
        )
    try:
        json.dumps(value)
    except TypeError as error:
        raise UserError(
            f"The sweep {path}: {axis} has a value that is no number, text or list: quote it."
        ) from error


def based(given: dict[str, Any], path: str) -> dict[str, Any]:
    base = given.get("base") or {}
    if isinstance(base, str):
        base = load_recipe(Path(path).parent / base)
    if (
        not isinstance(base, dict)
        or not isinstance(given.get("set") or {}, dict)
        or "stages" in base
    ):
        raise UserError(
            f"The sweep {path}: `base` is one recipe or flags of ssvid.pretrain, and `set` is flags over it."
        )
    if "out" in base:
        raise UserError(f"The sweep {path} sets `out`: each cell has a folder of its own.")
    flags = set(FLAGS.values())
    return set_flags(rename_recipe(base, {}, flags), rename_settings(base, given.get("set") or {}))


def suited(given: Any, path: str) -> dict[str, Any] | None:
    suite = {"suite": given} if isinstance(given, str) else given
    if suite is not None and (not isinstance(suite, dict) or {"encoder", "out"} & suite.keys()):
        raise UserError(
            f"The sweep {path}: `suite` is a name or flags of benchmarks.run without encoder and out."
        )
    return suite


def combine(given: dict[str, Any], path: str) -> Iterator[Settings]:
    grid, rows = given.get("grid") or {}, given.get("list") or [{}]
    if not isinstance(grid, dict) or not all(
        isinstance(values, list) and values for values in grid.values()
    ):
        raise UserError(f"The sweep {path}: `grid` gives each axis a list of values.")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"The sweep {path}: `list` is a list of mappings from flags to values.")
    drawn = draws(given.get("random"), path)
    for values, row, draw in itertools.product(itertools.product(*grid.values()), rows, drawn):
        parts: list[Settings] = [dict(zip(grid, values, strict=True)), row, draw]
        names = [name for part in parts for name in part]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(
                f"The sweep {path}: {twice[0]} is in two of grid, list and random; give it once."
            )
        yield {name: value for part in parts for name, value in part.items()}


def rename_settings(base: dict[str, Any], settings: Settings) -> Settings:
    """The flags of a cell in today's names."""
    names, flags = {**names_in(base), **names_in(settings)}, set(FLAGS.values())
    renamed = {}
    for flag, value in settings.items():
        renamed[rename_flag(flag, names, flags)] = value
    return renamed


def draws(given: Any, path: str) -> list[Settings]:
    if given is None:
        return [{}]
    axes = (
        {key: how for key, how in given.items() if key not in ("count", "seed")}
        if isinstance(given, dict)
        else {}
    )
    seed = given.get("seed", 0) if isinstance(given, dict) else 0
    if (
        not axes
        or not isinstance(given.get("count"), int)
        or given["count"] < 1
        or not isinstance(seed, int)
    ):
        raise UserError(
            f"The sweep {path}: `random` has a `count` of draws, maybe their `seed`, and an axis at least."
        )
    columns = {axis: column(how, axis, seed, given["count"], path) for axis, how in axes.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def column(how: Any, axis: str, seed: int, count: int, path: str) -> list[Any]:
    """Draws of one axis: of coordinates (seed, axis, number), so a larger count begins with those of a smaller one."""
    from ssvid.randomness import uniform

    kind, given = next(iter(how.items())) if isinstance(how, dict) and len(how) == 1 else ("", None)
    ends = (
        isinstance(given, list)
        and len(given) == 2
        and all(isinstance(end, int | float) for end in given)
    )
    if (
        kind not in ("uniform", "log", "integers", "choice")
        or not isinstance(given, list)
        or not given
    ):
        raise UserError(
            f"The sweep {path}: random.{axis} is one of uniform, log, integers: [LOW, HIGH] or choice: [...]."
        )
    if kind != "choice" and (not ends or given[0] > given[1] or (kind == "log" and given[0] <= 0)):
        raise UserError(
            f"The sweep {path}: random.{axis}.{kind} is [LOW, HIGH], LOW first{' and above 0' * (kind == 'log')}."
        )
    import torch

    shares = uniform(seed, f"sweep {axis}", 0, torch.arange(count), 1)[:, 0].double().tolist()
    if kind == "choice":
        return [given[int(u * len(given))] for u in shares]
    low, high = given
    if kind == "integers":
        return [int(low) + int(u * (int(high) - int(low) + 1)) for u in shares]
    if kind == "log":
        return [float(f"{math.exp(math.log(low) + u * math.log(high / low)):.6g}") for u in shares]
    return [float(f"{low + u * (high - low):.6g}") for u in shares]


def resolved(
    base: dict[str, Any], combinations: list[Settings], path: str
) -> Iterator[dict[str, Any]]:
    """Each combination's flags as ssvid.pretrain understands them.

    Parsing takes 50 ms, and a thousand cells must not wait: a flag's value means the same whatever the others are, once
    the names are chosen. So it is parsed once for each choice of names, and a number only once for its type.
    """
    from ssvid.cli import resolver
    from ssvid.engine.train_flags import check_numbers
    from ssvid.pretrain import pretrain

    parse = resolver(pretrain)

    def resolve(recipe: dict[str, Any]) -> dict[str, Any]:
        return parse({**recipe, "out": "."})

    groups: dict[str, dict[str, Any]] = {}
    known: dict[str, Any] = {}
    for settings in combinations:
        ours = {key: value for key, value in settings.items() if not key.startswith(SUITE)}
        names = {key: value for key, value in ours.items() if key in NAMED}
        group = json.dumps([names, list(ours)], sort_keys=True)
        if group not in groups:
            with blamed(f"{path}: the cell {settings}"):
                groups[group] = resolve(set_flags(base, ours))
        config = copy.deepcopy(groups[group])
        for key, value in ours.items():
            if key in NAMED:
                continue
            number = isinstance(value, int | float)
            memo = f"{group} {key} {type(value) if number else json.dumps(value)}"
            if memo not in known:
                with blamed(f"{path}: the axis {key} with {value!r}"):
                    known[memo] = at(resolve(set_flags(base, {**names, key: value})), key)
            found = known[memo]
            put(config, key, type(found)(value) if number and found is not None else found)
        with blamed(f"{path}: the cell {settings}"):
            check_numbers(config)
        yield config


@contextmanager
def blamed(what: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"The sweep {what} cannot be: {error}") from error


def at(config: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def put(config: dict[str, Any], key: str, value: Any) -> None:
    above, _, last = key.rpartition(".")
    (at(config, above) if above else config)[last] = copy.deepcopy(value)


def axes_of(combinations: list[Settings]) -> list[str]:
    """Flags that not all cells have alike."""
    names = dict.fromkeys(itertools.chain.from_iterable(combinations))
    values = {
        name: {json.dumps(one.get(name), sort_keys=True) for one in combinations} for name in names
    }
    return [name for name in names if len(values[name]) > 1] or list(names)


def labels(combinations: list[Settings]) -> dict[str, dict[str, str]]:
    """axis -> value, as JSON -> what tables call it: a name, and of its settings those that tell it from the others."""
    made: dict[str, dict[str, str]] = {}
    for axis in dict.fromkeys(itertools.chain.from_iterable(combinations)):
        values = {json.dumps(one.get(axis), sort_keys=True): one.get(axis) for one in combinations}
        made[axis] = {text: label(value, list(values.values())) for text, value in values.items()}
        if len(set(made[axis].values())) < len(values):
            made[axis] = {text: text for text in values}
    return made


def label(value: Any, others: list[Any]) -> str:
    if not isinstance(value, dict):
        return "-" if value is None else str(value)
    same = [one for one in others if isinstance(one, dict) and one.get("name") == value.get("name")]
    telling = [
        key for key in value if key != "name" and any(one.get(key) != value[key] for one in same)
    ]
    return " ".join(
        [str(value.get("name", "")), *(f"{key}={value[key]}" for key in telling)]
    ).strip()


def cell(
    settings: Settings,
    config: dict[str, Any],
    suite: dict[str, Any] | None,
    axes: list[str],
    named_as: dict[str, dict[str, str]],
) -> Cell:
    asked = {
        key.removeprefix(SUITE): value for key, value in settings.items() if key.startswith(SUITE)
    }
    suite = set_flags(suite, asked) if suite is not None else None
    shown = {axis: named_as[axis][json.dumps(settings.get(axis), sort_keys=True)] for axis in axes}
    name = ", ".join(
        text if axis in NAMED else f"{axis.rpartition('.')[2]} {text}"
        for axis, text in shown.items()
    )
    return Cell(identity(config, suite, axes), name, shown, settings, config, suite)


def identity(config: dict[str, Any], suite: dict[str, Any] | None, axes: list[str]) -> str:
    """Of all that makes a cell this one. How it is run (workers, log_every ...) does not, unless that is an axis."""
    from ssvid.engine.checkpoint import FREE, flat

    how = FREE - {"steps", "epochs", "data.root", "encoder"} - set(axes)
    settings = {key: value for key, value in flat(config).items() if key not in how}
    # Folders exist that are named by this hash: another one would train their cells anew.
    text = json.dumps([use_old_names(settings), suite], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def different(cells: list[Cell], path: str) -> None:
    first: dict[str, Cell] = {}
    for one in cells:
        other = first.setdefault(one.hash, one)
        if other is not one:
            raise UserError(
                f"The sweep {path}: two cells are one and the same, {json.dumps(other.settings)} and "
                f"{json.dumps(one.settings)} (hash {one.hash}): take a value out of an axis."
            )
