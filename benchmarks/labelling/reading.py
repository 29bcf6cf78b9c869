"""a video file -> its clips, a strip of its frames, and clips around each second."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from ssvid.data.augment import RECIPES, crop_frames
from ssvid.data.decode import read, read_timestamps
from ssvid.data.manifest import Manifest
from ssvid.data.sampling import clip_times, spread_positions
from ssvid.data.seconds import in_order
from ssvid.errors import UserError
from ssvid.shapes import ClipSpec, Row

FRAMES = 4  # of a strip
TALL = 144  # pixels of a strip
GAP = 4  # white pixels between frames
WINDOW_S = 2.0  # if --window is not set

OneClip = UInt8[Tensor, "C T s s"]


def read_clips(
    path: str | Path, spec: ClipSpec, n: int
) -> tuple[UInt8[Tensor, "n C T s s"], UInt8[Tensor, "F C H W"]]:
    """n clips spread evenly over a file, as `eval_clips` reads them, and a few whole frames.

    The frames are some of those that the clips hold. Raises a DecodeError for a damaged file.
    """
    table = read_timestamps(path)
    times = np.concatenate([clip_times(spec, table, float(u))[0] for u in spread_positions(n)])
    frames = read(path, times)  # (n T) C H W
    crops = crop_frames(frames, RECIPES["none"], spec.size, torch.zeros(0))  # C (n T) s s
    clips = crops.unflatten(1, (n, spec.frames)).transpose(0, 1).contiguous()
    order = np.unique(times, return_index=True)[1]  # each frame once, the earliest first
    count = min(FRAMES, len(order))
    shown = order[((np.arange(count) + 0.5) * len(order) / count).astype(np.int64)]
    return clips, frames[torch.from_numpy(shown)]


def draw_strip(frames: UInt8[Tensor, "F C H W"]) -> bytes:
    """JPEG of the frames side by side."""
    height, width = frames.shape[2:]
    size = (TALL, max(1, round(TALL * width / height)))
    small = F.interpolate(frames.float(), size, mode="area" if height > TALL else "bilinear")
    spaced = F.pad(small.round().clamp(0, 255), (0, GAP), value=255.0)
    strip = rearrange(spaced.to(torch.uint8), "F C H W -> H (F W) C")[:, :-GAP]
    with io.BytesIO() as file:
        Image.fromarray(strip.numpy()).save(file, "jpeg", quality=82)
        return file.getvalue()


def choose_window(spec: ClipSpec, window: float | None) -> tuple[ClipSpec, float]:
    """(the clip of a second, the seconds from the begin of the second to that of its clip).

    A clip over the whole video is spread over a window of `window` seconds instead, in the middle
    of which lies that of the second: its frames come from the middles of equal parts. Another clip
    keeps its own spacing and begins with the second, as `ssvid extract --per_second` has it; a
    UserError is raised if it is given a window.
    """
    if not spec.whole:
        if window is not None:
            raise UserError(
                f"--window {window:g} is for encoders whose clips are spread over the whole video; "
                "the clips of this one have their own spacing: leave it out."
            )
        return spec, 0.0
    seconds = WINDOW_S if window is None else window
    spread, half = spread_over(spec, seconds)
    return spread, 0.5 - seconds / 2 + half


def spread_over(spec: ClipSpec, seconds: float) -> tuple[ClipSpec, float]:
    """(a clip of the whole video over a window instead, the seconds until its first frame).

    The frames come from the middles of equal parts of the window.
    """
    part = seconds / spec.frames
    return replace(spec, whole=False, fps=1 / part), part / 2


def read_seconds(path: Path, spec: ClipSpec, shift: float) -> Iterator[OneClip]:
    """The clip of each second of a video, in order; see `choose_window`.

    Past both ends of the video its first or last frame is repeated. Raises a DecodeError for a
    damaged file.
    """
    video = Manifest.build([Row(path.name)], path.parent)
    yield from in_order(video, 0, spec, shift=shift)


def join_blocks(clips: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Clips C T s s in batches of at most `size`."""
    block: list[Tensor] = []
    for clip in clips:
        block.append(clip)
        if len(block) == size:
            yield torch.stack(block)
            block = []
    if block:
        yield torch.stack(block)
