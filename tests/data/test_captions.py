import shutil
from collections import Counter
from itertools import permutations
from operator import itemgetter

import pytest
import torch

from ssvid.data.captions import CaptionedClips, choose_captions, describe_whole, list_captions
from ssvid.data.clips import Clips
from ssvid.data.loader import train_loader
from ssvid.data.manifest import Manifest
from ssvid.data.training import training
from ssvid.errors import UserError
from ssvid.shapes import Caption, ClipSpec, Row, Views
from tests.helpers import facts, for_each

SPEC = ClipSpec(frames=2, stride=3, size=16)
TIMES = ((0.0, 1.6), (0.5, 0.9), (5.0, 9.0), (0.0, 0.0))  # of captions; none of them matters


def captioned(root, texts=("one", "two", " ", "three")) -> Manifest:
    sentences = tuple((*times, text) for times, text in zip(TIMES, texts, strict=False))
    return Manifest.build([Row(f"clip_{i}.mp4", sentences=sentences) for i in range(6)], root)


def views(spec=SPEC, n=1, augment="none") -> Views:
    return Views(clips=(spec, spec), augment=augment, text=Caption(sentences=n))


@for_each(
    "spec, augment",
    [
        (SPEC, "crop_flip"),
        (ClipSpec(frames=2, fps=5.0, size=16), "none"),
        (ClipSpec(frames=2, whole=True, size=16), "none"),
    ],
)
def test_the_clips_are_those_of_any_objective(small_set, spec, augment):
    data, wanted = captioned(small_set), views(spec, augment=augment)
    plain = Clips(data, Views(clips=(spec, spec), augment=augment), seed=3)
    samples = training(data, wanted, seed=3)
    assert isinstance(samples, CaptionedClips)
    for key in ((0, 1), (7, 4)):
        assert torch.equal(samples[key]["clips"], plain[key]["clips"])
        assert len(samples[key]["sentences"]) == 1


def test_every_caption_is_drawn_as_often_and_blank_ones_never(small_set, monkeypatch):
    monkeypatch.setattr(Clips, "_load", lambda self, epoch, row: {})
    samples = CaptionedClips(captioned(small_set), views(), seed=0)
    counts = Counter()
    for epoch in range(100):
        for row in range(6):
            counts.update(samples._load(epoch, row)["sentences"])
    assert set(counts) == {"one", "two", "three"}
    assert max(abs(count - 200) for count in counts.values()) < 4 * (600 * 2 / 9) ** 0.5


def test_captions_differ_while_there_are_enough(small_set, monkeypatch):
    monkeypatch.setattr(Clips, "_load", lambda self, epoch, row: {})
    samples = CaptionedClips(captioned(small_set), views(n=3), seed=0)
    drawn = list_drawn(samples)
    assert set(drawn) == set(permutations(("one", "two", "three")))
    assert drawn != list_drawn(CaptionedClips(captioned(small_set), views(n=3), seed=1))
    assert choose_captions(["a", "b"], [1, 0], 5) == ["b", "a", "b", "a", "b"]


def list_drawn(samples: CaptionedClips) -> list[tuple[str, ...]]:
    """The captions of the first row in each of 60 epochs."""
    return [tuple(samples._load(epoch, 0)["sentences"]) for epoch in range(60)]


def test_workers_and_resuming_change_no_caption(small_set):
    samples = training(captioned(small_set), views(n=2), seed=1)
    alone = read_sentences(samples)
    assert read_sentences(samples, workers=2) == alone
    assert read_sentences(samples, start_step=2) == alone[2:]
    assert list(map(len, alone[0])) == [2, 2, 2]


def read_sentences(samples, **options):
    loader = train_loader(samples, batch_size=3, steps=4, **{"workers": 0, **options})
    return list(map(itemgetter("sentences"), loader))


def test_the_captions_are_of_the_clip_that_replaces_a_bad_one(small_set, tmp_path):
    rows = []
    for i in range(3):
        rows.append(Row(f"clip_{i}.mp4", sentences=((0.0, 1.0, str(i)),)))
        shutil.copy(small_set / rows[i].path, tmp_path)
    (tmp_path / "clip_0.mp4").write_bytes(b"no video at all")
    sample = training(Manifest.build(rows, tmp_path), views(), seed=0)[0, 0]
    assert sample["bad_files"] and sample["sentences"] == [str(sample["index"])] != ["0"]


def test_rows_without_captions_are_refused(small_set):
    mute = captioned(small_set, (" ", ""))
    with pytest.raises(UserError, match=facts("6", "6", "clip_0.mp4", "caption")):
        training(mute, views(), seed=0)
    with pytest.raises(UserError, match=facts("0")):
        Caption(sentences=0)


def test_short_videos_are_treated_as_the_command_says(small_set):
    long = views(ClipSpec(frames=60, stride=1, size=16))
    with pytest.raises(UserError, match=facts("40", "60", "--short_videos")):
        training(captioned(small_set), long, seed=0, short="error")[0, 0]


def test_a_whole_video_is_described_from_its_start_to_its_end():
    row = Row("a.mp4", sentences=describe_whole([" a dog ", "", "  ", "two dogs"], 2.5))
    assert row.sentences == ((0.0, 2.5, "a dog"), (0.0, 2.5, "two dogs"))
    assert list_captions(row) == ["a dog", "two dogs"]
