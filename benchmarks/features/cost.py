"""sources, cache -> what the extraction costs, and how many untrained twins it can afford."""

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.features.controls import BAG_FRAMES
from benchmarks.features.options import LEAST_TWINS, FeatureOptions
from benchmarks.features.sources import BAG, SourceMaker, SourceName
from ssvid.encoder import Encoder
from ssvid.log import log
from ssvid.shapes import ClipSpec

TWINS_MINUTES = 5.0  # of computing that twins may cost, beyond LEAST_TWINS of them
LONG_MINUTES = 2.0  # of computing features: a longer extraction names what bounds it
QUICK_S = 0.1  # a pass of one clip that is quicker than this is measured on a whole batch


class Missing(NamedTuple):
    """Sources whose features the cache lacks."""

    rows: Mapping[str, int]  # source -> units without features
    clips: int  # of each unit

    def count_clips(self, names: Sequence[str]) -> int:
        """Clips that go through a net. Several forms of one row share a pass."""
        passes: dict[str, int] = {}
        for text in names:
            name = SourceName.parse(text)
            if name.net != "pixels":
                times = BAG_FRAMES if name.change == BAG else 1
                row = f"{name.net}/{name.change}"
                passes[row] = max(passes.get(row, 0), self.rows[text] * times)
        return sum(passes.values()) * self.clips


def count_affordable_twins(
    missing: Missing, names: Sequence[str], twins: int, pass_s: float
) -> int:
    """As many twins as are computed within TWINS_MINUTES, and at least LEAST_TWINS.

    Twins that the cache holds cost nothing. `pass_s`: seconds of one clip in one pass of the net.
    """
    seconds = 0.0
    for number in range(twins):
        of_twin = [name for name in names if SourceName.parse(name).net == f"twin{number}"]
        seconds += missing.count_clips(of_twin) * pass_s
        if seconds > 60 * TWINS_MINUTES and number >= LEAST_TWINS:
            return number
    return twins


def measure_pass(net: Encoder, batch_size: int) -> float:
    """Seconds of one clip in one pass of the net, measured on grey clips."""
    seconds = time_pass(net, 1)
    return seconds if seconds > QUICK_S else min(seconds, time_pass(net, batch_size))


def time_pass(net: Encoder, clips: int) -> float:
    """Seconds of each of `clips` clips: the better of two passes, of which the first warms up."""
    batch, seconds = make_grey_clips(net, clips), []
    with torch.inference_mode():
        for _ in range(2):
            began = time.perf_counter()
            net(net.normalise(batch))
            if batch.is_cuda:
                torch.cuda.synchronize(batch.device)
            seconds.append(time.perf_counter() - began)
    return min(seconds) / clips


def count_gflops(net: Encoder) -> float:
    """GFLOPs of one clip."""
    clip = make_grey_clips(net, 1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(net.normalise(clip))
    return counter.get_total_flops() / 1e9


def make_grey_clips(net: Encoder, count: int) -> Tensor:
    spec, device = net.spec, next(net.parameters()).device
    shape = (count, 3, spec.frames, spec.size, spec.size)
    return torch.full(shape, 128, dtype=torch.uint8, device=device)


def announce_cost(
    missing: Missing,
    names: Sequence[str],
    maker: SourceMaker,
    pass_s: float,
    options: FeatureOptions,
    twins: int,
) -> None:
    """Log how long the extraction will take, and how much it stores.

    Where it is long, a warning names the flags that bound it. `twins`: that are computed.
    """
    megabytes = measure_bytes(missing, names, maker) / 1e6
    clips, estimate = missing.count_clips(names), estimate_cost(missing, names, pass_s)
    log.info(
        f"{max(missing.rows.values())} clips lack features in the cache. With their controls "
        f"{clips} clips go through a net, about {estimate.minutes:.1f} min of computing "
        f"({estimate.twins_min:.1f} of them for {twins} untrained nets) plus decoding, and "
        f"{megabytes:.0f} MB under {options.cache}. The probes are trained after that."
    )
    if estimate.minutes > LONG_MINUTES:
        log.warning(name_bounds(estimate, maker.encoder.spec, options, twins))


class Estimate(NamedTuple):
    """Minutes of computing."""

    encoder_min: float  # of the encoder on all kinds of clips
    twins_min: float  # of its untrained twins

    @property
    def minutes(self) -> float:
        return self.encoder_min + self.twins_min


def estimate_cost(missing: Missing, names: Sequence[str], pass_s: float) -> Estimate:
    """`pass_s`: seconds of one clip in one pass of the net."""
    of_encoder = [name for name in names if not is_of_twin(name)]
    of_twins = list(filter(is_of_twin, names))
    passes = missing.count_clips(of_encoder), missing.count_clips(of_twins)
    return Estimate(*(clips * pass_s / 60 for clips in passes))


def is_of_twin(name: str) -> bool:
    return SourceName.parse(name).twin is not None


def name_bounds(estimate: Estimate, spec: ClipSpec, options: FeatureOptions, twins: int) -> str:
    """The sentence on what makes a long extraction cheaper. A clip costs at least its pixels."""
    ways, limits = [], dict(options.suite_clip)
    flags, share = [], 1.0
    for key, power in (("frames", 1), ("size", 2)):
        value, limit = getattr(spec, key), limits.get(key)
        if limit is not None and limit < value:
            flags.append(f"--clip.{key} {limit}")
            share *= (limit / value) ** power
    if flags:
        ways.append(
            f"{' '.join(flags)}, as the suite has it for its own videos, leave "
            f"{share * estimate.minutes:.1f} min or less"
        )
    else:
        ways.append("--clip.size and --clip.frames make clips smaller")
    if twins > LEAST_TWINS:
        minutes = estimate.encoder_min + estimate.twins_min * LEAST_TWINS / twins
        ways.append(f"--twins {LEAST_TWINS} leaves {minutes:.1f} min")
    views = options.clips * options.crops
    if views > 1:
        ways.append(f"--clips 1 --crops 1 leave {estimate.minutes / views:.1f} min")
    clip = f"{spec.frames} frames of {spec.size} pixels"
    return f"{estimate.minutes:.0f} min of computing, with clips of {clip}. {'; '.join(ways)}."


def measure_bytes(missing: Missing, names: Sequence[str], maker: SourceMaker) -> int:
    """Bytes that the features of all sources take."""
    clip, index = make_grey_clips(maker.encoder, 1), torch.zeros(1, dtype=torch.int64)
    sizes: dict[str, int] = {}  # bytes of one unit, by the form of its features
    total = 0
    for text in names:
        name = SourceName.parse(text)
        name = name if name.net == "pixels" else SourceName("encoder", "", name.form)
        if name.text not in sizes:
            with torch.inference_mode():
                sizes[name.text] = count_bytes(maker.make(name.text).run(clip, index))
        total += sizes[name.text] * missing.rows[text]
    return total


def count_bytes(features: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in features.values())
