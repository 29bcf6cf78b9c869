"""Helper: small real files with the frame's number drawn into the picture as a bar code."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

BITS, SIDE = 10, 16  # bars of a code, pixels of a bar
GAPS = [0.02, 0.04, 0.2, 0.01, 0.5, 0.03, 0.04, 0.33, 0.02, 0.3, 0.05]
VARIABLE = np.cumsum(GAPS).tolist()  # seconds of each frame


def picture(number: int, height: int = 64) -> np.ndarray:
    bars = np.repeat([(number >> bit & 1) * 200 + 28 for bit in range(BITS)], SIDE)
    frame = np.broadcast_to(bars[None, :, None], (height, BITS * SIDE, 3)).astype(np.uint8).copy()
    ramp = np.arange(BITS * SIDE)[None, :, None] * 3
    frame[height // 2 :] = (ramp + number * 5) % 160 + 40  # something that moves
    return frame


def numbers(frames: torch.Tensor) -> list[int]:
    """The code in each picture of `T C H W`."""
    top = frames[:, :, frames.shape[2] // 8 : frames.shape[2] // 4].float().mean((1, 2))  # T W
    bright = top.unflatten(1, (BITS, -1)).mean(2) > 128  # T bits
    return (bright.long() << torch.arange(BITS)).sum(1).tolist()


def write(path, times, codec="libx264", height=64, first=0, **options) -> Path:
    """A video whose i-th frame shows `first + i` from times[i] (seconds) on."""
    tick = Fraction(1, 90_000)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = BITS * SIDE, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = tick if codec == "libx264" else Fraction(1, 25)
        stream.options = {"preset": "ultrafast"}
        stream.options |= {key: str(value) for key, value in options.items()}
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(first + i, height), format="rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(Fraction(time).limit_denominator(90_000) / frame.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
