"""video file -> Table: the times of its frames, where it begins and ends, what is damaged in it.

The packets of a file are read without decoding, where they tell the times of its frames. Some kinds
of file do not: their frames are counted.
"""

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssvid.data.container import check_file, open_video, video_stream
from ssvid.data.damage import MPEG_1_2, capture_messages
from ssvid.data.decoder import decode_stream, open_decoder
from ssvid.data.packets import BACK_S, Packets, join_clocks, read_packets
from ssvid.errors import DecodeError

NEAR = 1e-4  # seconds: a time this close before a frame already selects that frame
# Sound often begins a few frames before pictures do, which is the encoder's delay.
HEAD_START_S = 0.1
# A file that goes on after its last frame for less than this has streams that end raggedly.
RAGGED_S = 1.0
LONGEST_S = 86_400.0  # a first or last frame that lasts longer than a day shows damage
# Formats whose header tells how long the file is; FFmpeg guesses it for others.
TIMED = frozenset(("mp4", "matroska", "asf", "flv"))
# Formats that are often joined by writing one behind the other. Times then begin anew.
JOINED = frozenset(("mpegts", "mpeg"))
# Codecs whose containers, parsers or decoders tell key frames rightly. Others may come with every
# packet marked as a key frame, by containers and programs that do not look into it.
TRUE_KEYS = frozenset(("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "ffv1", "png")) | MPEG_1_2
USUAL_KEYS = 0.125  # a larger share of key frames is doubtful
ASPECTS = (0.1, 10.0)  # limits of a pixel's shape: beyond them the header is damaged


class Table(NamedTuple):
    """What a scan tells of a file."""

    times: np.ndarray  # float64 seconds, sorted
    pts: np.ndarray  # int64, the same frames in ticks
    keys: np.ndarray  # int64, sorted ticks of the key frames
    counted: bool = False  # the frames' own ticks are unusable: frames are counted from the start
    stream: int = 0  # the container's number of the stream that is read
    # The packets are in the order of their frames, so no frame is predicted from a later one.
    ordered: bool = False
    start: float = 0.0  # seconds: where the file begins, which may be before its first frame
    end: float = 0.0  # seconds: where its last frame is over
    damaged: frozenset[int] = frozenset()  # ticks of the packets that show damage
    from_start: bool = False  # a frame may need every packet before it, such as a palette
    aspect: float = 1.0  # how much wider than high a pixel is
    decoder: str = ""  # the decoder's name; empty: the stream's own
    passed: frozenset[int] = frozenset()  # numbers of packets at the start that cannot be decoded

    def find_damage_inside(self) -> bool:
        """Whether there is damage before the last frame. A file that is cut off ends with some."""
        return not self.counted and any(tick < self.pts[-1] for tick in self.damaged)


class Bounds(NamedTuple):
    """What the container says of the file as a whole, in seconds. None: nothing."""

    start: float | None  # of the first stream, where one is sound
    end: float | None


def scan_file(path: str | Path) -> Table:
    """What a scan tells of a video file. It is cached until the file changes.

    Raises a DecodeError if the file cannot be opened or holds no video stream.
    """
    state = check_file(path)
    return _scan(str(path), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=16384)  # about 40 MB in each worker for ten-second clips
def _scan(path: str, mtime: int, size: int) -> Table:
    with open_video(path) as container:
        stream = video_stream(container, path)
        with capture_messages() as messages:
            packets = read_packets(container, stream)
        base, context = stream.time_base, stream.codec_context
        kind = frozenset(container.format.name.split(","))
        is_whole = not any("ended prematurely" in message for message in messages)
        bounds = _read_bounds(container, kind if is_whole else frozenset())
        joined = False
        if kind & JOINED:
            packets, joined = join_clocks(packets, base)
        # AVI has no presentation times. With B frames those that FFmpeg guesses are wrong.
        in_avi = "avi" in kind and (packets.packed or context.name in ("h264", "hevc"))
        packets, passed = _find_beginning(path, packets, stream.index, in_avi)
        counted = joined or in_avi
        order = ((packets.clock if in_avi else packets.ticks) + packets.shift)[packets.shown]
        if not len(order) and packets.timeless:
            raise DecodeError(path, "its frames have no times: put it into an mkv or mp4 file")
        table = Table(
            *_list_times(order, base),
            np.unique(packets.ticks[packets.keys & packets.shown]),
            counted,
            stream.index,
            ordered=not counted and bool((np.diff(order) > 0).all()),
            damaged=packets.damaged,
            from_start=counted or _needs_palette(stream),
            aspect=_find_aspect(stream),
            decoder=packets.decoder,
            passed=passed,
        )
        has_fields = "mpegts" in kind and context.name == "h264" and context.field_order > 1
        repeats = len(table.pts) < len(order) or packets.goes_back
        # Where the decoder meets damage, one time must give one picture nevertheless.
        is_unsafe = counted or repeats or not table.from_start and _has_many_keys(stream, packets)
    if is_unsafe or packets.small or has_fields:
        unsure = table._replace(from_start=is_unsafe or table.from_start)
        table = _count_frames(path, unsure, base, joined)
    return _set_bounds(path, table, bounds, packets, base) if len(table.pts) else table


def _find_beginning(
    path: str, packets: Packets, stream: int, in_avi: bool
) -> tuple[Packets, frozenset[int]]:
    """The packets of which only those are shown that can be decoded, and which to pass over.

    A recording may begin between two key frames. Those before its first key frame are passed over:
    some decoders would show them on gray. Frames that are shown before that key frame may follow
    it. The decoder leaves them out where they need earlier ones, or meets damage there: then they
    are passed over too.
    """
    before, leading = packets.find_lead()
    leading *= not in_avi  # which has no times of showing
    key = int(packets.ticks[before]) if before or leading else 0
    if not before and not leading or _begins_with_key(path, packets, stream, key):
        return packets, frozenset()
    passed = frozenset(range(before))
    after = np.arange(before + 1, before + 1 + leading)
    first = key
    try:
        for frame in _decode_file(path, stream, packets.decoder, passed):
            tick = frame.dts if frame.pts is None else frame.pts
            if tick is None or tick > key:
                break
            first = first if frame.is_corrupt else min(first, tick)
    except DecodeError:
        first, passed = key, passed | frozenset(after.tolist())
    shown, is_passed = packets.shown.copy(), np.zeros(len(packets.shown), bool)
    is_passed[list(passed)] = True
    shown[after] &= packets.ticks[after] >= first
    return packets._replace(
        shown=shown & ~is_passed, torn=packets.torn & ~is_passed, faults=packets.faults & ~is_passed
    ), passed


def _begins_with_key(path: str, packets: Packets, stream: int, key: int) -> bool:
    """Whether a file begins with a key frame that is not marked as one. `key`: the first mark."""
    try:
        for frame in _decode_file(path, stream, packets.decoder, frozenset()):
            tick = frame.dts if frame.pts is None else frame.pts
            return bool(frame.key_frame and tick is not None and tick < key)
    except DecodeError:
        pass
    return False


def _decode_file(path: str, stream: int, name: str, passed: frozenset[int]) -> Iterator[Any]:
    """The frames of a file from its start. `name`: of its decoder."""
    with open_video(path) as container:
        source = container.streams[stream]
        yield from decode_stream(container, source, open_decoder(source, name), passed=passed)


def _needs_palette(stream: Any) -> bool:
    return stream.codec_context.pix_fmt == "pal8"


def _are_keys_true(stream: Any) -> bool:
    codec = stream.codec_context.codec
    return codec.intra_only or stream.codec_context.name in TRUE_KEYS


def _has_many_keys(stream: Any, packets: Packets) -> bool:
    """Whether so many packets are marked as key frames that the marks may be wrong."""
    count = int(packets.keys.sum())
    return 1 < count > USUAL_KEYS * len(packets.keys) and not _are_keys_true(stream)


def _list_times(order: np.ndarray, base: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """Sorted times in seconds, and the same in ticks."""
    pts = np.unique(order)
    return pts * base.numerator / base.denominator, pts


def _find_aspect(stream: Any) -> float:
    ratio = float(stream.sample_aspect_ratio or 1)
    return ratio if ASPECTS[0] <= ratio <= ASPECTS[1] else 1.0


def _count_frames(path: str, table: Table, base: Fraction, joined: bool) -> Table:
    """The table of the frames that a decoder gives, where packets do not tell.

    Some packets give no frame of their own: the second field of a picture, or a picture that is not
    coded. Frames may repeat their times, and packets may be marked wrongly as key frames. Where the
    decoder meets damage, the packets' table stays.
    """
    ticks: list[int | None] = []
    keys: list[int | None] = []
    try:
        with open_video(path) as container:
            stream = container.streams[table.stream]
            palette, are_keys_true = _needs_palette(stream), _are_keys_true(stream)
            decoder = open_decoder(stream, table.decoder)
            for frame in decode_stream(container, stream, decoder, passed=table.passed):
                ticks.append(frame.dts if frame.pts is None else frame.pts)
                if frame.key_frame or are_keys_true:
                    keys.append(ticks[-1])
    except DecodeError:
        return table
    if joined and len(ticks) != len(table.pts):
        raise DecodeError(
            path,
            "several recordings are joined in it, and their times begin anew: write them anew, "
            "each into a file of its own",
        )
    if table.counted:
        # The first frame has its own time, from which the others are counted.
        firsts = [tick for tick in ticks if tick is not None]
        shift = min(firsts) - table.pts[0] if firsts and not joined else 0
        times, pts = _list_times(table.pts[: len(ticks)] + shift, base)
        return table._replace(times=times, pts=pts)
    if None in ticks:
        return table._replace(counted=True, from_start=True, ordered=False)
    order = np.array(ticks, np.int64)
    if (np.diff(order) <= 0).any():
        return _go_on(path, table, order, base)
    times, pts = _list_times(order, base)
    true_keys = np.intersect1d(table.keys, np.array(keys, np.int64))
    return table._replace(times=times, pts=pts, keys=true_keys, ordered=False, from_start=palette)


def _go_on(path: str, table: Table, order: np.ndarray, base: Fraction) -> Table:
    """The table of frames whose ticks repeat or go back, with times that go on.

    After a joint of two recordings the second follows the first. Other frames that are no later
    than an earlier one are spread evenly until the next that is. `order`: ticks as frames come.
    """
    steps = np.diff(order)
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    ticks = order.astype(np.float64)
    for joint in (np.flatnonzero(steps < float(-BACK_S / base)) + 1).tolist():
        ticks[joint:] += ticks[:joint].max() + usual - ticks[joint]
    is_later = np.append(True, ticks[1:] > np.maximum.accumulate(ticks)[:-1])
    numbers, count = np.flatnonzero(is_later), len(ticks)
    marks = np.append(ticks[numbers], ticks[numbers[-1]] + usual)
    times = np.interp(np.arange(count), np.append(numbers, count), marks) * float(base)
    if np.diff(times).min() <= 2 * NEAR:
        raise DecodeError(
            path,
            "many of its frames have the same time: write it anew with a fixed frame rate",
        )
    return table._replace(
        times=times, pts=np.arange(count), counted=True, from_start=True, ordered=False
    )


def _read_bounds(container: Any, kind: frozenset[str]) -> Bounds:
    """`kind`: names of its format; none, if the file is cut off and has lost its end."""
    if container.start_time is None:
        return Bounds(None, None)
    start = container.start_time / 1e6
    end = _read_end(container, kind) if kind & TIMED and container.duration else None
    # The first times of AVI are those of decoding, a few frames before those of showing.
    is_early = bool(container.streams.audio) and container.format.name != "avi"
    return Bounds(start if is_early else None, end)


def _read_end(container: Any, kind: frozenset[str]) -> float:
    """When the file ends, in seconds. What Matroska and ASF call a duration counts from zero."""
    if "matroska" in kind:
        return float(container.duration / 1e6)
    if "asf" not in kind:
        return float((container.start_time + container.duration) / 1e6)
    ends = [0.0]
    for stream in container.streams:
        if stream.duration:
            ends.append(float(stream.duration * stream.time_base))
    return max(ends)


def _find_sound(path: str) -> float | None:
    """When sound begins, in seconds; None: it holds none."""
    with open_video(path) as container:
        for packet in container.demux(container.streams.audio):
            if packet.size and packet.pts is not None:
                return float(packet.pts * packet.time_base)
    return None


def _set_bounds(path: str, table: Table, bounds: Bounds, packets: Packets, base: Fraction) -> Table:
    """The table with the start and the end of the file."""
    first, last = float(table.times[0]), float(table.times[-1])
    start, end = first, last
    if bounds.start is not None and first - bounds.start > HEAD_START_S:
        sound = _find_sound(path)
        if sound is not None and first - sound > HEAD_START_S:
            start = max(sound, bounds.start)  # an encoder's delay is left out by the container
    duration = 0.0
    if not table.counted:
        duration = float(packets.find_duration(int(table.pts[-1])) * base)
    if duration <= 0 and len(table.times) > 1:
        duration = float(np.median(np.diff(table.times)))
    end = last + duration
    if bounds.end is not None and bounds.end > end + RAGGED_S:
        end = bounds.end
    if max(first - start, end - last) > LONGEST_S:
        raise DecodeError(path, "its header says that one frame lasts for more than a day")
    return table._replace(start=start, end=end)
