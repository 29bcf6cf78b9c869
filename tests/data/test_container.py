"""A path is a file of a disk. What is none, or holds no video, is a bad file and never a crash."""

import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ssvid.data import decode
from ssvid.data.datasets.folder import folder
from ssvid.data.decode import read, read_timestamps
from ssvid.data.quarantine import Quarantine
from ssvid.data.seconds import Passes
from ssvid.data.shown import Picture, find_sides
from ssvid.errors import DecodeError
from ssvid.shapes import ClipSpec
from tests.data.bars import numbers, write
from tests.data.kinds import MIRRORED, copy_packets, encode, replace_bytes
from tests.helpers import facts, for_each, write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("clip") / "a.mp4", [i / 25 for i in range(6)])


@for_each("name", ["12:30.mp4", "http:a.mp4", "concat:a.mp4", "a%03d.mp4", "-i.mp4", "a?b=c.mp4"])
def test_a_name_is_no_protocol(tmp_path, monkeypatch, clip, name):
    shutil.copy(clip, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / name):
        assert numbers(read(path, [0.0, 0.2])) == [0, 5]


def test_a_path_like_an_address_is_a_folder_and_a_file(tmp_path, monkeypatch, clip):
    (tmp_path / "http:").mkdir()
    shutil.copy(clip, tmp_path / "http:/a.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(read_timestamps("http:/a.mp4")) == 6
    with pytest.raises(DecodeError, match=facts("http://localhost/a.mp4")):
        read_timestamps("http://localhost/a.mp4")


def test_a_name_that_is_not_utf_8_is_read(tmp_path, clip):
    name = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    shutil.copy(clip, name)
    assert numbers(read(os.fsdecode(name), [0.2])) == [5]


def test_what_is_no_file_of_a_disk_is_refused_without_a_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "pipe.mp4")
    (tmp_path / "empty.mp4").touch()
    paths = [tmp_path / name for name in ("pipe.mp4", "link.mp4", "empty.mp4")]
    paths += ["/dev/zero", "/dev/null", "/proc/kmsg", "/proc/self/maps", f"{tmp_path}/a\0b.mp4"]
    for path in paths:
        with pytest.raises(DecodeError, match=facts(str(path))):
            read_timestamps(path)


@for_each(
    "text", ["ffconcat version 1.0\nfile a.mp4\n", "#EXTM3U\n#EXTINF:1,\na.mp4\n#EXT-X-ENDLIST\n"]
)
def test_a_list_of_other_files_is_no_video(tmp_path, clip, text):
    shutil.copy(clip, tmp_path / "a.mp4")
    (tmp_path / "list.mp4").write_text(text)
    with pytest.raises(DecodeError, match=facts("list.mp4")):
        read_timestamps(tmp_path / "list.mp4")


@for_each(
    "name, codec, old, new",
    [
        ("a.mov", "libx264", b"avc1", b"zz9z"),
        ("a.avi", "mpeg4", b"FMP4", b"ZZ9Z"),
        ("a.mkv", "libx264", b"V_MPEG4/ISO/AVC", b"V_ZZZZ9/ISO/AVC"),
    ],
)
def test_an_unknown_codec_is_a_bad_file(tmp_path, name, codec, old, new):
    encode(tmp_path / name, codec)
    replace_bytes(tmp_path / name, old, new)
    with pytest.raises(DecodeError, match=facts(name)):
        read_timestamps(tmp_path / name)


@for_each("height, width", [(1, 1), (1, 16), (16, 1)])
def test_a_side_of_one_pixel_is_a_bad_file(tmp_path, height, width):
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25, width=width, height=height)
        stream.pix_fmt = "gray"
        picture = np.zeros((height, width), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(stream.encode(None))
    with pytest.raises(DecodeError, match=facts("a.mov", f"{width}x{height}")):
        read(path, [0.0])


def test_a_picture_is_checked_as_it_is_shown(tmp_path):
    """Pixels that are much higher than wide leave nothing of a narrow picture."""
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25, width=8, height=48)
        stream.codec_context.sample_aspect_ratio, stream.pix_fmt = Fraction(1, 7), "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 8, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(DecodeError, match=facts("a.mov", "1x48")):
        read(path, [0.0])
    data = folder(str(tmp_path), labels=False)
    block = next(iter(Passes(data, ClipSpec(frames=2, size=16, fps=2.0), [0], 1)))
    assert isinstance(block.fault, DecodeError) and block.fault.path == str(path)
    with pytest.raises(DecodeError, match=facts("a.mov", "0x48")):
        Picture(frame, path, aspect=0.05).show()


@for_each("rotation, turn", [(0, None), (-90, "transpose=dir=clock"), (180, "hflip,vflip")])
def test_notes_that_pyav_cannot_name_hide_no_turn(rotation, turn):
    """A frame with EXIF notes, as TIFF and cameras' MJPEG have, tells no more than an angle."""

    class Frame:
        rotation: int

        @property
        def side_data(self):
            raise ValueError("31 is not a valid Type")

    frame = Frame()
    frame.rotation = rotation
    sides = find_sides(frame)
    if turn is None:
        assert sides is None
    else:
        assert np.allclose(sides, np.reshape(MIRRORED[turn], (2, 2)))


def test_an_error_of_any_class_while_a_file_is_read_is_a_bad_file(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", np.zeros((4, 32, 32, 3), np.uint8))

    def fail(*_):
        raise AttributeError("'NoneType' object has no attribute 'width'")

    monkeypatch.setattr(decode, "decode_stream", fail)
    with pytest.raises(DecodeError, match=facts("a.mp4", "NoneType")) as error:
        read(tmp_path / "a.mp4", [0.0])
    bad = Quarantine(tmp_path, 100)
    bad.add(error.value.path, error.value.time, error.value.why)
    assert len(bad) == 1


def test_a_stream_without_times_says_what_to_do(tmp_path):
    encode(tmp_path / "a.h264")
    with pytest.raises(DecodeError, match=facts("a.h264", "mkv", "mp4")):
        read_timestamps(tmp_path / "a.h264")


def test_frames_that_all_have_one_time_are_refused(tmp_path):
    path = tmp_path / "a.mkv"

    def stop_the_clock(packets):
        for packet in packets:
            packet.pts = packet.dts = 0
        return packets

    encode(path, "mjpeg", "yuvj420p")
    copy_packets(path, stop_the_clock)
    with pytest.raises(DecodeError, match=facts("a.mkv", "time")):
        read_timestamps(path)


def test_a_list_is_refused_before_what_it_names_is_opened(tmp_path):
    """The pipe that it names would be waited for."""
    os.mkfifo(tmp_path / "pipe.ts")
    for text in ("ffconcat version 1.0\nfile pipe.ts\n", "\n#EXTM3U\n#EXTINF:1,\npipe.ts\n"):
        (tmp_path / "a.mp4").write_text(text)
        with pytest.raises(DecodeError, match="list"):
            read_timestamps(tmp_path / "a.mp4")
