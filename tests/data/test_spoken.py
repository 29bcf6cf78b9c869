from pathlib import Path

import numpy as np
import pytest
import torch

from ssvid.data.decode import read, read_timestamps
from ssvid.data.loader import train_loader
from ssvid.data.manifest import Manifest
from ssvid.data.narration.samples import (
    NOTHING,
    Bags,
    FeatureWindows,
    choose_neighbours,
    choose_start,
    choose_window,
)
from ssvid.data.samples import collate
from ssvid.data.training import training
from ssvid.errors import UserError
from ssvid.shapes import Bag, ClipSpec, Row, Views, Window
from tests.data.bars import write
from tests.helpers import facts, for_each, tells

SPEC = ClipSpec(frames=4, fps=5.0, size=64)
SAID = ((0.0, 2.0, "a"), (3.0, 4.0, "b"), (4.5, 6.0, "c"), (20.0, 21.0, "d"))


def test_candidates_grow_on_the_side_that_keeps_them_together():
    assert choose_neighbours(SAID, 1, 2) == [1, 2]  # 3 to 6 rather than 0 to 4
    assert choose_neighbours(SAID, 1, 3) == [0, 1, 2]
    assert choose_neighbours(SAID, 3, 2) == [2, 3]
    assert choose_neighbours(SAID, 0, 4) == [0, 1, 2, 3]
    assert choose_neighbours(SAID, 2, 6) == [0, 1, 2, 3, 3, 3]  # too few: the last one again


@for_each(
    "sentence, u, start",
    [
        ((10.0, 12.0), 0.0, 8.0),  # widened to 8.5 .. 13.5
        ((10.0, 12.0), 0.99, 9.0),  # the last whole second from which 3.2 s end by 13
        ((0.5, 1.5), 0.0, 0.0),
        ((10.0, 20.0), 0.99, 16.0),
    ],
)
def test_a_clip_lies_in_its_widened_sentence(sentence, u, start):
    assert choose_start((*sentence, "x"), 5.0, 3.2, u) == start


@pytest.fixture
def narrated(tmp_path: Path) -> Manifest:
    """Two films of 10 s, 25 frames a second, whose frames are numbered."""
    for i in range(2):
        write(tmp_path / f"{i}.mp4", [t / 25 for t in range(250)], first=300 * i, g=12)
    spoken = [((2.0, 3.0, "two"), (6.0, 7.0, "six")), ((1.0, 2.0, "one"),)]
    return Manifest.build([Row(f"{i}.mp4", sentences=spoken[i]) for i in range(2)], tmp_path)


def test_a_bag_has_the_clip_of_its_sentence(narrated):
    views = Views(clips=(SPEC,), text=Bag(sentences=2, min_s=1.0))
    bags = Bags(narrated, views, seed=0)
    first_frames = set()
    for epoch in range(12):
        sample = bags[epoch, 0]
        assert sample["sentences"] == ["two", "six"] and sample["clips"].shape == (1, 3, 4, 64, 64)
        first_frames.add(first_frame(sample["clips"], narrated))
    assert first_frames == {50, 150}  # 2 s and 6 s
    assert bags[0, 1]["sentences"] == ["one", "one"]


def first_frame(clips: torch.Tensor, narrated: Manifest) -> int:
    """The frame of the first film that a centre crop of 64 x 64 begins with."""
    whole = read(narrated.path(0), read_timestamps(narrated.path(0)))  # T C H W
    left = (whole.shape[3] - 64) // 2
    gap = (whole[:, :, :, left : left + 64].int() - clips[0, :, 0].int()).abs().flatten(1).sum(1)
    return int(gap.argmin())


def test_bags_reach_the_batch(narrated):
    views = Views(clips=(SPEC,), text=Bag(sentences=3))
    samples = training(narrated, views, seed=0)
    assert isinstance(samples, Bags)
    (batch,) = train_loader(samples, batch_size=2, steps=1, workers=1)
    assert [len(one) for one in batch["sentences"]] == [3, 3] and batch["clips"].shape[:2] == (2, 1)


def test_rows_without_sentences_are_refused(narrated):
    mute = Manifest.build([Row("0.mp4"), narrated.rows[1]], narrated.root)
    with pytest.raises(UserError, match=facts("1", "2", "0.mp4", "--data", "narrated")):
        Bags(mute, Views(clips=(SPEC,), text=Bag()), seed=0)


LONG = tuple((10.0 * i + 0.4, 10.0 * i + 4.6, f"s{i}") for i in range(12))  # 0 to 115 s


