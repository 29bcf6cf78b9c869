"""Every tensor and record that is passed between modules is named here, and nowhere else.

B clips   V views of a clip   C channels   T frames   H W pixels   N tokens = t*h*w   D width
K visible tokens   M hidden tokens   P values per patch   S stored clips   Q classes   L layers
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
Index = Int[Tensor, "B K"]  # positions into N of the visible tokens
Labels = Int[Tensor, " _"] | Bool[Tensor, "_ Q"]  # the class of each clip, or all its classes
Dropped = Int[Tensor, "B M"]  # positions into N of the hidden tokens


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
    cls: Float[Tensor, "B T D"] | None = None  # class tokens of frames, of nets that export them


class Loss(NamedTuple):
    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]
    skip: bool = False  # True: no optimiser step (a queue that is not full yet)


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """How a clip is cut from a video: `frames` frames of `size` x `size` pixels.

    The frames lie `1/fps` seconds apart, or `stride` frames of the file apart, or are spread
    evenly over the `whole` video. Exactly one of the three is given.
    """

    frames: int = 16
    fps: float | None = None
    stride: int | None = None
    size: int = 224
    modality: str = "rgb"  # rgb | flow
    whole: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if not self.whole:
            # vars() of a spec goes into hashes that are older than this field, so False stays out.
            del self.__dict__["whole"]
        if self.modality not in ("rgb", "flow"):
            raise UserError(f"There is no modality {self.modality!r} of a clip: take rgb or flow.")
        if (self.fps is not None) + (self.stride is not None) + self.whole != 1:
            raise UserError(
                "A clip is spaced by fps or by stride, or spread over the whole video: "
                "give exactly one of the three."
            )
        numbers = [self.frames, self.size, self.fps, self.stride]
        if not all(number is None or number > 0 for number in numbers):
            raise UserError(
                f"The frames, size, fps and stride of a clip are more than 0, not {vars(self)}."
            )


@dataclass(frozen=True, kw_only=True)
class Bag:
    """A clip with several sentences spoken near it. Which of them describes the clip is unknown."""

    sentences: int = 4  # candidates of a clip, the sentence that it was cut around among them
    min_s: float = 5.0  # a shorter sentence is widened about its middle before a clip is cut


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A clip with a sentence of its video that describes the whole of it."""

    sentences: int = 1  # of each clip; a video of fewer has them again in turn

    def __post_init__(self) -> None:
        if self.sentences < 1:
            raise UserError(f"A clip has one caption or more, not {self.sentences}.")


@dataclass(frozen=True, kw_only=True)
class Questions:
    """A clip with questions about its video, and their answers."""

    questions: int = 1  # of each clip; a video of fewer has them again in turn

    def __post_init__(self) -> None:
        if self.questions < 1:
            raise UserError(f"A clip has one question or more, not {self.questions}.")


@dataclass(frozen=True, kw_only=True)
class Window:
    """Stored features of consecutive seconds, with the sentences spoken in them.

    No pixels are read.
    """

    seconds: int = 64
    can_encode: Callable[[str], bool] = bool  # whether the text tower has a word of the sentence


@dataclass(frozen=True, kw_only=True)
class Views:
    """What an objective takes from each video: its clips, their augmentation, its sentences."""

    clips: tuple[ClipSpec, ...] = ()  # of one video; empty where `text` is a Window
    augment: str = "none"  # a recipe's name in ssvid.data.augment.RECIPES
    # Bag and Window: of narrated videos
    text: Bag | Caption | Questions | Window | None = None
    # Group id of each clip. Clips with the same id share start time, crop and colour jitter.
    # Empty: every clip is its own group.
    clip_groups: tuple[int, ...] = ()
    # Largest distance in seconds between the starts of two groups; 0: the same start; None: any.
    max_gap_s: float | None = None
    # Whether every frame of a clip has to be one of the video. Elsewhere the last frame of a short
    # video is repeated.
    needs_all_frames: bool = False
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    # Whether training draws each frame of a `whole` clip apart, from its own part of the video.
    # Evaluation does not, so the field is in no name of cached features.
    independent_frames: bool = field(default=False, repr=False)
    # Whether training takes the middle clip of each video in every epoch, as evaluation does.
    middle_clip: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if self.independent_frames and self.middle_clip:
            raise UserError(
                "Frames that are drawn apart from each other make no middle clip: take one of the "
                "two."
            )
        if self.independent_frames:
            if not all(spec.whole for spec in self.clips):
                raise UserError(
                    "Frames that are drawn apart from each other need a clip over the whole "
                    "video: leave out --clip.fps and --clip.stride, or give --clip.whole true."
                )
            if self.max_gap_s is not None:
                raise UserError(
                    "Clips whose frames are drawn apart from each other have no start, so no "
                    "largest gap between their starts can be given."
                )

    @property
    def group_of_clip(self) -> tuple[int, ...]:
        """The group id of each clip, also where `clip_groups` is empty."""
        return self.clip_groups or tuple(range(len(self.clips)))


