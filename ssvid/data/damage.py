"""the bytes of a packet -> the damage that they show. FFmpeg's messages -> those about damage.

Some codecs never write certain bytes, such as three zeros in a row in H.264. Their decoders take
them nevertheless and show a wrong picture.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import av

# The start of a picture or slice comes after 00 00 01. Between them these bytes are never written.
NEVER_IN_NAL = re.compile(rb"\x00\x00[\x00-\x02]")  # of H.264 and HEVC
NEVER_IN_MPEG = re.compile(rb"\x00\x00\x00+[^\x00\x01]")  # of MPEG-1, -2 and -4
START = b"\x00\x00\x01"
# The longest row of zero bytes in files of these codecs that we have made has 6 bytes, in flat and
# in lossless pictures alike: arithmetic codes look like noise.
LONGEST_ZEROS = 16  # bytes
NOISY = frozenset(("vp8", "vp9", "av1", "libdav1d", "wmv1", "wmv2", "flv"))
NOISY |= frozenset(("msmpeg4v1", "msmpeg4v2", "msmpeg4", "h263"))
MPEG_1_2 = frozenset(("mpeg1video", "mpeg2video"))
CONCEALED = "concealing"  # how a message of FFmpeg begins


def find_damage(stream: Any) -> Callable[[bytes], str]:
    """A function: the bytes of a packet of the stream -> what is wrong with them, or ""."""
    context = stream.codec_context
    name, head = context.name, bytes(context.extradata or b"")
    if name in ("h264", "hevc"):
        if head[:1] != b"\x01":
            return _check_start_codes
        size = (head[4 if name == "h264" else 21] & 3) + 1
        return partial(_check_lengths, size=size, padded=name == "h264")
    if name in MPEG_1_2 or name == "mpeg4":
        return lambda data: "forbidden bytes" if NEVER_IN_MPEG.search(data) else ""
    if name in NOISY:
        return lambda data: "a row of zeros" if bytes(LONGEST_ZEROS) in data else ""
    return lambda data: ""


def _check_start_codes(data: bytes) -> str:
    """Of H.264 and HEVC as a stream, where each unit follows a start code."""
    for unit in data.split(START):
        if fault := _check_unit(unit):
            return fault
    return ""


def _check_lengths(data: bytes, size: int, padded: bool) -> str:
    """Of H.264 and HEVC as a file, where each unit follows its length of `size` bytes.

    `padded`: a unit may end with many zeros, since the decoder finds the data that they replace.
    """
    first = 0
    while first < len(data):
        begin = first + size
        first = begin + int.from_bytes(data[first:begin], "big")
        if first > len(data):
            return "a unit is longer than its packet"
        if fault := _check_unit(data[begin:first]):
            return fault
        if not padded and data[begin:first].endswith(bytes(LONGEST_ZEROS)):
            return "a row of zeros"
    return ""


def _check_unit(unit: bytes) -> str:
    """Zeros at the end are padding."""
    if unit[:1] >= b"\x80":
        return "a unit has no type"
    return "forbidden bytes" if NEVER_IN_NAL.search(unit.rstrip(b"\x00")) else ""


@contextmanager
def capture_messages() -> Iterator[list[str]]:
    """What FFmpeg tells of damage meanwhile, in this thread. The list is filled at the end."""
    messages: list[str] = []
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.INFO)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(True) as lines:
            yield messages
            for severity, _, message in lines:
                if severity <= av.logging.ERROR or message.startswith(CONCEALED):
                    messages.append(message.strip())
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips)
