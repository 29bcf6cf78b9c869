"""SWEEP.yaml -> Plan: all cells of a sweep, checked before anything is submitted.

A sweep file has these entries:

base: RECIPE or {flags}     what all cells share: a recipe, by its path from the sweep file's
                            folder or by its shipped name, or flags of ssvid.pretrain
set: {FLAG: VALUE}          flags that replace those of the base
grid: {FLAG: [VALUES]}      every combination; FLAG may be dotted (data.root), or `suite.FLAG` of
                            benchmarks.run
list: [{FLAG: VALUE, ...}]  flags that vary together
random: {count: N, seed: S, FLAG: {uniform | log: [LOW, HIGH], integers: [LOW, HIGH],
                                   choice: [VALUES]}}
suite: NAME or {flags of benchmarks.run}     absent: no suite runs
best: CELL                  the cell of the suite whose val score selects the best cell
cluster: {see cluster.py}

The cells are the product of grid, list and random. The i-th draw of `random` is the same in every
combination of grid and list.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ssvid.errors import UserError
from ssvid.files import read_yaml
from ssvid.old_names import (
    FLAGS,
    names_in,
    rename_flag,
    rename_recipe,
    use_old_names,
    use_old_suite,
)
from ssvid.recipe import NAMED, load_recipe, set_flags
from ssvid.sweep.cluster import Cluster, parse_cluster
from ssvid.sweep.draws import draw_settings
from ssvid.sweep.resolve import SUITE_PREFIX, Settings, resolve_cells

KEYS = ("name", "base", "set", "grid", "list", "random", "suite", "best", "cluster")
MAX_CELLS = 20_000
NOT_AXES = ("out", "config", "suite.out", "suite.encoder")


class Cell(NamedTuple):
    hash: str
    name: str
    axes: dict[str, str]  # axis -> label of its value
    settings: Settings
    config: dict[str, Any]  # all flags of ssvid.pretrain, resolved
    suite: dict[str, Any] | None  # flags of benchmarks.run

    def to_record(self) -> dict[str, Any]:
        """The cell as sweep.json holds it. Relative paths in its flags count from `cwd`."""
        fields = self._asdict()
        del fields["hash"]
        return {**fields, "left": False, "cwd": str(Path.cwd())}


class Plan(NamedTuple):
    name: str
    file: str
    axes: dict[str, list[str]]  # axis -> labels of all its values
    best: str | None
    cells: list[Cell]
    cluster: Cluster

    @property
    def suites(self) -> list[dict[str, Any]]:
        """The flags of every suite that a cell uses, each once."""
        suites = {json.dumps(cell.suite, sort_keys=True): cell.suite for cell in self.cells}
        return [suite for suite in suites.values() if suite is not None]


def read_plan(path: str) -> Plan:
    """Read and check the sweep file `path`. UserError: one sentence about the first fault.

    No folder is made here, so a bad file leaves nothing behind.
    """
    content = read_yaml(path, "sweep")
    check_entries(content, path)
    for axis, value in list_flags(content):
        check_axis(axis, value, path)
    name = str(content.get("name") or Path(path).stem)
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(
            f"The sweep {path} is called {name!r}: a name has only letters, digits, - and _."
        )
    cluster = parse_cluster(content.get("cluster") or {}, path)
    best = content.get("best")
    base, suite = read_base(content, path), read_suite(content.get("suite"), path)
    combinations = []
    for settings in combine_axes(content, path):
        combinations.append(rename_settings(base, settings))
    labels, axes = label_axes(combinations), find_varied_axes(combinations)
    cells = []
    configs = resolve_cells(base, combinations, path)
    for settings, config in zip(combinations, configs, strict=True):
        cells.append(make_cell(settings, config, suite, axes, labels))
    check_cells_differ(cells, path)
    if best is not None and (not isinstance(best, str) or suite is None):
        raise UserError(
            f"The sweep {path}: `best` is the name of a cell of its suite, and {best!r} is none."
        )
    labels_of_axis = {axis: list(dict.fromkeys(labels[axis].values())) for axis in axes}
    return Plan(name, str(Path(path).resolve()), labels_of_axis, best, cells, cluster)


def check_entries(content: Any, path: str) -> None:
    """Raise UserError if the file has no axes, or an entry with an unknown name."""
    axes = ("grid", "list", "random")
    if not isinstance(content, dict) or not any(content.get(entry) for entry in axes):
        raise UserError(f"The sweep {path} has no axes: give it `grid`, `list` or `random`.")
    if unknown := sorted(set(map(str, content)) - set(KEYS)):
        raise UserError(
            f"The sweep {path} has an unknown entry {unknown[0]!r}: there are {', '.join(KEYS)}."
        )


def list_flags(content: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The flags in all entries, with their values. Entries of a wrong type are passed over."""
    rows = content.get("list")
    entries = [content.get("set"), content.get("grid"), content.get("random")]
    entries += rows if isinstance(rows, list) else []
    for entry in entries:
        if isinstance(entry, dict):
            yield from entry.items()