class Question(NamedTuple):
    """A question about a video, and what answers it."""

    text: str
    # Each answer and its weight in training. The first is the official one.
    answers: tuple[tuple[str, float], ...]
    choices: tuple[str, ...] = ()  # of a multiple-choice question; the answer is one of them
    kind: str = ""  # its type, as the list names it; for accuracies by type
    id: str = ""  # as the list names it


class Batch(TypedDict, total=False):
    clips: Tensor  # B V C T H W: uint8 from the loader; float32 and normalised on the device
    index: Tensor  # B, row of the manifest
    epoch: Tensor  # B
    label: Tensor  # B, -1 where there is none
    video_id: list[str]
    source: list[str]  # of a mixture: the name of the part that each clip comes from
    seed: int
    readable: Tensor  # of each requested sample: False if its file could not be read (evaluation)
    bad_files: list[tuple[str, float | None, str]]  # path, seconds, reason
    padded: int  # clips whose last frame was repeated
    dropped: int  # videos that were left out because they are too short
    # Every clip of a Bag, and every clip with captions, has the same number of sentences.
    sentences: list[list[str]]  # B, the sentences of each
    questions: list[list[Question]]  # B, as many of each clip as its Questions say
    # The rest belongs to narrated videos.
    spans_s: Tensor  # B K 2: start and end in seconds of the window; padding repeats the last row
    span_fractions: Tensor  # B K 2: the same as fractions of the whole video
    text_padding_mask: Tensor  # B K: True for rows that hold no sentence
    features: Tensor  # B T D, one per second: float16 from the loader, float32 on the device
    video_padding_mask: Tensor  # B T: True for seconds after the video's end


def take_first_sample(batch: Batch, views: int = 1) -> Batch:
    """The first video of a batch, with `views` of its clips and its random coordinates.

    Pictures of a run are drawn from it.
    """
    return {
        "clips": batch["clips"][:1, :views],
        "index": batch["index"][:1],
        "epoch": batch["epoch"][:1],
        "seed": batch["seed"],
    }


class Box(NamedTuple):
    """One person in one frame, with all actions of this person in that frame."""

    time_s: float  # in the file, not in the film that the file was cut from
    x0: float  # left, top, right, bottom as fractions of the frame's width and height
    y0: float
    x1: float
    y1: float
    labels: tuple[str, ...]
    person: str = ""  # an id that is the same in all frames, where the list has one


@dataclass(frozen=True)
class Row:
    """One clip of a manifest.

    A clip of one class has a `label`. A clip of several classes has `segments` or `boxes`, and
    its label is None.
    """

    path: str
    label: str | None = None
    split: str = "train"  # train | val | test
    group: str = ""  # clips of one group are never in two splits
    duration: float | None = None  # seconds, where a list states it
    fps: float | None = None  # of a folder of frames, which cannot state its own
    sentences: tuple[tuple[float, float, str], ...] = ()  # start s, end s, text; sorted by start
    features: str = ""  # a .npy file T D below the root, one row per second; see ssvid.data.store
    video_id: str = ""  # where a list states it; cuts of one film share it
    segments: tuple[tuple[float, float, str], ...] = ()  # start s, end s, class
    boxes: tuple[Box, ...] = ()
    columns: tuple[tuple[str, str], ...] = ()  # name and content of a list's other columns
    source: str = ""  # of a mixture: the name of the part that the clip comes from
    questions: tuple[Question, ...] = ()  # about the whole video

    @property
    def classes(self) -> frozenset[str]:
        """All classes of the label, the segments and the boxes."""
        names = set() if self.label is None else {self.label}
        names.update(name for _, _, name in self.segments)
        for box in self.boxes:
            names.update(box.labels)
        return frozenset(names)


class Frozen(NamedTuple):
    """Frozen features of one split. A probe sees nothing else."""

    # Pooling -> features S D, or tokens S N D. They may be float16 and memory-mapped.
    feats: dict[str, Float[Tensor, " S *D"]]
    # The class of each clip, or a table of the classes of each clip.
    labels: Int[Tensor, " S"] | Bool[Tensor, "S Q"]
    groups: list[str]
