"""a suite's name or YAML file -> its cells: a cell is a task, a probe with its settings, and maybe a data set.

cells: [{task: T, probe: P, with: {settings of P}, data: NAME or SET, name: CELL, settings of T}]
data: SET                                          # of cells that name none; the synthetic one if absent
sets: {NAME: SET}
SET = {name: DATA_SET, its settings, folds: [1, 2, 3], at_most: {frames: 8, size: 64}}

A cell on a set with folds is one cell for each. `at_most`: clips of that set are no larger, whatever the encoder's are.
"""

import difflib
import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentError, ArgumentParser

from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Task
from ssvid import registry
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.files import read_yaml
from ssvid.results import Fold, digest

SYNTHETIC = {"name": "synthetic"}  # where neither the suite nor the user names a data set
FOLDER = Path(__file__).parent
LISTS = (
    "train",
    "val",
    "test",
    "label_map",
    "splits",
    "annotations",
    "classes",
)  # settings that are files or folders


class Cell(NamedTuple):
    name: str  # of its results
    task: Task
    settings: dict[str, Any]  # task, probe and all their settings
    data: dict[str, Any]  # name and settings of its data set, if the user names no other
    fold: Fold | None = None

    @property
    def hash(self) -> str:
        """Of what is asked and how it is answered, whatever the encoder and the data."""
        return digest(self.settings)


class Broken(NamedTuple):
    """A cell that cannot be asked: the others can."""

    name: str
    why: UserError


def load(text: str, settings: dict[str, Any] | None = None) -> tuple[list[Cell], list[Broken]]:
    """`text`: a name in benchmarks/suites, or a path. Where no cell can be asked the first one's fault is raised.

    `settings`: probe -> settings that replace those of the suite.
    """
    path = Path(text) if text.endswith((".yaml", ".yml")) else FOLDER / f"{text}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in FOLDER.glob("*.yaml"))
        near = difflib.get_close_matches(text, names) or names
        raise UserError(f"There is no suite {text}; near: {', '.join(near)}; or name a .yaml file.")
    found = read_yaml(path, "suite")
    rows = found.get("cells") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"The suite {path} has no list `cells` of tasks.")
    if strange := sorted(set(map(str, found)) - {"cells", "data", "sets"}):
        raise UserError(
            f"The suite {path} has an entry {strange[0]}: there are cells, data and sets."
        )
    sets, plain = found.get("sets") or {}, found.get("data") or SYNTHETIC
    if not isinstance(sets, dict) or not all(is_set(of) for of in (plain, *sets.values())):
        raise UserError(
            f"The suite {path}: `sets` gives each name the `name` and the settings of a data set."
        )
    cells: list[Cell] = []
    broken: list[Broken] = []
    for number, row in enumerate(rows, start=1):
        try:
            cells += folded(with_settings(row, settings or {}), sets, plain, path)
        except UserError as error:
            broken.append(Broken(str(row.get("name") or f"cell {number}"), error))
    if not cells:
        raise broken[0].why
    names = [one.name for one in cells]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"The suite {path} has two cells {twice[0]}: give one of them a `name`.")
    return cells, broken


