"""Every tensor and record that crosses a file boundary is named here, and nowhere else.

B clips   V views of a clip   C channels   T frames   H W pixels   N tokens = t*h*w   D width
K kept tokens   M masked tokens   P values per patch   S stored clips   Q classes   L layers
Of narrated videos: T seconds of a window   K its sentences   W words of a sentence
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssvid.errors import UserError

Clip = Float[Tensor, "B C T H W"]  # normalised pixels
Tokens = Float[Tensor, "B N D"]  # time-major: n = (t*h + y)*w + x
Pooled = Float[Tensor, "B D"]
Index = Int[Tensor, "B K"]  # positions into N of the kept tokens
Labels = Int[Tensor, " _"] | Bool[Tensor, "_ Q"]  # one class of each clip; or all that it holds
Dropped = Int[Tensor, "B M"]  # and of the others


class Grid(NamedTuple):
    t: int
    h: int
    w: int

    @property
    def n(self) -> int:
        return self.t * self.h * self.w


class Features(NamedTuple):
    tokens: Tokens
    pooled: Pooled
    grid: Grid
    layers: tuple[Tokens, ...] = ()


class Loss(NamedTuple):
    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]
    skip: bool = False  # True: no optimiser step (a queue that is not full yet)


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """`frames` frames, `size` pixels square: `1/fps` seconds or `stride` of the file's own frames apart, or spread
    evenly over the `whole` video."""

    frames: int = 16
    fps: float | None = None
    stride: int | None = None
    size: int = 224
    modality: str = "rgb"  # rgb | flow
    whole: bool = field(
        default=False, repr=False
    )  # without fps and stride the other fields say it as well

    def __post_init__(self) -> None:
        if not self.whole:
            del self.__dict__[
                "whole"
            ]  # the class says it: vars() goes into hashes and files older than this field
        if self.modality not in ("rgb", "flow"):
            raise UserError(f"There is no modality {self.modality!r} of a clip: take rgb or flow.")
        if (self.fps is not None) + (self.stride is not None) + self.whole != 1:
            raise UserError(
                "A clip is spaced by fps or by stride, or spread over the whole video: give exactly one of the three."
            )
        if (
            self.frames < 1
            or self.size < 1
            or not (self.fps is None or self.fps > 0)
            or not (self.stride is None or self.stride > 0)
        ):
            raise UserError(
                f"The frames, size, fps and stride of a clip are more than 0, not {vars(self)}."
            )


@dataclass(frozen=True, kw_only=True)
class Bag:
    """A clip around a sentence of the narration, with the sentences spoken near it: which of them fits is not known."""

    sentences: int = 4  # candidates of a clip, the sentence itself among them
    least_s: float = 5.0  # a shorter sentence is widened about its middle to so many seconds before a clip is cut


@dataclass(frozen=True, kw_only=True)
class Window:
    """Stored features of consecutive seconds, with the sentences spoken in them. No pixels are read."""

    seconds: int = 64
    knows: Callable[[str], bool] = bool  # that the text tower makes something of a sentence


@dataclass(frozen=True, kw_only=True)
class Views:
    """What an objective eats: which clips of a video, cut how, changed how, normalised how; and what is said there."""

    clips: tuple[ClipSpec, ...] = ()  # of the same video; (): none, where `text` is a Window
    augment: str = "none"  # a recipe's name in ssvid.data.augment.RECIPES
    text: Bag | Window | None = None  # of narrated videos
    moments: tuple[
        int, ...
    ] = ()  # of each clip: those of one share start, cut and colours; (): each its own
    apart_s: float | None = (
        None  # most seconds between the starts of two moments; 0: the same; None: anywhere
    )
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    @property
    def moment(self) -> tuple[int, ...]:
        """Of each clip: its number among what is drawn once."""
        return self.moments or tuple(range(len(self.clips)))


class Batch(TypedDict, total=False):
    clips: Tensor  # B V C T H W: uint8 from the loader, float32 and normalised once on the device
    index: Tensor  # B, row of the manifest
    epoch: Tensor  # B
    label: Tensor  # B, -1 where there is none
    video_id: list[str]
    seed: int
    ok: Tensor  # of each sample asked for: False where its file could not be read (evaluation only)
    bad: list[tuple[str, float | None, str]]  # files that could not be read: path, seconds, why
    padded: int  # clips whose last frame was repeated
    dropped: int  # videos left out because they are too short
    # Of narrated videos. Of a Bag each clip has as many sentences.
    sentences: list[list[str]]  # B, the sentences of each
    spans: Tensor  # B K 2: start and end in seconds of the window; rows past a window's own repeat its last one
    places: Tensor  # B K 2: likewise, in shares of the whole video
    unspoken: Tensor  # B K: True for the rows that only fill up
    features: Tensor  # B T D: of each second, float16 from the loader, float32 on the device; the last one repeated
    ended: Tensor  # B T: True for the seconds past the video's end


def first_sample(batch: Batch, views: int = 1) -> Batch:
    """The first clip of a batch with its coordinates, for pictures; `views`: so many clips of its video."""
    return {
        "clips": batch["clips"][:1, :views],
        "index": batch["index"][:1],
        "epoch": batch["epoch"][:1],
        "seed": batch["seed"],
    }


class Box(NamedTuple):
    """One person in one frame, and all that this person does there."""

    time_s: float  # of the file, not of the film it is cut from
    x0: float  # left, top, right, bottom: shares of the frame's width and height, 0 to 1
    y0: float
    x1: float
    y1: float
    labels: tuple[str, ...]
    person: str = ""  # the same one through the clip, where a list says so


@dataclass(frozen=True)
class Row:
    """One clip of a manifest. One class is its `label`; several are in `segments` or `boxes`, and label is None."""

    path: str
    label: str | None = None
    split: str = "train"  # train | val | test
    group: str = ""  # clips of one group never stand in two splits
    duration: float | None = None  # seconds, where a list states it
    fps: float | None = None  # of a folder of frames, which cannot state its own
    sentences: tuple[tuple[float, float, str], ...] = field(
        default=()
    )  # start s, end s, text; in order of start
    features: str = ""  # a stored feature for each second: a .npy file of T D below the root, see ssvid.data.store
    video_id: str = ""  # where a list states it: cuts of one film share it
    segments: tuple[tuple[float, float, str], ...] = field(default=())  # start s, end s, class
    boxes: tuple[Box, ...] = field(default=())

    @property
    def classes(self) -> frozenset[str]:
        """Of the label, the segments and the boxes."""
        own = () if self.label is None else (self.label,)
        return frozenset(
            (
                *own,
                *(s[2] for s in self.segments),
                *(name for box in self.boxes for name in box.labels),
            )
        )


class Frozen(NamedTuple):
    """Frozen features of one split, all a probe ever sees."""

    feats: dict[
        str, Float[Tensor, " S *D"]
    ]  # pooling -> features S D, or tokens S N D; float16 and memory-mapped too
    labels: (
        Int[Tensor, " S"] | Bool[Tensor, "S Q"]
    )  # one class of each; or those that it holds, any number
    groups: list[str]
