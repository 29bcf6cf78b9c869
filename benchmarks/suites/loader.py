"""a suite's name or YAML file -> its cells.

A cell is a task, a probe with its settings, and maybe a data set. The file has the form:

cells: [{task: T, probe: P, with: {settings of P}, data: NAME or SET, name: CELL, settings of T}]
data: SET                                  # of cells that name none; the synthetic set if absent
sets: {NAME: SET}
views: {clips: 4, crops: 3, average: scores}   # of each video, where the user names none
SET = {name: DATA_SET, its settings, folds: [1, 2, 3], at_most: {frames: 8, size: 64}}

A cell on a set with folds becomes one cell for each fold. `at_most` limits the clips of that set,
whatever the clips of the encoder are.
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
from ssvid.old_names import rename_suite
from ssvid.recipe import refuse_class_paths
from ssvid.results import Fold, digest

SYNTHETIC = {"name": "synthetic"}  # where neither the suite nor the user names a data set
FOLDER = Path(__file__).parent
# Settings of data sets that are files or folders.
PATH_SETTINGS = ("train", "val", "test", "label_map", "splits", "annotations", "classes")
DEFAULT_VIEWS: dict[str, Any] = {"clips": 1, "crops": 1, "average": "features"}  # of the command
CELL_KEYS = ("task", "probe", "with", "data", "name")  # the others are settings of the task
Json = dict[str, Any]


class Cell(NamedTuple):
    name: str  # of its results
    task: Task
    settings: Json  # task, probe and all their settings
    data: Json  # name and settings of its data set, if the user names no other
    fold: Fold | None = None

    @property
    def hash(self) -> str:
        """Of the task, the probe and their settings, but not of the encoder and the data."""
        return digest(self.settings)


class BrokenCell(NamedTuple):
    """A cell that cannot be run. The other cells of the suite can."""

    name: str
    error: UserError


class SuiteFile(NamedTuple):
    """The content of a suite's file."""

    path: Path
    rows: list[Json]  # under `cells`
    sets: Json
    default_set: Any  # of rows that name no data set
    views: Json = {}  # clips, crops and average of the published protocol


def load(text: str, settings: Json | None = None) -> tuple[list[Cell], list[BrokenCell]]:
    """The cells of a suite, and the cells that are described wrongly.

    `text`: a name in benchmarks/suites, or a path. `settings`: probe -> settings that replace
    those of the suite. Raises a UserError for a bad file, and the first cell's error where no cell
    can be built.
    """
    suite = read_suite_file(find_suite_file(rename_suite(text)))
    cells: list[Cell] = []
    broken: list[BrokenCell] = []
    for number, row in enumerate(suite.rows, start=1):
        try:
            cells += build_cells(replace_settings(row, settings or {}), suite)
        except UserError as error:
            broken.append(BrokenCell(str(row.get("name") or f"cell {number}"), error))
    if not cells:
        raise broken[0].error
    names = [cell.name for cell in cells]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(
            f"The suite {suite.path} has two cells {repeated[0]}: give one of them a `name`."
        )
    return cells, broken


def find_suite_file(text: str) -> Path:
    path = Path(text) if text.endswith((".yaml", ".yml")) else FOLDER / f"{text}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in FOLDER.glob("*.yaml"))
        near = difflib.get_close_matches(text, names) or names
        raise UserError(
            f"There is no suite {text}; similar names: {', '.join(near)}; or name a .yaml file."
        )
    return path


def read_suite_file(path: Path) -> SuiteFile:
    content = read_yaml(path, "suite")
    rows = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"The suite {path} has no list `cells` of tasks.")
    unknown = sorted(set(map(str, content)) - {"cells", "data", "sets", "views"})
    if unknown:
        raise UserError(
            f"The suite {path} has an unknown entry {unknown[0]}: there are cells, data, sets and "
            "views."
        )
    views = content.get("views") or {}
    if not isinstance(views, dict) or not set(views) <= set(DEFAULT_VIEWS):
        raise UserError(f"The suite {path}: `views` has {', '.join(DEFAULT_VIEWS)}, not {views}.")
    sets, default_set = content.get("sets") or {}, content.get("data") or SYNTHETIC
    if not isinstance(sets, dict) or not all(map(is_set, (default_set, *sets.values()))):
        raise UserError(
            f"The suite {path}: `sets` gives each name the `name` and the settings of a data set."
        )
    return SuiteFile(path, rows, sets, default_set, views)


def choose_views(text: str, views: Json) -> Json:
    """The clips, crops and average of a suite, where the user's are the command's defaults."""
    if any(views[name] != value for name, value in DEFAULT_VIEWS.items()):
        return views
    return {**views, **read_suite_file(find_suite_file(rename_suite(text))).views}


def replace_settings(row: Json, settings: Json) -> Json:
    """The row of a suite with the user's settings of its probe."""
    of_probe = settings.get(str(row.get("probe")))
    return {**row, "with": {**(row.get("with") or {}), **of_probe}} if of_probe else row


