"""encoder, its twin -> the five rows of a result, each a frozen function of clips, made here only."""

import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.features.controls import pixels, reverse, shuffled, single_frame
from benchmarks.features.pooling import pool, tokens
from benchmarks.features.regions import Regions
from benchmarks.features.text_side import joint_hash
from ssvid.encoder import Encoder
from ssvid.engine.features import Source
from ssvid.errors import UserError
from ssvid.log import log
from ssvid.shapes import Features
from ssvid.text.joint import Joint
from ssvid.weights.encoders import encoder_hash

VERSION = 1  # of poolings and pixel features: a new one makes cached features anew
CONTROLS = ("random", "pixels", "single_frame", "shuffled")
ROWS = ("encoder", *CONTROLS)
CHANGES = {"single_frame": single_frame, "shuffled": shuffled, "reversed": reverse}  # of a clip
ALIASES = {
    "single_frame": "encoder/single_frame",
    "shuffled": "encoder/shuffled",
}  # rows that are the encoder's own, on changed clips


def chosen_layers(net: Encoder, layers: Literal["auto", "last"] | list[int]) -> tuple[int, ...]:
    if layers == "last" or (layers == "auto" and (not net.has_layers or net.depth < 2)):
        return ()
    if layers == "auto":
        return (net.depth // 2,)
    if not net.has_layers or not set(layers) <= set(range(1, net.depth + 1)):
        raise UserError(
            f"{net.name} can give layers {'1 to ' + str(net.depth) if net.has_layers else 'last only'}."
        )
    return tuple(layers)


def make_sources(
    net: Encoder,
    untrained: Encoder,
    layers: tuple[int, ...],
    poolings: tuple[str, ...],
    seed: int,
    wanted: Sequence[str],
    regions: Regions | None = None,  # boxes of each clip, where these are asked about
    joint: Joint | None = None,  # the encoder's text side, where sentences are asked about
) -> list[Source]:
    """`wanted`: encoder, random, pixels; on changed clips: encoder/reversed; their tokens: encoder/reversed:tokens.

    encoder:joint are clips in the space that they share with sentences.

    The key of a Source names its files in the feature cache.
    """
    maker = SourceMaker(net, untrained, layers, poolings, seed, joint)
    names = [RowName.parse(name) for name in wanted]
    if regions is None:
        return [maker.of_clips(name) for name in names]
    if forms := [name for name in names if name.form]:
        raise UserError(
            f"Boxes have pooled features alone, no tokens ({forms[0].text}): take a probe that reads vectors."
        )
    return [maker.of_boxes(name, regions) for name in names]


class RowName(NamedTuple):
    """encoder/shuffled:tokens -> its parts."""

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
    """Rows of a result -> frozen functions of clips. Forms of one row are read off one pass of the net."""

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
        self.newest: tuple[str, str, Tensor, Features] | None = (
            None  # row, change and clip of the newest pass
        )

    def of_clips(self, name: RowName) -> Source:
        def run(clip: Tensor, index: Tensor) -> dict[str, Tensor]:
            if name.row == "pixels":
                return pixels(self.change_clip(name, clip, index))
            features = self.pass_once(name, clip, index)
            if name.form == "joint":
                assert self.joint is not None
                return {"joint": self.joint.videos(features.pooled)}
            if name.form:
                return tokens(features, self.layers)
            return pool(features, self.layers, self.poolings)

        return Source(name.text, f"{self.key_of(name)} version {VERSION}{self.drawn(name)}", run)

    def of_boxes(self, name: RowName, regions: Regions) -> Source:
        def run(clip: Tensor, index: Tensor) -> dict[str, Tensor]:
            index = index.cpu()
            place, lead, which = regions.shared(index)
            clip = self.change_clip(name, clip[place], lead)
            if name.row == "pixels":
                return pixels(regions.cut(clip, index, which))
            return regions.pool(self.run_net(name, clip), self.layers, index, which)

        net = (
            "pixels"
            if name.row == "pixels"
            else f"{encoder_hash(self.nets[name.row])} {self.layers}"
        )
        return Source(name.text, f"boxes {net} version {VERSION}{self.drawn(name)}", run)

    def change_clip(self, name: RowName, clip: Tensor, index: Tensor) -> Tensor:
        return CHANGES[name.change](clip, index, self.seed) if name.change else clip

    def run_net(self, name: RowName, clip: Tensor) -> Features:
        net = self.nets[name.row]
        return net(net.normalise(clip), layers=self.layers or None)

    def pass_once(self, name: RowName, clip: Tensor, index: Tensor) -> Features:
        newest = self.newest
        if newest is None or newest[:2] != (name.row, name.change) or newest[2] is not clip:
            features = self.run_net(name, self.change_clip(name, clip, index))
            self.newest = newest = (name.row, name.change, clip, features)
        return newest[3]

    def key_of(self, name: RowName) -> str:
        if name.row == "pixels":
            return "pixels"
        if name.form == "joint":
            assert self.joint is not None
            read = f"joint {joint_hash(self.joint)}"
        elif name.form:
            read = f"tokens {self.layers}"
        else:
            read = f"{self.layers} {self.poolings}"
        return f"{encoder_hash(self.nets[name.row])} {read}"

    def drawn(self, name: RowName) -> str:
        """The end of a key: how clips are changed, and by which seed where the change is drawn."""
        if not name.change:
            return ""
        return f" {name.change}" + f" {self.seed}" * (name.change == "shuffled")


def announce(net: Encoder, sources: list[Source], videos: int, clips: int, cache: str) -> float:
    """Says what the work will take, from one grey clip; returns the encoder's GFLOPs for it."""
    spec, device = net.spec, next(net.parameters()).device
    clip = torch.full(
        (1, 3, spec.frames, spec.size, spec.size), 128, dtype=torch.uint8, device=device
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(net.normalise(clip))
    index, took = torch.zeros(1, dtype=torch.int64), []
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        with torch.inference_mode():
            widths = {s.name: sum(v.nbytes for v in s.run(clip, index).values()) for s in sources}
        took.append(time.perf_counter() - began)
    minutes = min(took) * videos * clips / 60
    log.info(
        f"{videos * clips} clips, once through {', '.join(widths)}: about {minutes:.1f} min of "
        f"computing beside decoding, and {sum(widths.values()) * videos / 1e6:.0f} MB under {cache}, less what is "
        "there already."
    )
    return counter.get_total_flops() / 1e9
