"""encoder + labelled clips -> Bench: features of the encoder and of its controls, each clip decoded once for all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from benchmarks.features.controls import twin
from benchmarks.features.pooling import POOLINGS
from benchmarks.features.sources import (
    ALIASES,
    CONTROLS,
    ROWS,
    VERSION,
    announce,
    chosen_layers,
    make_sources,
)
from benchmarks.features.stored import readable
from benchmarks.features.text_side import Text, text_side
from benchmarks.features.units import keep, kind_of, places
from ssvid.data.manifest import SPLITS, Manifest
from ssvid.data.quarantine import Quarantine
from ssvid.encoder import Encoder
from ssvid.engine.distributed import join
from ssvid.engine.features import Extracted, cpu_seconds, extract_from, refuse, some_clips
from ssvid.engine.train_flags import ClipChange
from ssvid.errors import positive
from ssvid.hub import open_encoder
from ssvid.nn.batchnorm import calibrate, settle
from ssvid.results import EncoderInfo
from ssvid.results.provenance import describe_encoder
from ssvid.shapes import ClipSpec, Frozen, Grid, Labels

Devices = Literal["auto", "cpu", "cuda"]
NAMED = 1  # seed of the weights of an encoder that is but a name: the same in every run, and not its twin's
CALIBRATE = 256  # train clips that an untrained twin's batch norm is measured on


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """How features are taken, the same for every encoder."""

    cache: str = ".cache/ssvid"
    batch_size: int = 32
    workers: int = 2
    clips: int = 1  # of a video, spread evenly
    crops: int = 1  # of each of these, along the long side
    average: Literal["features", "scores"] = "features"  # what is averaged over clips and crops
    poolings: tuple[str, ...] = POOLINGS
    device: torch.device = torch.device("cpu")
    seed: int = 0
    calibrate_bn: int = 0
    max_bad: float = 0.01
    words: str | None = None  # the list of a published text side

    @property
    def views(self) -> int:
        """Of a video that keep features of their own."""
        return self.clips * self.crops if self.average == "scores" else 1


def open_options(
    out: str, cache: str, *, devices: Devices, threads: int | None, **settings: Any
) -> FeatureOptions:
    """The options of a command, checked, in a process that has its device and its threads.

    `out`: folder of the results. `settings`: the other fields of FeatureOptions.
    """
    named = ("batch_size", "workers", "clips", "calibrate_bn")
    refuse(Path(out), cache, **{name: settings[name] for name in named})
    positive(threads=threads, crops=settings.get("crops"))
    if threads is not None:
        torch.set_num_threads(threads)
    settings["poolings"] = tuple(settings["poolings"])
    return FeatureOptions(cache=cache, device=join(devices).device, **settings)


class Subject(NamedTuple):
    """An encoder to probe, with all that is known of it before any work."""

    given: str  # by the user
    name: str  # of its results
    net: Encoder
    spec: ClipSpec  # as the user wants it
    layers: tuple[int, ...]
    encoder: EncoderInfo
    parts: tuple["Subject", ...] = ()  # of several that are asked together: late_fusion.py

    @property
    def streams(self) -> tuple["Subject", ...]:
        return self.parts or (self,)


class Bench(NamedTuple):
    """All that a task sees: labels, splits and frozen arrays, never a net."""

    data: Manifest
    row: Sequence[int]  # of `data`, of each unit: a clip, a window, a second or a box
    at: Sequence[
        tuple[float, ...]
    ]  # where each unit lies, as its class in ssvid.data says; (): of clips
    labels: Labels  # of each unit
    splits: dict[str, list[int]]  # units that could be read
    features: dict[
        str, dict[str, Tensor]
    ]  # source -> pooling -> S D; of `source:tokens` S N D; with views S V ...
    lost: list[str]  # files that could not be read
    spec: ClipSpec
    grid: Grid  # of the encoder's tokens
    cost: dict[str, float]
    seed: int
    views: int = 1  # of a clip, whose scores may be averaged
    others: tuple["Bench", ...] = ()  # of the same videos, by other encoders
    text: Text | None = None  # the encoder's text side, where a task asks for `:joint`

    @property
    def streams(self) -> tuple["Bench", ...]:
        return self._replace(others=()), *self.others

    def videos(self, split: str) -> tuple[list[int], Int[Tensor, " _"]]:
        """The first unit of each video, and of each row of `each_view` the place of its video among them."""
        first: dict[int, int] = {}
        for unit in self.splits[split]:
            first.setdefault(self.row[unit], unit)
        place = {row: n for n, row in enumerate(first)}
        which = torch.tensor(
            [place[self.row[unit]] for unit in self.splits[split]], dtype=torch.int64
        )
        return list(first.values()), which.repeat_interleave(self.views)

    def groups(self, split: str) -> list[str]:
        return self.groups_of(self.splits[split])

    def groups_of(self, units: Sequence[int]) -> list[str]:
        return [self.data.groups[self.row[i]] for i in units]

    def frozen(self, source: str, split: str) -> Frozen:
        """Features of a split; those of several views are averaged."""
        units = self.splits[split]
        feats = {pooling: table[units] for pooling, table in self.features[source].items()}
        if self.views > 1:
            feats = {
                pooling: table.float().mean(1).to(table.dtype) for pooling, table in feats.items()
            }
        return Frozen(feats, self.labels[units], self.groups(split))

    def each_view(self, source: str, split: str) -> Frozen:
        """Every view as a clip of its own, those of one clip side by side."""
        if self.views == 1:
            return self.frozen(source, split)
        units = self.splits[split]
        feats = {
            pooling: table[units].flatten(0, 1) for pooling, table in self.features[source].items()
        }
        groups = [group for group in self.groups(split) for _ in range(self.views)]
        return Frozen(feats, self.labels[units].repeat_interleave(self.views, 0), groups)


def subject(
    text: str, name: str, clip: ClipChange, layers: Literal["auto", "last"] | list[int]
) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(NAMED)
        net = open_encoder(text).eval()
    clip.onto(net)
    return Subject(
        text, name, net, net.spec, chosen_layers(net, layers), describe_encoder(text, name, net)
    )


def agreed(of: Subject, options: FeatureOptions, kind: str = "clips") -> dict[str, Any]:
    """What two results must share to be compared, beside their probe."""
    return {
        "clip": vars(of.net.spec)
        | {"clips": options.clips, "crops": options.crops, "average": options.average},
        "layers": () if kind_of(kind).last else of.layers,
        "poolings": kind_of(kind).poolings or options.poolings,
        "calibrate_bn": options.calibrate_bn,
        "selection": "setting and pooling by val; test read once",
        "controls": CONTROLS,
        "seed": options.seed,
        "version": VERSION,
    }


def bench(
    of: Subject,
    data: Manifest,
    options: FeatureOptions,
    wanted: Sequence[str] = ROWS,
    kind: str = "clips",
) -> Bench:
    """data -> features of the rows that are wanted, from the cache where they are there already.

    `kind`: what is scored one by one, of benchmarks.features.units.
    """
    asked, data = kind_of(kind), keep(data, kind)
    joint = (
        text_side(of.given, options.words)
        if any(name.endswith(":joint") for name in wanted)
        else None
    )
    text = Text(joint) if joint else None
    if asked.make is None:
        return stored(of, data, options, text)
    units = asked.make(data, of.net.spec, options.clips, options.crops)
    began, net = cpu_seconds(), of.net.to(options.device)
    settle(
        net,
        of.given,
        measured(data, net, options.calibrate_bn, options) if options.calibrate_bn else None,
    )
    untrained = twin(net)
    calibrate(untrained, measured(data, net, options.calibrate_bn or CALIBRATE, options))
    names = {
        name: own_name(name) for name in wanted
    }  # two tasks may ask for the same under two names
    poolings, layers = asked.poolings or options.poolings, () if asked.last else of.layers
    own = sorted(
        set(names.values()), key=lambda name: name.partition(":")
    )  # what shares a pass side by side
    sources = make_sources(
        net, untrained, layers, poolings, options.seed, own, units.regions, joint
    )
    gflops = announce(
        net, sources, len(units.clips), units.clips.evaluate * units.clips.crops, options.cache
    )
    loading = options.cache, options.batch_size, options.workers, options.device
    got = extract_from(units.clips, sources, *loading, label=of.name, each=options.views > 1)
    net.cpu()  # room for the next
    lost = left_out(data, units.clips.row, got, options.max_bad, asked.splits)
    splits = places(units.clips.row, got.ok, data)
    cost = {"cpu_s": cpu_seconds() - began, "extract_cpu_s": got.cpu_s, "gflops_per_clip": gflops}
    features = {name: got.features[own] for name, own in names.items()}
    grid = Grid(*net.grid(net.spec.frames, net.spec.size, net.spec.size))
    return Bench(
        data=data,
        row=units.clips.row,
        at=units.clips.locations,
        labels=units.labels,
        splits=splits,
        features=features,
        lost=lost,
        spec=net.spec,
        grid=grid,
        cost=cost,
        seed=options.seed,
        views=options.views,
        text=text,
    )


def stored(of: Subject, data: Manifest, options: FeatureOptions, text: Text | None) -> Bench:
    """Test videos whose seconds have features already, which tasks read by themselves: stored.py."""
    began = cpu_seconds()
    rows = [row for row, video in enumerate(data.rows) if video.split == "test"]
    good = readable(data, rows, of.encoder.hash, of.given)
    lost = [str(data.root / data.rows[row].features) for row in rows if row not in good]
    refuse_many(lost, len(rows), options.max_bad)
    splits = {"train": [], "val": [], "test": [row for row in rows if row in good]}
    grid = Grid(*of.net.grid(of.net.spec.frames, of.net.spec.size, of.net.spec.size))
    return Bench(
        data=data,
        row=range(len(data)),
        at=(),
        labels=data.labels.new_full((len(data),), -1),
        splits=splits,
        features={},
        lost=lost,
        spec=of.net.spec,
        grid=grid,
        cost={"cpu_s": cpu_seconds() - began},
        seed=options.seed,
        text=text,
    )


def own_name(name: str) -> str:
    """A source under its one name: shuffled:tokens is encoder/shuffled:tokens, and pixels have no tokens."""
    row, colon, form = name.partition(":")
    row = ALIASES.get(row, row)
    return row if row.partition("/")[0] == "pixels" else row + colon + form


def measured(data: Manifest, net: Encoder, n: int, options: FeatureOptions) -> Iterator[Tensor]:
    """n train clips, for batch norm; of a set that is for testing alone n of all."""
    train = data.split("train")
    return some_clips(
        train if len(train) else data,
        net.spec,
        n,
        options.seed,
        options.batch_size,
        options.workers,
    )


def left_out(
    data: Manifest,
    rows: Sequence[int],
    got: Extracted,
    max_bad: float,
    splits: Sequence[str] = SPLITS,
) -> list[str]:
    """Files that could not be read, wholly or in part, unless they are too many."""
    seen = set(rows)  # a video without a readable second has no unit
    due = {row for row, video in enumerate(data.rows) if video.split in splits}
    bad = {rows[i] for i in (~got.ok).nonzero().flatten().tolist()} | due - seen
    lost = [str(data.path(row)) for row in sorted(bad)]
    refuse_many(lost, len(due), max_bad)
    return lost


def refuse_many(lost: Sequence[str], of: int, max_bad: float) -> None:
    quarantine = Quarantine(None, of, max_bad)
    for path in lost:
        quarantine.add(path, None, "could not be read")
    quarantine.check()
