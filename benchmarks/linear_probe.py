"""encoders + labelled clips -> result files: `python -m benchmarks.linear_probe --encoder RUN --data NAME --out DIR`.

Each clip is decoded once and goes through the encoder, its untrained twin, the time controls and the pixel features;
each of these five rows then has the same probe, grid, poolings and selection.
"""

import itertools
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from benchmarks import report, results
from benchmarks.controls import twin
from benchmarks.pool import POOLINGS
from benchmarks.probe import Probe, ProbeResult
from benchmarks.sources import CONTROLS, VERSION, announce, chosen_layers, make_sources
from benchmarks.strips import strips
from ssvid import registry
from ssvid.data.manifest import SPLITS, Manifest, leaks
from ssvid.data.quarantine import Quarantine
from ssvid.encoder import Encoder
from ssvid.engine.distributed import join
from ssvid.engine.features import Extracted, cpu_seconds, extract, refuse, some_clips
from ssvid.errors import UserError, positive
from ssvid.nn.batchnorm import calibrate, settle
from ssvid.pretrain import ClipChange
from ssvid.shapes import Frozen, Row
from ssvid.weights import encoder_hash, open_encoder

CALIBRATE = 256  # train clips that an untrained twin's batch norm is measured on
UNCHANGED = ClipChange()


class Options(NamedTuple):
    cache: str
    batch_size: int
    workers: int
    clips: int
    poolings: tuple[str, ...]
    device: torch.device
    seed: int
    calibrate_bn: int
    max_bad: float
    min_steps: int


class Job(NamedTuple):
    """One encoder to probe, with all that is known of its result before any work."""

    given: str  # by the user
    name: str  # of its result
    net: Encoder
    layers: tuple[int, ...]
    probes: dict[str, Probe]
    encoder: dict[str, Any]
    protocol: dict[str, Any]


