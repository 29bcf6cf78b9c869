"""a suite's name or YAML file -> its cells: a cell is a task, a probe with its settings, and maybe a data set."""

import difflib
import inspect
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.task import Task
from ssvid import registry
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError

FOLDER = Path(__file__).parent / "suites"


class Cell(NamedTuple):
    name: str  # of its results
    task: Task
    settings: dict[str, Any]  # task, probe and all their settings
    data: dict[str, Any] | None  # name and settings of its own data set


def load(text: str) -> list[Cell]:
    """`text`: a name in benchmarks/suites, or a path."""
    path = Path(text) if text.endswith((".yaml", ".yml")) else FOLDER / f"{text}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in FOLDER.glob("*.yaml"))
        near = difflib.get_close_matches(text, names) or names
        raise UserError(f"There is no suite {text}; near: {', '.join(near)}; or name a .yaml file.")
    try:
        found = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"The suite {path} cannot be read: {' '.join(str(error).split())}") from error
    rows = found.get("cells") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"The suite {path} has no list `cells` of tasks.")
    cells = [cell(row, path) for row in rows]
    names = [one.name for one in cells]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"The suite {path} has two cells {twice[0]}: give one of them a `name`.")
    return cells


def cell(row: dict[str, Any], path: Path) -> Cell:
    """{task, probe, data, name, settings of the task, `with`: settings of the probe}."""
    rest = {key: value for key, value in row.items() if key not in ("task", "probe", "with", "data", "name")}
    if "task" not in row:
        raise UserError(f"The suite {path} has a cell without a task: {row}.")
    data = {"name": row["data"]} if isinstance(row.get("data"), str) else row.get("data")
    if not isinstance(row.get("with") or {}, dict) or not isinstance(row.get("probe") or "", str):
        raise UserError(f"The suite {path}: a cell's `probe` is a name and its `with` a mapping, unlike in {row}.")
    probe, said = None, ""
    if "probe" in row:
        probe = built(registry.probes[row["probe"]], row.get("with") or {}, f"probe {row['probe']}", path)
        said = f".{row['probe']}"
    kind = registry.tasks[row["task"]]
    if probe is None and inspect.signature(kind).parameters["probe"].default is inspect.Parameter.empty:
        raise UserError(
            f"The suite {path}: task {row['task']} needs a probe, one of {', '.join(registry.probes.names())}."
        )
    given = rest if probe is None else {"probe": probe, **rest}
    task = built(kind, given, f"task {row['task']}", path)
    name = row.get("name") or (f"{data['name']}." if data else "") + f"{row['task']}{said}"
    settings = {
        "task": row["task"],
        **task.settings(),
        "probe": row.get("probe"),
        "with": vars(probe) if probe else None,
    }
    return Cell(str(name), task, settings, data)


def built(kind: Any, settings: dict[str, Any], what: str, path: Path) -> Any:
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    try:
        return kind(**plain)
    except TypeError as error:
        raise UserError(f"The suite {path}: {what}: {error}.") from error


def manifest(data: dict[str, Any], datasets: str | None) -> Manifest:
    """A cell's own data set: under `datasets`, in a folder of its name."""
    settings = {key: value for key, value in data.items() if key != "name"}
    if "root" not in settings:
        if datasets is None and data["name"] != "synthetic":
            raise UserError(
                f"This suite reads {data['name']}: say where it lies, --datasets DIR with DIR/{data['name']}."
            )
        settings["root"] = f"{datasets}/{data['name']}" if datasets else None
    made = built(registry.datasets[data["name"]], settings, f"data {data['name']}", FOLDER)
    assert isinstance(made, Manifest)
    return made
