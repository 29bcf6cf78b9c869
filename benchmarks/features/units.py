"""data set -> Units: what a task scores one by one (clips, seconds of videos, people in boxes), and their labels."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from benchmarks.features.captions import Captions, Tested
from benchmarks.features.person_boxes import People
from benchmarks.features.regions import Regions
from benchmarks.features.windows import Windows
from ssvid.data.clips import Clips
from ssvid.data.manifest import SPLITS, Manifest, select_labelled
from ssvid.data.seconds import Seconds
from ssvid.engine.features import evaluation
from ssvid.errors import UserError
from ssvid.shapes import ClipSpec, Labels, Row

ONE = "one class"
TESTED = ("test",)


class Units(NamedTuple):
    data: Manifest
    clips: Clips  # unit -> its clip
    labels: Labels
    regions: Regions | None = None  # where a unit is a part of its clip's frames


def clips(kept: Manifest, spec: ClipSpec, views: int, crops: int) -> Units:
    return Units(kept, evaluation(kept, spec, views, "pad", crops), kept.labels)


def windows(kept: Manifest, spec: ClipSpec, views: int, crops: int) -> Units:
    """Overlapping windows over the whole of each video, centre cropped."""
    single(views, crops, "window")
    found = Windows(kept, spec)
    return Units(kept, found, kept.labels[found.row])


def ten_crops(kept: Manifest, spec: ClipSpec, views: int, crops: int) -> Units:
    """The same, those of test in ten crops each."""
    single(views, crops, "window")
    found = Windows(kept, spec, ten=("test",))
    return Units(kept, found, kept.labels[found.row])


def several(kept: Manifest, spec: ClipSpec, views: int, crops: int) -> Units:
    return Units(kept, evaluation(kept, spec, views, "pad", crops), kept.targets)


def seconds(kept: Manifest, spec: ClipSpec, views: int, crops: int) -> Units:
    """A second holds the classes whose segments cover its middle."""
    single(views, crops, "second")
    found = Seconds(kept, spec)
    names = [
        {name for start, end, name in kept.rows[row].segments if start <= second + 0.5 < end}
        for row, (second,) in zip(found.row, found.locations, strict=True)
    ]
    return Units(kept, found, table(names, kept.classes))


def boxes(kept: Manifest, spec: ClipSpec, views: int, crops: int) -> Units:
    """A box holds the classes of all that its person does."""
    single(views, crops, "box")
    found = People(kept, spec)
    names = [box.labels for row in kept.rows for box in sorted(row.boxes)]
    return Units(kept, found, table(names, kept.classes), Regions(found.row, found.locations))


def named(kept: Manifest, spec: ClipSpec, views: int, crops: int) -> Units:
    """Test clips alone: nothing is learnt from the others."""
    found = Tested(kept, spec, views, crops)
    return Units(kept, found, kept.labels[found.row])


def captions(kept: Manifest, spec: ClipSpec, views: int, crops: int, windows: int = 1) -> Units:
    """Test captions, whose one right answer is their own segment: no class."""
    single(views, crops, "caption")
    found = Captions(kept, spec, windows)
    return Units(kept, found, kept.labels.new_full((len(found),), -1))


class Kind(NamedTuple):
    wants: str  # of a row, in words
    has: Callable[[Row], object]  # that a row has it
    make: (
        Callable[[Manifest, ClipSpec, int, int], Units] | None
    )  # None: of stored features, no clips
    poolings: tuple[str, ...] | None = None  # of tokens; None: as the user asks
    last: bool = False  # layer alone; else as the user asks
    splits: tuple[str, ...] = SPLITS  # that are read; the others may be empty


SAID: Any = {
    "poolings": ("pooled",),
    "last": True,
    "splits": TESTED,
}  # what a text side was trained beside
KINDS = {
    "clips": Kind(ONE, lambda row: row.label, clips),
    "windows": Kind(ONE, lambda row: row.label, windows, ("mean",), last=True),  # as CoCLR has them
    "ten_crops": Kind(ONE, lambda row: row.label, ten_crops, ("mean",), last=True),
    "several": Kind(
        "classes", lambda row: row.classes, several
    ),  # Charades' own evaluation leaves clips of none out
    "seconds": Kind(
        "segments", lambda row: row.segments, seconds, ("mean",)
    ),  # of a long video each second is a row
    "boxes": Kind("boxes", lambda row: row.boxes, boxes, ("box", "slots")),
    "named": Kind("a label", lambda row: row.label, named, **SAID),
    "captions": Kind("captions", lambda row: row.sentences, captions, **SAID),
    "narrations": Kind(
        "sentences and stored features", lambda row: row.sentences and row.features, None, **SAID
    ),
}


def kind_of(name: str) -> Kind:
    """`captions:10`: of so many windows each."""
    name, _, windows = name.partition(":")
    kind = KINDS[name]
    return kind._replace(make=partial(captions, windows=int(windows))) if windows else kind


def keep(data: Manifest, kind: str) -> Manifest:
    """The rows that units of this kind come from, or one sentence of what is wanting."""
    wants, has, *_, splits = kind_of(kind)
    if wants == ONE:
        return select_labelled(data)
    kept = data.take([i for i, row in enumerate(data.rows) if has(row)])
    for split in splits:
        if not len(kept.split(split)):
            raise UserError(
                f"{data.root} has no clips with {wants} in the {split} split, which this task asks about."
            )
    if splits == TESTED:  # nothing is learnt
        return kept
    train, test = (
        set().union(*(row.classes for row in kept.split(split).rows)) for split in ("train", "test")
    )
    if unseen := sorted(test - train):
        raise UserError(
            f"{data.root}: test has classes that train lacks ({', '.join(unseen[:3])}): mend the labels."
        )
    return kept


def table(held: Sequence[Iterable[str]], classes: Sequence[str]) -> Bool[Tensor, "S Q"]:
    ids = {name: i for i, name in enumerate(classes)}
    found = torch.zeros(len(held), len(ids), dtype=torch.bool)
    for row, names in zip(found, held, strict=True):
        row[[ids[name] for name in names]] = True
    return found


def single(views: int, crops: int, unit: str) -> None:
    if views * crops > 1:
        raise UserError(
            f"A {unit} is seen in one clip: this task takes no --clips or --crops beyond 1."
        )


def places(rows: Sequence[int], good: Tensor, data: Manifest) -> dict[str, list[int]]:
    """Units of each split that could be read."""
    return {
        s: [i for i, row in enumerate(rows) if good[i] and data.rows[row].split == s]
        for s in SPLITS
    }
