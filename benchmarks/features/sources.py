"""row of a result -> its sources, each a frozen function of clips.

A source is a net (or none, for pixels), a change of the clip and a form of the features:
`encoder/shuffled:tokens`. This is the only file that makes these functions and the keys under
which their values are cached.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from benchmarks.features import descriptors
from benchmarks.features.controls import (
    blank_frames,
    list_still_clips,
    repeat_middle_frame,
    reverse_frames,
    shuffle_frames,
)
from benchmarks.features.pooling import halve_tokens, pool
from benchmarks.features.regions import Regions
from benchmarks.features.text_side import hash_joint
from ssvid.encoder import Encoder
from ssvid.engine.features import Source
from ssvid.errors import UserError
from ssvid.shapes import Features
from ssvid.text.answering import AnswerSpace
from ssvid.text.joint import JointSpace

VERSION = 1  # of poolings; raise it to compute all cached features of nets again
CONTROLS = (
    "random",
    "floor",
    "single_frame",
    "bag",
    "shuffled",
    "random_single_frame",
    "random_shuffled",
)
ROWS = ("encoder", *CONTROLS)
# Rows of a probe that reads tokens, which fill the disk.
TOKEN_ROWS = ("encoder", "random", "floor", "single_frame", "shuffled")
FRAME_TWINS = 2  # twins whose clips are changed
BAG = "bag"
# Changes of a clip, by the name that they have in the name of a source.
CHANGES = {
    "single_frame": repeat_middle_frame,
    "shuffled": shuffle_frames,
    "reversed": reverse_frames,
    "blank": blank_frames,
}


def list_sources(row: str, twins: int) -> list[str]:
    """The sources of a row of a result, without a form. `twins`: untrained nets at hand."""
    if row == "random":
        return [f"twin{number}" for number in range(twins)]
    if row == "floor":
        return ["pixels"]
    if row.startswith("random_"):
        change = row.removeprefix("random_")
        return [f"twin{number}/{change}" for number in range(min(twins, FRAME_TWINS))]
    return [f"encoder/{row}" if row in CONTROLS or row in CHANGES else row]


def choose_layers(net: Encoder, layers: Literal["auto", "last"] | list[int]) -> tuple[int, ...]:
    """The layers to read beside the last. `auto` is the middle one, where the encoder has layers.

    Raises a UserError for a layer that the encoder does not give.
    """
    if layers == "last" or (layers == "auto" and (not net.has_layers or net.depth < 2)):
        return ()
    if layers == "auto":
        return (net.depth // 2,)
    if not net.has_layers or not set(layers) <= set(range(1, net.depth + 1)):
        available = f"1 to {net.depth}" if net.has_layers else "last only"
        raise UserError(f"{net.name} can give layers {available}.")
    return tuple(layers)


class SourceName(NamedTuple):
    """The parts of a name such as encoder/shuffled:tokens."""

    net: str  # encoder, twin0, twin1, ... or pixels
    change: str  # of the clip, BAG or a key of CHANGES; "" for none
    form: str  # tokens, joint or answers; "" for pooled features

    @classmethod
    def parse(cls, text: str) -> "SourceName":
        path, _, form = text.partition(":")
        net, _, change = path.partition("/")
        return cls(net, change, form)

    @property
    def text(self) -> str:
        change = f"/{self.change}" if self.change else ""
        return self.net + change + (f":{self.form}" if self.form else "")

    @property
    def twin(self) -> int | None:
        """The number of its untrained net; None for the encoder and for pixels."""
        return int(self.net.removeprefix("twin")) if self.net.startswith("twin") else None


@dataclass(frozen=True)
class FrozenNet:
    """A net that is built when it is first needed.

    `key`: all that its features depend on besides the clip. Cached features are named by it.
    """

    key: str
    build: Callable[[], Encoder]

    @cached_property
    def net(self) -> Encoder:
        # Features are extracted in inference mode, whose tensors cannot be changed outside of it.
        with torch.inference_mode(False):
            return self.build()


class SourceMaker:
    """Source name -> frozen function of clips. Several forms of a name share a pass of the net.

    `regions`: the boxes of each clip, where a task scores boxes. `joint`: the encoder's text side,
    where a task uses sentences. `answers`: what answers questions, where a task asks them.
    """

    def __init__(
        self,
        nets: Mapping[str, FrozenNet],
        layers: tuple[int, ...],
        poolings: tuple[str, ...],
        seed: int,
        regions: Regions | None = None,
        joint: JointSpace | None = None,
        answers: AnswerSpace | None = None,
    ) -> None:
        self.nets, self.layers, self.poolings, self.seed = nets, layers, poolings, seed
        self.regions, self.joint, self.answers = regions, joint, answers
        # Of the newest pass: its net, change and layers, its clip, and its features.
        self.newest: tuple[tuple[str, str, tuple[int, ...]], Tensor, Features] | None = None

    @property
    def encoder(self) -> Encoder:
        return self.nets["encoder"].net

    def make_all(self, names: Sequence[str]) -> list[Source]:
        """A source for each name. Raises a UserError for a form of boxes, which have none."""
        # Sharers of a pass follow each other.
        ordered = sorted(set(names), key=lambda name: name.partition(":"))
        return [self.make(name) for name in ordered]

    def make(self, text: str) -> Source:
        name = SourceName.parse(text)
        if self.regions is None:
            return self.make_clip_source(name)
        if name.form:
            raise UserError(
                f"Boxes have pooled features only, no tokens ({text}): choose a probe that "
                "reads vectors."
            )
        return self.make_box_source(name, self.regions)

    def make_clip_source(self, name: SourceName) -> Source:
        def run(clip: Tensor, index: Tensor) -> dict[str, Tensor]:
            if name.net == "pixels":
                return descriptors.describe_pixels(self.change_clip(name, clip, index))
            if name.form == "joint":
                assert self.joint is not None
                features = self.pass_once(name, clip, index, self.joint.layers or self.layers)
                return self.joint.read_clips(features)
            features = self.pass_once(name, clip, index, self.layers)
            if name.form == "answers":
                assert self.answers is not None
                return self.answers.read_clips(features)
            if name.form:
                return halve_tokens(features, self.layers)
            return pool(features, self.layers, self.poolings)

        return Source(name.text, self.build_key(name) + self.build_change_key(name), run)

    def make_box_source(self, name: SourceName, regions: Regions) -> Source:
        def run(clip: Tensor, index: Tensor) -> dict[str, Tensor]:
            index = index.cpu()
            first_row, lead, clip_of_box = regions.find_shared_clips(index)
            shared = clip[first_row]
            if name.net == "pixels":
                changed = self.change_clip(name, shared, lead)
                return descriptors.describe_pixels(regions.cut_boxes(changed, index, clip_of_box))
            features = self.run_net(name, shared, lead, self.layers)
            return regions.pool(features, self.layers, index, clip_of_box)

        if name.net == "pixels":
            key = self.build_key(name)
        else:
            key = f"{self.nets[name.net].key} {self.layers} version {VERSION}"
        return Source(name.text, f"boxes {key}{self.build_change_key(name)}", run)

    def change_clip(self, name: SourceName, clip: Tensor, index: Tensor) -> Tensor:
        return CHANGES[name.change](clip, index, self.seed) if name.change else clip

    def run_net(
        self, name: SourceName, clip: Tensor, index: Tensor, layers: tuple[int, ...]
    ) -> Features:
        """The features of a changed clip; for BAG the average over its still clips."""
        is_bag = name.change == BAG
        clips = list_still_clips(clip) if is_bag else [self.change_clip(name, clip, index)]
        net = self.nets[name.net].net
        passes = [net(net.normalise(changed), layers=layers or None) for changed in clips]
        return average_features(passes)

    def pass_once(
        self, name: SourceName, clip: Tensor, index: Tensor, layers: tuple[int, ...]
    ) -> Features:
        """The features of a source, from the newest pass if that was of the same net and clip."""
        newest, wanted = self.newest, (name.net, name.change, layers)
        if newest is None or newest[0] != wanted or newest[1] is not clip:
            features = self.run_net(name, clip, index, layers)
            self.newest = newest = (wanted, clip, features)
        return newest[2]

    def build_key(self, name: SourceName) -> str:
        if name.net == "pixels":
            return f"pixels version {descriptors.VERSION}"
        if name.form == "joint":
            assert self.joint is not None
            form = f"joint {hash_joint(self.joint)}"
        elif name.form == "answers":
            form = "answers"  # the encoder's own tokens, whatever reads them
        elif name.form:
            form = f"tokens {self.layers}"
        else:
            form = f"{self.layers} {self.poolings}"
        return f"{self.nets[name.net].key} {form} version {VERSION}"

    def build_change_key(self, name: SourceName) -> str:
        """The end of a key: how clips are changed, and the seed where the change is drawn."""
        if not name.change:
            return ""
        return f" {name.change}" + f" {self.seed}" * (name.change == "shuffled")


def average_features(passes: Sequence[Features]) -> Features:
    """The average over passes of one net through clips of one shape."""
    first, *others = passes
    if not others:
        return first
    tokens, pooled, layers = first.tokens, first.pooled, list(first.layers)
    cls = first.cls
    for features in others:
        tokens, pooled = tokens + features.tokens, pooled + features.pooled
        if cls is not None and features.cls is not None:
            cls = cls + features.cls
        for i, of_layer in enumerate(features.layers):
            layers[i] = layers[i] + of_layer
    count = len(passes)
    averages = tuple(of_layer / count for of_layer in layers)
    cls = None if cls is None else cls / count
    return Features(tokens / count, pooled / count, first.grid, averages, cls)
