"""encoders x cells of a suite -> results and a report.

`python -m benchmarks.run --encoder A --suite mini --out DIR` is the command. Cells are run, and
failures handled, by benchmarks/suites/runner.py.
"""

from pathlib import Path
from typing import Any, Literal

from benchmarks.features.options import Devices, prepare_options
from benchmarks.features.pooling import POOLINGS
from benchmarks.suites.loader import choose_views, load
from benchmarks.suites.runner import Layers, SuiteRunner, open_suite
from ssvid.data.manifest import Manifest
from ssvid.engine.train_flags import UNCHANGED, ClipChange
from ssvid.errors import UserError, check_positive
from ssvid.log import log

ENCODER_FLAG = "--encoder RUN_FOLDER, FILE.safetensors or a registered name"


def run(
    # run folders, files or names; RGB+FLOW: two that are evaluated together; RUN@random: the net
    # of a run, untrained
    encoder: list[str],
    out: str,  # folder of the results
    *,
    suite: str = "mini",  # a name in benchmarks/suites or a YAML file
    data: None | Manifest = None,  # for all cells, instead of the suite's own
    # folder that holds the suite's data sets, each in a folder of its name
    datasets: str | None = None,
    # column of the data set (`group`, or one of a csv): each of its values is test once
    folds: str | None = None,
    clip: ClipChange = UNCHANGED,
    clips: int = 1,  # of a video, spread evenly
    crops: int = 1,  # of each of these, along the long side
    # what is averaged over clips and crops; scores: in classify and zero_shot alone
    average: Literal["features", "scores"] = "features",
    seeds: int = 1,  # how often probes are trained; the numbers are means
    layers: Layers = "auto",  # blocks to read beside the last; auto: the middle one
    poolings: tuple[str, ...] = POOLINGS,  # of tokens over space and time; val picks one
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
    words: str | None = None,  # word list of a published encoder's text side
    seed: int = 0,  # of the probes and the random controls
    config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Run all tasks of a suite on frozen encoders and on their controls.

    An encoder is a run folder, an exported file or a registered name.
    """
    check_positive(seeds=seeds)
    if not encoder:
        raise UserError(f"Name what to evaluate: {ENCODER_FLAG}.")
    loading = {"batch_size": batch_size, "workers": workers, "max_bad": max_bad, "words": words}
    views = choose_views(suite, {"clips": clips, "crops": crops, "average": average})
    views["poolings"] = poolings
    batch_norm = {"calibrate_bn": calibrate_bn, "recalibrate_bn": recalibrate_bn}
    protocol = {**views, **batch_norm, "twins": twins, "folds": folds, "seed": seed}
    options = prepare_options(out, cache, devices=devices, threads=threads, **loading, **protocol)
    user_data = config.get("data") if config and data is not None else None
    runner = SuiteRunner(
        Path(out), options, seeds=seeds, module="benchmarks.run", config=config, data=user_data
    )
    runner.run(open_suite(suite, load(suite), data, datasets, folds), encoder, clip, layers)
    return write_report(runner)


def write_report(runner: SuiteRunner) -> dict[str, Any]:
    """Write the report of all results in the folder, and return what the command prints."""
    from benchmarks.reports import board

    failures = [failure._asdict() for failure in runner.failures]
    printed: dict[str, Any] = {
        "out": str(runner.folder),
        "results": [],
        "failed": failures,
        "report": None,
        "next": [],
    }
    try:
        files = board.read_results(runner.folder)
        printed["results"] = board.summarise_results(files.values())
        if files:
            table = board.make_table(files)  # other gains are shown among all those of the folder
            printed["results"] = board.summarise_results(table)
            printed["report"] = str(board.write_table(files, table, runner.folder))
            printed["next"] = [f"open {printed['report']} in a browser"]
            if not failures:  # people have read the results above, cell by cell
                printed["page"] = f"report  {printed['report']}"
    # A file that is not ours, unlike results, or a full disk. The results themselves are written.
    except (UserError, OSError) as error:
        log.warning(f"no report: {error}")
        failures.append({"encoder": "", "cell": "report", "why": str(error)})
    return {**printed, "exit_code": 3 if failures else 0}


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("bench")
