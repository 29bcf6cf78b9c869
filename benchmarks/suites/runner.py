"""encoders x cells -> one result file each.

A clip is decoded once for an encoder, its controls and all cells. A result that exists is not made
again. A cell that fails is reported, and the other cells still run. What a user can mend
(UserError, OSError, too little memory) is reported in one sentence. Any other error is a fault of
the code, perhaps of a plug-in, so its traceback is shown too.
"""

import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from tqdm import tqdm

from benchmarks.features.bench import Bench
from benchmarks.features.evaluated_encoder import EvaluatedEncoder
from benchmarks.features.folds import read_fold_names, split_by_fold
from benchmarks.features.late_fusion import (
    describe_protocol,
    extract_bench,
    find_leak,
    open_evaluated_encoder,
)
from benchmarks.features.options import FeatureOptions
from benchmarks.features.units import get_kind, select_usable_rows
from benchmarks.suites.loader import BrokenCell, Cell, open_manifest
from benchmarks.tasks.scoring import score_task
from ssvid.data.manifest import SPLITS, Manifest
from ssvid.engine.features import cpu_seconds
from ssvid.engine.train_flags import ClipChange
from ssvid.errors import UserError
from ssvid.log import log
from ssvid.progress import progress_bar
from ssvid.results import BENCH, Cost, Result, digest, refuse_another, write_result
from ssvid.results.ledger import record_readers
from ssvid.results.provenance import describe_data, format_command, make_titles, read_commit
from ssvid.results.text import format_line

MENDABLE = (UserError, OSError, torch.OutOfMemoryError)  # by the user: one sentence is enough
Layers = Literal["auto", "last"] | list[int]


class Failure(NamedTuple):
    """Printed by the commands, so its fields are keys of their output."""

    encoder: str
    cell: str
    why: str