def with_settings(row: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    own = settings.get(str(row.get("probe")))
    return {**row, "with": {**(row.get("with") or {}), **own}} if own else row


def is_set(of: Any) -> bool:
    most = of.get("at_most", {}) if isinstance(of, dict) else None
    sizes = (
        isinstance(most, dict)
        and set(most) <= {"frames", "size"}
        and all(type(n) is int for n in most.values())
    )
    folds = of.get("folds", []) if isinstance(of, dict) else None
    return sizes and isinstance(folds, list) and isinstance(of.get("name"), str)


def folded(
    row: dict[str, Any], sets: dict[str, Any], plain: dict[str, Any], path: Path
) -> list[Cell]:
    """A row's cell, or where its data set has folds one for each. `plain`: the set of a row that names none."""
    named: Any = row.get("data")
    given = sets.get(named, {"name": named}) if isinstance(named, str) else named or plain
    if not is_set(given):
        raise UserError(
            f"The suite {path}: a cell's `data` is a name or a mapping with one, unlike in {row}."
        )
    known, title = dict(given), named if isinstance(named, str) else given["name"] if named else ""
    folds = known.pop("folds", None)
    if folds is None:
        return [cell({**row, "data": known}, title, path)]
    whole, made = cell({**row, "data": known}, title, path), []
    for number in folds:
        one = cell({**row, "data": {**known, "fold": number}}, title, path)
        fold = Fold(of=whole.name, number=number, folds=list(folds))
        made.append(one._replace(name=f"{whole.name}.fold{number}", fold=fold))
    return made


def cell(row: dict[str, Any], title: str, path: Path) -> Cell:
    """{task, probe, data, name, settings of the task, `with`: settings of the probe}. `title`: of its data set."""
    rest = {
        key: value
        for key, value in row.items()
        if key not in ("task", "probe", "with", "data", "name")
    }
    if not isinstance(row.get("task"), str):
        raise UserError(f"The suite {path} has a cell without a task: {row}.")
    if not isinstance(row.get("with") or {}, dict) or not isinstance(row.get("probe") or "", str):
        raise UserError(
            f"The suite {path}: a cell's `probe` is a name and its `with` a mapping, unlike in {row}."
        )
    probe, said = None, ""
    if "probe" in row:
        probe = built(
            registry.probes[row["probe"]], row.get("with") or {}, f"probe {row['probe']}", path
        )
        said = f".{row['probe']}"
    kind = registry.tasks[row["task"]]
    if (
        probe is None
        and inspect.signature(kind).parameters["probe"].default is inspect.Parameter.empty
    ):
        raise UserError(
            f"The suite {path}: task {row['task']} needs a probe, one of {', '.join(registry.probes.names())}."
        )
    given = rest if probe is None else {"probe": probe, **rest}
    task = built(kind, given, f"task {row['task']}", path)
    name = str(row.get("name") or (f"{title}." if title else "") + f"{row['task']}{said}")
    if not re.fullmatch(r"[\w.+-]+", name):
        raise UserError(
            f"The suite {path}: a cell's name is that of its file, letters, digits and . _ + -, not {name!r}."
        )
    settings = {
        "task": row["task"],
        **task.settings(),
        "probe": row.get("probe"),
        "with": vars(probe) if probe else None,
    }
    return Cell(name, task, settings, row["data"])


def built(kind: Any, settings: dict[str, Any], what: str, path: Path) -> Any:
    """As the command line would make it: each setting is held to the type that its signature states."""
    rest = {key: value for key, value in settings.items() if not isinstance(value, Probe)}
    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if inspect.isclass(kind) else parser.add_function_arguments
    add(kind, skip={"probe"}, fail_untyped=False)
    try:
        known = parser.parse_object(rest).as_dict()
        return kind(
            **{key: known[key] for key in rest},
            **{key: settings[key] for key in settings.keys() - rest.keys()},
        )
    except (TypeError, ArgumentError, KeyError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"The suite {path}: {what}: {why.rstrip('.')}.") from error


def manifest(data: dict[str, Any], datasets: str | None) -> Manifest:
    """A cell's own data set: its files and folders lie under `datasets`, the videos in one of its name if not said."""
    settings = {key: value for key, value in data.items() if key not in ("name", "at_most")}
    kind, folder = registry.datasets[data["name"]], str(settings.get("root", data["name"]))
    drawn = (
        inspect.signature(kind).parameters["root"].default is not inspect.Parameter.empty
    )  # on the spot
    if not drawn and datasets is None and not Path(folder).is_absolute():
        raise UserError(
            f"This suite reads {data['name']}: say where it lies, --datasets DIR with DIR/{folder}."
        )
    if not drawn:
        given = {key: settings[key] for key in LISTS if isinstance(settings.get(key), str)}
        settings |= {
            key: str(Path(datasets or "", file)) for key, file in {**given, "root": folder}.items()
        }
    made = built(kind, settings, f"data {data['name']}", FOLDER)
    assert isinstance(made, Manifest)
    return made