def is_set(content: Any) -> bool:
    """Whether an entry of a suite describes a data set."""
    if not isinstance(content, dict):
        return False
    limits, folds = content.get("at_most", {}), content.get("folds", [])
    if not isinstance(limits, dict) or not set(limits) <= {"frames", "size"}:
        return False
    if not all(type(limit) is int for limit in limits.values()):
        return False
    return isinstance(folds, list) and isinstance(content.get("name"), str)


def build_cells(row: Json, suite: SuiteFile) -> list[Cell]:
    """A row's cell, or one cell for each fold of its data set."""
    data: Any = row.get("data")
    if isinstance(data, str):
        described, title = suite.sets.get(data, {"name": data}), data
    else:
        described, title = data or suite.default_set, ""
    if not is_set(described):
        raise UserError(
            f"The suite {suite.path}: a cell's `data` is a name or a mapping with one, unlike in "
            f"{row}."
        )
    if data and not isinstance(data, str):
        title = described["name"]
    settings = dict(described)
    folds = settings.pop("folds", None)
    whole = build_cell({**row, "data": settings}, title, suite.path)
    if folds is None:
        return [whole]
    cells = []
    for number in folds:
        cell = build_cell({**row, "data": {**settings, "fold": number}}, title, suite.path)
        fold = Fold(cell=whole.name, number=number, folds=list(folds))
        cells.append(cell._replace(name=f"{whole.name}.fold{number}", fold=fold))
    return cells


def build_cell(row: Json, title: str, path: Path) -> Cell:
    """The cell of a row {task, probe, with, data, name, settings of the task}.

    `title`: of its data set, for the name of the cell. `path`: of the suite, for error sentences.
    """
    check_row(row, path)
    probe, probe_suffix = None, ""
    if "probe" in row:
        name = row["probe"]
        probe = build(registry.probes[name], row.get("with") or {}, f"probe {name}", path)
        probe_suffix = f".{name}"
    kind = registry.tasks[row["task"]]
    if probe is None and is_required(kind, "probe"):
        raise UserError(
            f"The suite {path}: task {row['task']} needs a probe, one of "
            f"{', '.join(registry.probes.names())}."
        )
    arguments = {key: value for key, value in row.items() if key not in CELL_KEYS}
    if probe is not None:
        arguments = {"probe": probe, **arguments}
    task = build(kind, arguments, f"task {row['task']}", path)
    prefix = f"{title}." if title else ""
    name = str(row.get("name") or f"{prefix}{row['task']}{probe_suffix}")
    if not re.fullmatch(r"[\w.+-]+", name):
        raise UserError(
            f"The suite {path}: a cell's name is part of a file name: letters, digits and . _ + -, "
            f"not {name!r}."
        )
    settings = {
        "task": row["task"],
        **task.settings(),
        "probe": row.get("probe"),
        "with": vars(probe) if probe else None,
    }
    return Cell(name, task, settings, row["data"])


def is_required(kind: Any, parameter: str) -> bool:
    """Whether a parameter of a class or function has no default."""
    return inspect.signature(kind).parameters[parameter].default is inspect.Parameter.empty


def check_row(row: Json, path: Path) -> None:
    if not isinstance(row.get("task"), str):
        raise UserError(f"The suite {path} has a cell without a task: {row}.")
    if not isinstance(row.get("with") or {}, dict) or not isinstance(row.get("probe") or "", str):
        raise UserError(
            f"The suite {path}: a cell's `probe` is a name and its `with` a mapping, unlike in "
            f"{row}."
        )


def build(kind: Any, settings: Json, title: str, path: Path) -> Any:
    """Call `kind` with these settings, as the command line would.

    Each setting must have the type that the signature states. `title`: of the part of the suite
    `path`, for error sentences.
    """
    typed = {key: value for key, value in settings.items() if not isinstance(value, Probe)}
    refuse_class_paths(f"{title} of the suite {path}", typed)
    probes = {key: value for key, value in settings.items() if isinstance(value, Probe)}
    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if inspect.isclass(kind) else parser.add_function_arguments
    add(kind, skip={"probe"}, fail_untyped=False)
    try:
        parsed = parser.parse_object(typed).as_dict()
        return kind(**{key: parsed[key] for key in typed}, **probes)
    except (TypeError, ArgumentError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The suite {path}: {title}: {reason.rstrip('.')}.") from error


def open_manifest(data: Json, datasets: str | None) -> Manifest:
    """A cell's own data set. Its files and folders lie under the folder `datasets`.

    The videos lie in a folder named after the data set, unless `root` names another. Raises a
    UserError where `datasets` is needed and missing.
    """
    settings = {key: value for key, value in data.items() if key not in ("name", "at_most")}
    kind, folder = registry.datasets[data["name"]], str(settings.get("root", data["name"]))
    if is_required(kind, "root"):  # the other sets are generated and need no files
        if datasets is None and not Path(folder).is_absolute():
            raise UserError(
                f"This suite reads {data['name']}: name its folder with --datasets DIR, so that it "
                f"is DIR/{folder}."
            )
        settings["root"] = str(Path(datasets or "", folder))
        for key in PATH_SETTINGS:
            if isinstance(settings.get(key), str):
                settings[key] = str(Path(datasets or "", settings[key]))
    manifest = build(kind, settings, f"data {data['name']}", FOLDER)
    assert isinstance(manifest, Manifest)
    return manifest