def linear_probe(
    encoder: list[str],
    data: Manifest,
    out: str,
    *,
    clip: ClipChange = UNCHANGED,
    clips: int = 1,  # of a video, spread evenly; their features are averaged
    layers: Literal["auto", "last"] | list[int] = "auto",  # blocks beside the last; auto: the middle one
    poolings: tuple[str, ...] = POOLINGS,
    min_steps: int = 400,  # of the probe, on small sets; its epochs on others
    calibrate_bn: int = 0,  # train clips to measure batch norm on, for an encoder that has no statistics
    cache: str = ".cache/ssvid",
    batch_size: int = 32,  # videos
    workers: int = 2,  # loader processes
    devices: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,  # of torch; null: torch's own choice
    max_bad: float = 0.01,  # share of files that may be damaged
    seed: int = 0,
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
    options = Options(cache, batch_size, workers, clips, poolings, device, seed, calibrate_bn, max_bad, min_steps)
    data = labelled(data)
    folder, brief = Path(out), []
    jobs = [plan(text, name, clip, layers, options) for text, name in zip(encoder, titles(encoder), strict=True)]
    for job in jobs:
        hashes = {"encoder": job.encoder["hash"], "protocol": results.digest(job.protocol)}
        results.refuse_another(folder / f"{job.name}.json", data=data.hash, **hashes)
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        found = probe_encoder(job, data, options)
        found |= {"config": config, "command": results.command_line("benchmarks.linear_probe", config)}
        results.write(folder / f"{job.name}.json", found)
        brief.append(results.brief(found))
        print(results.table([found]), *results.reading(found), sep="\n", file=sys.stderr)
    return {"out": out, "report": str(report.write(folder)), "results": brief}


def plan(text: str, name: str, clip: ClipChange, layers: Literal["auto", "last"] | list[int], options: Options) -> Job:
    net = open_encoder(text).eval()
    net.spec = replace(net.spec, **clip.given())
    chosen = chosen_layers(net, layers)
    probes = {"linear": registry.probes["linear"](min_steps=options.min_steps), "knn": registry.probes["knn"]()}
    return Job(text, name, net, chosen, probes, describe(text, name, net), agreed(net, chosen, probes, options))


def agreed(net: Encoder, layers: tuple[int, ...], probes: dict[str, Probe], options: Options) -> dict[str, Any]:
    """What two results must share to be compared."""
    return {
        "probe": vars(probes["linear"]),
        "knn": vars(probes["knn"]),
        "clip": vars(net.spec) | {"clips": options.clips},
        "layers": layers,
        "poolings": options.poolings,
        "calibrate_bn": options.calibrate_bn,
        "selection": "setting and pooling by val top1; test read once",
        "controls": CONTROLS,
        "seed": options.seed,
        "version": VERSION,
    }


def probe_encoder(job: Job, data: Manifest, options: Options) -> dict[str, Any]:
    """clips -> features of the five rows -> a probe of each -> a result."""
    began, net = cpu_seconds(), job.net.to(options.device)
    settle(net, job.given, measured(data, net, options.calibrate_bn, options) if options.calibrate_bn else None)
    untrained = twin(net)
    calibrate(untrained, measured(data, net, options.calibrate_bn or CALIBRATE, options))
    sources = make_sources(net, untrained, job.layers, options.poolings, options.seed)
    gflops = announce(net, sources, len(data), options.clips, options.cache)
    got = extract(
        data,
        net.spec,
        sources,
        cache=options.cache,
        batch_size=options.batch_size,
        workers=options.workers,
        clips=options.clips,
        device=options.device,
        label=job.name,
    )
    net.cpu()  # room for the next
    lost = left_out(data, got, options.max_bad)
    splits = {s: [i for i, row in enumerate(data.rows) if row.split == s and got.ok[i]] for s in SPLITS}

    def run(probe: str, source: str) -> ProbeResult:
        train, val, test = (frozen(data, got, source, splits[s]) for s in SPLITS)
        return job.probes[probe].run(train, val, test, options.seed)

    rows = {source.name: run("linear", source.name) for source in sources}
    near = {source: run("knn", source) for source in ("encoder", "random")}
    cost = {"cpu_s": cpu_seconds() - began, "extract_cpu_s": got.cpu_s, "gflops_per_clip": gflops}
    bank = got.features["encoder"][near["encoder"].chosen["pooling"]]
    return {
        **results.scores(data, splits, rows, near, options.seed),
        "encoder": job.encoder,
        "data": results.describe_data(data, splits, lost),
        "protocol": job.protocol,
        "protocol_hash": results.digest(job.protocol),
        "leak": leak(job.given, data.split("test")),
        "cost": {key: round(value, 6) for key, value in cost.items()},
        "seed": options.seed,
        "git": results.git(),
        "strips": strips(data, net.spec, bank, splits["train"], splits["test"], rows["encoder"].predictions),
    }


def measured(data: Manifest, net: Encoder, n: int, options: Options) -> Iterator[Tensor]:
    """n train clips, for batch norm."""
    return some_clips(data.split("train"), net.spec, n, options.seed, options.batch_size, options.workers)


def left_out(data: Manifest, got: Extracted, max_bad: float) -> list[str]:
    """Files that could not be read, unless they are too many."""
    lost = [str(data.path(i)) for i in (~got.ok).nonzero().flatten().tolist()]
    quarantine = Quarantine(None, len(data), max_bad)
    for path in lost:
        quarantine.add(path, None, "could not be read")
    quarantine.check()
    return lost


def frozen(data: Manifest, got: Extracted, source: str, rows: list[int]) -> Frozen:
    feats = {pooling: table[rows] for pooling, table in got.features[source].items()}
    return Frozen(feats, data.labels[rows], [data.groups[i] for i in rows])


def labelled(data: Manifest) -> Manifest:
    """The rows that have a label, in all three splits."""
    kept = data.take([i for i, label in enumerate(data.labels.tolist()) if label >= 0])
    for split in SPLITS:
        if not len(kept.split(split)):
            raise UserError(f"{data.root} has no labelled clips in the {split} split: a probe needs train and test.")
    known = {row.label for row in kept.split("train").rows}
    unseen = sorted({str(row.label) for row in kept.split("test").rows if row.label not in known})
    if unseen:
        raise UserError(f"{data.root}: test has classes that train lacks ({', '.join(unseen[:3])}): mend the labels.")
    return kept


def titles(encoders: list[str]) -> list[str]:
    """A file name for each: the last part of its path, with a number where that is taken."""
    made: list[str] = []
    for text in encoders:
        path = Path(text)
        last = path.parent.name if path.stem == "encoder" else path.name
        stem = re.sub(r"[^\w.-]+", "_", last.removesuffix(".safetensors")) or "encoder"
        numbered = (f"{stem}_{number}" for number in itertools.count(2))
        made.append(stem if stem not in made else next(name for name in numbered if name not in made))
    return made


def describe(text: str, name: str, net: Encoder) -> dict[str, Any]:
    return {
        "title": name,
        "given": text,
        "weights": "trained" if Path(text).exists() else "random (a registered name, no file)",
        "name": net.name,
        "kwargs": net.kwargs,
        "parameters": sum(p.numel() for p in net.parameters()),
        "licence": net.licence,
        "hash": encoder_hash(net),
    }


def leak(text: str, test: Manifest) -> dict[str, Any]:
    """Test clips that pretraining saw, where the run folder tells what it read."""
    path = Path(text)
    file = (path if path.is_dir() else path.parent) / "provenance.json"
    if not path.exists() or not file.exists():
        return {"checked": False}
    made = json.loads(file.read_text())
    fields = ("path", "label", "split", "group", "video_id")
    rows = tuple(Row(**dict(zip(fields, row, strict=False))) for row in made["rows"])
    shared = leaks(Manifest(rows, Path(made["root"])), test)
    return {"checked": True, "clips": len(shared), "first": [row.path for row in shared[:5]]}


if __name__ == "__main__":
    from ssvid.cli import command

    command(linear_probe)
