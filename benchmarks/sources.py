"""encoder, its twin -> the five rows of a result, each a frozen function of clips, made here only."""

import sys
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.controls import pixels, shuffled, single_frame
from benchmarks.pool import pool
from ssvid.encoder import Encoder
from ssvid.engine.features import Source
from ssvid.errors import UserError
from ssvid.weights import encoder_hash

VERSION = 1  # of poolings and pixel features: a new one makes cached features anew
CONTROLS = ("random", "pixels", "single_frame", "shuffled")


def chosen_layers(net: Encoder, layers: Literal["auto", "last"] | list[int]) -> tuple[int, ...]:
    if layers == "last" or (layers == "auto" and (not net.has_layers or net.depth < 2)):
        return ()
    if layers == "auto":
        return (net.depth // 2,)
    if not net.has_layers or not set(layers) <= set(range(1, net.depth + 1)):
        raise UserError(f"{net.name} can give layers {'1 to ' + str(net.depth) if net.has_layers else 'last only'}.")
    return tuple(layers)


def make_sources(
    net: Encoder, untrained: Encoder, layers: tuple[int, ...], poolings: tuple[str, ...], seed: int
) -> list[Source]:
    """Cached features are known by these keys."""

    def of(encoder: Encoder, change: Callable[..., Tensor] | None) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        def run(clip: Tensor, index: Tensor) -> dict[str, Tensor]:
            clip = clip if change is None else change(clip, index, seed)
            return pool(encoder(encoder.normalise(clip), layers=layers or None), layers, poolings)

        return run

    made = f"{layers} {poolings} version {VERSION}"
    known, other = encoder_hash(net), encoder_hash(untrained)
    return [
        Source("encoder", f"{known} {made}", of(net, None)),
        Source("random", f"{other} {made}", of(untrained, None)),
        Source("pixels", f"pixels version {VERSION}", lambda clip, index: pixels(clip)),
        Source("single_frame", f"{known} {made} single_frame", of(net, single_frame)),
        Source("shuffled", f"{known} {made} shuffled {seed}", of(net, shuffled)),
    ]


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
            widths = {s.name: sum(v.shape[1] for v in s.run(clip, index).values()) for s in sources}
        took.append(time.perf_counter() - began)
    minutes = min(took) * videos * clips / 60
    print(
        f"{videos} videos, {clips} clip(s) each, once through {', '.join(widths)}: about {minutes:.1f} min of "
        f"computing beside decoding, and {sum(widths.values()) * 4 * videos / 1e6:.0f} MB under {cache}, less what is "
        "there already.",
        file=sys.stderr,
    )
    return counter.get_total_flops() / 1e9
