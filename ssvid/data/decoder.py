"""open container -> frames, from a decoder that stops where it meets damage.

A decoder that meets damage may go on and show a wrong picture. Three things tell of it: the bytes
of a packet (ssvid/data/damage.py); the decoder, which is told to stop where it would conceal an
error; and its messages, for MPEG-1 and MPEG-2, whose sound files are refused if it is told to stop.
docs/guides/decoding.md says what none of them tells.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import av

from ssvid.data.damage import MPEG_1_2, capture_messages

STRICT = {"err_detect": "crccheck+explode"}
# dav1d then checks the bits after the last symbol, which nearly every damage changes.
STRICT_AV1 = {**STRICT, "strict": "1"}

# Decoders that refuse sound files if they are told to stop: TIFF warns of every unknown tag.
LENIENT = MPEG_1_2 | {"tiff"}


class Damage(Exception):
    """The decoder met damage, or comes to a packet whose bytes are damaged."""


def open_decoder(stream: Any, name: str = "") -> Any:
    """A strict decoder of one thread. `name`: of another decoder than the stream's own.

    Several threads would only wait for each other: the loader's workers already use every CPU.
    """
    if name:
        decoder = av.CodecContext.create(name, "r")
        decoder.extradata = stream.codec_context.extradata
    else:
        decoder = stream.codec_context
    decoder.thread_type, decoder.thread_count = "NONE", 1
    if decoder.name not in LENIENT:
        decoder.options = STRICT_AV1 if decoder.name == "libdav1d" else STRICT
    return decoder


def choose_decoder(stream: Any, packet: Any) -> str:
    """The name of a decoder that finds more damage than the stream's own; "" if there is none.

    `packet`: the first of the stream. libvpx finds most changed bits of vp9, FFmpeg's own decoder
    none; the pictures are the same bit for bit. libvpx is not told how a picture is turned.
    """
    context = stream.codec_context
    if context.name != "vp9" or context.pix_fmt != "yuv420p":
        return ""
    try:
        decoder = av.CodecContext.create("libvpx-vp9", "r")
        frames = [*context.decode(packet), *context.decode(None)]
        same = [*decoder.decode(packet), *decoder.decode(None)]
    except (av.FFmpegError, ValueError):
        return ""
    turned = any("DISPLAYMATRIX" in frame.side_data for frame in frames)
    return "" if turned or len(frames) != len(same) else "libvpx-vp9"


def decode_stream(
    container: Any,
    stream: Any,
    decoder: Any,
    damaged: frozenset[int] = frozenset(),
    skipped: frozenset[int] = frozenset(),
    start: int | None = None,
    passed: frozenset[int] = frozenset(),
) -> Iterator[Any]:
    """Frames in the order in which they are shown, from the key frame at the tick `start` on.

    Packets with the ticks in `skipped` are not decoded; after them the decoder goes on as after a
    seek. A packet with a tick in `damaged` ends the frames with an error, as does damage that the
    decoder meets. `passed`: the numbers of packets that are passed over where a file is decoded
    from its start, since what they need comes before it.
    """
    skips, has_begun, number = False, start is None, -1
    decode = partial(decode_warily, decoder) if decoder.name in MPEG_1_2 else decoder.decode
    if start is not None:
        container.seek(start, stream=stream)
    for packet in container.demux(stream):
        tick = packet.dts if packet.pts is None else packet.pts
        has_begun = has_begun or packet.is_keyframe and tick == start  # a seek may end elsewhere
        number += packet.size > 0 and tick is not None
        if not packet.size or not has_begun or start is None and number in passed:
            continue
        if tick in skipped:
            if not skips:
                yield from decode(None)
                decoder.flush_buffers()
            skips = True
            continue
        skips = False
        if tick in damaged:
            yield from decode(None)
            raise Damage("a damaged packet")
        yield from decode(packet)
    yield from decode(None)


def decode_warily(decoder: Any, packet: Any | None) -> Sequence[Any]:
    """Frames of a packet, or with None those that are left. A message of damage is an error."""
    with capture_messages() as messages:
        frames = decoder.decode(packet)
    if messages:
        raise Damage(messages[0])
    return frames
