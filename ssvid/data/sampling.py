"""ClipSpec, a file's time stamps -> times in seconds: where a clip lies in its video."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssvid.errors import DecodeError, UserError
from ssvid.shapes import ClipSpec

SHORT = ("pad", "drop", "error")


class ShortVideo(DecodeError):
    """Shorter than the clip, and the run asked to drop such videos. Nothing is wrong with the file."""


def clip_times(
    spec: ClipSpec, stamps: np.ndarray, u: float, short: str = "pad", path: str | Path = "the video"
) -> tuple[np.ndarray, bool]:
    """Times of the clip's frames, and whether the last one had to be repeated. u in [0, 1) places the start.

    Of a whole video it places each frame in its part alike; where there are too few frames each is repeated in turn.
    """
    if short not in SHORT:
        raise UserError(f"There is no --short_videos {short!r}: take {', '.join(SHORT)}.")
    if len(stamps) == 0:
        raise DecodeError(path, "no frames in it")
    if spec.whole:
        index = ((np.arange(spec.frames) + u) * len(stamps) / spec.frames).astype(
            np.int64
        )  # one of each equal part
        times, padded = stamps[index.clip(max=len(stamps) - 1)], len(stamps) < spec.frames
    elif spec.stride is not None:
        left = len(stamps) - 1 - (spec.frames - 1) * spec.stride  # frames
        start = int(u * (left + 1)) if left > 0 else 0
        index = start + np.arange(spec.frames) * spec.stride
        times, padded = stamps[index.clip(max=len(stamps) - 1)], left < 0
    else:
        assert spec.fps is not None  # ClipSpec has one of the three
        gap = (
            float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
        )  # the last frame is shown that long
        room = float(stamps[-1] - stamps[0]) - (spec.frames - 1) / spec.fps  # seconds
        times = stamps[0] + u * max(room, 0.0) + np.arange(spec.frames) / spec.fps
        times, padded = times.clip(max=stamps[-1]), room < -gap - 1e-6
    if padded and short != "pad":
        span = float(stamps[-1] - stamps[0])
        why = f"{len(stamps)} frames in {span:.2f} s are fewer than a clip takes ({words(spec)})"
        if short == "error":
            raise UserError(f"{path}: {why}: take a shorter clip, or --short_videos pad or drop.")
        raise ShortVideo(path, why)
    return times, padded


def near(spec: ClipSpec, stamps: np.ndarray, first: float, u: float, max_gap_s: float) -> float:
    """Where a clip lies that begins at most `apart_s` seconds from the one that `first` places; u in [0, 1) says it."""
    span = float(stamps[-1] - stamps[0]) if len(stamps) else 0.0
    if spec.whole:
        room = span / spec.frames  # of the first frame: its part of the video
    elif spec.stride is not None:
        left = len(stamps) - 1 - (spec.frames - 1) * spec.stride  # frames
        room = span * left / (len(stamps) - 1) if left > 0 else 0.0  # seconds
    else:
        assert spec.fps is not None  # ClipSpec has one of the three
        room = span - (spec.frames - 1) / spec.fps
    if room <= 0:
        return first
    low, high = max(0.0, first - max_gap_s / room), min(1.0, first + max_gap_s / room)
    return low + u * (high - low)


def words(spec: ClipSpec) -> str:
    if spec.whole:
        return f"{spec.frames} frames over the whole video"
    return f"{spec.frames} frames " + (
        f"{spec.stride} apart" if spec.stride else f"at {spec.fps:g} a second"
    )


def parted(spec: ClipSpec, what: str) -> ClipSpec:
    """The clip, refused where it is spread over the whole video: `what`, in the plural, lie in a part of it."""
    if spec.whole:
        raise UserError(
            f"{what} are no clip spread over the whole video: give --clip.fps or --clip.stride."
        )
    return spec


def positions(n: int) -> Tensor:
    """Where n clips lie that cover a video evenly; the middle for one."""
    if n < 1:
        raise UserError(f"{n} clips of a video are too few: take 1 or more.")
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def eval_clips(path: str | Path, spec: ClipSpec, n: int = 1, fps: float | None = None) -> Tensor:
    """uint8 `n C T size size`: n clips spread evenly over a file, short side resized, centre cropped."""
    from ssvid.data.augment import RECIPES, geometry
    from ssvid.data.decode import read, stamps

    table = stamps(path, fps)
    times = np.concatenate([clip_times(spec, table, float(u))[0] for u in positions(n)])
    frames = geometry(
        read(path, times, fps), RECIPES["none"], spec.size, torch.zeros(0)
    )  # C (n T) s s
    return frames.unflatten(1, (n, spec.frames)).transpose(0, 1).contiguous()


def clip_from(spec: ClipSpec, stamps: np.ndarray, start_s: float) -> np.ndarray:
    """Times of the clip that begins `start_s` seconds into the video; past the end the last frame is repeated."""
    begin, spec = stamps[0] + start_s, parted(spec, "Clips that begin at a given second")
    if spec.fps is not None:
        return (begin + np.arange(spec.frames) / spec.fps).clip(max=stamps[-1])
    assert spec.stride is not None  # it has one of the two
    first = max(0, int(np.searchsorted(stamps, begin + 1e-4, side="right")) - 1)
    return stamps[(first + np.arange(spec.frames) * spec.stride).clip(max=len(stamps) - 1)]
