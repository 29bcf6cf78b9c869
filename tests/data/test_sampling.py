import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from ssvid.data.decode import read
from ssvid.data.sampling import ShortVideo, clip_times, eval_clips, near, positions
from ssvid.errors import UserError
from ssvid.shapes import ClipSpec
from tests.data.bars import numbers

GRID = np.arange(100) / 25


def test_stride_counts_the_files_own_frames():
    spec = ClipSpec(frames=16, stride=4)
    starts = {round(clip_times(spec, GRID, u)[0][0] * 25) for u in np.linspace(0, 0.9999, 500)}
    assert starts == set(range(40))  # every start that fits, none that does not
    times, padded = clip_times(spec, GRID, 0.0)
    assert (times * 25).round().tolist() == list(range(0, 64, 4)) and not padded


def test_stride_on_a_variable_rate_takes_the_table():
    stamps = np.cumsum([0.0, 0.1, 0.5, 0.02, 0.3, 0.1])
    assert clip_times(ClipSpec(frames=3, stride=2), stamps, 0.99)[0].tolist() == stamps[[1, 3, 5]].tolist()


def test_fps_spaces_by_seconds_within_the_room_left():
    spec = ClipSpec(frames=8, fps=5.0)
    times, padded = clip_times(spec, GRID + 1, 0.5)
    assert np.diff(times) == pytest.approx(0.2) and not padded
    assert times[0] == pytest.approx(1 + 0.5 * (3.96 - 1.4))
    assert clip_times(spec, GRID, 0.0)[0][0] == 0 and clip_times(spec, GRID, 0.999999)[0][-1] <= 3.96


@pytest.mark.parametrize("spec", [ClipSpec(frames=16, stride=8), ClipSpec(frames=16, fps=3.0)])
def test_short_videos(spec):
    times, padded = clip_times(spec, GRID, 0.7)
    assert padded and times[0] == 0 and times[-1] == GRID[-1] and len(times) == 16
    with pytest.raises(ShortVideo) as error:
        clip_times(spec, GRID, 0.7, "drop", "a.mp4")
    assert error.value.path == "a.mp4"
    with pytest.raises(UserError, match="a.mp4.*--short"):
        clip_times(spec, GRID, 0.7, "error", "a.mp4")
    with pytest.raises(UserError, match="pad, drop, error"):
        clip_times(spec, GRID, 0.7, "loop")


def test_the_last_frame_is_shown_for_a_while():
    assert not clip_times(ClipSpec(frames=100, stride=1), GRID, 0.5)[1]
    assert not clip_times(ClipSpec(frames=199, fps=50.0), GRID, 0.5)[1]
    assert not clip_times(ClipSpec(frames=200, fps=50.0), GRID, 0.5)[1]  # to 3.98 s of 4 s
    assert clip_times(ClipSpec(frames=203, fps=50.0), GRID, 0.5)[1]
    assert clip_times(ClipSpec(frames=1, fps=1.0), GRID[:1], 0.5)[0].tolist() == [0.0]


def test_eval_clips_cover_the_video_evenly(long_gop):
    assert positions(1).tolist() == [0.5] and positions(4).tolist() == [0.125, 0.375, 0.625, 0.875]
    clips = eval_clips(long_gop, ClipSpec(frames=4, stride=5, size=48), 3)
    for n in (0, -1):
        with pytest.raises(UserError, match=f"^{n} clips .* 1 or more"):
            eval_clips(long_gop, ClipSpec(frames=4, stride=5, size=48), n)
    assert clips.shape == (3, 3, 4, 48, 48) and clips.dtype == torch.uint8 and clips.is_contiguous()
    starts = [int(u * 285) for u in positions(3).tolist()]
    for clip, start in zip(clips, starts, strict=True):
        frames = read(long_gop, [(start + 5 * i) / 25 for i in range(4)])
        assert numbers(frames) == [start + 5 * i for i in range(4)]
        assert torch.equal(clip, F.center_crop(F.resize(frames, [48]), [48, 48]).transpose(0, 1))


@pytest.mark.parametrize("spec", [ClipSpec(frames=4, stride=2, size=8), ClipSpec(frames=4, fps=5.0, size=8)])
def test_a_second_clip_begins_near_the_first(spec):
    stamps = np.arange(100) / 10

    def apart(first: float, u: float, apart_s: float) -> float:
        places = first, near(spec, stamps, first, u, apart_s)
        begin, other = (clip_times(spec, stamps, place)[0][0] for place in places)
        return abs(other - begin)

    draws = [(first, u) for first in (0.0, 0.3, 0.99) for u in (0.0, 0.4, 0.999)]
    assert all(apart(first, u, 0.0) == 0 for first, u in draws)
    half = [apart(first, u, 0.5) for first, u in draws]
    assert max(half) <= 0.5 + 0.1 and max(half) > 0.4  # starts are whole frames, a tenth of a second apart
    assert max(apart(first, u, 100.0) for first, u in draws) > 8.5, "anywhere in the video"


def test_a_video_no_longer_than_the_clip_has_one_place():
    assert near(ClipSpec(frames=4, stride=1, size=8), np.arange(4) / 10, 0.7, 0.2, 1.0) == 0.7
