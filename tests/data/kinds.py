"""Helper: a small sound file of every kind that players show. Frame i shows the number i."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from tests.data.bars import picture, write

N, FPS = 24, 25
TICK = Fraction(1, FPS)
STEPS = [i / FPS for i in range(N)]
ROW = 1 << 16  # one in a display matrix
UPRIGHT = (1, 0, 0, 1)
MIRRORED = {
    "hflip": (-1, 0, 0, 1),
    "vflip": (1, 0, 0, -1),
    "transpose=dir=cclock_flip": (0, 1, 1, 0),
    "transpose=dir=clock_flip": (0, -1, -1, 0),
    "transpose=dir=clock": (0, 1, -1, 0),
    "transpose=dir=cclock": (0, -1, 1, 0),
    "hflip,vflip": (-1, 0, 0, -1),
}


class Kind(NamedTuple):
    """How to write a file of a kind, and what a player does with its frames."""

    make: Callable[[Path], Any]  # writes the file
    name: str  # of the file
    graph: str = ""  # of FFmpeg's filters, where a player changes the pictures
    stream: int = 0  # the video stream that a player shows
    frames: int = N
    first: int = 0  # the number that the first frame shows
    goes_on: bool = False  # times that begin anew or repeat, so that ours go on a frame later each


def encode(
    path: Path,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    first: int = 0,
    frames: int = N,
    matrix: tuple[int, int, int, int] = UPRIGHT,
    aspect: Fraction | None = None,
    format: str | None = None,
    **options: str,
) -> None:
    """A file of numbered frames from `first` on, 25 a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=FPS, width=160, height=64)
        stream.pix_fmt, stream.options = pix_fmt, options
        stream.codec_context.thread_count = 1
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix != UPRIGHT:
            a, b, c, d = (ROW * value for value in matrix)
            stream.set_display_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30))
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(first + i), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = i, TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert len(old) == len(new) and old in data
    path.write_bytes(data.replace(old, new))


def write_titled(path: Path, encoding: str) -> None:
    """A title that is not UTF-8."""
    codec = "mpeg4" if path.suffix == ".avi" else "libx264"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "XXXXXXXX"
        stream = container.add_stream(codec, rate=FPS, width=160, height=64)
        for i in range(N):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
            frame.pts, frame.time_base = i, TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    text = "\u0444\u0438\u043b\u044c\u043c" if encoding == "cp1251" else "\u00e9t\u00e9"
    replace_bytes(path, b"XXXXXXXX", text.encode(encoding).ljust(8))


def write_packed(path: Path) -> None:
    """MPEG-4 with a P and a B frame in one packet, and a frame that is not coded after it."""
    source = path.with_name("unpacked.avi")
    encode(source, "mpeg4", bf="1", g="12")
    packets = []
    with av.open(str(source)) as old:
        template = old.streams.video[0]
        for packet in old.demux(template):
            if packet.size:
                packets.append((bytes(packet), packet.is_keyframe))
        with av.open(str(path), "w") as new:
            stream = new.add_stream_from_template(template)
            for dts, (data, key) in enumerate(pack_pairs(packets)):
                packet = av.Packet(data)
                packet.stream, packet.dts, packet.pts, packet.time_base = stream, dts, dts, TICK
                packet.is_keyframe = key
                new.mux(packet)
    source.unlink()


def pack_pairs(packets: list[tuple[bytes, bool]]) -> list[tuple[bytes, bool]]:
    vop, owner = b"\x00\x00\x01\xb6", b"\x00\x00\x01\xb2DivX503b1393p\x00"
    head, key = packets[0]
    packed = [(head.replace(vop, owner + vop, 1), key)]
    i = 1
    while i < len(packets):
        data, key = packets[i]
        is_followed = i + 1 < len(packets) and packets[i + 1][0][4] >> 6 == 2  # by a B frame
        if is_followed:
            # Of 25 ticks a second the time has 5 bits: P, second 0, time, not coded, stuffing.
            packed += [(data + packets[i + 1][0], key), (vop + b"\x50\x9f\x7f", False)]
        else:
            packed.append((data, key))
        i += 2 if is_followed else 1
    return packed


