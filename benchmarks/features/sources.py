"""encoder, its twin -> the five rows of a result, each a frozen function of clips, made here only."""

import sys
import time
from collections.abc import Sequence
from typing import Literal

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
        raise UserError(f"{net.name} can give layers {'1 to ' + str(net.depth) if net.has_layers else 'last only'}.")
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

    Cached features are known by the keys.
    """
    if regions is not None and (wrong := [name for name in wanted if ":" in name]):
        raise UserError(f"Boxes have pooled features alone, no tokens ({wrong[0]}): take a probe that reads vectors.")
    nets = {"encoder": net, "random": untrained}
    last: list[tuple[str, Tensor, Features]] = []  # the pass that was made last: pooled and tokens are read off one

    def passed(path: str, clip: Tensor, index: Tensor) -> Features:
        row, _, way = path.partition("/")
        if not last or last[0][0] != path or last[0][1] is not clip:
            changed = CHANGES[way](clip, index, seed) if way else clip
            last[:] = [(path, clip, nets[row](nets[row].normalise(changed), layers=layers or None))]
        return last[0][2]

    def source(name: str) -> Source:
        path, _, form = name.partition(":")
        row, _, way = path.partition("/")
        change = CHANGES[way] if way else None
        drawn = f" {way}" + f" {seed}" * (way == "shuffled") if way else ""

        def run(clip: Tensor, index: Tensor) -> dict[str, Tensor]:
            if row == "pixels":
                return pixels(clip if change is None else change(clip, index, seed))
            features = passed(path, clip, index)
            if form == "joint":
                assert joint is not None
                return {"joint": joint.videos(features.pooled)}
            return tokens(features, layers) if form else pool(features, layers, poolings)

        def run_boxes(clip: Tensor, index: Tensor) -> dict[str, Tensor]:
            assert regions is not None
            index = index.cpu()
            place, lead, which = regions.shared(index)
            clip = clip[place] if change is None else change(clip[place], lead, seed)
            if row == "pixels":
                return pixels(regions.cut(clip, index, which))
            return regions.pool(nets[row](nets[row].normalise(clip), layers=layers or None), layers, index, which)

        if regions is not None:
            net_key = "pixels" if row == "pixels" else f"{encoder_hash(nets[row])} {layers}"
            return Source(name, f"boxes {net_key} version {VERSION}{drawn}", run_boxes)
        if row == "pixels":
            return Source(name, f"pixels version {VERSION}{drawn}", run)
        made = f"tokens {layers}" if form else f"{layers} {poolings}"
        if form == "joint":
            assert joint is not None
            made = f"joint {joint_hash(joint)}"
        return Source(name, f"{encoder_hash(nets[row])} {made} version {VERSION}{drawn}", run)

    return [source(name) for name in wanted]


def announce(net: Encoder, sources: list[Source], videos: int, clips: int, cache: str) -> float:
    """Says what the work will take, from one grey clip; returns the encoder's GFLOPs for it."""
    spec, device = net.spec, next(net.parameters()).device
    clip = torch.full((1, 3, spec.frames, spec.size, spec.size), 128, dtype=torch.uint8, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(net.normalise(clip))
    index, took = torch.zeros(1, dtype=torch.int64), []
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        with torch.inference_mode():
            widths = {s.name: sum(v.nbytes for v in s.run(clip, index).values()) for s in sources}
        took.append(time.perf_counter() - began)
    minutes = min(took) * videos * clips / 60
    print(
        f"{videos * clips} clips, once through {', '.join(widths)}: about {minutes:.1f} min of "
        f"computing beside decoding, and {sum(widths.values()) * videos / 1e6:.0f} MB under {cache}, less what is "
        "there already.",
        file=sys.stderr,
    )
    return counter.get_total_flops() / 1e9
