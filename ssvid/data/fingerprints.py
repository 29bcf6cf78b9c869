"""Videos -> fingerprints that survive encoding and scaling -> pairs of videos that look alike.

A fingerprint has 128 bits for each of some frames: whether a cell of a coarse grid is brighter than
the cell beside it and than the one below it. Two videos look alike if most frames of the one are in
the other. So a copy in another encoding, size or frame rate is recognised, and so is a part that
was cut from a longer video. The limits were chosen on UCF101 (docs/guides/mixtures.md): signs of a
cosine transform, the other usual fingerprint, lose a copy that has a logo in a corner.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ssvid.data.decode import read, read_timestamps
from ssvid.data.manifest import Manifest
from ssvid.errors import DecodeError

CELLS = 8  # of the grid, along each side
BITS = 2 * CELLS * CELLS
EVERY_S = 0.5  # seconds between the frames of a fingerprint
FEWEST, MOST = 8, 64  # frames of a video
# A copy may have lost its border, so parts of a picture have fingerprints too: the share of height
# and width, and where the part lies (0: top and left, 1: bottom and right).
CROPS: tuple[tuple[float, float, float], ...] = ((1.0, 0.5, 0.5), (0.9, 0.5, 0.5), (0.8, 0.5, 0.5))
CROPS += ((0.9, 0.0, 0.0), (0.9, 0.0, 1.0), (0.9, 1.0, 0.0), (0.9, 1.0, 1.0))
DARK = 24  # of 255; what is darker in all frames is part of a bar along the border
BRIGHT_SHARE = 0.05  # of a row or column; a bar may hold noise or a word
FLAT = 6.0  # of 255: a picture whose gray levels vary less tells nothing
NEAR_BITS = 23  # two frames look alike if at most so many bits differ; of unrelated ones half do
NEAR_FEW_BITS = 15  # the same for pictures, and for videos of which few frames tell something
SHARE = 0.6  # of the frames of the one video that are in the other
BLOCK = 4096  # frames that are compared at once

Bits = np.ndarray  # float32 `F V 128` of -1 and 1: frames, crops


class Fingerprint(NamedTuple):
    """Of one row of a manifest."""

    row: int
    bits: np.ndarray  # bool F V 128: the frames that tell something
    seconds: float = 0.0
    why: str = ""  # the fault of a file that cannot be read


class Clip(NamedTuple):
    """What a fingerprint is taken of. It is small, because it is sent to another process."""

    row: int
    path: str
    fps: float | None  # of a folder of frames


class Likeness(NamedTuple):
    """Two videos that look alike."""

    first: int  # numbers of the fingerprints
    second: int
    share: float  # of the frames of one of them that are in the other


def list_clips(data: Manifest, rows: Sequence[int]) -> list[Clip]:
    return [Clip(row, str(data.path(row)), data.rows[row].fps) for row in rows]


def take_fingerprint(clip: Clip) -> Fingerprint:
    """The fingerprint of a clip. It has no frames if the file is bad or shows nothing."""
    number, path, fps = clip
    nothing = np.zeros((0, len(CROPS), BITS), bool)
    try:
        stamps = read_timestamps(path, fps)
        times = choose_times(stamps)
        frames = read(path, times, fps)
    except DecodeError as error:
        return Fingerprint(number, nothing, why=error.why)
    grays = []
    for frame in frames.permute(0, 2, 3, 1).numpy():
        grays.append(np.asarray(Image.fromarray(frame).convert("L")))
    rows, columns = find_picture(np.stack(grays))
    bits = []
    for gray in grays:
        picture = gray[rows, columns]
        if picture.size and picture.std() >= FLAT:
            bits.append([hash_picture(cut(picture, *crop)) for crop in CROPS])
    gap = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
    seconds = float(stamps[-1] - stamps[0]) + gap
    return Fingerprint(number, np.array(bits) if bits else nothing, seconds)


def choose_times(stamps: np.ndarray) -> np.ndarray:
    """Times in seconds in the middle of equal parts of the video; a still has one."""
    span = float(stamps[-1] - stamps[0])
    n = min(len(stamps), max(FEWEST, min(MOST, round(span / EVERY_S))))
    return stamps[0] + (np.arange(n) + 0.5) / n * span


def find_picture(grays: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a video `F H W` without the dark bars along its border."""
    bright = grays.max(0) > DARK
    rows = np.flatnonzero(bright.mean(1) > BRIGHT_SHARE)
    columns = np.flatnonzero(bright.mean(0) > BRIGHT_SHARE)
    if not len(rows) or not len(columns):
        return slice(0), slice(0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def cut(gray: np.ndarray, share: float, down: float, right: float) -> np.ndarray:
    """A part of a picture `H W`: this share of its height and width, and where it lies."""
    height, width = round(gray.shape[0] * share), round(gray.shape[1] * share)
    y, x = round((gray.shape[0] - height) * down), round((gray.shape[1] - width) * right)
    return gray[y : y + max(1, height), x : x + max(1, width)]


def hash_picture(gray: np.ndarray) -> np.ndarray:
    """bool 128: whether each cell is brighter than the one on its right, and than that below."""
    side = (CELLS + 1, CELLS + 1)
    cells = np.asarray(Image.fromarray(gray).resize(side, Image.Resampling.BOX), np.int16)
    corner = cells[:-1, :-1]
    return np.concatenate([(cells[:-1, 1:] < corner).ravel(), (cells[1:, :-1] < corner).ravel()])


def compare(
    videos: Sequence[Fingerprint], others: Sequence[Fingerprint] | None = None
) -> list[Likeness]:
    """The pairs that look alike: of two lists, or within one (the second is the later one).

    The time is quadratic in the number of frames, and the memory linear.
    """
    inside = others is None
    others = videos if others is None else others
    first, first_video = stack_bits(videos)
    second, second_video = stack_bits(others)
    hits: dict[tuple[int, int], tuple[set[int], set[int]]] = {}
    for begin, end in list_blocks(len(first)):
        for other_begin, other_end in list_blocks(len(second)):
            if inside and other_end <= begin:
                continue  # these pairs come the other way round
            alike = count_differences(first[begin:end], second[other_begin:other_end])
            few = is_few(videos, first_video[begin:end])[:, None]
            few = few | is_few(others, second_video[other_begin:other_end])
            near = alike <= np.where(few, NEAR_FEW_BITS, NEAR_BITS)
            for a, b in zip(*map(np.ndarray.tolist, near.nonzero()), strict=True):
                pair = int(first_video[begin + a]), int(second_video[other_begin + b])
                if not inside or pair[0] < pair[1]:
                    frames, other_frames = hits.setdefault(pair, (set(), set()))
                    frames.add(begin + a)
                    other_frames.add(other_begin + b)
    pairs = []
    for (i, j), (frames, other_frames) in sorted(hits.items()):
        share = max(len(frames) / len(videos[i].bits), len(other_frames) / len(others[j].bits))
        if share >= SHARE:
            pairs.append(Likeness(i, j, share))
    return pairs


def is_few(videos: Sequence[Fingerprint], numbers: np.ndarray) -> np.ndarray:
    """Whether each video has so few frames that they have to agree better."""
    counts = np.array([len(video.bits) for video in videos])
    return counts[numbers] < FEWEST // 2


def list_blocks(n: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, n, BLOCK):
        yield begin, min(n, begin + BLOCK)


def stack_bits(videos: Sequence[Fingerprint]) -> tuple[Bits, np.ndarray]:
    """The frames of all videos as -1 and 1, and the number of the video of each."""
    bits = np.concatenate([video.bits for video in videos] or [np.zeros((0, 1, BITS), bool)])
    numbers = np.repeat(np.arange(len(videos)), [len(video.bits) for video in videos])
    return bits.astype(np.float32) * 2 - 1, numbers


def count_differences(first: Bits, second: Bits) -> np.ndarray:
    """float32 `A B`: the bits that differ, where one of the two pictures may lack its border."""
    most = np.full((len(first), len(second)), -BITS, np.float32)  # equal bits less other bits
    for crop in range(len(CROPS)):
        np.maximum(most, first[:, crop] @ second[:, 0].T, out=most)
        if crop:
            np.maximum(most, first[:, 0] @ second[:, crop].T, out=most)
    return (BITS - most) / 2