def write_joined(path: Path, later_s: int = 0) -> None:
    """Two recordings, one behind the other. The second clock begins anew, or so much later."""

    def delay(packets: list[av.Packet]) -> list[av.Packet]:
        for packet in packets:
            packet.pts += round(later_s / packet.time_base)
            packet.dts += round(later_s / packet.time_base)
        return packets

    codec = "mpeg2video" if path.suffix == ".mpg" else "libx264"
    parts = [path.with_stem("first"), path.with_stem("second")]
    encode(parts[0], codec, frames=9, bf="2", g="12")
    encode(parts[1], codec, first=9, frames=N - 9, bf="2", g="12")
    if later_s:
        copy_packets(parts[1], delay)
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()


def copy_packets(path: Path, edit: Callable[[list[av.Packet]], list[av.Packet]]) -> None:
    """Write a file anew with its packets as `edit` leaves them."""
    source = path.rename(path.with_stem("source"))
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        template = old.streams.video[0]
        stream = new.add_stream_from_template(template)
        packets = [packet for packet in old.demux(template) if packet.size]
        for packet in edit(packets):
            packet.stream = stream
            new.mux(packet)
    source.unlink()


def write_cut(path: Path, codec: str, packets: int, **options: str) -> None:
    """A recording without its first packets."""
    encode(path, codec, **options)
    copy_packets(path, lambda whole: whole[packets:])


def write_all_keys(path: Path, codec: str) -> None:
    """Every packet is marked as a key frame, as some programs do."""

    def mark(packets: list[av.Packet]) -> list[av.Packet]:
        for packet in packets:
            packet.is_keyframe = True
        return packets

    encode(path, codec, g="12")
    copy_packets(path, mark)


def write_unmarked(path: Path) -> None:
    """The first frame is not marked as a key frame."""

    def unmark(packets: list[av.Packet]) -> list[av.Packet]:
        packets[0].is_keyframe = False
        return packets

    encode(path, "wmv2", g="12")
    copy_packets(path, unmark)


def write_repeated_times(path: Path, codec: str) -> None:
    """Every second frame has the time of the one before it."""

    def repeat(packets: list[av.Packet]) -> list[av.Packet]:
        for earlier, later in zip(packets[::2], packets[1::2], strict=True):
            later.pts, later.dts = earlier.pts, earlier.dts
        return packets

    encode(path, codec, g="12")
    copy_packets(path, repeat)


def write_streams(path: Path) -> None:
    """Two streams, of which the second is the default."""
    with av.open(str(path), "w") as container:
        streams = []
        for _ in range(2):
            streams.append(container.add_stream("libx264", rate=FPS, width=160, height=64))
        streams[1].disposition = av.stream.Disposition.default
        for i in range(N):
            for stream, number in zip(streams, (i + 100, i), strict=True):
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                frame.pts, frame.time_base = i, TICK
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))


