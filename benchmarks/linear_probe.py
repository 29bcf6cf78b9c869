"""encoders + labelled clips -> result files: `python -m benchmarks.linear_probe --encoder RUN --data NAME --out DIR`.

Each clip is decoded once and goes through the encoder, its untrained twin, the time controls and the pixel features;
each of these five rows then has the same probe, grid, poolings and selection.
"""

import itertools
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from benchmarks import report
from benchmarks.features.bench import Options, Subject, agreed, bench, subject
from benchmarks.features.late_fusion import split
from benchmarks.features.pooling import POOLINGS
from benchmarks.features.sources import ROWS
from benchmarks.probes.base import Probe, ProbeResult
from benchmarks.reports import results
from benchmarks.tasks.film_strips import strips
from ssvid import registry
from ssvid.data.manifest import SPLITS, Manifest, labelled
from ssvid.engine.distributed import join
from ssvid.engine.features import cpu_seconds, refuse
from ssvid.engine.train_flags import UNCHANGED, ClipChange
from ssvid.errors import UserError, positive
from ssvid.results import command_line, describe_data, digest, git, leak, title, write


class Job(NamedTuple):
    """One encoder to probe, its probes, and what its result is known by."""

    of: Subject
    probes: dict[str, Probe]
    protocol: dict[str, Any]


def linear_probe(
    encoder: list[str],  # run folders, files or registered names
    data: Manifest,  # labelled clips: train, val and test
    out: str,  # folder of the results
    *,
    clip: ClipChange = UNCHANGED,
    clips: int = 1,  # of a video, spread evenly; their features are averaged
    layers: Literal["auto", "last"] | list[int] = "auto",  # blocks beside the last; auto: the middle one
    poolings: tuple[str, ...] = POOLINGS,  # of tokens over space and time; val picks one
    min_steps: int = 400,  # of the probe, on small sets; its epochs on others
    calibrate_bn: int = 0,  # train clips to measure batch norm on, for an encoder that has no statistics
    cache: str = ".cache/ssvid",  # folder of the frozen features
    batch_size: int = 32,  # videos
    workers: int = 2,  # loader processes
    devices: Literal["auto", "cpu", "cuda"] = "auto",  # auto: a GPU where there is one
    threads: int | None = None,  # of torch; null: torch's own choice
    max_bad: float = 0.01,  # share of files that may be damaged
    seed: int = 0,  # of the probes and the random controls
    config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Probe frozen encoders (run folders, exported files or registered names) against their controls."""
    refuse(Path(out), cache, batch_size=batch_size, workers=workers, clips=clips, calibrate_bn=calibrate_bn)
    positive(threads=threads)
    if threads is not None:
        torch.set_num_threads(threads)
    if not encoder:
        raise UserError("Say what to probe: --encoder RUN_FOLDER, FILE.safetensors or a registered name.")
    device = join(devices).device
    options = Options(
        cache,
        batch_size,
        workers,
        clips,
        poolings=poolings,
        device=device,
        seed=seed,
        calibrate_bn=calibrate_bn,
        max_bad=max_bad,
    )
    data = labelled(data)
    folder, brief = Path(out), []
    jobs = [
        plan(subject(text, name, clip, layers), min_steps, options)
        for text, name in zip(encoder, titles(encoder), strict=True)
    ]
    for job in jobs:
        hashes = {"encoder": job.of.encoder["hash"], "protocol": digest(job.protocol)}
        results.refuse_another(folder / f"{job.of.name}.json", data=data.hash, **hashes)
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        found = probe_encoder(job, data, options)
        found |= {"config": config, "command": command_line("benchmarks.linear_probe", config)}
        write(folder / f"{job.of.name}.json", found)
        brief.append(results.brief(found))
        print(results.table([found]), *results.reading(found), sep="\n", file=sys.stderr)
    return {"out": out, "report": str(report.write(folder)), "results": brief}


def plan(of: Subject, min_steps: int, options: Options) -> Job:
    probes = {"linear": registry.probes["linear"](min_steps=min_steps), "knn": registry.probes["knn"]()}
    return Job(of, probes, {"probe": vars(probes["linear"]), "knn": vars(probes["knn"]), **agreed(of, options)})


def probe_encoder(job: Job, data: Manifest, options: Options) -> dict[str, Any]:
    """clips -> features of the five rows -> a probe of each -> a result."""
    began = cpu_seconds()
    got = bench(job.of, data, options)

    def run(probe: str, source: str) -> ProbeResult:
        train, val, test = (got.frozen(source, split) for split in SPLITS)
        return job.probes[probe].run(train, val, test, options.seed)

    rows = {source: run("linear", source) for source in ROWS}
    near = {source: run("knn", source) for source in ("encoder", "random")}
    cost = {**got.cost, "cpu_s": cpu_seconds() - began}
    bank, splits = got.features["encoder"][near["encoder"].chosen["pooling"]], got.splits
    return {
        **results.scores(data, splits, rows, near, options.seed),
        "encoder": job.of.encoder,
        "data": describe_data(data, splits, got.lost),
        "protocol": job.protocol,
        "protocol_hash": digest(job.protocol),
        "leak": leak(job.of.given, data.split("test")),
        "cost": {key: round(value, 6) for key, value in cost.items()},
        "seed": options.seed,
        "git": git(),
        "strips": strips(data, got.spec, bank, splits["train"], splits["test"], rows["encoder"].predictions),
    }


def titles(encoders: list[str]) -> list[str]:
    """A file name for each: the last part of its path, with a number where that is taken."""
    made: list[str] = []
    for text in encoders:
        stem = "+".join(map(title, split(text)))
        numbered = (f"{stem}_{number}" for number in itertools.count(2))
        made.append(stem if stem not in made else next(name for name in numbered if name not in made))
    return made


if __name__ == "__main__":
    from ssvid.cli import command

    command(linear_probe)
