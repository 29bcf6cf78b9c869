"""folder of a sweep -> its cells with their scores, as far as the files can be read."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssvid.errors import UserError
from ssvid.results.rows import RowScore, number, row_from_json
from ssvid.results.run_files import read_whole_mapping
from ssvid.sweep.folder import CellFolder, SweepFolder

SEED = "seed"  # the axis that groups are means over


class Cell(NamedTuple):
    hash: str
    name: str
    axes: dict[str, str]
    left_sweep: bool  # the sweep's file lists it no more
    folder: CellFolder
    row: dict[str, Any] | None  # where it has finished
    scores: dict[str, RowScore]  # by cell of the suite
    failure: dict[str, Any] | None  # the content of failed.json, where the cell has failed

    def number(self, key: str) -> float | None:
        return number((self.row or {}).get(key))


class Sweep(NamedTuple):
    folder: Path
    name: str
    axes: dict[str, list[str]]  # axis -> values in the order of the sweep
    decider: str | None  # the cell of the suite that chooses, where the sweep names it
    all_cells: list[Cell]
    faults: list[str]  # of files that could not be read

    @property
    def cells(self) -> list[Cell]:
        return [cell for cell in self.all_cells if not cell.left_sweep]

    @property
    def finished(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.row is not None]

    @property
    def failed(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.row is None and cell.failure is not None]

    @property
    def suite(self) -> list[str]:
        """Names of its cells, the one that decides first."""
        names: dict[str, None] = {}
        for cell in self.finished:
            names |= dict.fromkeys(cell.scores)
        first = deciding_cell(self)
        return sorted(names, key=lambda name: name != first)

    @property
    def varied(self) -> dict[str, list[str]]:
        return {axis: values for axis, values in self.axes.items() if len(values) > 1}


def is_sweep(folder: Path) -> bool:
    return SweepFolder(folder).file.is_file()


def read_sweep(folder: Path) -> Sweep:
    """A UserError: the list of cells is damaged. Other damaged files are named in `faults`."""
    files = SweepFolder(folder)
    content = files.read()
    entries = content.get("cells")
    faults: list[str] = []
    cells = []
    for name, entry in entries.items() if isinstance(entries, dict) else [("", None)]:
        if not isinstance(entry, dict):
            raise UserError(
                f"{files.file} has no `cells` of a sweep: "
                "submit the sweep again, which writes it anew."
            )
        cells.append(_read_cell(files.cell(name), entry, faults))
    axes = content.get("axes")
    listed: dict[str, Any] = axes if isinstance(axes, dict) else {}
    names = dict.fromkeys(listed)
    for cell in cells:
        if not cell.left_sweep:
            names |= dict.fromkeys(cell.axes)
    values = {axis: _values_of(axis, listed.get(axis), cells) for axis in names}
    name, decider = str(content.get("name") or folder.name), content.get("best")
    return Sweep(folder, name, values, str(decider) if decider else None, cells, faults)


def _values_of(axis: str, listed: Any, cells: list[Cell]) -> list[str]:
    """The values that cells have, in the order of the sweep's file."""
    order = list(map(label, listed)) if isinstance(listed, list) else []
    present: dict[str, None] = {}
    for cell in cells:
        if not cell.left_sweep and axis in cell.axes:
            present[cell.axes[axis]] = None
    ordered = dict.fromkeys(filter(present.__contains__, order))
    return list(ordered | present)


def label(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def numeric_values(values: Sequence[str]) -> dict[str, float]:
    """Value -> number, where all of an axis are numbers; else empty."""
    try:
        numbers = list(map(float, values))
    except ValueError:
        return {}
    return dict(zip(values, numbers, strict=True)) if all(map(math.isfinite, numbers)) else {}


def _read_cell(folder: CellFolder, entry: dict[str, Any], faults: list[str]) -> Cell:
    """The cell in a folder. `entry`: what the sweep's file says of it.

    What is damaged is added to `faults`. A damaged row.json counts as none, a damaged failed.json
    as a failure.
    """
    axes = entry.get("axes") if isinstance(entry.get("axes"), dict) else {}
    consequence = "it counts as not finished"
    row = _read_mapping(folder.row_file, f"{consequence}; delete it and submit again", faults)
    if row is not None and row.get("cell", folder.hash) != folder.hash:
        name = _short_path(folder.row_file)
        faults.append(f"{name} is of the cell {row['cell']}: {consequence}.")
        row = None
    failure = _read_mapping(folder.failed_file, "its cell counts as failed", faults)
    if failure is None and folder.failed:
        failure = {"why": "failed.json is damaged"}
    scores = {} if row is None else _read_scores(row.get("scores"), folder.row_file, faults)
    labels = {str(axis): label(value) for axis, value in (axes or {}).items()}
    name = str(entry.get("name") or folder.hash)
    left_sweep = bool(entry.get("left"))
    return Cell(folder.hash, name, labels, left_sweep, folder, row, scores, failure)


def _read_mapping(file: Path, consequence: str, faults: list[str]) -> dict[str, Any] | None:
    try:
        return read_whole_mapping(file)
    except UserError:
        faults.append(f"{_short_path(file)} is damaged: {consequence}.")
        return None


def _short_path(file: Path) -> str:
    return "/".join(file.parts[-3:])


def _read_scores(content: Any, file: Path, faults: list[str]) -> dict[str, RowScore]:
    scores = {}
    for name, numbers in (content if isinstance(content, dict) else {}).items():
        score = row_from_json(numbers)
        if score is None:
            faults.append(f"{_short_path(file)} has no test score on {name}: it is left out.")
        else:
            scores[name] = score
    return scores


def deciding_cell(sweep: Sweep) -> str | None:
    """The cell of the suite whose val chooses: the sweep names it, or it is the first with val."""
    if sweep.decider is not None:
        return sweep.decider
    for cell in sweep.finished:
        for name, score in cell.scores.items():
            if score.val is not None:
                return name
    return None
