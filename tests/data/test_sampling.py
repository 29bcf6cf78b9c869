from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from ssvid.data import decode
from ssvid.data.decode import read, read_timestamps
from ssvid.data.sampling import (
    ShortVideo,
    choose_near_position,
    clip_from,
    clip_times,
    eval_clips,
    need_part,
    place_frames,
    spread_positions,
)
from ssvid.errors import UserError
from ssvid.randomness import uniform
from ssvid.shapes import ClipSpec
from tests.data.bars import numbers, write
from tests.helpers import facts, for_each

GRID = np.arange(100) / 25
DRAWS = list(product((0.0, 0.3, 0.99), (0.0, 0.4, 0.999)))  # the first clip, the second one


def test_stride_counts_the_files_own_frames():
    spec = ClipSpec(frames=16, stride=4)
    starts = {round(clip_times(spec, GRID, u)[0][0] * 25) for u in np.linspace(0, 0.9999, 500)}
    assert starts == set(range(40))  # every start that fits, none that does not
    times, padded = clip_times(spec, GRID, 0.0)
    assert (times * 25).round().tolist() == list(range(0, 64, 4)) and not padded


def test_stride_on_a_variable_rate_takes_the_table():
    stamps = np.cumsum([0.0, 0.1, 0.5, 0.02, 0.3, 0.1])
    assert (
        clip_times(ClipSpec(frames=3, stride=2), stamps, 0.99)[0].tolist()
        == stamps[[1, 3, 5]].tolist()
    )


def test_fps_spaces_by_seconds_within_the_room_left():
    spec = ClipSpec(frames=8, fps=5.0)
    times, padded = clip_times(spec, GRID + 1, 0.5)
    assert np.diff(times) == pytest.approx(0.2) and not padded
    assert times[0] == pytest.approx(1 + 0.5 * (3.96 - 1.4))
    assert (
        clip_times(spec, GRID, 0.0)[0][0] == 0 and clip_times(spec, GRID, 0.999999)[0][-1] <= 3.96
    )


@for_each("spec", [ClipSpec(frames=16, stride=8), ClipSpec(frames=16, fps=3.0)])
def test_short_videos(spec):
    times, padded = clip_times(spec, GRID, 0.7)
    assert padded and times[0] == 0 and times[-1] == GRID[-1] and len(times) == 16
    with pytest.raises(ShortVideo) as error:
        clip_times(spec, GRID, 0.7, "drop", "a.mp4")
    assert error.value.path == "a.mp4"
    with pytest.raises(UserError, match=facts("a.mp4", "--short_videos")):
        clip_times(spec, GRID, 0.7, "error", "a.mp4")
    with pytest.raises(UserError, match=facts("pad", "drop", "error")):
        clip_times(spec, GRID, 0.7, "loop")


def test_the_last_frame_is_shown_for_a_while():
    assert not clip_times(ClipSpec(frames=100, stride=1), GRID, 0.5)[1]
    assert not clip_times(ClipSpec(frames=199, fps=50.0), GRID, 0.5)[1]
    assert not clip_times(ClipSpec(frames=200, fps=50.0), GRID, 0.5)[1]  # to 3.98 s of 4 s
    assert clip_times(ClipSpec(frames=203, fps=50.0), GRID, 0.5)[1]
    assert clip_times(ClipSpec(frames=1, fps=1.0), GRID[:1], 0.5)[0].tolist() == [0.0]


def test_eval_clips_cover_the_video_evenly(long_gop):
    assert spread_positions(1).tolist() == [0.5] and spread_positions(4).tolist() == [
        0.125,
        0.375,
        0.625,
        0.875,
    ]
    clips = eval_clips(long_gop, ClipSpec(frames=4, stride=5, size=48), 3)
    for n in (0, -1):
        with pytest.raises(UserError, match=rf"^{n} "):
            eval_clips(long_gop, ClipSpec(frames=4, stride=5, size=48), n)
    assert clips.shape == (3, 3, 4, 48, 48) and clips.dtype == torch.uint8 and clips.is_contiguous()
    starts = (spread_positions(3) * 285).int().tolist()
    for clip, start in zip(clips, starts, strict=True):
        index = np.arange(start, start + 20, 5)
        frames = read(long_gop, index / 25)
        assert numbers(frames) == index.tolist()
        assert torch.equal(clip, F.center_crop(F.resize(frames, [48]), [48, 48]).transpose(0, 1))


@for_each("spec", [ClipSpec(frames=4, stride=2, size=8), ClipSpec(frames=4, fps=5.0, size=8)])
def test_a_second_clip_begins_near_the_first(spec):
    stamps = np.arange(100) / 10

    def apart(first: float, u: float, max_gap_s: float) -> float:
        places = first, choose_near_position(spec, stamps, first, u, max_gap_s)
        begins = [clip_times(spec, stamps, u_start)[0][0] for u_start in places]
        return abs(begins[1] - begins[0])

    for first, u in DRAWS:
        assert apart(first, u, 0.0) == 0
    half = [apart(first, u, 0.5) for first, u in DRAWS]
    # Starts are whole frames, a tenth of a second apart.
    assert max(half) <= 0.5 + 0.1 and max(half) > 0.4
    assert max(apart(first, u, 100.0) for first, u in DRAWS) > 8.5, "anywhere in the video"
    assert choose_near_position(spec, stamps[:1], 0.7, 0.2, 1.0) == 0.7, (
        "a video no longer than the clip has one place"
    )