def write_palettes(path: Path, codec: str) -> None:
    """The palette changes every sixth frame: the codes are white on black, then black on white."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, width=160, height=64)
        stream.pix_fmt = "pal8"
        for i in range(N):
            gray, flipped = picture(i)[..., 0], i // 6 % 2
            palette = np.full((256, 4), 255, np.uint8)  # alpha, red, green, blue
            palette[:, 1:] = np.arange(256, dtype=np.uint8)[:, None]
            palette[:, 3] = i // 6 * 50  # blue tells which palette it is
            values = 255 - gray if flipped else gray
            palette[:, 1:3] = palette[::-1, 1:3] if flipped else palette[:, 1:3]
            frame = av.VideoFrame.from_ndarray((values, palette), format="pal8")
            frame.pts, frame.time_base = i, TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_field_pictures(path: Path) -> None:
    """MPEG-2 in which each field of a frame is a picture of its own, as camcorders write it."""
    sizes = {"whole": 64, "top": 32, "bottom": 32}
    streams = {}
    for name, height in sizes.items():
        codec = av.CodecContext.create("mpeg2video", "w")
        codec.width, codec.height, codec.pix_fmt = 160, height, "yuv420p"
        codec.time_base, codec.framerate = TICK, Fraction(FPS)
        codec.options = {"g": "0", "qmin": "2", "qmax": "2"}
        packets = []
        for i in range(N):
            lines = picture(i)
            if height == 32:
                lines = np.ascontiguousarray(lines[name == "bottom" :: 2])
            frame = av.VideoFrame.from_ndarray(lines, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = i, TICK
            packets += codec.encode(frame)
        packets += codec.encode(None)
        streams[name] = list(map(bytes, packets))
    data = b""
    for i in range(N):
        whole = streams["whole"][i]
        head = whole[: whole.index(b"\x00\x00\x01\x00")]
        data += mark_interlaced(head)
        for name, structure in (("top", 1), ("bottom", 2)):
            field = streams[name][i]
            data += mark_field(field[field.index(b"\x00\x00\x01\x00") :], structure)
    path.write_bytes(data + b"\x00\x00\x01\xb7")


def mark_interlaced(head: bytes) -> bytes:
    """The sequence extension says that pictures may be interlaced."""
    edited = bytearray(head)
    edited[edited.index(b"\x00\x00\x01\xb5") + 5] &= ~0x08
    return bytes(edited)


def mark_field(data: bytes, structure: int) -> bytes:
    """The picture coding extension says which field this is (1 top, 2 bottom)."""
    edited = bytearray(data)
    first = edited.index(b"\x00\x00\x01\xb5") + 4
    edited[first + 2] = edited[first + 2] & ~3 | structure
    # No top field first, no frame prediction with frame DCT, no repeated field, no chroma 4:2:0 of
    # a progressive frame.
    edited[first + 3] &= ~0xC3
    edited[first + 4] &= ~0x80  # no progressive frame
    return bytes(edited)


def write_hidden(path: Path) -> None:
    """VP8 whose last frame nobody sees, as those are from which others are predicted."""
    source = path.with_name("shown.webm")
    encode(source, "libvpx", deadline="realtime")
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        template = old.streams.video[0]
        stream = new.add_stream_from_template(template)
        for packet in old.demux(template):
            if not packet.size:
                continue
            data = bytearray(packet)
            if packet.pts * packet.time_base > STEPS[-2]:
                data[0] &= ~0x10  # the frame is not shown
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.stream, copy.is_keyframe = stream, packet.is_keyframe
            new.mux(copy)
    source.unlink()


def simple(name: str, codec: str = "libx264", graph: str = "", **options: Any) -> Kind:
    return Kind(lambda path: encode(path, codec, **options), name, graph)


KINDS = {
    "title in latin-1": Kind(lambda path: write_titled(path, "latin-1"), "a.mp4"),
    "title in cp1251": Kind(lambda path: write_titled(path, "cp1251"), "a.avi"),
    "packed B frames": Kind(write_packed, "a.avi"),
    "MPEG-2 field pictures": Kind(write_field_pictures, "a.m2v"),
    "joined MPEG-TS": Kind(write_joined, "a.ts", goes_on=True),
    "joined MPEG-PS": Kind(write_joined, "a.mpg", goes_on=True),
    "joined MPEG-PS, the second later": Kind(
        lambda path: write_joined(path, later_s=99), "a.mpg", goes_on=True
    ),
    "joined MKV": Kind(write_joined, "a.mkv", goes_on=True),
    "repeated times": Kind(lambda path: write_repeated_times(path, "ffv1"), "a.mkv", goes_on=True),
    "repeated times, MPEG-4": Kind(
        lambda path: write_repeated_times(path, "mpeg4"), "a.mkv", goes_on=True
    ),
    "only key frames, it says, MPEG-4": Kind(lambda path: write_all_keys(path, "mpeg4"), "a.mp4"),
    "only key frames, it says, WMV": Kind(lambda path: write_all_keys(path, "wmv2"), "a.avi"),
    "cut between key frames": Kind(
        lambda path: write_cut(path, "libx264", 5, g="8"), "a.ts", frames=N - 8, first=8
    ),
    "cut between key frames, AVI": Kind(
        lambda path: write_cut(path, "libx264", 5, g="8", bf="0"), "a.avi", frames=N - 8, first=8
    ),
    "first key frame without its mark": Kind(write_unmarked, "a.avi"),
    "cut at an open group": Kind(
        lambda path: write_cut(path, "mpeg2video", 10, bf="2", g="12"),
        "a.mkv",
        frames=N - 12,
        first=12,
    ),
    "default stream": Kind(write_streams, "a.mkv", stream=1),
    "changing palette, raw": Kind(lambda path: write_palettes(path, "rawvideo"), "a.avi"),
    "changing palette, msrle": Kind(lambda path: write_palettes(path, "msrle"), "a.avi"),
    "wide pixels": simple("a.mp4", graph="scale=iw*sar:ih:bicubic", aspect=Fraction(2, 1)),
    "narrow pixels": simple("a.mkv", graph="scale=iw*sar:ih:bicubic", aspect=Fraction(8, 9)),
    "hidden frame of VP8": Kind(write_hidden, "a.webm", frames=N - 1),
    "H.264, B frames": simple("a.mp4", bf="3", g="12"),
    "H.264, open groups": simple("a.mkv", bf="3", g="8", **{"x264-params": "open-gop=1"}),
    "H.264, intra refresh": simple("b.mp4", g="8", **{"x264-params": "intra-refresh=1"}),
    "H.264 in AVI": simple("a.avi", bf="2", g="12"),
    "H.264 in FLV": simple("a.flv", bf="2", g="12"),
    "H.264 in MPEG-TS": simple("a.ts", bf="2", g="8"),
    "H.264 interlaced in MPEG-TS": simple("b.ts", g="8", **{"x264-params": "tff=1"}),
    "H.264 interlaced in MKV": simple("b.mkv", g="8", **{"x264-params": "tff=1"}),
    "HEVC": simple("a.mp4", "libx265", **{"x265-params": "log-level=none:keyint=8:pools=none"}),
    "AV1": simple("a.mkv", "libsvtav1", preset="12", g="8", **{"svtav1-params": "lp=1"}),
    "VP9": simple("a.webm", "libvpx-vp9", deadline="realtime", g="8", **{"cpu-used": "8"}),
    "MPEG-4, B frames in AVI": simple("a.avi", "mpeg4", bf="2", g="8"),
    "MPEG-2 in MPEG-PS": simple("a.mpg", "mpeg2video", bf="2", g="8"),
    "MPEG-2 in MPEG-TS": simple("a.ts", "mpeg2video", bf="2", g="8"),
    "MPEG-1": simple("a.mpg", "mpeg1video", bf="2", g="8"),
    "WMV": simple("a.wmv", "wmv2", g="8"),
    "MJPEG": simple("a.avi", "mjpeg", pix_fmt="yuvj420p"),
    "TIFF": simple("a.mov", "tiff", pix_fmt="rgb24"),
    "variable rate": Kind(
        lambda path: write(path, np.cumsum([0, *[0.03, 0.2, 0.5] * 7]).tolist(), bf=2, g=8),
        "a.mkv",
        frames=22,
    ),
}
for graph, sides in MIRRORED.items():
    KINDS[graph] = simple("a.mp4", graph=graph, matrix=sides)