def window(u: float, spoken=LONG, length: int = 120, **options):
    return choose_window(spoken, length, Window(seconds=32, **options), torch.tensor([u]))


def test_a_window_begins_with_a_sentence_and_has_what_follows():
    heard = window(0.0)
    assert heard.start == 0 and heard.sentences == ["s0", "s1", "s2", "s3"]
    assert heard.spans == [(0, 5), (10, 15), (20, 25), (30, 32)]  # rounded, the last one clipped
    assert window(0.999).start == 80  # s8 at 80.4 is the last that starts before 114.6 - 32
    assert window(0.999).sentences == ["s8", "s9", "s10", "s11"]


def test_a_window_ends_at_the_first_sentence_that_does_not_fit():
    brief = (*LONG[:2], (20.0, 20.4, "brief"), *LONG[2:])
    assert window(0.0, brief).sentences == ["s0", "s1"]
    assert window(0.0, can_encode=lambda text: text != "s1").sentences == ["s0"]
    assert window(0.0, can_encode=lambda text: False).sentences == [NOTHING]


def test_sentences_past_the_features_are_left_out():
    assert window(0.999, length=80).start == 40  # s7 ends at 74.6


@for_each("spoken", [(), LONG[:3], ((100.0, 130.0, "past"),)])
def test_a_video_that_leaves_no_window_is_silent(spoken):
    assert window(0.5, spoken) == (0, [NOTHING], [(0, 32)])


@pytest.fixture
def stored(tmp_path: Path) -> Manifest:
    """Feature t of video i is 1000 i + t."""
    rows = []
    for i, length in enumerate((120, 90, 20)):
        np.save(
            tmp_path / f"{i}.npy",
            np.repeat(1000.0 * i + np.arange(length)[:, None], 3, 1).astype(np.float16),
        )
        rows.append(Row(f"{i}.npy", features=f"{i}.npy", sentences=LONG))
    return Manifest.build(rows, tmp_path)


VIEWS = Views(text=Window(seconds=32))


def test_features_lie_where_their_window_does(stored):
    windows = FeatureWindows(stored, VIEWS, seed=3)
    for epoch in range(8):
        sample = windows[epoch, 0]
        start = int(sample["features"][0, 0])
        assert (
            sample["features"][:, 0].tolist() == list(range(start, start + 32))
            and not sample["video_padding_mask"].any()
        )
        first_sentence = start // 10
        assert sample["sentences"][0] == f"s{first_sentence}" and sample["spans_s"][0].tolist() == [
            0.0,
            5.0,
        ]
        torch.testing.assert_close(
            sample["span_fractions"][0], torch.tensor([start / 120, (start + 5) / 120])
        )
    assert len({windows[epoch, 0]["sentences"][0] for epoch in range(8)}) > 3


def test_a_short_video_ends_and_says_so(stored):
    sample = FeatureWindows(stored, VIEWS, seed=0)[0, 2]
    assert sample["video_padding_mask"].tolist() == [False] * 20 + [True] * 12
    assert sample["features"][20:, 0].eq(sample["features"][19, 0]).all() and sample[
        "sentences"
    ] == [NOTHING]


def test_a_batch_repeats_the_last_sentence(stored):
    windows = FeatureWindows(stored, VIEWS, seed=0)
    batch = collate([windows[0, 0], windows[0, 2]], seed=0)
    K = len(batch["sentences"][0])
    assert batch["spans_s"].shape == (2, K, 2) == batch["span_fractions"].shape
    assert batch["text_padding_mask"].tolist() == [[False] * K, [False] + [True] * (K - 1)]
    assert (batch["spans_s"][1] == torch.tensor([0.0, 32.0])).all()
    assert batch["features"].dtype == torch.float16


def test_a_damaged_file_is_replaced_and_told_of(stored):
    path = stored.root / "1.npy"
    path.write_bytes(path.read_bytes()[:200])
    sample = FeatureWindows(stored, VIEWS, seed=0)[0, 1]
    assert sample["index"] != 1 and [bad.path for bad in sample["bad_files"]] == [str(path)]
    np.save(path, np.zeros((50, 4), np.float16))  # of another width
    assert tells(FeatureWindows(stored, VIEWS, seed=0)[0, 1]["bad_files"][0].why, "4", "3")


def test_rows_without_features_are_refused(stored):
    bare = Manifest.build([Row("0.npy", sentences=LONG)], stored.root)
    with pytest.raises(UserError, match=facts("1", "0.npy", "ssvid.extract")):
        training(bare, VIEWS, seed=0)