class Batch(NamedTuple):
    """Cells with the same data set and the same kind of unit: its clips are decoded once."""

    data: Manifest
    cells: list[Cell]
    at_most: dict[str, int]  # limits of frames and size of a clip
    suite_clip: dict[str, int]  # what the suite limits its own videos to, whoever's these are

    @property
    def kind(self) -> str:
        return self.cells[0].task.kind


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Cells on their data sets, and the cells that cannot be run."""

    name: str
    batches: list[Batch]
    broken: list[BrokenCell]

    @property
    def cells(self) -> list[Cell]:
        cells: list[Cell] = []
        for batch in self.batches:
            cells += batch.cells
        return cells


def open_suite(
    name: str,
    loaded: tuple[list[Cell], list[BrokenCell]],
    data: Manifest | None,
    datasets: str | None,
    folds: str | None = None,
) -> Suite:
    """Group the cells by data set and kind of unit.

    `data`: for all cells, instead of their own. `datasets`: the folder of the cells' own data
    sets. `folds`: the column of the data sets whose values are test in turn. A cell whose data set
    is missing or unsuitable is broken. Raises a UserError if all are.
    """
    cells, broken = loaded
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        key = repr(cell.data) if data is None else ""
        groups.setdefault((key, cell.task.kind), []).append(cell)
    manifests: dict[str, Manifest] = {}
    batches, refused = [], []
    for (key, kind), group in groups.items():
        try:
            if key not in manifests:
                manifest = open_manifest(group[0].data, datasets) if data is None else data
                manifests[key] = manifest
            suite_clip = group[0].data.get("at_most", {})
            at_most = suite_clip if data is None else {}
            if folds is None:
                usable = select_usable_rows(manifests[key], kind)
            else:
                refuse_folds_of(kind)
                usable = begin_folds(manifests[key], folds, kind)
            batches.append(Batch(usable, group, at_most, suite_clip))
        except UserError as error:
            refused += [BrokenCell(cell.name, error) for cell in group]
    if not batches:
        raise refused[0].error
    return Suite(name=name, batches=batches, broken=[*broken, *refused])


def begin_folds(data: Manifest, column: str, kind: str) -> Manifest:
    """The rows that units of this kind come from, with the splits of a fold.

    It is the first fold whose train has every class. A class of a single fold cannot be learnt
    when that fold is test, and its clips then count as wrong. Raises a UserError for a bad column,
    and where no fold has a train with every class.
    """
    names = read_fold_names(data, column)
    for fold in range(len(set(names))):
        try:
            return select_usable_rows(split_by_fold(data, names, fold), kind)
        except UserError as error:
            reason = error
    raise UserError(f"--folds {column}: whichever value is test: {reason}")


def refuse_folds_of(kind: str) -> None:
    """Raise a UserError for units whose clips are not the same in train and in test."""
    if kind == "ten_crops" or get_kind(kind).splits != SPLITS:
        raise UserError(
            "--folds: this task cuts test clips in another way than train clips, or learns from "
            "none, so its clips cannot change sides: leave --folds out."
        )


class SuiteRunner:
    """Runs suites and keeps the failures."""

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
        self.config, self.command = config, format_command(module, config)
        self.failures: list[Failure] = []
        self.total = self.cell_number = 0  # cells of all encoders; how many of them are over

    def run(self, suite: Suite, encoders: list[str], clip: ClipChange, layers: Layers) -> None:
        """Write a result for every encoder and cell, and collect what failed in `failures`.

        Raises the UserError of a single encoder that cannot be opened. Of several encoders it is
        reported.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.total, self.cell_number = len(encoders) * len(suite.cells), 0
        hidden = not sys.stderr.isatty()  # each cell has a line in the log
        with progress_bar(self.total, "cell", desc=suite.name, disable=hidden) as bar:
            for argument, name in zip(encoders, make_titles(encoders), strict=True):
                for broken in suite.broken:
                    self.report_failure(name, [broken.name], broken.error)
                try:
                    encoder = open_evaluated_encoder(argument, name, clip, layers)
                except UserError as error:
                    if len(encoders) == 1:
                        raise
                    self.report_failure(name, list_names(suite.cells), error)
                    self.pass_cells(len(suite.cells), bar)
                    continue
                for batch in suite.batches:
                    self.run_batch(encoder, batch, bar)

    def pass_cells(self, count: int, bar: "tqdm[Any]") -> None:
        """Count cells that are over."""
        self.cell_number += count
        bar.update(count)

    def run_batch(self, encoder: EvaluatedEncoder, batch: Batch, bar: "tqdm[Any]") -> None:
        cells, last_number = [], self.cell_number + len(batch.cells)
        try:
            limit_clips(encoder, batch.at_most)
            cells = self.select_cells(encoder, batch)
            self.pass_cells(len(batch.cells) - len(cells), bar)
        except UserError as error:
            self.report_failure(encoder.name, list_names(batch.cells), error)
        features = self.extract_features(encoder, batch, cells) if cells else None
        if features is not None:
            for cell in cells:
                self.run_cell(encoder, features, cell)
                self.pass_cells(1, bar)
        self.pass_cells(last_number - self.cell_number, bar)  # those that failed together

    def extract_features(
        self, encoder: EvaluatedEncoder, batch: Batch, cells: list[Cell]
    ) -> Bench | None:
        """What the cells see; None where it fails, which is reported."""
        try:
            names: set[str] = set()
            for cell in cells:
                names.update(cell.task.list_source_names(self.options.twins))
            options = replace(self.options, suite_clip=tuple(batch.suite_clip.items()))
            return extract_bench(encoder, batch.data, options, sorted(names), batch.kind)
        except Exception as error:
            self.report_failure(encoder.name, list_names(cells), error)
            return None

    def run_cell(self, encoder: EvaluatedEncoder, features: Bench, cell: Cell) -> None:
        """Write the result of a cell, or report its failure."""
        began, label = time.perf_counter(), f"cell {self.cell_number + 1} of {self.total}"
        try:
            result = self.evaluate_cell(encoder, features, cell, f"{label}, {cell.name}")
            write_result(self.result_file(encoder, cell), result)
        except Exception as error:
            self.report_failure(encoder.name, [cell.name], error)
        else:
            seconds = time.perf_counter() - began
            log.info(f"{label}: {format_line(result)}  ({seconds:.0f} s)")

    def select_cells(self, encoder: EvaluatedEncoder, batch: Batch) -> list[Cell]:
        """The cells that have no result yet. A cell whose file holds another result fails."""
        cells = []
        for cell in batch.cells:
            try:
                if not self.is_done(encoder, batch.data, cell):
                    cells.append(cell)
            except UserError as error:
                self.report_failure(encoder.name, [cell.name], error)
        return cells

    def is_done(self, encoder: EvaluatedEncoder, data: Manifest, cell: Cell) -> bool:
        """Whether there is a result of this very encoder, protocol and data.

        Raises a UserError where the file holds another result, or where the task cannot fuse
        several encoders.
        """
        if encoder.fused and not cell.task.fuses_encoders:
            raise UserError(
                f"The task {cell.settings['task']} evaluates a single encoder, and "
                f"{encoder.argument} are several."
            )
        file, protocol = self.result_file(encoder, cell), digest(self.get_protocol(encoder, cell))
        refuse_another(file, data=data.hash, encoder=encoder.info.hash, protocol=protocol)
        return file.exists()

    def evaluate_cell(
        self, encoder: EvaluatedEncoder, features: Bench, cell: Cell, label: str
    ) -> Result:
        """`label`: of the bar."""
        began, data = cpu_seconds(), features.data
        protocol = self.get_protocol(encoder, cell)
        test = data if features.folds else data.split("test")
        scored = score_task(cell.task, features, self.seeds, pictures=True, label=label)
        data_info = describe_data(
            data,
            list_rows_of_splits(features),
            features.unreadable_files,
            set=self.data or cell.data,
        )
        result = Result(
            kind=BENCH,
            cell=cell.name,
            cell_hash=cell.hash,
            fold=cell.fold,
            metric=scored.metric,
            score=scored.score,
            chance=scored.chance,
            majority=scored.majority,
            rank=scored.rank,
            controls=scored.controls,
            gains=scored.gains,
            seeds=scored.seeds,
            test=scored.test,
            encoder=encoder.info,
            data=data_info,
            protocol=protocol,
            protocol_hash=digest(protocol),
            leak=find_leak(encoder, test),
            ledger=count_readers(encoder, test, self.options.cache),
            notes=[*features.notes, *advise_probe(encoder, cell)],
            cost=Cost(**{key: round(value, 6) for key, value in features.cost.items()}),
            seed=self.options.seed,
            git=read_commit(),
            text=features.hash_text_side(),
            config=self.config,
            command=self.command,
            **scored.pictures,
        )
        probe_cpu_s = round(cpu_seconds() - began, 3)
        return replace(result, cost=replace(result.cost, probe_cpu_s=probe_cpu_s))

    def get_protocol(self, encoder: EvaluatedEncoder, cell: Cell) -> dict[str, Any]:
        """What two results share that can be compared."""
        seeds = {"seeds": self.seeds} if self.seeds > 1 else {}
        described = describe_protocol(encoder, self.options, cell.task.kind)
        return {**described, "cell": cell.settings, **seeds}

    def result_file(self, encoder: EvaluatedEncoder, cell: Cell) -> Path:
        return self.folder / f"{encoder.name}.{cell.name}.json"

    def report_failure(self, encoder: str, cells: Iterable[str], error: Exception) -> None:
        reason = " ".join(str(error).split())
        if not isinstance(error, MENDABLE):
            reason = f"{type(error).__name__}: {reason}"
            log.info("".join(traceback.format_exception(error)))
        for cell in cells:
            self.failures.append(Failure(encoder, cell, reason))
            log.warning(f"FAILED {encoder}, {cell}: {reason}")


