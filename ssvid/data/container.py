"""path -> an open container and its video stream. This is the only file that opens a video.

A path is always a file of a disk: never an address, a pipe, a device or a file of the kernel.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

from ssvid.errors import DecodeError, UserError, describe_error
from ssvid.files import find_file_fault

# Formats of text files that name other files or addresses, which FFmpeg would then open.
LISTS = frozenset(("applehttp", "concat", "dash", "hls", "imf", "rtsp", "sap", "sdp", "webm_dash"))
# How such files begin. FFmpeg would open what they name, and wait for it if it is a pipe.
HEADS_OF_LISTS = (b"ffconcat", b"#EXTM3U", b"<?xml", b"<MPD", b"v=0")
LIST = "it is a list of other files, not a video"
LEAST_SIDE = 2  # pixels


def check_file(path: str | Path) -> os.stat_result:
    """The file's state. A DecodeError if it is no regular file of a disk, or a list of files.

    A pipe is not opened, because that would wait for its writer.
    """
    try:
        state = os.stat(path)
    except (OSError, ValueError) as error:
        raise DecodeError(path, getattr(error, "strerror", None) or "cannot be opened") from error
    if fault := find_file_fault(path):
        raise DecodeError(path, fault)
    if not state.st_size:
        raise DecodeError(path, "the file is empty")
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise DecodeError(path, error.strerror or "cannot be opened") from error
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(HEADS_OF_LISTS):
        raise DecodeError(path, LIST)
    return state


@contextmanager
def as_decode_error(path: str | Path) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into a DecodeError: one bad file is no crash.

    FFmpeg and PyAV raise errors of many classes for files that they do not expect.
    """
    try:
        yield
    except (DecodeError, UserError):
        raise
    except Exception as error:
        raise DecodeError(path, describe_error(error)) from error


def file_address(path: str | Path) -> str:
    """The path in a form that FFmpeg takes for no protocol, as it would take `12:30.mp4`."""
    return f"file:{path}"


@contextmanager
def open_video(path: str | Path) -> Iterator[Any]:
    """The open container of a file. Any fault while it is open is a DecodeError.

    Titles and other words in the file may have any encoding: nobody reads them.
    """
    check_file(path)
    options = {"protocol_whitelist": "file"}
    with (
        as_decode_error(path),
        av.open(file_address(path), metadata_errors="ignore", options=options) as container,
    ):
        if LISTS.intersection(container.format.name.split(",")):
            raise DecodeError(path, LIST)
        yield container


def video_stream(container: Any, path: str | Path) -> Any:
    """The video stream that players show: the first that is marked as default, else the first.

    Cover pictures are passed over. Raises a DecodeError if there is no stream that can be decoded.
    """
    disposition = av.stream.Disposition
    cover = disposition.attached_pic | disposition.timed_thumbnails
    streams = []
    for stream in container.streams.video:
        if not stream.disposition & cover:
            streams.append(stream)
    if not streams:
        raise DecodeError(path, "no video stream in it")
    chosen = streams[0]
    for stream in streams:
        if stream.disposition & disposition.default:
            chosen = stream
            break
    if chosen.codec_context is None:
        raise DecodeError(path, "no decoder for its codec: write it anew in another one")
    return chosen


def check_side(path: str | Path, width: int, height: int) -> None:
    """Raise a DecodeError for pictures with a side of less than two pixels, as they are shown."""
    if min(width, height) < LEAST_SIDE:
        raise DecodeError(path, f"its pictures are {width}x{height} pixels, which is too small")
