"""encoders x cells of a suite -> results, report: `python -m benchmarks.run --encoder A --suite mini --out DIR`.

How the cells are run and what becomes of a failure: benchmarks/suites/runner.py.
"""

from pathlib import Path
from typing import Any, Literal

from benchmarks.features.bench import Devices, open_options
from benchmarks.features.pooling import POOLINGS
from benchmarks.suites.loader import load
from benchmarks.suites.runner import SuiteRunner, open_suite
from ssvid.data.manifest import Manifest
from ssvid.engine.train_flags import UNCHANGED, ClipChange
from ssvid.errors import UserError, positive
from ssvid.log import log


def run(
    encoder: list[str],  # run folders, files or names; RGB+FLOW: two that are asked together
    out: str,  # folder of the results
    *,
    suite: str = "mini",  # a name in benchmarks/suites or a YAML file
    data: None | Manifest = None,  # for all cells, instead of the suite's own
    datasets: str
    | None = None,  # folder that holds the suite's data sets, each in a folder of its name
    clip: ClipChange = UNCHANGED,
    clips: int = 1,  # of a video, spread evenly
    crops: int = 1,  # of each of these, along the long side
    average: Literal[
        "features", "scores"
    ] = "features",  # over clips and crops; scores: in classify alone
    seeds: int = 1,  # probes are trained so often, and the numbers are means
    layers: Literal["auto", "last"]
    | list[int] = "auto",  # blocks beside the last; auto: the middle one
    poolings: tuple[str, ...] = POOLINGS,  # of tokens over space and time; val picks one
    calibrate_bn: int = 0,  # train clips to measure batch norm on, for an encoder that has no statistics
    cache: str = ".cache/ssvid",  # folder of the frozen features
    batch_size: int = 32,  # videos
    workers: int = 2,  # loader processes
    devices: Devices = "auto",  # auto: a GPU where there is one
    threads: int | None = None,  # of torch; null: torch's own choice
    max_bad: float = 0.01,  # share of files that may be damaged
    words: str
    | None = None,  # the list of words of a published encoder's text side, beside its file
    seed: int = 0,  # of the probes and the random controls
    config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Ask frozen encoders (run folders, files or registered names) everything a suite holds, controls included."""
    positive(seeds=seeds)
    if not encoder:
        raise UserError(
            "Say what to ask: --encoder RUN_FOLDER, FILE.safetensors or a registered name."
        )
    options = open_options(
        out,
        cache,
        devices=devices,
        threads=threads,
        batch_size=batch_size,
        workers=workers,
        clips=clips,
        crops=crops,
        average=average,
        poolings=poolings,
        seed=seed,
        calibrate_bn=calibrate_bn,
        max_bad=max_bad,
        words=words,
    )
    own_data = config.get("data") if config and data is not None else None
    runner = SuiteRunner(
        Path(out), options, seeds=seeds, module="benchmarks.run", config=config, data=own_data
    )
    runner.run(open_suite(suite, load(suite), data, datasets), encoder, clip, layers)
    return write_report(runner)


def write_report(runner: SuiteRunner) -> dict[str, Any]:
    """The tables of all that the folder now holds, and what the command prints."""
    from benchmarks.reports import board

    failures = [failure._asdict() for failure in runner.failures]
    printed: dict[str, Any] = {
        "out": str(runner.folder),
        "results": [],
        "failed": failures,
        "report": None,
    }
    try:
        printed["results"] = board.summarise_folder(runner.folder)
        printed["report"] = str(board.write_board(runner.folder)) if printed["results"] else None
    except (
        UserError,
        OSError,
    ) as error:  # a file that is not ours, or a full disk: the results stay
        log.warning(f"no report: {error}")
        failures.append({"encoder": "", "cell": "report", "why": str(error)})
    return {**printed, "exit_code": 3 if failures else 0}


if __name__ == "__main__":
    from ssvid.cli import command

    command(run)
