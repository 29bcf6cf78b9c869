"""Helper: what a player shows of a file, and how our reading of it compares.

The reference is FFmpeg's own decoding in order, without options. `python -m tests.data.played`
compares every kind of file: the table of docs/guides/decoding.md.
"""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from torch import Tensor

from ssvid.data.decode import read, read_timestamps
from tests.data.bars import BITS, SIDE, numbers
from tests.data.kinds import KINDS, MIRRORED, STEPS, UPRIGHT, Kind

WIDTH = BITS * SIDE


class Shown(NamedTuple):
    """What a player shows."""

    times: np.ndarray  # seconds
    pictures: Tensor  # T C H W


def play(kind: Kind, path: Path) -> Shown:
    """What a player shows: every frame in order, as FFmpeg decodes it without options."""
    times: list[float] = []
    pictures: list[Tensor] = []
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[kind.stream]
        stream.thread_type = "NONE"
        frames = list(container.decode(stream))
        base = stream.time_base
        for frame in frames:
            times.append(float((frame.dts if frame.pts is None else frame.pts or 0) * base))
        for frame in filter_frames(frames, kind.graph, stream):
            pictures.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
    return Shown(np.array(times), torch.stack(pictures).permute(0, 3, 1, 2))


def filter_frames(frames: list[Any], filters: str, stream: Any) -> list[Any]:
    if not filters:
        return frames
    graph = av.filter.Graph()
    last = graph.add_buffer(template=stream)
    for text in filters.split(","):
        name, _, arguments = text.partition("=")
        arguments = arguments.replace("sar", str(float(stream.sample_aspect_ratio or 1)))
        node = graph.add(name, arguments)
        last.link_to(node)
        last = node
    sink = graph.add("buffersink")
    last.link_to(sink)
    graph.configure()
    changed = []
    for frame in frames:
        graph.push(frame)
        changed.append(graph.pull())
    return changed


class Comparison(NamedTuple):
    """Our reading of a file beside what a player shows."""

    frames: int
    expected_frames: int
    in_order: bool
    times_off: float  # seconds; the largest difference
    shape: tuple[int, ...]
    expected_shape: tuple[int, ...]
    difference: int  # the largest, in grey levels
    alone_as_in_batch: bool


def compare(kind: Kind, folder: Path) -> Comparison:
    path = folder / kind.name
    kind.make(path)
    shown, times = play(kind, path), read_timestamps(path)
    ours = read(path, times)
    expected_times = np.sort(shown.times)
    if kind.goes_on:
        expected_times = shown.times[0] + STEPS
    alone = True
    for time, frame in zip(times[::3], ours[::3], strict=True):
        alone &= torch.equal(read(path, [time])[0], frame)
    codes = numbers(undo(kind, ours))
    return Comparison(
        len(times),
        kind.frames,
        codes == list(range(kind.first, kind.first + kind.frames)),
        float(np.abs(times - expected_times).max()),
        tuple(ours.shape[2:]),
        tuple(shown.pictures.shape[2:]),
        int((ours.int() - shown.pictures.int()).abs().max()),
        alone,
    )


def undo(kind: Kind, pictures: Tensor) -> Tensor:
    """The pictures as they were before a player mirrored, turned or scaled them."""
    if "scale" in kind.graph:
        return pictures[..., torch.arange(WIDTH) * pictures.shape[3] // WIDTH]
    a, b, c, d = MIRRORED.get(kind.graph, UPRIGHT)
    if not a:
        pictures, a, d = pictures.transpose(2, 3), b, c
    return pictures.flip([axis for axis, sign in ((3, a), (2, d)) if sign < 0])


def main() -> None:
    print("| kind | frames | in order | times | shape | difference | alone = batch |")
    print("|---|---|---|---|---|---|---|")
    for name, kind in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            row = compare(kind, Path(folder))
        height, width = row.shape
        print(
            f"| {name} | {row.frames} of {row.expected_frames} | {row.in_order} | "
            f"{row.times_off:.4f} s | {width}x{height} | {row.difference} | "
            f"{row.alone_as_in_batch} |"
        )


if __name__ == "__main__":
    main()
