"""encoder + labelled clips -> Bench: features of the encoder and of its controls.

Each clip is decoded once for the encoder and all controls. A Bench is all that a task sees.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from benchmarks.features.controls import create_twin
from benchmarks.features.evaluated_encoder import EvaluatedEncoder
from benchmarks.features.options import FeatureOptions
from benchmarks.features.sources import ALIASES, ROWS, announce_cost, make_sources
from benchmarks.features.stored import find_readable_rows
from benchmarks.features.text_side import Text, open_text_side
from benchmarks.features.units import Units, get_kind, select_usable_rows, split_units
from ssvid.data.manifest import SPLITS, Manifest
from ssvid.data.quarantine import Quarantine
from ssvid.encoder import Encoder
from ssvid.engine.features import Extracted, cpu_seconds, extract_from, some_clips
from ssvid.nn.batchnorm import calibrate, ensure_statistics
from ssvid.shapes import ClipSpec, Frozen, Grid, Labels
from ssvid.text.joint import Joint

CALIBRATION_CLIPS = 256  # train clips on which the batch norm of an untrained twin is measured


class Bench(NamedTuple):
    """All that a task sees: labels, splits and frozen arrays, but never a network.

    A unit is what is scored: a clip, a window, a second or a box.
    """

    data: Manifest
    row_of_unit: Sequence[int]  # rows of `data`
    # Where each unit lies in its video, as its class in ssvid.data describes; (): whole clips.
    position_of_unit: Sequence[tuple[float, ...]]
    labels: Labels  # of each unit
    splits: dict[str, list[int]]  # split -> units that could be read
    # Source -> pooling -> S D; S N D for `source:tokens`; S V ... where there are several views.
    features: dict[str, dict[str, Tensor]]
    unreadable_files: list[str]
    spec: ClipSpec
    grid: Grid  # of the encoder's tokens
    cost: dict[str, float]
    seed: int
    views: int = 1  # of a clip; more than one where scores are averaged
    other_streams: tuple["Bench", ...] = ()  # of the same videos, by other encoders
    text: Text | None = None  # the encoder's text side, where a task reads `:joint`

    @property
    def streams(self) -> tuple["Bench", ...]:
        return self._replace(other_streams=()), *self.other_streams

    def index_videos(self, split: str) -> tuple[list[int], Int[Tensor, " _"]]:
        """(first_units, video_of_view): the first unit of each video of a split, and an index.

        `video_of_view` has an entry for each row of `get_frozen_views`: the position of its video
        among `first_units`.
        """
        first_units: list[int] = []
        number_of_row: dict[int, int] = {}
        video_of_unit: list[int] = []
        for unit in self.splits[split]:
            row = self.row_of_unit[unit]
            if row not in number_of_row:
                number_of_row[row] = len(first_units)
                first_units.append(unit)
            video_of_unit.append(number_of_row[row])
        index = torch.tensor(video_of_unit, dtype=torch.int64)
        return first_units, index.repeat_interleave(self.views)

    def get_groups(self, split: str) -> list[str]:
        """The group of each unit of a split."""
        return self.get_groups_of_units(self.splits[split])

    def get_groups_of_units(self, units: Sequence[int]) -> list[str]:
        return [self.data.groups[self.row_of_unit[unit]] for unit in units]

    def get_frozen(self, source: str, split: str) -> Frozen:
        """Features of a split. Those of several views are averaged."""
        units = self.splits[split]
        feats = {}
        for pooling, table in self.features[source].items():
            rows = table[units]
            if self.views > 1:
                rows = rows.float().mean(1).to(rows.dtype)
            feats[pooling] = rows
        return Frozen(feats, self.labels[units], self.get_groups(split))

    def get_splits(self, source: str) -> tuple[Frozen, Frozen, Frozen]:
        """Features of train, val and test."""
        train = self.get_frozen(source, "train")
        return train, self.get_frozen(source, "val"), self.get_frozen(source, "test")

    def get_frozen_views(self, source: str, split: str) -> Frozen:
        """Features of a split with a row for every view. Views of one clip follow each other."""
        if self.views == 1:
            return self.get_frozen(source, split)
        units = self.splits[split]
        tables = self.features[source].items()
        feats = {pooling: table[units].flatten(0, 1) for pooling, table in tables}
        groups: list[str] = []
        for group in self.get_groups(split):
            groups += [group] * self.views
        return Frozen(feats, self.labels[units].repeat_interleave(self.views, 0), groups)


def extract_bench(
    encoder: EvaluatedEncoder,
    data: Manifest,
    options: FeatureOptions,
    names: Sequence[str] = ROWS,
    kind: str = "clips",
) -> Bench:
    """Features of the sources in `names`, read from the cache where it has them.

    `kind`: what is scored one by one, a name of benchmarks.features.units. Raises a UserError
    where the data set or the encoder does not suit, or where too many files cannot be read.
    """
    data = select_usable_rows(data, kind)
    joint = None
    if any(name.endswith(":joint") for name in names):
        joint = open_text_side(encoder.argument, options.words)
    text = Text(joint) if joint else None
    make_units = get_kind(kind).make_units
    if make_units is None:
        return open_stored_bench(encoder, data, options, text)
    units = make_units(data, encoder.net.spec, options.clips, options.crops)
    began = cpu_seconds()
    # Two tasks may name the same source in two ways.
    source_names = {name: resolve_alias(name) for name in names}
    extracted, gflops = extract_units(
        encoder, units, options, kind, list(source_names.values()), joint
    )
    rows, net = units.clips.row, encoder.net
    return Bench(
        data=data,
        row_of_unit=rows,
        position_of_unit=units.clips.locations,
        labels=units.labels,
        unreadable_files=list_unreadable_files(
            data, rows, extracted, options.max_bad, get_kind(kind).splits
        ),
        splits=split_units(rows, extracted.ok, data),
        features={name: extracted.features[source] for name, source in source_names.items()},
        spec=net.spec,
        grid=Grid(*net.grid(net.spec.frames, net.spec.size, net.spec.size)),
        cost={
            "cpu_s": cpu_seconds() - began,
            "extract_cpu_s": extracted.cpu_s,
            "gflops_per_clip": gflops,
        },
        seed=options.seed,
        views=options.views,
        text=text,
    )


def extract_units(
    encoder: EvaluatedEncoder,
    units: Units,
    options: FeatureOptions,
    kind: str,
    names: Sequence[str],
    joint: Joint | None,
) -> tuple[Extracted, float]:
    """(features of the named sources, GFLOPs of the encoder for a clip)."""
    unit_kind = get_kind(kind)
    net, untrained = prepare_nets(encoder, units.data, options)
    sources = make_sources(
        net,
        untrained,
        () if unit_kind.last_layer_only else encoder.layers,
        unit_kind.poolings or options.poolings,
        options.seed,
        sorted(set(names), key=lambda name: name.partition(":")),  # sharers of a pass, in a row
        units.regions,
        joint,
    )
    clips = units.clips
    gflops = announce_cost(net, sources, len(clips), clips.evaluate * clips.crops, options.cache)
    extracted = extract_from(
        clips,
        sources,
        options.cache,
        options.batch_size,
        options.workers,
        options.device,
        label=encoder.name,
        each=options.views > 1,
    )
    net.cpu()  # frees GPU memory before the next encoder
    return extracted, gflops


def prepare_nets(
    encoder: EvaluatedEncoder, data: Manifest, options: FeatureOptions
) -> tuple[Encoder, Encoder]:
    """The encoder and its untrained twin on the device, both with batch-norm statistics.

    Raises a UserError where the encoder has no statistics and --calibrate_bn is 0.
    """
    net = encoder.net.to(options.device)
    clips = None
    if options.calibrate_bn:
        clips = load_calibration_clips(data, net, options.calibrate_bn, options)
    ensure_statistics(net, encoder.argument, clips)
    untrained = create_twin(net)
    number = options.calibrate_bn or CALIBRATION_CLIPS
    calibrate(untrained, load_calibration_clips(data, net, number, options))
    return net, untrained


def load_calibration_clips(
    data: Manifest, net: Encoder, number: int, options: FeatureOptions
) -> Iterator[Tensor]:
    """Train clips on which batch norm is measured. A set without train clips gives any clips."""
    train = data.split("train")
    return some_clips(
        train if len(train) else data,
        net.spec,
        number,
        options.seed,
        options.batch_size,
        options.workers,
    )


def open_stored_bench(
    encoder: EvaluatedEncoder, data: Manifest, options: FeatureOptions, text: Text | None
) -> Bench:
    """A Bench of test videos whose features are stored, a row for each second.

    The tasks read these features by themselves: see stored.py.
    """
    began = cpu_seconds()
    rows = [row for row, video in enumerate(data.rows) if video.split == "test"]
    readable = find_readable_rows(data, rows, encoder.info.hash, encoder.argument)
    unreadable = [str(data.root / data.rows[row].features) for row in rows if row not in readable]
    check_bad_share(unreadable, len(rows), options.max_bad)
    net, spec = encoder.net, encoder.net.spec
    return Bench(
        data=data,
        row_of_unit=range(len(data)),
        position_of_unit=(),
        labels=data.labels.new_full((len(data),), -1),
        splits={"train": [], "val": [], "test": [row for row in rows if row in readable]},
        features={},
        unreadable_files=unreadable,
        spec=spec,
        grid=Grid(*net.grid(spec.frames, spec.size, spec.size)),
        cost={"cpu_s": cpu_seconds() - began},
        seed=options.seed,
        text=text,
    )


def resolve_alias(name: str) -> str:
    """The one name of a source: `shuffled:tokens` is `encoder/shuffled:tokens`.

    Pixels have no tokens, so their form is dropped.
    """
    row, colon, form = name.partition(":")
    row = ALIASES.get(row, row)
    return row if row.partition("/")[0] == "pixels" else row + colon + form


def list_unreadable_files(
    data: Manifest,
    rows: Sequence[int],
    extracted: Extracted,
    max_bad: float,
    splits: Sequence[str] = SPLITS,
) -> list[str]:
    """Files of which all or some units could not be read. `rows`: the row of each unit.

    Raises an error where they are more than the share `max_bad`.
    """
    rows_with_units = set(rows)  # a video without a readable second has no unit
    expected = {row for row, video in enumerate(data.rows) if video.split in splits}
    failed_units = (~extracted.ok).nonzero().flatten().tolist()
    bad_rows = {rows[unit] for unit in failed_units} | expected - rows_with_units
    unreadable = [str(data.path(row)) for row in sorted(bad_rows)]
    check_bad_share(unreadable, len(expected), max_bad)
    return unreadable


def check_bad_share(unreadable: Sequence[str], total: int, max_bad: float) -> None:
    """Raise an error where more than the share `max_bad` of `total` files cannot be read."""
    quarantine = Quarantine(None, total, max_bad)
    for path in unreadable:
        quarantine.add(path, None, "could not be read")
    quarantine.check()
