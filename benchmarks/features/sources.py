"""encoder, its untrained twin -> the rows of a result, each a frozen function of clips.

This is the only file that makes these functions and the keys under which their values are cached.
"""

import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.features.controls import (
    describe_pixels,
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
from ssvid.log import log
from ssvid.shapes import Features
from ssvid.text.joint import Joint
from ssvid.weights.encoders import hash_encoder

VERSION = 1  # of poolings and pixel features; raise it to compute all cached features again
CONTROLS = ("random", "pixels", "single_frame", "shuffled")
ROWS = ("encoder", *CONTROLS)
# Changes of a clip, by the name that they have in the name of a row.
CHANGES = {
    "single_frame": repeat_middle_frame,
    "shuffled": shuffle_frames,
    "reversed": reverse_frames,
}
# Rows that are the encoder itself on changed clips.
ALIASES = {"single_frame": "encoder/single_frame", "shuffled": "encoder/shuffled"}


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


def make_sources(
    net: Encoder,
    untrained: Encoder,
    layers: tuple[int, ...],
    poolings: tuple[str, ...],
    seed: int,
    names: Sequence[str],
    regions: Regions | None = None,
    joint: Joint | None = None,
) -> list[Source]:
    """A Source for each of the row names. Its key names its files in the feature cache.

    `names` are encoder, random or pixels; with a change of the clip, as in encoder/reversed; and
    with a form, as in encoder/reversed:tokens or encoder:joint. The form `joint` gives clips in
    the space that they share with sentences.
    `regions`: the boxes of each clip, where a task scores boxes. `joint`: the encoder's text side,
    where a task uses sentences. Raises a UserError for a form of boxes, which have none.
    """
    maker = SourceMaker(net, untrained, layers, poolings, seed, joint)
    rows = [RowName.parse(name) for name in names]
    if regions is None:
        return [maker.make_clip_source(row) for row in rows]
    for row in rows:
        if row.form:
            raise UserError(
                f"Boxes have pooled features only, no tokens ({row.text}): choose a probe that "
                "reads vectors."
            )
    return [maker.make_box_source(row, regions) for row in rows]


class RowName(NamedTuple):
    """The parts of a name such as encoder/shuffled:tokens."""

    text: str
    row: str  # encoder, random or pixels
    change: str  # of the clip, a key of CHANGES; "" for none
    form: str  # tokens or joint; "" for pooled features

    @classmethod
    def parse(cls, text: str) -> "RowName":
        path, _, form = text.partition(":")
        row, _, change = path.partition("/")
        return cls(text, row, change, form)


class SourceMaker:
    """Row name -> frozen function of clips. Several forms of one row share a pass of the net."""

    def __init__(
        self,
        net: Encoder,
        untrained: Encoder,
        layers: tuple[int, ...],
        poolings: tuple[str, ...],
        seed: int,
        joint: Joint | None,
    ) -> None:
        self.nets = {"encoder": net, "random": untrained}
        self.layers, self.poolings, self.seed, self.joint = layers, poolings, seed, joint
        # Row, change, clip and features of the newest pass.
        self.newest: tuple[str, str, Tensor, Features] | None = None

    def make_clip_source(self, name: RowName) -> Source:
        def run(clip: Tensor, index: Tensor) -> dict[str, Tensor]:
            if name.row == "pixels":
                return describe_pixels(self.change_clip(name, clip, index))
            features = self.pass_once(name, clip, index)
            if name.form == "joint":
                assert self.joint is not None
                return {"joint": self.joint.embed_videos(features.pooled)}
            if name.form:
                return halve_tokens(features, self.layers)
            return pool(features, self.layers, self.poolings)

        key = f"{self.build_key(name)} version {VERSION}{self.build_change_key(name)}"
        return Source(name.text, key, run)

    def make_box_source(self, name: RowName, regions: Regions) -> Source:
        def run(clip: Tensor, index: Tensor) -> dict[str, Tensor]:
            index = index.cpu()
            first_row, lead, clip_of_box = regions.find_shared_clips(index)
            clip = self.change_clip(name, clip[first_row], lead)
            if name.row == "pixels":
                return describe_pixels(regions.cut_boxes(clip, index, clip_of_box))
            return regions.pool(self.run_net(name, clip), self.layers, index, clip_of_box)

        net_key = "pixels"
        if name.row != "pixels":
            net_key = f"{hash_encoder(self.nets[name.row])} {self.layers}"
        key = f"boxes {net_key} version {VERSION}{self.build_change_key(name)}"
        return Source(name.text, key, run)

    def change_clip(self, name: RowName, clip: Tensor, index: Tensor) -> Tensor:
        return CHANGES[name.change](clip, index, self.seed) if name.change else clip

    def run_net(self, name: RowName, clip: Tensor) -> Features:
        net = self.nets[name.row]
        return net(net.normalise(clip), layers=self.layers or None)

    def pass_once(self, name: RowName, clip: Tensor, index: Tensor) -> Features:
        """The features of a row, from the newest pass where that was of the same row and clip."""
        newest = self.newest
        if newest is None or newest[:2] != (name.row, name.change) or newest[2] is not clip:
            features = self.run_net(name, self.change_clip(name, clip, index))
            self.newest = newest = (name.row, name.change, clip, features)
        return newest[3]

    def build_key(self, name: RowName) -> str:
        if name.row == "pixels":
            return "pixels"
        if name.form == "joint":
            assert self.joint is not None
            form = f"joint {hash_joint(self.joint)}"
        elif name.form:
            form = f"tokens {self.layers}"
        else:
            form = f"{self.layers} {self.poolings}"
        return f"{hash_encoder(self.nets[name.row])} {form}"

    def build_change_key(self, name: RowName) -> str:
        """The end of a key: how clips are changed, and the seed where the change is drawn."""
        if not name.change:
            return ""
        return f" {name.change}" + f" {self.seed}" * (name.change == "shuffled")


def announce_cost(
    net: Encoder, sources: list[Source], videos: int, clips: int, cache: str
) -> float:
    """Log how long the extraction will take, measured on one grey clip, and how much it stores.

    Returns the GFLOPs of the encoder for one clip. `clips`: of each video.
    """
    spec, device = net.spec, next(net.parameters()).device
    clip = torch.full(
        (1, 3, spec.frames, spec.size, spec.size), 128, dtype=torch.uint8, device=device
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(net.normalise(clip))
    index, seconds = torch.zeros(1, dtype=torch.int64), []
    for _ in range(2):  # the first pass warms up
        began = time.perf_counter()
        with torch.inference_mode():
            sizes = {source.name: count_bytes(source.run(clip, index)) for source in sources}
        seconds.append(time.perf_counter() - began)
    minutes = min(seconds) * videos * clips / 60
    megabytes = sum(sizes.values()) * videos / 1e6
    log.info(
        f"{videos * clips} clips, once through {', '.join(sizes)}: about {minutes:.1f} min of "
        f"computing plus decoding, and {megabytes:.0f} MB under {cache}. What the cache already "
        "holds is not computed again."
    )
    return counter.get_total_flops() / 1e9


def count_bytes(features: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in features.values())
