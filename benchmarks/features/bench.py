"""encoder + labelled clips -> Bench: features of the encoder and of its controls.

Each clip is decoded once for the encoder and all controls. A Bench is all that a task sees.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from benchmarks.features.answer_side import Answerer, open_answers
from benchmarks.features.cost import (
    TWINS_MINUTES,
    Missing,
    announce_cost,
    count_affordable_twins,
    count_gflops,
    measure_pass,
)
from benchmarks.features.evaluated_encoder import EvaluatedEncoder
from benchmarks.features.folds import (
    count_val_folds,
    group_by_fold,
    read_fold_names,
    split_by_fold,
)
from benchmarks.features.nets import prepare_nets
from benchmarks.features.options import FeatureOptions
from benchmarks.features.sources import SourceMaker, SourceName
from benchmarks.features.stored import find_readable_rows
from benchmarks.features.text_side import Text, open_text_side
from benchmarks.features.units import Units, get_kind, select_usable_rows, split_units
from ssvid.data.manifest import SPLITS, Manifest
from ssvid.data.quarantine import Quarantine
from ssvid.engine.features import Extracted, count_missing_rows, cpu_seconds, extract_from
from ssvid.shapes import ClipSpec, Frozen, Grid, Labels
from ssvid.text.answering import AnswerSpace
from ssvid.text.joint import JointSpace


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
    features: Mapping[str, dict[str, Tensor]]
    unreadable_files: list[str]
    spec: ClipSpec
    grid: Grid  # of the encoder's tokens
    cost: dict[str, float]
    seed: int
    views: int = 1  # of a clip; more than one where scores are averaged
    other_streams: tuple["Bench", ...] = ()  # of the same videos, by other encoders
    text: Text | None = None  # the encoder's text side, where a task reads `:joint`
    answerer: Answerer | None = None  # what answers questions, where a task reads `:answers`
    twins: int = 1  # untrained nets that have features: sources twin0, twin1, ...
    notes: Sequence[str] = ()  # sentences that a table of its results has to say
    # Of each fold its splits, where every clip is test once; `splits` then has a test alone, in the
    # order of the folds.
    folds: tuple[dict[str, list[int]], ...] = ()
    refits: bool = False  # a probe is trained anew on train and val once val has chosen
    # Seed, splits and labels -> what the floor answered, which all copies of a Bench share; None:
    # nothing is kept.
    floors: dict[Any, Any] | None = None

    @property
    def streams(self) -> tuple["Bench", ...]:
        return self._replace(other_streams=()), *self.other_streams

    def hash_text_side(self) -> str | None:
        """Hash of what compares clips with sentences, or answers questions; None without it."""
        side = self.text or self.answerer
        return None if side is None else side.hash

    def list_folds(self) -> list["Bench"]:
        """A Bench for each fold, with the splits of that fold."""
        benches = []
        for number, splits in enumerate(self.folds):
            others = []
            for stream in self.other_streams:
                others.append(stream._replace(splits=stream.folds[number], folds=(), refits=True))
            fold = self._replace(splits=splits, folds=(), refits=True, other_streams=tuple(others))
            benches.append(fold)
        return benches

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


class Extraction(NamedTuple):
    """What `extract_units` gives besides the units."""

    extracted: Extracted
    gflops: float  # of the encoder for a clip
    twins: int
    notes: list[str]


def extract_bench(
    encoder: EvaluatedEncoder,
    data: Manifest,
    options: FeatureOptions,
    names: Sequence[str],
    kind: str = "clips",
) -> Bench:
    """Features of the sources in `names`, read from the cache where it has them.

    Sources of untrained twins that would cost too much are left out. `kind`: what is scored one by
    one, a name of benchmarks.features.units. Raises a UserError where the data set or the encoder
    does not suit, or where too many files cannot be read.
    """
    data = select_usable_rows(data, kind)
    joint = None
    if any(name.endswith(":joint") for name in names):
        joint = open_text_side(encoder.argument, options.words)
    text = Text(joint) if joint else None
    answers = None
    if any(name.endswith(":answers") for name in names):
        answers = open_answers(encoder.argument)
    make_units = get_kind(kind).make_units
    if make_units is None:
        return open_stored_bench(encoder, data, options, text)
    units = make_units(data, encoder.net.spec, options.clips, options.crops)
    began = cpu_seconds()
    extracted, gflops, twins, notes = extract_units(
        encoder, units, options, kind, names, joint, answers
    )
    rows, net = units.clips.row, encoder.net
    bench = Bench(
        data=data,
        row_of_unit=rows,
        position_of_unit=units.clips.locations,
        labels=units.labels,
        unreadable_files=list_unreadable_files(
            data, rows, extracted, options.max_bad, get_kind(kind).splits
        ),
        splits=split_units(rows, extracted.ok, data),
        features=extracted.features,
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
        answerer=None if answers is None else Answerer(answers),
        twins=twins,
        notes=notes,
        floors={},
    )
    return bench if options.folds is None else split_into_folds(bench, options.folds, extracted.ok)


def split_into_folds(bench: Bench, column: str, readable: Tensor) -> Bench:
    """The same features, with the splits of every fold. `readable`: of each unit."""
    names = read_fold_names(bench.data, column)
    bench = bench._replace(data=group_by_fold(bench.data, names))
    number, folds = len(set(names)), []
    for fold in range(number):
        of_fold = split_by_fold(bench.data, names, fold)
        folds.append(split_units(bench.row_of_unit, readable, of_fold))
    test: list[int] = []
    for splits in folds:
        test += splits["test"]
    val = count_val_folds(number)
    note = (
        f"Each of the {number} values of the column {column} is test once; {val} of the others "
        f"{'is' if val == 1 else 'are'} val, and probes are trained anew on train and val."
    )
    if val == 1:
        note += " A val of one group chooses badly."
    return bench._replace(
        splits={"train": [], "val": [], "test": test},
        folds=tuple(folds),
        notes=[*bench.notes, note],
    )


def extract_units(
    encoder: EvaluatedEncoder,
    units: Units,
    options: FeatureOptions,
    kind: str,
    names: Sequence[str],
    joint: JointSpace | None,
    answers: AnswerSpace | None = None,
) -> Extraction:
    """The features of the named sources, and how many untrained twins have any."""
    unit_kind, clips = get_kind(kind), units.clips
    nets, notes = prepare_nets(encoder, units.data, options)
    layers = () if unit_kind.last_layer_only else encoder.layers
    poolings = unit_kind.poolings or options.poolings
    maker = SourceMaker(nets, layers, poolings, options.seed, units.regions, joint, answers)
    sources, keep_views = maker.make_all(names), options.views > 1
    rows = count_missing_rows(clips, sources, options.cache, keep_views)
    missing, twins = Missing(rows, clips.evaluate * clips.crops), options.twins
    if any(rows.values()):
        pass_s = measure_pass(maker.encoder, options.batch_size)
        twins = count_affordable_twins(missing, names, options.twins, pass_s)
        sources = [
            source for source in sources if (SourceName.parse(source.name).twin or 0) < twins
        ]
        wanted = [source.name for source in sources]
        announce_cost(missing, wanted, maker, pass_s, options, twins)
    if twins < options.twins:
        notes.append(
            f"{twins} of {options.twins} untrained twins: the features of more would cost more "
            f"than {TWINS_MINUTES:g} minutes."
        )
    extracted = extract_from(
        clips,
        sources,
        options.cache,
        options.batch_size,
        options.workers,
        options.device,
        label=encoder.name,
        each=keep_views,
    )
    gflops = count_gflops(maker.encoder)
    encoder.net.cpu()  # frees GPU memory before the next encoder
    return Extraction(extracted, gflops, twins, notes)


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
        twins=options.twins,
    )


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
