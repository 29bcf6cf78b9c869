"""encoders x a suite's cells -> one result file each: `python -m benchmarks.run --encoder A --suite mini --out DIR`.

A clip is decoded once for an encoder, its controls and all cells. What is there already is not made again; a cell that
fails is told of and the rest goes on.
"""

import sys
import time
import traceback
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from tqdm import tqdm

from benchmarks.features.bench import Bench, Options, Subject
from benchmarks.features.late_fusion import agreed, bench, leaks, subject
from benchmarks.features.pooling import POOLINGS
from benchmarks.features.units import keep
from benchmarks.linear_probe import titles
from benchmarks.reports import board, results
from benchmarks.suites.loader import Broken, Cell, load, manifest
from benchmarks.tasks.base import score
from ssvid.data.manifest import Manifest
from ssvid.engine.distributed import join
from ssvid.engine.features import cpu_seconds, refuse
from ssvid.engine.train_flags import UNCHANGED, ClipChange
from ssvid.errors import RunError, UserError, positive
from ssvid.results import BENCH, Result, command_line, describe_data, digest, git, write

FAULTS = (UserError, ValueError, RuntimeError, ArithmeticError, OSError, KeyError, IndexError, TypeError)


class Failed(NamedTuple):
    encoder: str
    cell: str
    why: str


