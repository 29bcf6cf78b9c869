"""data set -> Units: what a task scores one by one, with labels.

A unit is a clip, a window, a second of a video, a person's box or a caption. `KINDS` lists them.
"""

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

ONE_CLASS = "one class"
TEST_ONLY = ("test",)


class Units(NamedTuple):
    data: Manifest
    clips: Clips  # unit -> its clip
    labels: Labels
    regions: Regions | None = None  # where a unit is a region of its clip's frames


def make_clip_units(data: Manifest, spec: ClipSpec, views: int, crops: int) -> Units:
    return Units(data, evaluation(data, spec, views, "pad", crops), data.labels)


def make_window_units(data: Manifest, spec: ClipSpec, views: int, crops: int) -> Units:
    """Overlapping windows over the whole of each video, centre cropped."""
    require_single_view(views, crops, "window")
    windows = Windows(data, spec)
    return Units(data, windows, data.labels[windows.row])


def make_ten_crop_units(data: Manifest, spec: ClipSpec, views: int, crops: int) -> Units:
    """The same windows; each window of a test video is cut in ten ways."""
    require_single_view(views, crops, "window")
    windows = Windows(data, spec, ten=("test",))
    return Units(data, windows, data.labels[windows.row])


def make_multi_label_units(data: Manifest, spec: ClipSpec, views: int, crops: int) -> Units:
    """Clips, each with the table row of all its classes."""
    return Units(data, evaluation(data, spec, views, "pad", crops), data.targets)


def make_second_units(data: Manifest, spec: ClipSpec, views: int, crops: int) -> Units:
    """Seconds of videos. A second has the classes whose segments cover its middle."""
    require_single_view(views, crops, "second")
    seconds = Seconds(data, spec)
    classes = []
    for row, (second,) in zip(seconds.row, seconds.locations, strict=True):
        middle = second + 0.5
        segments = data.rows[row].segments
        classes.append({name for start, end, name in segments if start <= middle < end})
    return Units(data, seconds, build_class_table(classes, data.classes))


def make_box_units(data: Manifest, spec: ClipSpec, views: int, crops: int) -> Units:
    """Boxes of people. A box has the classes of all actions of its person."""
    require_single_view(views, crops, "box")
    people = People(data, spec)
    classes: list[tuple[str, ...]] = []
    for row in data.rows:
        classes += [box.labels for box in sorted(row.boxes)]
    labels = build_class_table(classes, data.classes)
    return Units(data, people, labels, Regions(people.row, people.locations))


def make_test_units(data: Manifest, spec: ClipSpec, views: int, crops: int) -> Units:
    """Test clips only, for tasks that learn nothing from the other splits."""
    clips = Tested(data, spec, views, crops)
    return Units(data, clips, data.labels[clips.row])


def make_caption_units(
    data: Manifest, spec: ClipSpec, views: int, crops: int, windows: int = 1
) -> Units:
    """Test captions. The only right answer to a caption is its own segment: there is no class."""
    require_single_view(views, crops, "caption")
    captions = Captions(data, spec, windows)
    return Units(data, captions, data.labels.new_full((len(captions),), -1))


MakeUnits = Callable[[Manifest, ClipSpec, int, int], Units]


class Kind(NamedTuple):
    """What a kind of unit needs of a data set, and how its features are pooled."""

    requirement: str  # what a row of the data set must have, in words
    is_usable: Callable[[Row], object]  # whether a row has it
    make_units: MakeUnits | None  # None: the data set stores features, no clip is read
    poolings: tuple[str, ...] | None = None  # of tokens; None: as the user chooses
    last_layer_only: bool = False  # False: the layers that the user chooses
    splits: tuple[str, ...] = SPLITS  # that are read; the others may be empty


# A text side was trained on the pooled vector of the last layer.
OF_TEXT: Any = {"poolings": ("pooled",), "last_layer_only": True, "splits": TEST_ONLY}
OF_WINDOWS: Any = {"poolings": ("mean",), "last_layer_only": True}  # as CoCLR has them
# The names are part of the hashes of results.
KINDS = {
    "clips": Kind(ONE_CLASS, lambda row: row.label, make_clip_units),
    "windows": Kind(ONE_CLASS, lambda row: row.label, make_window_units, **OF_WINDOWS),
    "ten_crops": Kind(ONE_CLASS, lambda row: row.label, make_ten_crop_units, **OF_WINDOWS),
    # Charades' own evaluation leaves out clips without a class.
    "several": Kind("classes", lambda row: row.classes, make_multi_label_units),
    # One pooling only, because each second of a long video is a row of features.
    "seconds": Kind("segments", lambda row: row.segments, make_second_units, ("mean",)),
    "boxes": Kind("boxes", lambda row: row.boxes, make_box_units, ("box", "slots")),
    "named": Kind("a label", lambda row: row.label, make_test_units, **OF_TEXT),
    "questioned": Kind("questions", lambda row: row.questions, make_test_units, **OF_TEXT),
    "captions": Kind("captions", lambda row: row.sentences, make_caption_units, **OF_TEXT),
    "narrations": Kind(
        "sentences and stored features", lambda row: row.sentences and row.features, None, **OF_TEXT
    ),
}


def get_kind(name: str) -> Kind:
    """The kind of this name. `captions:10` are captions with ten windows each."""
    name, _, windows = name.partition(":")
    kind = KINDS[name]
    if not windows:
        return kind
    return kind._replace(make_units=partial(make_caption_units, windows=int(windows)))


def select_usable_rows(data: Manifest, kind: str) -> Manifest:
    """The rows that units of this kind come from.

    Raises a UserError where a split has no such row, or where test has a class that train lacks.
    """
    requirement, is_usable, *_, splits = get_kind(kind)
    if requirement == ONE_CLASS:
        return select_labelled(data)
    usable = data.take([i for i, row in enumerate(data.rows) if is_usable(row)])
    for split in splits:
        if not len(usable.split(split)):
            raise UserError(
                f"{data.title} has no clips with {requirement} in the {split} split, and this task "
                "needs them."
            )
    if splits == TEST_ONLY:  # nothing is learnt, so train may lack classes
        return usable
    unseen = sorted(list_classes(usable, "test") - list_classes(usable, "train"))
    if unseen:
        raise UserError(
            f"{data.title}: test has classes that train lacks ({', '.join(unseen[:3])}): correct "
            "the labels."
        )
    return usable


def list_classes(data: Manifest, split: str) -> set[str]:
    return set().union(*(row.classes for row in data.split(split).rows))


def build_class_table(
    classes_of_units: Sequence[Iterable[str]], classes: Sequence[str]
) -> Bool[Tensor, "S Q"]:
    """True where a unit has a class."""
    number_of_class = {name: q for q, name in enumerate(classes)}
    table = torch.zeros(len(classes_of_units), len(number_of_class), dtype=torch.bool)
    for row, names in zip(table, classes_of_units, strict=True):
        row[[number_of_class[name] for name in names]] = True
    return table


def require_single_view(views: int, crops: int, unit: str) -> None:
    if views * crops > 1:
        raise UserError(
            f"A {unit} is seen in one clip: this task takes no --clips or --crops beyond 1."
        )


def split_units(rows: Sequence[int], readable: Tensor, data: Manifest) -> dict[str, list[int]]:
    """Split -> its units that could be read. `rows`: the row of each unit in the data set."""
    splits: dict[str, list[int]] = {split: [] for split in SPLITS}
    for unit, row in enumerate(rows):
        if readable[unit]:
            splits[data.rows[row].split].append(unit)
    return splits
