"""Seconds count from the start of the file, and the last frame lasts as long as the file says."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ssvid.data.datasets.folder import folder
from ssvid.data.decode import read_span, read_timestamps
from ssvid.data.narration.pairing import VideoFinder
from ssvid.data.preprocess.prepare import prepare
from ssvid.data.seconds import Seconds, in_order, seconds_in
from ssvid.errors import DecodeError
from ssvid.shapes import ClipSpec
from tests.data.bars import write
from tests.helpers import facts, for_each

SPEC = ClipSpec(frames=2, size=16, fps=2.0)
TICK = Fraction(1, 1000)


def write_talk(
    path: Path,
    first: float = 0.0,
    last: float | None = None,
    sound: tuple[float, float] | None = None,
) -> Path:
    """Ten gray pictures, a second apart from `first` on; the last one is shown for `last` seconds.

    `sound`: seconds from and to which there is sound.
    """
    with av.open(str(path), "w") as container:
        codec = "wmv2" if path.suffix == ".wmv" else "libx264"
        video = container.add_stream(codec, rate=1, width=160, height=64)
        video.codec_context.time_base, video.pix_fmt = TICK, "yuv420p"
        video.options = {"bf": "0"}
        audio = None if sound is None else container.add_stream("aac", rate=8000, layout="mono")
        packets = []
        for i in range(10):
            gray = np.full((64, 160, 3), 20 + 20 * i, np.uint8)
            frame = av.VideoFrame.from_ndarray(gray, format="rgb24")
            frame.pts, frame.time_base = round((first + i) / TICK), TICK
            packets += video.encode(frame)
        packets += video.encode(None)
        for packet in packets:
            packet.duration = 1000
        if last is not None:
            packets[-1].duration = round(last / TICK)
        if audio is not None and sound is not None:
            for number in range(round(sound[0] * 8), round(sound[1] * 8)):
                samples = np.zeros((1, 1000), np.float32)
                part = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                part.sample_rate, part.pts, part.time_base = 8000, number * 1000, Fraction(1, 8000)
                packets += audio.encode(part)
            packets += audio.encode(None)
        for packet in packets:
            container.mux(packet)
    return path


def list_seconds(root: Path) -> list[int]:
    """How many seconds there are, and the gray level at which each begins."""
    data = folder(str(root), labels=False)
    spec = ClipSpec(frames=2, size=64, fps=2.0)
    seconds = Seconds(data, spec)
    in_turn = list(in_order(data, 0, spec))
    assert len(in_turn) == len(seconds)
    for i in range(0, len(seconds), 7):
        assert (in_turn[i] == seconds._load(0, i)["clips"][0]).all()
    return [len(seconds), *(int(clip[:, 0].float().mean()) for clip in in_turn)]


@for_each("suffix", ["mp4", "mkv"])
def test_sound_before_pictures_counts(tmp_path, suffix):
    path = write_talk(tmp_path / f"a.{suffix}", first=5.0, sound=(0.0, 15.0))
    span = read_span(path)
    assert span.start == pytest.approx(0.0, abs=0.05) and span.end == pytest.approx(15.0, abs=0.2)
    assert read_timestamps(path)[0] == pytest.approx(5.0)
    count, *levels = list_seconds(tmp_path)
    assert count == 15
    assert len(set(levels[:6])) == 1 and levels[6] != levels[5]  # the first frame stays until 6 s


@for_each(
    "suffix, sound",
    [("mp4", None), ("mkv", None), ("wmv", None), ("mkv", (2.0, 20.0)), ("wmv", (2.0, 20.0))],
)
def test_the_end_counts_the_start_once(tmp_path, suffix, sound):
    """Pictures from 5 to 15 s, without sound or with sound from 2 to 20 s."""
    span = read_span(write_talk(tmp_path / f"a.{suffix}", first=5.0, sound=sound))
    start, end = sound or (5.0, 15.0)
    assert span.start == pytest.approx(start, abs=0.3) and span.end == pytest.approx(end, abs=0.3)


@for_each("suffix", ["mp4", "mkv"])
def test_the_last_frame_lasts_as_long_as_the_file_says(tmp_path, suffix):
    path = write_talk(tmp_path / f"a.{suffix}", last=20.0)
    assert read_span(path).end == pytest.approx(29.0, abs=0.01)
    count, *levels = list_seconds(tmp_path)
    assert count == 29 and len(set(levels[9:])) == 1 and levels[8] != levels[9]


def test_the_last_frame_lasts_as_long_as_the_sound(tmp_path):
    path = write_talk(tmp_path / "a.mp4", sound=(0.0, 30.0))
    assert read_span(path).end == pytest.approx(30.0, abs=0.3)


@for_each("suffix", ["ts", "mp4", "mkv", "avi"])
def test_where_both_begin_together_nothing_changes(tmp_path, suffix):
    codec = "mpeg4" if suffix == "avi" else "libx264"
    path = write(tmp_path / f"a.{suffix}", [i / 25 for i in range(60)], codec)
    times = read_timestamps(path)
    span = read_span(path)
    assert span.start == times[0] and span.end == pytest.approx(times[-1] + 0.04, abs=2e-3)
    assert seconds_in(span) == 3


def test_a_file_that_is_cut_off_holds_no_frame(tmp_path):
    path = write_talk(tmp_path / "a.mkv", sound=(0.0, 60.0))
    assert read_span(path).end > 59
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    times = read_timestamps(path)
    assert read_span(path).end <= times[-1] + 1.1


def test_a_header_that_is_damaged_gives_no_endless_video(tmp_path):
    path = write_talk(tmp_path / "a.mp4", last=20.0)
    data = path.read_bytes()
    runs = data.index(b"stts") + 8
    assert int.from_bytes(data[runs : runs + 4], "big") == 2  # runs of frames of one duration
    wrong = data[: runs + 16] + b"\x7f" + data[runs + 17 :]
    path.write_bytes(wrong)
    with pytest.raises(DecodeError, match=facts("a.mp4")):
        read_span(path)


def test_transcripts_are_paired_by_the_length_of_the_file(tmp_path):
    write_talk(tmp_path / "a.mp4", first=5.0, last=20.0, sound=(0.0, 15.0))
    assert VideoFinder(tmp_path).seconds("a") == pytest.approx(34.0, abs=0.1)


@for_each("first, last", [(5.0, None), (0.0, 20.0)])
def test_prepared_copies_count_seconds_alike(tmp_path, first, last):
    source = write_talk(tmp_path / "in.mp4", first=first, last=last, sound=(0.0, 15.0))
    (tmp_path / "in").mkdir()
    source = source.rename(tmp_path / "in/a.mp4")
    prepare(str(tmp_path / "in"), str(tmp_path / "out"), short_side=64, workers=1)
    copy = tmp_path / "out/a.mp4"
    before, after = read_span(source), read_span(copy)
    assert after.end - after.start == pytest.approx(before.end - before.start, abs=0.3)
    assert list_seconds(tmp_path / "in")[0] == list_seconds(tmp_path / "out")[0]