def check_axis(axis: Any, value: Any, path: str) -> None:
    """Raise UserError if `axis` cannot be an axis, or if its value cannot be written as JSON."""
    if not isinstance(axis, str) or axis in NOT_AXES:
        raise UserError(
            f"The sweep {path}: {axis!r} cannot be an axis. Name a flag of ssvid.pretrain, but "
            "not `out`, because each cell has a folder of its own."
        )
    try:
        json.dumps(value)
    except TypeError as error:
        raise UserError(
            f"The sweep {path}: {axis} has a value that is no number, text or list: quote it."
        ) from error


def read_base(content: dict[str, Any], path: str) -> dict[str, Any]:
    """The flags that all cells share: `base`, then `set` over it."""
    base = content.get("base") or {}
    if isinstance(base, str):
        beside = Path(path).parent / base
        base = load_recipe(beside if beside.is_file() else base)
    changes = content.get("set") or {}
    if not isinstance(base, dict) or not isinstance(changes, dict) or "stages" in base:
        raise UserError(
            f"The sweep {path}: `base` is one recipe or flags of ssvid.pretrain, and `set` gives "
            "flags that replace those of the base."
        )
    if "out" in base:
        raise UserError(f"The sweep {path} sets `out`: each cell has a folder of its own.")
    flags = set(FLAGS.values())
    return set_flags(rename_recipe(base, {}, flags), rename_settings(base, changes))


def read_suite(content: Any, path: str) -> dict[str, Any] | None:
    """The flags of benchmarks.run that all cells share; None where the sweep has no suite."""
    suite = {"suite": content} if isinstance(content, str) else content
    if suite is not None and (not isinstance(suite, dict) or {"encoder", "out"} & suite.keys()):
        raise UserError(
            f"The sweep {path}: `suite` is a name, or flags of ssvid bench without encoder and out."
        )
    return suite


def combine_axes(content: dict[str, Any], path: str) -> Iterator[Settings]:
    """Every combination of a point of `grid`, a row of `list` and a draw of `random`."""
    grid, rows = content.get("grid") or {}, content.get("list") or [{}]
    if not isinstance(grid, dict) or not all(map(is_filled_list, grid.values())):
        raise UserError(f"The sweep {path}: `grid` gives each axis a list of values.")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"The sweep {path}: `list` is a list of mappings from flags to values.")
    draws = draw_settings(content.get("random"), path)
    count = len(rows) * len(draws) * math.prod(map(len, grid.values()))
    if count > MAX_CELLS:
        raise UserError(f"The sweep {path} has {count} cells, and {MAX_CELLS} are the most.")
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    for point, row, draw in itertools.product(points, rows, draws):
        names = [*point, *row, *draw]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(
                f"The sweep {path}: {repeated[0]} is in two of grid, list and random; give it once."
            )
        yield {**point, **row, **draw}


def is_filled_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def rename_settings(base: dict[str, Any], settings: Settings) -> Settings:
    """The settings with today's flag names in place of old ones."""
    names, flags = {**names_in(base), **names_in(settings)}, set(FLAGS.values())
    renamed = {}
    for flag, value in settings.items():
        renamed[rename_flag(flag, names, flags)] = value
    return renamed


