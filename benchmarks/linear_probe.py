"""encoders + labelled clips -> result files: `python -m benchmarks.linear_probe --encoder RUN --data NAME --out DIR`.

Each clip is decoded once and goes through the encoder, its untrained twin, the time controls and the pixel features;
each of these five rows then has the same probe, grid, poolings and selection.
"""

import itertools
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import report, results
from benchmarks.controls import batch_norms, calibrate, lacks_statistics, pixels, shuffled, single_frame, twin
from benchmarks.pool import POOLINGS, pool
from benchmarks.probe import ProbeResult
from benchmarks.strips import strips
from ssvid import registry
from ssvid.data.clips import Clips
from ssvid.data.loader import eval_loader
from ssvid.data.manifest import SPLITS, Manifest, leaks
from ssvid.data.quarantine import Quarantine
from ssvid.encoder import Encoder
from ssvid.engine.features import Extracted, Source, cpu_seconds, extract
from ssvid.errors import UserError
from ssvid.pretrain import ClipChange
from ssvid.randomness import permutation
from ssvid.shapes import ClipSpec, Frozen, Row, Views
from ssvid.weights import encoder_hash, open_encoder

VERSION = 1  # of poolings and pixel features: a new one makes cached features anew
CALIBRATE = 256  # train clips that an untrained twin's batch norm is measured on
UNCHANGED = ClipChange()
CONTROLS = ("random", "pixels", "single_frame", "shuffled")


class Options(NamedTuple):
    cache: str
    batch_size: int
    workers: int
    clips: int
    device: torch.device
    seed: int
    calibrate_bn: int
    max_bad: float
    min_steps: int


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
    if threads is not None:
        torch.set_num_threads(threads)
    if not encoder:
        raise UserError("Say what to probe: --encoder RUN_FOLDER, FILE.safetensors or a registered name.")
    cuda = devices == "cuda" or (devices == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if cuda else "cpu")
    options = Options(cache, batch_size, workers, clips, device, seed, calibrate_bn, max_bad, min_steps)
    data = labelled(data)
    folder, brief = Path(out), []
    folder.mkdir(parents=True, exist_ok=True)
    for text, name in zip(encoder, titles(encoder), strict=True):
        net = open_encoder(text).eval().to(device)
        net.spec = replace(net.spec, **clip.given())
        chosen = chosen_layers(net, layers)
        found = probe_encoder(text, name, net, data, chosen, poolings, options)
        found |= {"config": config, "command": results.command_line("benchmarks.linear_probe", config)}
        results.write(folder / f"{name}.json", found)
        brief.append(results.brief(found))
        print(results.table([found]), *results.reading(found), sep="\n", file=sys.stderr)
    return {"out": out, "report": str(report.write(folder)), "results": brief}


def probe_encoder(
    text: str,
    name: str,
    net: Encoder,
    data: Manifest,
    layers: tuple[int, ...],
    poolings: tuple[str, ...],
    options: Options,
) -> dict[str, Any]:
    began = cpu_seconds()
    train = data.split("train")
    if lacks_statistics(net):
        if not options.calibrate_bn:
            raise UserError(
                f"{text} has batch norm without running statistics, so a clip's features would depend on its "
                "neighbours: measure them with --calibrate_bn 256 (train clips)."
            )
        calibrate(net, some_clips(train, net.spec, options.calibrate_bn, options))
    untrained = twin(net)
    if batch_norms(untrained):
        calibrate(untrained, some_clips(train, net.spec, options.calibrate_bn or CALIBRATE, options))
    sources = make_sources(net, untrained, layers, poolings, options.seed)
    gflops = announce(net, sources, data, options)
    got = extract(
        data,
        net.spec,
        sources,
        cache=options.cache,
        batch_size=options.batch_size,
        workers=options.workers,
        clips=options.clips,
        device=options.device,
        label=name,
    )
    quarantine = Quarantine(None, len(data), options.max_bad)
    lost = [str(data.path(i)) for i in (~got.ok).nonzero().flatten().tolist()]
    for path in lost:
        quarantine.add(path, None, "could not be read")
    quarantine.check()
    linear, knn = registry.probes["linear"](min_steps=options.min_steps), registry.probes["knn"]()
    splits = {s: [i for i, row in enumerate(data.rows) if row.split == s and got.ok[i]] for s in SPLITS}

    def run(probe: Any, source: str) -> ProbeResult:
        return probe.run(*(frozen(data, got, source, splits[s]) for s in SPLITS), options.seed)

    rows = {source.name: run(linear, source.name) for source in sources}
    near = {source: run(knn, source) for source in ("encoder", "random")}
    protocol = agreed(linear, knn, net.spec, layers, poolings, options)
    cost = {"cpu_s": cpu_seconds() - began, "extract_cpu_s": got.cpu_s, "gflops_per_clip": gflops}
    bank = got.features["encoder"][near["encoder"].chosen["pooling"]]
    return {
        **results.scores(data, splits, rows, near, options.seed),
        "encoder": describe(text, name, net),
        "data": results.describe_data(data, splits, lost),
        "protocol": protocol,
        "protocol_hash": results.digest(protocol),
        "leak": leak(text, data.split("test")),
        "cost": {key: round(value, 6) for key, value in cost.items()},
        "seed": options.seed,
        "git": results.git(),
        "strips": strips(data, net.spec, bank, splits["train"], splits["test"], rows["encoder"].predictions),
    }


