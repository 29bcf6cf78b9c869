"""encoders + labelled clips -> scores: `python -m benchmarks.linear_probe --encoder RUN --data NAME --out DIR`.

The suite `linear` on one data set: a linear probe and nearest neighbours on frozen features, each
beside the same net untrained, raw pixels, one frame repeated and shuffled frames.
"""

from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.features.bench import Devices, open_options
from benchmarks.features.pooling import POOLINGS
from benchmarks.run import write_report
from benchmarks.suites.loader import load
from benchmarks.suites.runner import SuiteRunner, open_suite
from ssvid.data.manifest import Manifest, select_labelled
from ssvid.engine.train_flags import UNCHANGED, ClipChange
from ssvid.errors import UserError
from ssvid.log import log
from ssvid.results import Result, read_result
from ssvid.results.provenance import titles

CELL = "classify.linear"  # whose numbers are printed


def linear_probe(
    encoder: list[str],  # run folders, files or registered names
    data: Manifest,  # labelled clips: train, val and test
    out: str,  # folder of the results
    *,
    clip: ClipChange = UNCHANGED,
    clips: int = 1,  # of a video, spread evenly; their features are averaged
    layers: Literal["auto", "last"]
    | list[int] = "auto",  # blocks beside the last; auto: the middle one
    poolings: tuple[str, ...] = POOLINGS,  # of tokens over space and time; val picks one
    min_steps: int = 400,  # of the probe, on small sets; its epochs on others
    calibrate_bn: int = 0,  # train clips to measure batch norm on, for an encoder that has no statistics
    cache: str = ".cache/ssvid",  # folder of the frozen features
    batch_size: int = 32,  # videos
    workers: int = 2,  # loader processes
    devices: Devices = "auto",  # auto: a GPU where there is one
    threads: int | None = None,  # of torch; null: torch's own choice
    max_bad: float = 0.01,  # share of files that may be damaged
    seed: int = 0,  # of the probes and the random controls
    config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Probe frozen encoders (run folders, exported files or registered names) against their controls."""
    if not encoder:
        raise UserError(
            "Say what to probe: --encoder RUN_FOLDER, FILE.safetensors or a registered name."
        )
    refuse_old_results(Path(out), encoder)
    options = open_options(
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
        max_bad=max_bad,
    )
    suite = open_suite(
        "linear", load("linear", {"linear": {"min_steps": min_steps}}), select_labelled(data), None
    )
    own_data = config.get("data") if config else None
    runner = SuiteRunner(
        Path(out), options, module="benchmarks.linear_probe", config=config, data=own_data
    )
    runner.run(suite, encoder, clip, layers)
    written = write_report(runner)
    files = [Path(out) / f"{name}.{CELL}.json" for name in titles(encoder)]
    results = [read_result(file) for file in files if file.exists()]
    return {**written, "results": [brief(result) for result in results if result is not None]}


def refuse_old_results(folder: Path, encoders: list[str]) -> None:
    """The command once wrote one file for each encoder, which would stand twice in the report."""
    for name in titles(encoders):
        file = folder / f"{name}.json"
        if file.exists() and read_result(file):
            raise UserError(
                f"{file} is a result of an earlier version of this command: name another --out."
            )


def brief(result: Result) -> dict[str, Any]:
    """What the command prints."""
    from benchmarks.reports.verdict import verdict
    from ssvid.statistics import majority

    log.info("\n".join(verdict(result)))
    return {
        "encoder": result.encoder.title,
        "top1": result.score.value,
        "interval": result.score.interval,
        "chance": result.chance,
        "majority": majority(torch.tensor(result.test.labels)),
        "controls": {name: score.value for name, score in result.controls.items()},
        "gain_over_random": vars(result.gains["random"]),
        "reading": verdict(result)[0],
    }


if __name__ == "__main__":
    from ssvid.cli import command

    command(linear_probe)