shares = st.floats(0, 1, width=32, exclude_max=True)  # as they are drawn
gaps = st.lists(st.floats(0.001, 2.0), min_size=1, max_size=300)


def whole(frames: int, size: int = 8) -> ClipSpec:
    return ClipSpec(frames=frames, whole=True, size=size)


def taken(frames: int, table: np.ndarray, u: float) -> list[int]:
    """Numbers of the frames that a clip of the whole video has."""
    times, _ = clip_times(whole(frames), table, u)
    assert np.isin(times, table).all()
    return np.searchsorted(table, times).tolist()


def test_a_whole_clip_by_hand():
    twelve = np.cumsum(
        [0.1, 0.4, 0.02, 0.3, 0.1, 1.5, 0.1, 0.2, 0.1, 0.1, 0.7, 0.1]
    )  # of frames, not of time
    assert taken(4, twelve, 0.5) == [1, 4, 7, 10]  # evaluation: the middle of each part
    for first, u in enumerate(spread_positions(3).tolist()):
        assert taken(4, twelve, u) == list(range(first, 12, 3))
    assert taken(12, twelve, 0.999) == list(range(12)) and taken(1, twelve, 0.5) == [6]
    assert taken(5, twelve, 0.0) == [0, 2, 4, 7, 9]
    assert not clip_times(whole(12), twelve, 0.0)[1] and clip_times(whole(13), twelve, 0.0)[1]