def agreed(
    linear: Any, knn: Any, spec: ClipSpec, layers: tuple[int, ...], poolings: tuple[str, ...], options: Options
) -> dict[str, Any]:
    """What two results must share to be compared."""
    return {
        "probe": vars(linear),
        "knn": vars(knn),
        "clip": vars(spec) | {"clips": options.clips},
        "layers": layers,
        "poolings": poolings,
        "selection": "setting and pooling by val top1; test read once",
        "controls": CONTROLS,
        "seed": options.seed,
        "version": VERSION,
    }


def make_sources(
    net: Encoder, untrained: Encoder, layers: tuple[int, ...], poolings: tuple[str, ...], seed: int
) -> list[Source]:
    """The five rows of a result; cached features are known by their keys."""

    def of(encoder: Encoder, change: Callable[..., Tensor] | None) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        def run(clip: Tensor, index: Tensor) -> dict[str, Tensor]:
            clip = clip if change is None else change(clip, index, seed)
            return pool(encoder(encoder.normalise(clip), layers=layers or None), layers, poolings)

        return run

    made = f"{layers} {poolings} version {VERSION}"
    known, other = encoder_hash(net), encoder_hash(untrained)
    return [
        Source("encoder", f"{known} {made}", of(net, None)),
        Source("random", f"{other} {made}", of(untrained, None)),
        Source("pixels", f"pixels version {VERSION}", lambda clip, index: pixels(clip)),
        Source("single_frame", f"{known} {made} single_frame", of(net, single_frame)),
        Source("shuffled", f"{known} {made} shuffled {seed}", of(net, shuffled)),
    ]


def frozen(data: Manifest, got: Extracted, source: str, rows: list[int]) -> Frozen:
    feats = {pooling: table[rows] for pooling, table in got.features[source].items()}
    return Frozen(feats, data.labels[rows], [data.groups[i] for i in rows])


def labelled(data: Manifest) -> Manifest:
    """The rows that have a label, in all three splits."""
    kept = data.take([i for i, label in enumerate(data.labels.tolist()) if label >= 0])
    for split in SPLITS:
        if not len(kept.split(split)):
            raise UserError(f"{data.root} has no labelled clips in the {split} split: a probe needs train and test.")
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


def chosen_layers(net: Encoder, layers: Literal["auto", "last"] | list[int]) -> tuple[int, ...]:
    if layers == "last" or (layers == "auto" and (not net.has_layers or net.depth < 2)):
        return ()
    if layers == "auto":
        return (net.depth // 2,)
    if not net.has_layers or not set(layers) <= set(range(1, net.depth + 1)):
        raise UserError(f"{net.name} can give layers {'1 to ' + str(net.depth) if net.has_layers else 'last only'}.")
    return tuple(layers)


def some_clips(train: Manifest, spec: ClipSpec, n: int, options: Options) -> Iterator[Tensor]:
    """n clips of train, the same ones every time."""
    clips = Clips(train, Views(clips=(spec,), augment="none"), seed=options.seed, evaluate=1)
    rows = permutation(options.seed, 0, len(train))[:n].tolist()
    for batch in eval_loader(clips, rows, options.batch_size, options.workers):
        if batch["ok"].any():
            yield batch["clips"][:, 0]


def announce(net: Encoder, sources: list[Source], data: Manifest, options: Options) -> float:
    """Says what the work will take, from one grey clip; returns the encoder's GFLOPs for it."""
    spec = net.spec
    clip = torch.full((1, 3, spec.frames, spec.size, spec.size), 128, dtype=torch.uint8, device=options.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(net.normalise(clip))
    index, took = torch.zeros(1, dtype=torch.int64), []
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        with torch.inference_mode():
            widths = {s.name: sum(v.shape[1] for v in s.run(clip, index).values()) for s in sources}
        took.append(time.perf_counter() - began)
    seconds = min(took) * len(data) * options.clips
    print(
        f"{len(data)} videos, {options.clips} clip(s) each, once through {', '.join(widths)}: about "
        f"{seconds / 60:.1f} min of computing beside decoding, and {sum(widths.values()) * 4 * len(data) / 1e6:.0f} MB "
        f"under {options.cache}, less what is there already.",
        file=sys.stderr,
    )
    return counter.get_total_flops() / 1e9


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
