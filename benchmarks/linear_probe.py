"""encoders + labelled clips -> scores.

`python -m benchmarks.linear_probe --encoder RUN --data NAME --out DIR` runs the suite `linear` on
one data set: a linear probe and nearest neighbours on frozen features. Each is compared with the
same network untrained, with raw pixels, with one frame repeated and with shuffled frames.
"""

from pathlib import Path
from typing import Any

import torch

from benchmarks.features.options import Devices, prepare_options
from benchmarks.features.pooling import POOLINGS
from benchmarks.run import ENCODER_FLAG, write_report
from benchmarks.suites.loader import load
from benchmarks.suites.runner import Layers, SuiteRunner, open_suite
from ssvid.data.manifest import Manifest
from ssvid.engine.train_flags import UNCHANGED, ClipChange
from ssvid.errors import UserError
from ssvid.log import log
from ssvid.results import Result, read_result
from ssvid.results.provenance import make_titles
from ssvid.results.text import format_table

CELL = "classify.linear"  # whose numbers are printed


def linear_probe(
    # run folders, files or registered names; RUN@random: the network of a run, untrained
    encoder: list[str],
    data: Manifest,  # labelled clips: train, val and test
    out: str,  # folder of the results
    *,
    # column of the data set (`group`, or one of a csv): each of its values is test once
    folds: str | None = None,
    clip: ClipChange = UNCHANGED,
    clips: int = 1,  # of a video, spread evenly; their features are averaged
    layers: Layers = "auto",  # blocks to read beside the last; auto: the middle one
    poolings: tuple[str, ...] = POOLINGS,  # of tokens over space and time; val picks one
    min_steps: int = 400,  # of the probe; a small train split gets more epochs instead
    calibrate_bn: int = 0,  # train clips to measure batch norm on, if the encoder has none
    recalibrate_bn: bool = False,  # measure the encoder's batch norm anew, as its twins' is
    # untrained nets beside the encoder, at least two: as many as cost less than five minutes
    twins: int = 8,
    cache: str = ".cache/ssvid",  # folder of the frozen features
    batch_size: int = 32,  # videos
    workers: int = 2,  # loader processes
    devices: Devices = "auto",  # auto: a GPU where there is one
    threads: int | None = None,  # of torch; null: torch chooses
    max_bad: float = 0.01,  # share of files that may be damaged
    seed: int = 0,  # of the probes and the random controls
    config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Probe frozen encoders and compare them with their controls.

    An encoder is a run folder, an exported file or a registered name.
    """
    if not encoder:
        raise UserError(f"Name what to probe: {ENCODER_FLAG}.")
    refuse_old_results(Path(out), encoder)
    options = prepare_options(
        out,
        cache,
        devices=devices,
        threads=threads,
        batch_size=batch_size,
        workers=workers,
        clips=clips,
        poolings=poolings,
        seed=seed,
        calibrate_bn=calibrate_bn,
        recalibrate_bn=recalibrate_bn,
        twins=twins,
        max_bad=max_bad,
        folds=folds,
    )
    loaded = load("linear", {"linear": {"min_steps": min_steps}})
    suite = open_suite("linear", loaded, data, None, folds)
    user_data = config.get("data") if config else None
    runner = SuiteRunner(
        Path(out), options, module="benchmarks.linear_probe", config=config, data=user_data
    )
    runner.run(suite, encoder, clip, layers)
    printed = write_report(runner)
    titles, folder = make_titles(encoder), Path(out)
    results = read_table(folder) if printed["report"] else read_files(folder, titles)
    return {**printed, "results": summarise_all(results, titles)}


def refuse_old_results(folder: Path, encoders: list[str]) -> None:
    """Raise a UserError where an earlier version of this command wrote results.

    It wrote one file for each encoder, which would appear twice in the report.
    """
    for name in make_titles(encoders):
        file = folder / f"{name}.json"
        if file.exists() and read_result(file):
            raise UserError(
                f"{file} is a result of an earlier version of this command: name another --out."
            )


def read_table(folder: Path) -> list[Result]:
    """The numbers of the folder's table, whose gains are corrected for all that stands in it."""
    from benchmarks.reports.board import make_table, read_results

    return make_table(read_results(folder))


def read_files(folder: Path, titles: list[str]) -> list[Result]:
    """The numbers of these encoders' files, where the folder holds what makes no table."""
    results = []
    for title in titles:
        file = folder / f"{title}.{CELL}.json"
        result = read_result(file) if file.exists() else None
        if result is not None:
            results.append(result)
    return results


def summarise_all(results: list[Result], titles: list[str]) -> list[dict[str, Any]]:
    """What the command prints about encoders."""
    probed = {result.encoder.title: result for result in results if result.cell == CELL}
    summaries = []
    for title in titles:
        if title in probed:
            summaries.append(summarise(probed[title], results))
    return summaries


def summarise(result: Result, results: list[Result]) -> dict[str, Any]:
    """What the command prints about an encoder. `results`: of the other probe too."""
    from benchmarks.reports.verdict import WARNING, select_others, select_warnings, verdict
    from ssvid.statistics import majority

    sentences = verdict(result, results)
    for warning in select_warnings(sentences):
        log.warning(f"{result.encoder.title}: {warning.removeprefix(WARNING).strip(': ')}")
    log.info("\n".join([format_table(result), *select_others(sentences)]))
    return {
        "encoder": result.encoder.title,
        "top1": result.score.value,
        "interval": result.score.interval,
        "chance": result.chance,
        "leak": result.leak.clips,
        "majority": majority(torch.tensor(result.test.labels)),
        "controls": {name: score.value for name, score in result.controls.items()},
        "gain_over_random": vars(result.gains["random"]),
        "reading": sentences[0],
    }


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("probe")
