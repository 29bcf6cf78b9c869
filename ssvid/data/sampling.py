"""ClipSpec, a file's time stamps -> times in seconds.

Computes where a clip lies in its video and which frames it holds.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssvid.errors import DecodeError, UserError
from ssvid.shapes import ClipSpec

SHORT = ("pad", "drop", "error")


class ShortVideo(DecodeError):
    """The video is shorter than the clip, and such videos are dropped. The file is not damaged."""


def clip_times(
    spec: ClipSpec,
    stamps: np.ndarray,
    u: float | np.ndarray,
    short: str = "pad",
    path: str | Path = "the video",
) -> tuple[np.ndarray, bool]:
    """Times of the clip's frames in seconds (T), and whether frames had to be repeated.

    `stamps`: the times of all frames of the video. `u`: a uniform in [0, 1) that places the start.
    A clip over the whole video takes one frame from each of T equal parts, and u places all frames
    within their parts in the same way; where there are too few frames, each is repeated in turn.
    T uniforms instead of one draw the frames of such a clip apart from each other.
    `short`: what to do where the video is too short: pad | drop (a ShortVideo is raised) | error (a
    UserError). A DecodeError is raised if there are no frames.
    """
    if short not in SHORT:
        raise UserError(f"There is no --short_videos {short!r}: take {', '.join(SHORT)}.")
    if len(stamps) == 0:
        raise DecodeError(path, "no frames in it")
    if spec.whole:
        index = place_frames(len(stamps), spec.frames, u)
        times, padded = stamps[index.clip(max=len(stamps) - 1)], len(stamps) < spec.frames
    elif isinstance(u, np.ndarray):
        raise TypeError("Only a clip over the whole video has a uniform for each frame.")
    elif spec.stride is not None:
        left = len(stamps) - 1 - (spec.frames - 1) * spec.stride  # frames
        start = int(u * (left + 1)) if left > 0 else 0
        index = start + np.arange(spec.frames) * spec.stride
        times, padded = stamps[index.clip(max=len(stamps) - 1)], left < 0
    else:
        assert spec.fps is not None  # ClipSpec has one of the three
        # The last frame is shown as long as the median frame.
        gap = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
        room = float(stamps[-1] - stamps[0]) - (spec.frames - 1) / spec.fps  # seconds
        times = stamps[0] + u * max(room, 0.0) + np.arange(spec.frames) / spec.fps
        times, padded = times.clip(max=stamps[-1]), room < -gap - 1e-6
    if padded and short != "pad":
        span = float(stamps[-1] - stamps[0])
        clip = describe_frames(spec)
        why = f"{len(stamps)} frames in {span:.2f} s are too few for the clip ({clip})"
        if short == "error":
            raise UserError(f"{path}: {why}: take a shorter clip, or --short_videos pad or drop.")
        raise ShortVideo(path, why)
    return times, padded


def place_frames(n: int, frames: int, u: float | np.ndarray) -> np.ndarray:
    """Numbers of the frames (T) that a clip over a video of n frames takes.

    With T uniforms it is X-CLIP's draw for training (arXiv:2208.02816). Each part has n // T
    frames, so up to T - 1 frames at the end are never taken. A video of too few frames has no
    draw: `around(i n / T)`, and numbers beyond the last frame begin again at the first.
    """
    parts = np.arange(frames)
    if not isinstance(u, np.ndarray):
        return ((parts + u) * n / frames).astype(np.int64)
    if n < frames:
        return np.around(parts * n / frames).astype(np.int64) % n
    return parts * (n // frames) + (u * (n // frames)).astype(np.int64)


def choose_near_position(
    spec: ClipSpec, stamps: np.ndarray, first: float, u: float, max_gap_s: float
) -> float:
    """The uniform in [0, 1) that places a clip at most `max_gap_s` seconds from another one.

    `first`: the uniform of the other clip. `u`: a uniform that chooses within those limits.
    """
    span = float(stamps[-1] - stamps[0]) if len(stamps) else 0.0
    if spec.whole:
        room = span / spec.frames  # seconds in which the first frame may lie
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


def describe_frames(spec: ClipSpec) -> str:
    """The frames of a clip in words, for error sentences."""
    if spec.whole:
        return f"{spec.frames} frames over the whole video"
    return f"{spec.frames} frames " + (
        f"{spec.stride} apart" if spec.stride else f"at {spec.fps:g} a second"
    )


def need_part(spec: ClipSpec, clips: str) -> ClipSpec:
    """The clip; a UserError if it is spread over the whole video.

    `clips`: what needs a part of the video, in the plural, for the error sentence.
    """
    if spec.whole:
        raise UserError(
            f"{clips} cannot be spread over the whole video: give --clip.fps or --clip.stride."
        )
    return spec


def spread_positions(n: int) -> Tensor:
    """Uniforms (n) that place n clips evenly over a video; one clip lies in the middle."""
    if n < 1:
        raise UserError(f"{n} clips of a video are too few: take 1 or more.")
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def eval_clips(path: str | Path, spec: ClipSpec, n: int = 1, fps: float | None = None) -> Tensor:
    """uint8 `n C T size size`: n clips spread evenly over a file.

    The short side of each frame is resized to `size` and the centre is cropped. `fps`: the rate of
    a folder of pictures. Raises a DecodeError for a damaged file.
    """
    from ssvid.data.augment import RECIPES, crop_frames
    from ssvid.data.decode import read, read_timestamps

    table = read_timestamps(path, fps)
    times = np.concatenate([clip_times(spec, table, float(u))[0] for u in spread_positions(n)])
    frames = read(path, times, fps)  # (n T) C H W
    crops = crop_frames(frames, RECIPES["none"], spec.size, torch.zeros(0))  # C (n T) s s
    return crops.unflatten(1, (n, spec.frames)).transpose(0, 1).contiguous()


def clip_from(spec: ClipSpec, stamps: np.ndarray, begin: float) -> np.ndarray:
    """Times (T) of the clip that begins at the time `begin` of the frames' clock, in seconds.

    Before the first frame and past the last one, that frame is repeated. Raises a UserError for a
    clip that is spread over the whole video.
    """
    spec = need_part(spec, "Clips that begin at a given second")
    if spec.fps is not None:
        return (begin + np.arange(spec.frames) / spec.fps).clip(max=stamps[-1])
    assert spec.stride is not None  # it has one of the two
    first = max(0, int(np.searchsorted(stamps, begin + 1e-4, side="right")) - 1)
    return stamps[(first + np.arange(spec.frames) * spec.stride).clip(max=len(stamps) - 1)]
