"""encoders x cells -> one result file each. A clip is decoded once for an encoder, its controls and all cells.

A result that is there already is not made again. A cell that fails is reported and the others go
on. What a user can mend (UserError, OSError, too little memory) is one sentence; any other error
is a fault of the code, perhaps of a plug-in, and its traceback is shown too.
"""

import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from benchmarks.features.bench import Bench, FeatureOptions, Subject
from benchmarks.features.late_fusion import agreed, bench, leaks, subject
from benchmarks.features.units import keep
from benchmarks.suites.loader import Broken, Cell, manifest
from benchmarks.tasks.base import score
from ssvid.data.manifest import Manifest
from ssvid.engine.features import cpu_seconds
from ssvid.engine.train_flags import ClipChange
from ssvid.errors import UserError
from ssvid.log import log
from ssvid.progress import progress_bar
from ssvid.results import BENCH, Cost, Result, digest, refuse_another, write_result
from ssvid.results.provenance import command_line, describe_data, git, titles
from ssvid.results.text import line

MENDABLE = (UserError, OSError, torch.OutOfMemoryError)  # by the user: one sentence is enough
Layers = Literal["auto", "last"] | list[int]


class Failure(NamedTuple):
    encoder: str
    cell: str
    why: str


class Batch(NamedTuple):
    """Cells that score the same kind of unit of the same data set, so that its clips are decoded once."""

    data: Manifest
    cells: list[Cell]
    at_most: dict[str, int]  # frames and size of a clip

    @property
    def kind(self) -> str:
        return self.cells[0].task.kind


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Cells on their data sets, and the cells that cannot be run."""

    name: str
    batches: list[Batch]
    broken: list[Broken]

    @property
    def cells(self) -> list[Cell]:
        return [cell for batch in self.batches for cell in batch.cells]


def open_suite(
    name: str, loaded: tuple[list[Cell], list[Broken]], data: Manifest | None, datasets: str | None
) -> Suite:
    """`data`: of all cells, instead of their own. A cell whose data set is absent, or lacks what the cell asks about,
    is broken; if all are, that is an error.
    """
    cells, broken = loaded
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((repr(cell.data) if data is None else "", cell.task.kind), []).append(
            cell
        )
    listed: dict[str, Manifest] = {}
    batches, refused = [], []
    for (key, kind), group in groups.items():
        try:
            if key not in listed:
                listed[key] = data if data is not None else manifest(group[0].data, datasets)
            at_most = group[0].data.get("at_most", {}) if data is None else {}
            batches.append(Batch(keep(listed[key], kind), group, at_most))
        except UserError as error:
            refused += [Broken(cell.name, error) for cell in group]
    if not batches:
        raise refused[0].why
    return Suite(name=name, batches=batches, broken=[*broken, *refused])


class SuiteRunner:
    def __init__(
        self,
        folder: Path,  # of the results
        options: FeatureOptions,
        *,
        seeds: int = 1,  # of the probes
        module: str,  # of the command
        config: dict[str, Any] | None,  # its flags
        data: dict[str, Any] | None,  # name and settings of the user's own data set
    ) -> None:
        self.folder, self.options, self.seeds, self.data = folder, options, seeds, data
        self.config, self.command = config, command_line(module, config)
        self.failures: list[Failure] = []

    def run(self, suite: Suite, encoders: list[str], clip: ClipChange, layers: Layers) -> None:
        """A single encoder that cannot be opened is an error; of several it is reported."""
        self.folder.mkdir(parents=True, exist_ok=True)
        total, hidden = len(encoders) * len(suite.cells), not sys.stderr.isatty()
        with progress_bar(total, "cell", desc=suite.name, disable=hidden) as bar:
            for text, name in zip(encoders, titles(encoders), strict=True):
                for cell, why in suite.broken:
                    self.report_failure(name, [cell], why)
                try:
                    encoder = subject(text, name, clip, layers)
                except UserError as error:
                    if len(encoders) == 1:
                        raise
                    self.report_failure(name, [cell.name for cell in suite.cells], error)
                    bar.update(len(suite.cells))
                    continue
                for batch in suite.batches:
                    self.run_batch(encoder, batch)
                    bar.update(len(batch.cells))

    def run_batch(self, encoder: Subject, batch: Batch) -> None:
        try:
            shrink_clips(encoder, batch.at_most)
        except UserError as error:
            self.report_failure(encoder.name, names(batch.cells), error)
            return
        cells = self.select_cells(encoder, batch)
        if not cells:
            return
        try:
            needs = sorted({name for cell in cells for name in cell.task.needs})
            features = bench(encoder, batch.data, self.options, needs, batch.kind)
        except Exception as error:
            self.report_failure(encoder.name, names(cells), error)
            return
        for cell in cells:
            clock = time.perf_counter()
            try:
                result = self.evaluate_cell(encoder, features, cell)
                write_result(self.place(encoder, cell), result)
            except Exception as error:
                self.report_failure(encoder.name, [cell.name], error)
            else:
                log.info(f"{line(result)}  ({time.perf_counter() - clock:.0f} s)")

    def select_cells(self, encoder: Subject, batch: Batch) -> list[Cell]:
        """The cells that are still to be run. A file of something else in the place of a result is a failure."""
        cells = []
        for cell in batch.cells:
            try:
                if not self.is_done(encoder, batch.data, cell):
                    cells.append(cell)
            except UserError as error:
                self.report_failure(encoder.name, [cell.name], error)
        return cells

    def is_done(self, encoder: Subject, data: Manifest, cell: Cell) -> bool:
        """Made already, by this very encoder, protocol and data; a result of anything else in its place is refused."""
        if encoder.parts and not cell.task.fuses_encoders:
            raise UserError(
                f"The task {cell.settings['task']} asks one encoder alone, and {encoder.given} are several."
            )
        file, protocol = self.place(encoder, cell), digest(self.protocol(encoder, cell))
        refuse_another(file, data=data.hash, encoder=encoder.encoder.hash, protocol=protocol)
        return file.exists()

    def evaluate_cell(self, encoder: Subject, features: Bench, cell: Cell) -> Result:
        began, protocol, data = cpu_seconds(), self.protocol(encoder, cell), features.data
        scored = score(cell.task, features, self.seeds, pictures=True)
        result = Result(
            kind=BENCH,
            cell=cell.name,
            cell_hash=cell.hash,
            fold=cell.fold,
            metric=scored.metric,
            score=scored.score,
            chance=scored.chance,
            controls=scored.controls,
            gains=scored.gains,
            seeds=scored.seeds,
            test=scored.test,
            encoder=encoder.encoder,
            data=describe_data(
                data, rows_of_splits(features), features.lost, set=self.data or cell.data
            ),
            protocol=protocol,
            protocol_hash=digest(protocol),
            leak=leaks(encoder, data.split("test")),
            cost=Cost(**{key: round(value, 6) for key, value in features.cost.items()}),
            seed=self.options.seed,
            git=git(),
            text=features.text.hash if features.text else None,
            config=self.config,
            command=self.command,
            **scored.pictures,
        )
        return replace(
            result, cost=replace(result.cost, probe_cpu_s=round(cpu_seconds() - began, 3))
        )

    def protocol(self, encoder: Subject, cell: Cell) -> dict[str, Any]:
        """What two results share that can be compared."""
        seeds = {"seeds": self.seeds} if self.seeds > 1 else {}
        return {**agreed(encoder, self.options, cell.task.kind), "cell": cell.settings, **seeds}

    def place(self, encoder: Subject, cell: Cell) -> Path:
        return self.folder / f"{encoder.name}.{cell.name}.json"

    def report_failure(self, encoder: str, cells: Iterable[str], error: Exception) -> None:
        why = " ".join(str(error).split())
        if not isinstance(error, MENDABLE):
            why = f"{type(error).__name__}: {why}"
            log.info("".join(traceback.format_exception(error)))
        for cell in cells:
            self.failures.append(Failure(encoder, cell, why))
            log.warning(f"FAILED {encoder}, {cell}: {why}")


def names(cells: Sequence[Cell]) -> list[str]:
    return [cell.name for cell in cells]


def shrink_clips(encoder: Subject, at_most: dict[str, int]) -> None:
    """The encoder's clips made no larger, in place; it gets the user's clip back first."""
    for stream in encoder.streams:
        stream.net.spec = stream.spec
        sizes = {key: min(most, getattr(stream.spec, key)) for key, most in at_most.items()}
        ClipChange(**sizes).apply_to(stream.net)


def rows_of_splits(features: Bench) -> dict[str, list[int]]:
    """Rows of the data set that a split's units are of: clips, or videos of several seconds or boxes."""
    return {
        split: list(dict.fromkeys(features.row[i] for i in units))
        for split, units in features.splits.items()
    }
