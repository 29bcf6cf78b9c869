"""encoder + labelled clips -> Bench: features of the encoder and of its controls, each clip decoded once for all."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from benchmarks.controls import twin
from benchmarks.pool import POOLINGS
from benchmarks.sources import ALIASES, CONTROLS, ROWS, VERSION, announce, chosen_layers, make_sources
from ssvid.data.manifest import SPLITS, Manifest
from ssvid.data.quarantine import Quarantine
from ssvid.encoder import Encoder
from ssvid.engine.features import Extracted, cpu_seconds, extract, some_clips
from ssvid.engine.run import ClipChange
from ssvid.nn.batchnorm import calibrate, settle
from ssvid.results import describe_encoder
from ssvid.shapes import ClipSpec, Frozen
from ssvid.weights import open_encoder

CALIBRATE = 256  # train clips that an untrained twin's batch norm is measured on


class Options(NamedTuple):
    """How features are taken, the same for every encoder."""

    cache: str = ".cache/ssvid"
    batch_size: int = 32
    workers: int = 2
    clips: int = 1  # of a video, spread evenly; their features are averaged
    poolings: tuple[str, ...] = POOLINGS
    device: torch.device = torch.device("cpu")
    seed: int = 0
    calibrate_bn: int = 0
    max_bad: float = 0.01


class Subject(NamedTuple):
    """An encoder to probe, with all that is known of it before any work."""

    given: str  # by the user
    name: str  # of its results
    net: Encoder
    layers: tuple[int, ...]
    encoder: dict[str, Any]  # its description


class Bench(NamedTuple):
    """All that a task sees: labels, splits and frozen arrays, never a net."""

    data: Manifest
    splits: dict[str, list[int]]  # rows that could be read
    features: dict[str, dict[str, Tensor]]  # source -> pooling -> S D; of `source:tokens` S N D
    lost: list[str]  # files that could not be read
    spec: ClipSpec
    cost: dict[str, float]
    seed: int

    def frozen(self, source: str, split: str) -> Frozen:
        rows = self.splits[split]
        feats = {pooling: table[rows] for pooling, table in self.features[source].items()}
        return Frozen(feats, self.data.labels[rows], [self.data.groups[i] for i in rows])


def subject(text: str, name: str, clip: ClipChange, layers: Literal["auto", "last"] | list[int]) -> Subject:
    net = open_encoder(text).eval()
    clip.onto(net)
    return Subject(text, name, net, chosen_layers(net, layers), describe_encoder(text, name, net))


def agreed(of: Subject, options: Options) -> dict[str, Any]:
    """What two results must share to be compared, beside their probe."""
    return {
        "clip": vars(of.net.spec) | {"clips": options.clips},
        "layers": of.layers,
        "poolings": options.poolings,
        "calibrate_bn": options.calibrate_bn,
        "selection": "setting and pooling by val top1; test read once",
        "controls": CONTROLS,
        "seed": options.seed,
        "version": VERSION,
    }


def bench(of: Subject, data: Manifest, options: Options, wanted: Sequence[str] = ROWS) -> Bench:
    """clips -> features of the rows that are wanted, from the cache where they are there already."""
    began, net = cpu_seconds(), of.net.to(options.device)
    settle(net, of.given, measured(data, net, options.calibrate_bn, options) if options.calibrate_bn else None)
    untrained = twin(net)
    calibrate(untrained, measured(data, net, options.calibrate_bn or CALIBRATE, options))
    names = {name: own_name(name) for name in wanted}  # two tasks may ask for the same under two names
    sources = make_sources(net, untrained, of.layers, options.poolings, options.seed, sorted(set(names.values())))
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
        label=of.name,
    )
    net.cpu()  # room for the next
    lost = left_out(data, got, options.max_bad)
    splits = {s: [i for i, row in enumerate(data.rows) if row.split == s and got.ok[i]] for s in SPLITS}
    cost = {"cpu_s": cpu_seconds() - began, "extract_cpu_s": got.cpu_s, "gflops_per_clip": gflops}
    features = {name: got.features[own] for name, own in names.items()}
    return Bench(data, splits, features, lost, net.spec, cost, options.seed)


def own_name(name: str) -> str:
    """A source under its one name: shuffled:tokens is encoder/shuffled:tokens, and pixels have no tokens."""
    row, colon, form = name.partition(":")
    row = ALIASES.get(row, row)
    return row if row.partition("/")[0] == "pixels" else row + colon + form


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