@settings(max_examples=200, deadline=None)
@given(frames=st.integers(1, 256), gaps=gaps, u=shares)
def test_a_whole_clip_has_one_frame_of_each_equal_part(frames, gaps, u):
    table = np.cumsum(gaps)
    index, n = taken(frames, table, u), len(table)
    _, padded = clip_times(whole(frames), table, u)
    assert len(index) == frames and padded == (n < frames)
    parts = [(i * n // frames, -(-(i + 1) * n // frames)) for i in range(frames)]
    low, high = np.array(parts).T
    assert (low <= index).all() and (index < high).all()
    if padded:  # all that there is, as evenly as can be
        times = np.bincount(index, minlength=n)
        assert index == sorted(index) and times.min() >= 1 and times.max() - times.min() <= 1
    else:
        assert (np.diff(index) > 0).all()


@settings(max_examples=100, deadline=None)
@given(frames=st.integers(1, 64), part=st.integers(1, 40), u=shares, clips=st.integers(1, 6))
def test_one_share_moves_all_frames_alike(frames, part, u, clips):
    table = np.arange(frames * part) / 25
    moved = np.array(taken(frames, table, u)) - taken(frames, table, 0.0)
    assert set(moved) == {int(u * part)}
    several = np.arange(frames * part * clips) / 25
    indices = []
    for share in spread_positions(clips).tolist():
        indices += taken(frames, several, share)
    assert len(set(indices)) == frames * clips, "n clips interleave"
    # Evenly, except for the rounding of a share.
    assert np.abs(np.diff(np.sort(indices)) - part).max(initial=0) <= 1


def test_one_view_of_evaluation_is_the_middle_of_each_segment_as_published():
    """int(i N / T + N / 2T), in whole numbers and in the floats of the published code."""
    (middle,) = spread_positions(1).tolist()
    for frames in (1, 2, 3, 5, 8, 16, 32):
        i = np.arange(frames)
        for n in range(1, 1000):
            ours = place_frames(n, frames, middle)
            assert (ours == (2 * i + 1) * n // (2 * frames)).all()
            assert (ours == (i * n / frames + n / (2 * frames)).astype(int)).all()


def test_frames_of_a_segment_are_drawn_apart_by_hand():
    """11 frames for 4 parts: n // 4 = 2 frames a part, and the last three are never seen."""
    u = np.array([0.0, 0.999, 0.49, 0.5])
    assert place_frames(11, 4, u).tolist() == [0, 3, 4, 7]
    table = GRID[:11]
    times, padded = clip_times(whole(4), table, u)
    assert times.tolist() == table[[0, 3, 4, 7]].tolist() and not padded
    assert place_frames(4, 4, u).tolist() == [0, 1, 2, 3]
    draws = uniform(0, "u", 0, torch.arange(4000), 4).numpy()
    counts = np.zeros((4, 11), dtype=int)
    for row in draws:
        counts[np.arange(4), place_frames(11, 4, row)] += 1
    assert (counts.sum(0) > 0).tolist() == [True] * 8 + [False] * 3
    share = counts[np.arange(4), 2 * np.arange(4)] / 4000  # of the first frame of a part
    assert (0.46 < share).all() and (share < 0.54).all()
    firsts = np.array([place_frames(8, 4, row) % 2 for row in draws])
    assert np.abs(np.corrcoef(firsts.T) - np.eye(4)).max() < 0.06, "no draw moves another one"


def test_a_video_of_too_few_frames_for_its_segments_has_no_draw():
    """around(i n / T), halves to the even number; what lies beyond the end begins again."""
    u = np.full(8, 0.7)
    assert place_frames(3, 8, u).tolist() == [0, 0, 1, 1, 2, 2, 2, 0]
    assert place_frames(1, 8, u).tolist() == [0] * 8
    assert place_frames(7, 8, u).tolist() == [0, 1, 2, 3, 4, 4, 5, 6]
    assert clip_times(whole(8), GRID[:3], u)[1], "frames are repeated, which counts as padded"
    with pytest.raises(ShortVideo, match=facts("3", "8")):
        clip_times(whole(8), GRID[:3], u, "drop", "a.mp4")


def test_a_video_of_fewer_frames_than_a_whole_clip_is_short():
    assert taken(8, GRID[:3], 0.5) == [0, 0, 0, 1, 1, 2, 2, 2]
    with pytest.raises(ShortVideo, match=facts("3", "0.08", "8")):
        clip_times(whole(8), GRID[:3], 0.5, "drop", "a.mp4")
    with pytest.raises(UserError, match=facts("a.mp4", "3", "0.08", "8", "--short_videos")):
        clip_times(whole(8), GRID[:3], 0.5, "error", "a.mp4")


def test_a_second_whole_clip_begins_near_the_first():
    table = np.arange(200) / 10  # parts of 5 s

    def begins(share: float) -> float:
        return float(clip_times(whole(4), table, share)[0][0])

    apart = []
    for first, u in DRAWS:
        apart.append(
            abs(begins(choose_near_position(whole(4), table, first, u, 1.0)) - begins(first))
        )
        assert choose_near_position(whole(4), table, first, u, 0.0) == first
    assert max(apart) <= 1.0 + 0.1 and max(apart) > 0.8
    assert (
        choose_near_position(whole(4), table, 0.5, 0.0, 100.0) == 0
        and choose_near_position(whole(4), table, 0.5, 0.5, 100.0) == 0.5
    )
    assert choose_near_position(whole(4), table[:1], 0.7, 0.2, 1.0) == 0.7


def test_what_lies_at_a_moment_is_no_whole_clip():
    with pytest.raises(UserError, match=facts("--clip.fps", "--clip.stride")):
        need_part(whole(4), "Clips of each second")
    assert need_part(ClipSpec(fps=5.0), "Clips") == ClipSpec(fps=5.0)
    with pytest.raises(UserError, match=facts("--clip.fps", "--clip.stride")):
        clip_from(whole(4), GRID, 1.0)


@pytest.fixture(scope="module")
def three_minutes(tmp_path_factory):
    """1000 numbered frames 0.18 s apart, key frames 20 apart, B frames in the second file."""
    root = tmp_path_factory.mktemp("long")
    times = (np.arange(1000) * 0.18).tolist()
    return [write(root / f"{b}.mp4", times, g=20, bf=b, preset="veryfast") for b in (0, 3)]


def spread(frames: int, u: float) -> list[int]:
    """Numbers of the frames of a clip over the whole of those videos."""
    return [int((i + u) * 1000 / frames) for i in range(frames)]


@for_each("frames", [64, 256])
def test_frames_over_minutes_are_the_right_ones(three_minutes, frames):
    for path in three_minutes:
        assert read_timestamps(path)[-1] == pytest.approx(179.82)
        for u in (0.0, 0.37, 0.999):
            times, padded = clip_times(whole(frames), read_timestamps(path), u)
            assert numbers(read(path, times)) == spread(frames, u) and not padded
        clips = eval_clips(path, whole(frames, 48), 2)
        for clip, u in zip(clips, (0.25, 0.75), strict=True):
            pictures = read(path, 0.18 * np.array(spread(frames, u)))
            assert torch.equal(
                clip, F.center_crop(F.resize(pictures, [48]), [48, 48]).transpose(0, 1)
            )


def test_a_whole_clip_does_not_decode_what_it_has_no_need_of(three_minutes, monkeypatch):
    """Of each group of 20 with a wanted frame what lies before that; of the others nothing."""
    indices = []
    real = decode.decode_stream
    monkeypatch.setattr(
        decode, "decode_stream", lambda *args: (indices.append(1) or frame for frame in real(*args))
    )
    times, _ = clip_times(whole(16), read_timestamps(three_minutes[0]), 0.5)
    index = spread(16, 0.5)
    assert numbers(read(three_minutes[0], times)) == index
    assert len(indices) == sum(i % 20 + 1 for i in index) < 200
