import json
import pickle
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from benchmarks.features.captions import Captions
from benchmarks.features.person_boxes import People
from benchmarks.features.windows import Windows
from ssvid.data.clips import Clips
from ssvid.data.decode import read
from ssvid.data.manifest import Manifest
from ssvid.data.narration.samples import Bags
from ssvid.data.preprocess.flow import flow_file
from ssvid.data.samples import collate
from ssvid.data.sampling import eval_clips
from ssvid.data.seconds import Seconds
from ssvid.errors import UserError
from ssvid.randomness import uniform
from ssvid.shapes import Bag, ClipSpec, Row, Views
from tests.data.bars import numbers, write
from tests.helpers import facts, for_each

SPEC = ClipSpec(frames=4, stride=3, size=64)


def views(*specs: ClipSpec, augment: str = "none") -> Views:
    return Views(clips=specs or (SPEC,), augment=augment)


def manifest(root: Path) -> Manifest:
    return Manifest.build(
        [Row(path.name, f"label{i % 2}") for i, path in enumerate(sorted(root.glob("*.mp4")))], root
    )


@pytest.fixture
def broken_set(tmp_path, small_set):
    for path in small_set.glob("*.mp4"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "clip_2.mp4").write_bytes(b"no video at all")
    return tmp_path


def test_the_middle_clip_is_that_of_evaluation_in_every_epoch(small_set):
    data = manifest(small_set)
    middle = Clips(data, Views(clips=(SPEC, SPEC), middle_clip=True), seed=1)
    expected = eval_clips(data.path(2), SPEC)[0]
    for epoch in (0, 5):
        for clip in middle[epoch, 2]["clips"]:
            assert torch.equal(clip, expected)
    whole = ClipSpec(frames=4, whole=True, size=64)
    with pytest.raises(UserError, match=facts("middle")):
        Views(clips=(whole,), independent_frames=True, middle_clip=True)


def test_a_sample_says_what_it_is(small_set):
    clips = Clips(manifest(small_set), views(SPEC, SPEC, augment="crop_flip"), seed=1)
    sample = clips[3, 5]
    assert sample["clips"].shape == (2, 3, 4, 64, 64) and sample["clips"].dtype == torch.uint8
    whose = {"index": 5, "epoch": 3, "label": 1, "video_id": "clip_5"}
    assert (
        sample.items() >= {**whose, "padded": 0, "readable": True, "dropped": 0}.items()
        and sample["bad_files"] == []
    )
    assert len(clips) == 6 and not torch.equal(sample["clips"][0], sample["clips"][1])


def test_choices_are_functions_of_seed_epoch_and_index(small_set):
    data_set = manifest(small_set)
    clips = Clips(data_set, views(augment="multiscale"), seed=1)
    first = clips[0, 2]["clips"]
    torch.manual_seed(7)
    copy = pickle.loads(
        pickle.dumps(Clips(data_set, views(augment="multiscale"), seed=1))
    )  # as a worker has it
    assert torch.equal(copy[0, 2]["clips"], first)
    assert not torch.equal(clips[1, 2]["clips"], first)
    assert not torch.equal(
        Clips(data_set, views(augment="multiscale"), seed=2)[0, 2]["clips"], first
    )


def test_crops_differ_by_epoch_and_view(small_set):
    whole = ClipSpec(frames=40, stride=1, size=32)  # only one start
    clips = Clips(manifest(small_set), views(whole, whole, augment="multiscale"), seed=1)
    first, second = clips[0, 0]["clips"], clips[1, 0]["clips"]
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])


@pytest.fixture
def decodes(monkeypatch) -> list[list[int]]:
    """The numbers in the pictures of each decode."""
    from ssvid.data import clips as module

    decoded = []
    real = module.read
    monkeypatch.setattr(
        module, "read", lambda *args: decoded.append(numbers(real(*args))) or real(*args)
    )
    return decoded