def collect_values(combinations: list[Settings]) -> dict[str, dict[str, Any]]:
    """axis -> its values over all cells, by their JSON text. A cell without the axis has null."""
    values: dict[str, dict[str, Any]] = {}
    for axis in dict.fromkeys(itertools.chain.from_iterable(combinations)):
        values[axis] = {}
        for settings in combinations:
            value = settings.get(axis)
            values[axis][json.dumps(value, sort_keys=True)] = value
    return values


def find_varied_axes(combinations: list[Settings]) -> list[str]:
    """The flags whose value is not the same in all cells; all flags if none varies."""
    values = collect_values(combinations)
    return [axis for axis in values if len(values[axis]) > 1] or list(values)


def label_axes(combinations: list[Settings]) -> dict[str, dict[str, str]]:
    """axis -> value as JSON text -> its label in tables."""
    labels: dict[str, dict[str, str]] = {}
    for axis, values in collect_values(combinations).items():
        labels[axis] = {}
        for text, value in values.items():
            labels[axis][text] = label_value(value, list(values.values()))
        if len(set(labels[axis].values())) < len(values):
            labels[axis] = {text: text for text in values}
    return labels


def label_value(value: Any, values: list[Any]) -> str:
    """The label of one of an axis's `values`.

    A mapping with a `name` (an objective, an encoder) is labelled by the name and by those of its
    settings that differ from other values of the same name.
    """
    if not isinstance(value, dict):
        return "-" if value is None else str(value)
    namesakes = []
    for candidate in values:
        if isinstance(candidate, dict) and candidate.get("name") == value.get("name"):
            namesakes.append(candidate)
    words = [str(value.get("name", ""))]
    for key in value:
        if key != "name" and any(namesake.get(key) != value[key] for namesake in namesakes):
            words.append(f"{key}={value[key]}")
    return " ".join(words).strip()


def make_cell(
    settings: Settings,
    config: dict[str, Any],
    suite: dict[str, Any] | None,
    axes: list[str],
    labels: dict[str, dict[str, str]],
) -> Cell:
    """The cell of one combination; `labels` are those of label_axes."""
    suite_flags = {}
    for key, value in settings.items():
        if key.startswith(SUITE_PREFIX):
            suite_flags[key.removeprefix(SUITE_PREFIX)] = value
    suite = set_flags(suite, suite_flags) if suite is not None else None
    label_of_axis, words = {}, []
    for axis in axes:
        label = labels[axis][json.dumps(settings.get(axis), sort_keys=True)]
        label_of_axis[axis] = label
        words.append(label if axis in NAMED else f"{axis.rpartition('.')[2]} {label}")
    cell_hash = compute_hash(config, suite, axes)
    return Cell(cell_hash, ", ".join(words), label_of_axis, settings, config, suite)


def compute_hash(config: dict[str, Any], suite: dict[str, Any] | None, axes: list[str]) -> str:
    """The hash of all settings that change a cell's result; it names the cell's folder.

    Settings of how a cell is run (workers, log_every ...) do not count, unless they are axes.
    """
    from ssvid.engine.checkpoint import FREE, flatten_config

    uncounted = FREE - {"steps", "epochs", "data.root", "encoder"} - set(axes)
    settings = {key: value for key, value in flatten_config(config).items() if key not in uncounted}
    # Folders exist that are named by this hash: another hash would train their cells anew.
    text = json.dumps([use_old_names(settings), use_old_suite(suite)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def check_cells_differ(cells: list[Cell], path: str) -> None:
    """Raise UserError if two cells have the same hash."""
    first: dict[str, Cell] = {}
    for cell in cells:
        twin = first.setdefault(cell.hash, cell)
        if twin is not cell:
            raise UserError(
                f"The sweep {path}: two cells are the same, {json.dumps(twin.settings)} and "
                f"{json.dumps(cell.settings)} (hash {cell.hash}): take a value out of an axis."
            )