def run(
    encoder: list[str],  # run folders, files or names; RGB+FLOW: two that are asked together
    out: str,  # folder of the results
    *,
    suite: str = "mini",  # a name in benchmarks/suites or a YAML file
    data: None | Manifest = None,  # for all cells, instead of the suite's own
    datasets: str | None = None,  # folder that holds the suite's data sets, each in a folder of its name
    clip: ClipChange = UNCHANGED,
    clips: int = 1,  # of a video, spread evenly
    crops: int = 1,  # of each of these, along the long side
    average: Literal["features", "scores"] = "features",  # over clips and crops; scores: in classify alone
    seeds: int = 1,  # probes are trained so often, and the numbers are means
    layers: Literal["auto", "last"] | list[int] = "auto",  # blocks beside the last; auto: the middle one
    poolings: tuple[str, ...] = POOLINGS,  # of tokens over space and time; val picks one
    calibrate_bn: int = 0,  # train clips to measure batch norm on, for an encoder that has no statistics
    cache: str = ".cache/ssvid",  # folder of the frozen features
    batch_size: int = 32,  # videos
    workers: int = 2,  # loader processes
    devices: Literal["auto", "cpu", "cuda"] = "auto",  # auto: a GPU where there is one
    threads: int | None = None,  # of torch; null: torch's own choice
    max_bad: float = 0.01,  # share of files that may be damaged
    words: str | None = None,  # the list of words of a published encoder's text side, beside its file
    seed: int = 0,  # of the probes and the random controls
    config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Ask frozen encoders (run folders, files or registered names) everything a suite holds, controls included."""
    refuse(Path(out), cache, batch_size=batch_size, workers=workers, clips=clips, calibrate_bn=calibrate_bn)
    positive(threads=threads, crops=crops, seeds=seeds)
    if threads is not None:
        torch.set_num_threads(threads)
    if not encoder:
        raise UserError("Say what to ask: --encoder RUN_FOLDER, FILE.safetensors or a registered name.")
    (cells, broken), folder = load(suite), Path(out)
    options = Options(
        cache,
        batch_size,
        workers,
        clips,
        crops,
        average,
        tuple(poolings),
        join(devices).device,
        seed,
        calibrate_bn,
        max_bad,
        words,
    )
    shared = {"config": config, "command": command_line("benchmarks.run", config)}
    work = Work(folder, options, shared, [], seeds, config.get("data") if config and data is not None else None)
    rounds, refused = by_data(cells, data, datasets)
    folder.mkdir(parents=True, exist_ok=True)
    asked = sum(len(each.cells) for each in rounds)
    with tqdm(total=len(encoder) * asked, unit="cell", desc=suite, disable=not sys.stderr.isatty()) as bar:
        for text, name in zip(encoder, titles(encoder), strict=True):
            for one, why in [*broken, *refused]:
                fail(name, one, why, work)
            try:
                of = subject(text, name, clip, layers)
            except UserError as error:
                if len(encoder) == 1:
                    raise
                fail_all(name, [cell for each in rounds for cell in each.cells], error, work)
                bar.update(asked)
                continue
            for each in rounds:
                ask(of, each, work)
                bar.update(len(each.cells))
    return ended(work)


class Work(NamedTuple):
    folder: Path
    options: Options
    shared: dict[str, Any]  # by all results
    failed: list[Failed]
    seeds: int  # of the probes
    data: dict[str, Any] | None  # the user's own data set: name and settings


def ended(work: Work) -> dict[str, Any]:
    """The tables of all that the folder now holds, and what the command prints."""
    failed = [one._asdict() for one in work.failed]
    found: dict[str, Any] = {"out": str(work.folder), "results": [], "failed": failed, "report": None}
    try:
        found["results"] = board.brief(work.folder)
        found["report"] = str(board.write(work.folder)) if found["results"] else None
    except (UserError, RunError, OSError) as error:  # of a file that is not ours, or a full disk: what was made stays
        print(f"no report: {error}", file=sys.stderr)
        failed.append({"encoder": "", "cell": "report", "why": str(error)})
    return {**found, "exit_code": 3 if failed else 0}


class Round(NamedTuple):
    """Cells that score the same kind of unit of the same data set, so that its clips are decoded once."""

    data: Manifest
    cells: list[Cell]
    at_most: dict[str, int]  # frames and size of a clip


def by_data(cells: list[Cell], data: Manifest | None, datasets: str | None) -> tuple[list[Round], list[Broken]]:
    """Rounds, and the cells whose data set is not there or has not what they ask about: an error if that is all."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((repr(cell.data) if data is None else "", cell.task.kind), []).append(cell)
    listed: dict[str, Manifest] = {}
    made, refused = [], []
    for (name, kind), group in groups.items():
        try:
            if name not in listed:
                listed[name] = data if data is not None else manifest(group[0].data, datasets)
            most = group[0].data.get("at_most", {}) if data is None else {}
            made.append(Round(keep(listed[name], kind), group, most))
        except UserError as error:
            refused += [Broken(cell.name, error) for cell in group]
    if not made:
        raise refused[0].why
    return made, refused


def smaller(of: Subject, at_most: dict[str, int]) -> None:
    """The encoder's clips made no larger, in place; it gets the user's clip back first."""
    for one in of.streams:
        one.net.spec = one.spec
        ClipChange(**{key: min(most, getattr(one.spec, key)) for key, most in at_most.items()}).onto(one.net)


def ask(of: Subject, each: Round, work: Work) -> None:
    """All cells of a round, of one encoder."""
    data, cells, kind = each.data, each.cells, each.cells[0].task.kind
    try:
        smaller(of, each.at_most)
    except UserError as error:
        fail_all(of.name, cells, error, work)
        return
    more = {"seeds": work.seeds} if work.seeds > 1 else {}
    protocols = {cell.name: {**agreed(of, work.options, kind), "cell": cell.settings, **more} for cell in cells}
    todo = []
    for cell in cells:
        try:
            if not there(of, data, cell, protocols[cell.name], work):
                todo.append(cell)
        except UserError as error:  # a file of something else, or half of one, in its place
            fail(of.name, cell.name, error, work)
    if not todo:
        return
    try:
        needs = sorted({name for cell in todo for name in cell.task.needs})
        got = bench(of, data, work.options, needs, kind)
    except FAULTS as error:
        fail_all(of.name, todo, error, work)
        return
    for cell in todo:
        began, clock = cpu_seconds(), time.perf_counter()
        try:
            found = answered(of, got, cell, protocols[cell.name], work)
            found["cost"] |= {"probe_cpu_s": round(cpu_seconds() - began, 3)}
            write(place(of, cell, work), found)
        except FAULTS as error:
            fail(of.name, cell.name, error, work)
        else:
            tqdm.write(f"{board.line(found)}  ({time.perf_counter() - clock:.0f} s)", file=sys.stderr)


def answered(of: Subject, got: Bench, cell: Cell, protocol: dict[str, Any], work: Work) -> Result:
    return {
        "kind": BENCH,
        "cell": cell.name,
        "cell_hash": cell.hash,
        **({"fold": cell.fold} if cell.fold else {}),
        **score(cell.task, got, work.seeds, pictures=True),
        "encoder": of.encoder,
        "data": {"set": work.data or cell.data, **describe_data(got.data, units_of(got), got.lost)},
        "protocol": protocol,
        "protocol_hash": digest(protocol),
        "leak": leaks(of, got.data.split("test")),
        "cost": {key: round(value, 6) for key, value in got.cost.items()},
        "seed": work.options.seed,
        "git": git(),
        **({"text": got.text.hash} if got.text else {}),
        **work.shared,
    }


def units_of(got: Bench) -> dict[str, list[int]]:
    """Rows of the data set that a split's units are of: clips, or videos of several seconds or boxes."""
    return {split: list(dict.fromkeys(got.row[i] for i in units)) for split, units in got.splits.items()}


def place(of: Subject, cell: Cell, work: Work) -> Path:
    return work.folder / f"{of.name}.{cell.name}.json"


def there(of: Subject, data: Manifest, cell: Cell, protocol: dict[str, Any], work: Work) -> bool:
    """Made already, by this very encoder, protocol and data; a result of anything else in its place is refused."""
    if of.parts and not cell.task.fuses:
        raise UserError(f"The task {cell.settings['task']} asks one encoder alone, and {of.given} are several.")
    file = place(of, cell, work)
    results.refuse_another(file, data=data.hash, encoder=of.encoder["hash"], protocol=digest(protocol))
    return file.exists()


def fail_all(encoder: str, cells: list[Cell], error: BaseException, work: Work) -> None:
    for cell in cells:
        fail(encoder, cell.name, error, work)


def fail(encoder: str, cell: str, error: BaseException, work: Work) -> None:
    why = " ".join(str(error).split())
    if not isinstance(error, UserError | OSError):  # a fault of ours, in a probe perhaps: its place is wanted
        why = f"{type(error).__name__}: {why}"
        tqdm.write("".join(traceback.format_exception(error)), file=sys.stderr)
    work.failed.append(Failed(encoder, cell, why))
    tqdm.write(f"FAILED {encoder}, {cell}: {why}", file=sys.stderr)


if __name__ == "__main__":
    from ssvid.cli import command

    command(run)