def test_the_clip_holds_the_frames_of_its_times(small_set, decodes):
    """Frames `start + 3 i` of the right file, one decode for all views."""
    Clips(manifest(small_set), views(SPEC, SPEC), seed=0)[0, 4]
    (codes,) = decodes
    for view in (codes[:4], codes[4:]):
        assert [code - view[0] for code in view] == [0, 3, 6, 9] and 400 <= view[0] <= 430
    assert codes[0] != codes[4]  # each view has its own start


def test_a_bad_file_is_replaced_by_a_function_of_the_coordinates(broken_set):
    clips = Clips(manifest(broken_set), views(), seed=0)
    rows = [clips[epoch, 2]["index"] for epoch in range(12)]
    assert (
        rows == [clips[epoch, 2]["index"] for epoch in range(12)]
        and 2 not in rows
        and len(set(rows)) > 2
    )
    sample = clips[0, 2]
    assert sample["video_id"] == f"clip_{sample['index']}" and torch.equal(
        sample["clips"], clips[0, sample["index"]]["clips"]
    )
    (bad,) = {bad.path for bad in sample["bad_files"]}
    assert bad.endswith("clip_2.mp4") and sample["bad_files"][0].why
    assert clips[0, 3]["bad_files"] == []


def test_ten_replacements_then_a_sentence(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.mp4").write_bytes(b"no")
    with pytest.raises(UserError, match=r"\b11\b.*\d\.mp4"):
        Clips(manifest(tmp_path), views(), seed=0)[0, 0]


def with_a_short_one(small_set: Path, root: Path) -> Manifest:
    """The set, and before it a video of five frames."""
    for path in small_set.glob("*.mp4"):
        (root / path.name).symlink_to(path)
    write(root / "a_short.mp4", (np.arange(5) / 25).tolist())
    return manifest(root)


def test_a_set_of_short_videos_is_no_damage(small_set, tmp_path):
    long = ClipSpec(frames=64, stride=3, size=64)
    with pytest.raises(UserError, match=facts("11", "64", "3", "--short_videos")) as error:
        Clips(manifest(small_set), views(long), seed=0, short="drop")[0, 0]
    assert "scan" not in str(error.value)
    write(tmp_path / "1.mp4", [i / 25 for i in range(5)])
    (tmp_path / "0.mp4").write_bytes(b"no")
    with pytest.raises(UserError, match=facts("4", "3", "0.mp4", "--scan_only")):
        Clips(manifest(tmp_path), views(), seed=0, short="drop")[0, 0]


def test_evaluation_is_even_and_never_replaces(broken_set):
    clips = Clips(manifest(broken_set), views(augment="crop_flip"), seed=0, evaluate=3)
    good, bad = clips[0, 1], clips[0, 2]
    assert torch.equal(good["clips"], eval_clips(broken_set / "clip_1.mp4", SPEC, 3))
    assert torch.equal(good["clips"], clips[5, 1]["clips"])
    assert not bad["readable"] and "clips" not in bad and len(bad["bad_files"]) == 1
    batch = collate([good, bad, clips[0, 0]], seed=4)
    assert batch["clips"].shape == (2, 3, 3, 4, 64, 64) and batch["index"].tolist() == [1, 0]
    assert (
        batch["readable"].tolist() == [True, False, True]
        and len(batch["bad_files"]) == 1
        and batch["seed"] == 4
    )
    assert batch["video_id"] == ["clip_1", "clip_0"] and batch["label"].tolist() == [1, 0]
    assert "clips" not in collate([bad], seed=0)


def test_views_of_unlike_shape_are_refused(small_set):
    with pytest.raises(UserError):
        Clips(manifest(small_set), views(SPEC, ClipSpec(frames=8, stride=1, size=64)), seed=0)


def test_mini6_by_its_csv(shared):
    from ssvid.registry import datasets

    root = shared / "real/ucf101-mini6"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    data_set = datasets["csv"](str(root), where="ci_small=1")
    assert [len(data_set.split(name)) for name in ("train", "val", "test")] == [60, 18, 42] and len(
        data_set.classes
    ) == 6
    spec = ClipSpec(frames=16, stride=4, size=112)
    sample = Clips(data_set.split("test"), views(spec, augment="multiscale"), seed=0)[0, 3]
    assert sample["clips"].shape == (1, 3, 16, 112, 112) and sample["clips"].float().std() > 10
    assert json.dumps(sample["video_id"]).startswith('"v_')


def test_rgb_and_flow_of_a_moment_share_time_and_cut(small_set, monkeypatch):
    from ssvid.data import clips as module

    monkeypatch.setattr(module, "need_flow", lambda manifest: None)
    monkeypatch.setattr(
        module, "read_flow", lambda video, flow, times, fps: module.read(video, times, fps)
    )
    other = ClipSpec(frames=4, stride=3, size=64, modality="flow")
    three = Views(clips=(SPEC, SPEC, other), clip_groups=(0, 1, 1), augment="coclr")
    clips = Clips(manifest(small_set), three, seed=1)
    for row in range(6):
        query, key, flow = clips[0, row]["clips"]
        assert torch.equal(key, flow) and not torch.equal(query, key)


def test_coclr_takes_one_moment_twice_for_half_of_the_videos(small_set):
    clips = Clips(manifest(small_set), views(SPEC, SPEC, augment="coclr"), seed=1)
    same, drawn = [], []
    for epoch, row in product(range(100), range(6)):
        (_, first), (_, second) = clips._choose_positions(epoch, row, np.arange(40) / 25)
        same.append(first == second)
        drawn.append(float(uniform(1, "alike", epoch, row, 1)) < 0.5)
    assert same == drawn and 0.4 < sum(same) / len(same) < 0.6


def test_views_no_further_apart_than_asked(small_set):
    near = Clips(
        manifest(small_set), Views(clips=(SPEC, SPEC), augment="none", max_gap_s=0.0), seed=1
    )
    first, second = near[0, 3]["clips"]
    assert torch.equal(first, second)
    far = Clips(manifest(small_set), views(SPEC, SPEC), seed=1)[0, 3]["clips"]
    assert not torch.equal(far[0], far[1])


def test_flow_that_is_not_there_is_said_before_any_clip(small_set):
    with pytest.raises(UserError, match=facts("ssvid.data.flow")):
        Clips(manifest(small_set), views(ClipSpec(stride=1, modality="flow")), seed=0)
    with pytest.raises(UserError, match=facts("depth")):
        ClipSpec(stride=1, modality="depth")


def test_features_of_flow_know_the_flow_files(small_set, monkeypatch):
    """Else features cached of one flow would be given for another."""
    from ssvid.data import clips as module

    monkeypatch.setattr(module, "need_flow", lambda manifest: None)
    data = manifest(small_set)
    assert Clips(data, views(), seed=0).files(2) == [data.path(2)]
    assert Clips(data, views(ClipSpec(stride=1, modality="flow")), seed=0).files(2) == [
        flow_file(data, 2)
    ]


WHOLE = ClipSpec(frames=8, whole=True, size=64)  # parts of five frames each


def test_whole_clips_are_drawn_by_one_share(small_set, decodes):
    clips, firsts = Clips(manifest(small_set), views(WHOLE, WHOLE), seed=0), set()
    for epoch in range(12):
        sample = clips[epoch, 4]
        codes = np.array(decodes.pop()).reshape(2, 8) - 400
        for view, codes_of_view in enumerate(codes):
            first = int(5 * float(uniform(0, f"clip/{view}", epoch, 4, 1)))
            assert codes_of_view.tolist() == [first + 5 * i for i in range(8)]
            firsts.add(first)
        assert sample["clips"].shape == (2, 3, 8, 64, 64) and sample["padded"] == 0
    assert firsts == set(range(5)), "every frame of the video is seen at some time"


def test_whole_clips_may_draw_each_frame_apart(small_set, decodes):
    apart = Views(clips=(WHOLE, WHOLE), independent_frames=True)
    clips, moves = Clips(manifest(small_set), apart, seed=0), []
    for epoch in range(12):
        sample = clips[epoch, 4]
        codes = np.array(decodes.pop()).reshape(2, 8) - 400
        for view, codes_of_view in enumerate(codes):
            u = uniform(0, f"frames/{view}", epoch, 4, 8)[0].numpy()
            moved = codes_of_view - 5 * np.arange(8)
            assert moved.tolist() == (5 * u).astype(int).tolist()
            moves.append(tuple(moved))
        assert torch.equal(sample["clips"], clips[epoch, 4]["clips"]), "no hidden state draws"
        decodes.pop()
    assert len(set(moves)) == 24, "views and epochs have draws of their own"
    again = Clips(manifest(small_set), apart, seed=0, evaluate=5)[0, 1]["clips"]
    assert torch.equal(
        again, Clips(manifest(small_set), views(WHOLE, WHOLE), seed=0, evaluate=5)[0, 1]["clips"]
    )


def test_evaluation_of_whole_clips_interleaves(small_set):
    clips = Clips(manifest(small_set), views(WHOLE), seed=3, evaluate=5)[0, 1]["clips"]
    frames = [list(range(100 + clip, 140, 5)) for clip in range(5)]
    table = {100 + i: i / 25 for i in range(40)}
    for clip, wanted in zip(clips, frames, strict=True):
        pictures = read(small_set / "clip_1.mp4", [table[number] for number in wanted])
        assert numbers(pictures) == wanted
        assert torch.equal(clip, F.center_crop(F.resize(pictures, [64]), [64, 64]).transpose(0, 1))


@for_each("spec, repeats", [(SPEC, 1), (WHOLE, 3)])
def test_a_short_video_is_padded_dropped_or_refused(small_set, tmp_path, spec, repeats):
    """It has five pictures: the last of four is shown again, or three of eight."""
    data_set = with_a_short_one(small_set, tmp_path)
    sample = Clips(data_set, views(spec, spec), seed=0)[0, 0]
    again = (
        (sample["clips"][:, :, 1:] == sample["clips"][:, :, :-1]).flatten(3).all(3).all(1)
    )  # V T
    assert sample["padded"] == 2 and again.sum(1).tolist() == [repeats] * 2
    assert Clips(data_set, views(spec), seed=0, evaluate=1)[0, 0]["padded"] == 1
    dropped = Clips(data_set, views(spec), seed=0, short="drop")[0, 0]
    assert dropped["index"] != 0 and dropped["dropped"] >= 1 and dropped["bad_files"] == []
    with pytest.raises(
        UserError, match=facts("a_short.mp4", "5", str(spec.frames), "--short_videos")
    ):
        Clips(data_set, views(spec), seed=0, short="error")[0, 0]


def test_clips_of_a_moment_refuse_to_be_whole(small_set):
    data_set = manifest(small_set)
    for make in (
        lambda: Seconds(data_set, WHOLE),
        lambda: Windows(data_set, WHOLE),
        lambda: People(data_set, WHOLE),
        lambda: Bags(data_set, Views(clips=(WHOLE,), text=Bag()), seed=0),
    ):
        with pytest.raises(UserError, match=facts("--clip.fps", "--clip.stride")):
            make()


def test_a_whole_clip_of_a_caption_is_spread_over_its_segment(small_set):
    captions = Captions(manifest(small_set), WHOLE, 2)
    table = np.arange(0, 30, 0.1)
    times = captions.choose_times(table, 10.0, 2.0, 6.0).reshape(2, WHOLE.frames)
    step = 4.0 / WHOLE.frames
    assert np.allclose(np.diff(times, axis=1), step)
    assert np.allclose(times[:, 0], [12 + step / 4, 12 + 3 * step / 4])