def count_readers(encoder: EvaluatedEncoder, test: Manifest, cache: str) -> int:
    """Trained encoders that have read this test set with this cache, these ones included."""
    hashes = [stream.info.hash for stream in encoder.streams if stream.info.weights == "trained"]
    return record_readers(Path(cache), test.hash, hashes)


def list_names(cells: Sequence[Cell]) -> list[str]:
    return [cell.name for cell in cells]


def limit_clips(encoder: EvaluatedEncoder, at_most: dict[str, int]) -> None:
    """Make the encoder's clips no larger than `at_most`, in place.

    The clip that the user wants is restored first.
    """
    for stream in encoder.streams:
        stream.net.spec = stream.spec
        sizes = {key: min(limit, getattr(stream.spec, key)) for key, limit in at_most.items()}
        ClipChange(**sizes).apply_to(stream.net)


def list_rows_of_splits(features: Bench) -> dict[str, list[int]]:
    """Split -> rows of the data set from which its units come, each once."""
    rows = {}
    for split, units in features.splits.items():
        rows[split] = list(dict.fromkeys(features.row_of_unit[unit] for unit in units))
    return rows


def advise_probe(encoder: EvaluatedEncoder, cell: Cell) -> list[str]:
    """What the encoders say of a probe that does not attend to their tokens."""
    probe = cell.settings.get("probe")
    if probe in (None, "attentive"):
        return []
    return [one.net.attentive_advice for one in encoder.streams if one.net.attentive_advice]
