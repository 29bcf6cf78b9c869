"""Seconds of a video are the same in one pass and at random; what a feature store refuses."""

import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssvid.data import seconds
from ssvid.data.datasets.folder import folder
from ssvid.data.datasets.frames import frames
from ssvid.data.preprocess.flow import compute
from ssvid.data.seconds import LATE, Seconds, in_order
from ssvid.data.store import CARD, Store, make_card, open_for_writing, write_features
from ssvid.errors import DecodeError, UserError
from ssvid.shapes import ClipSpec
from tests.data.bars import VARIABLE, numbers, picture, write
from tests.helpers import facts, for_each

SPECS = [
    ClipSpec(frames=16, fps=5.0, size=24),
    ClipSpec(frames=3, stride=7, size=24),
    ClipSpec(frames=2, fps=1.0, size=24),
]
KINDS = {
    "variable": ("a.mkv", VARIABLE, {"g": 250, "bf": 3}),
    "b_frames": ("a.mp4", [i / 25 for i in range(130)], {"g": 40, "bf": 3, "preset": "veryfast"}),
    "skips": ("a.mp4", [i / 25 for i in range(110)], {"g": 5, "bf": 0}),
    "avi": ("a.avi", [i / 25 for i in range(60)], {"g": 12, "bf": 3, "preset": "veryfast"}),
    "one_frame": ("a.mp4", [0.0], {}),
}


@for_each("spec", SPECS)
@for_each("kind", KINDS)
def test_one_pass_gives_the_clips_of_each_second(tmp_path: Path, kind: str, spec: ClipSpec):
    name, times, options = KINDS[kind]
    write(tmp_path / name, times, **options)
    same(folder(str(tmp_path), labels=False), spec)


def same(data, spec: ClipSpec) -> None:
    wanted = Seconds(data, spec)
    decoded = list(in_order(data, 0, spec))
    assert len(decoded) == len(wanted) > 0
    for second, clip in enumerate(decoded):
        assert torch.equal(clip, wanted[0, second]["clips"][0]), second
    assert len(decoded) == 1 or not torch.equal(decoded[0], decoded[-1])


def test_clips_may_overlap_much_and_begin_before_their_seconds(tmp_path: Path):
    """More frames are held at a time than a clip has."""
    write(tmp_path / "a.mp4", [i / 25 for i in range(600)], g=250, bf=0)
    data, spec = folder(str(tmp_path), labels=False), ClipSpec(frames=8, fps=0.41, size=24)
    same(data, spec)
    early = list(in_order(data, 0, spec, shift=-1.0))
    usual = list(in_order(data, 0, spec))
    assert len(early) == len(usual) and torch.equal(early[5], usual[4])
    assert torch.equal(early[0][:, 0], usual[0][:, 0])  # the first frame is repeated


def test_folders_of_frames_and_flow(tmp_path: Path):
    for i in range(75):
        (tmp_path / "f/v").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(i)).save(tmp_path / f"f/v/{i}.png")
    same(frames(str(tmp_path / "f"), fps=25.0), SPECS[0])
    write(tmp_path / "v/a.mp4", [i / 25 for i in range(60)])
    data = folder(str(tmp_path / "v"), labels=False)
    compute(data, method="dis", workers=1)
    same(data, ClipSpec(frames=16, fps=5.0, size=24, modality="flow"))


def test_each_frame_is_read_once_and_few_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "a.mp4", [i / 10 for i in range(300)], g=250, bf=3)
    cut, passes = seconds.crop_frames, seconds.decode_frames
    shown: list[int] = []
    live: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most, opened = 0, 0

    def cutting(frames: torch.Tensor, *options) -> torch.Tensor:
        nonlocal most
        clips = cut(frames, *options)
        shown.extend(numbers(frames))
        live.add(clips)
        most = max(most, len(live))
        return clips

    def opening(*arguments):
        nonlocal opened
        opened += 1
        return passes(*arguments)

    monkeypatch.setattr(seconds, "crop_frames", cutting)
    monkeypatch.setattr(seconds, "decode_frames", opening)
    for _ in in_order(folder(str(tmp_path), labels=False), 0, SPECS[0]):
        pass
    assert shown == [*range(0, 300, 2), 299] and opened == 1  # 5 a second, and the last one
    assert most <= SPECS[0].frames + 1


def test_where_jumping_over_frames_fails_all_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    name, times, options = KINDS["skips"]
    write(tmp_path / name, times, **options)
    data, whole, cut, shown = (
        folder(str(tmp_path), labels=False),
        seconds.decode_frames,
        seconds.crop_frames,
        [],
    )

    def failing(path, table, passed):
        for i, decoded in enumerate(whole(path, table, passed)):
            if passed and i == 3:
                raise DecodeError(path, "lost the thread")
            yield decoded

    def cutting(frames: torch.Tensor, *options) -> torch.Tensor:
        shown.extend(numbers(frames))
        return cut(frames, *options)

    monkeypatch.setattr(seconds, "decode_frames", failing)
    same(data, SPECS[2])
    monkeypatch.setattr(seconds, "crop_frames", cutting)
    list(in_order(data, 0, SPECS[2]))
    assert shown == [
        0,
        25,
        50,
        75,
        100,
        109,
    ]  # each once, also those that were there before it failed


def test_a_frame_that_does_not_come_is_said_and_none_are_piled_up(monkeypatch: pytest.MonkeyPatch):
    arguments = 0

    def pictures():
        nonlocal arguments
        for i in [*range(7), *range(8, 10_000)]:
            arguments += 1
            yield i, torch.zeros(1, 3, 8, 8, dtype=torch.uint8)

    wanted = np.arange(10_000).reshape(-1, 4)
    with pytest.raises(DecodeError, match=facts("7.000")):
        list(seconds._make_clips(Path("a.mp4"), pictures(), wanted, np.arange(10_000.0), 8))
    assert arguments < LATE + 20


def test_a_picture_that_changes_its_size(monkeypatch: pytest.MonkeyPatch):
    pictures = ((i, torch.zeros(1, 3, 8 + i // 2, 8, dtype=torch.uint8)) for i in range(4))
    with pytest.raises(DecodeError, match=facts("a.mp4")):
        list(
            seconds._make_clips(
                Path("a.mp4"), pictures, np.arange(4).reshape(2, 2), np.arange(4.0), 8
            )
        )


def test_damage_inside_is_an_error_with_its_time(tmp_path: Path):
    file = write(tmp_path / "a.mkv", [i / 25 for i in range(100)], g=250, bf=3, preset="veryfast")
    data, draw = bytearray(file.read_bytes()), np.random.RandomState(0)
    for i in range(len(data) * 3 // 4, len(data) * 3 // 4 + 900, 60):
        data[i] ^= draw.randint(1, 255)
    file.write_bytes(data)
    listed, clips = folder(str(tmp_path), labels=False), []
    with pytest.raises(DecodeError) as caught:
        for clip in in_order(listed, 0, ClipSpec(frames=16, fps=25.0, size=24)):
            clips.append(clip)
    assert 0 < len(clips) < 4 and caught.value.time is not None and 1 < caught.value.time < 4


def test_a_store_reads_what_was_written(tmp_path: Path):
    store = open_for_writing(tmp_path, make_card(3, "vit", "ab12", SPECS[0]))
    rows = np.arange(12, dtype=np.float32).reshape(4, 3) / 8
    for name in ("one", "a/b", "../up", "/top"):
        write_features(store.path(name), rows)
        read = Store(tmp_path).read(name)
        assert isinstance(read, np.memmap) and read.dtype == np.float16 and (read == rows).all()
        assert tmp_path in store.path(name).parents and name in store and "other" not in store
    card = json.loads((tmp_path / CARD).read_text())
    assert card["dim"] == 3 and card["clip"]["fps"] == 5.0 and card["seconds_per_row"] == 1
    assert (card["encoder"], card["hash"]) == ("vit", "ab12")
    store.path("one").write_bytes(store.path("one").read_bytes()[:-6])  # cut short
    with pytest.raises(UserError, match=facts("one.npy")):
        Store(tmp_path).read("one")


def test_published_features_are_a_store(tmp_path: Path):
    np.save(tmp_path / "abc.npy", np.ones((5, 7), np.float32))
    store = Store(tmp_path)
    assert store.dim == 7 and store.card is None and store.read("abc").shape == (5, 7)
    np.save(tmp_path / "other.npy", np.ones((5, 8), np.float32))
    with pytest.raises(UserError, match=facts("7", "8")):
        for name in ("abc", "other"):
            Store(tmp_path).read(name)


@for_each(
    "content, words",
    [
        (None, ("ssvid.extract", "--per_second")),
        (b"", ()),
        (np.ones((4, 5), np.float16), ("5", "3")),
        (np.ones(4, np.float16), ("float16", "4")),
        (np.array([{}, {}]), ()),
        (np.ones((4, 3), np.int64), ("int64",)),
    ],
)
def test_what_is_wrong_with_features_is_a_sentence(tmp_path: Path, content, words: tuple[str, ...]):
    store, file = (
        open_for_writing(tmp_path, make_card(3, "vit", "ab12", SPECS[0])),
        tmp_path / "a.npy",
    )
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        np.save(file, content)
    with pytest.raises(
        UserError, match=facts("a" if content is None else "a.npy", *words)
    ) as caught:
        store.read("a")
    assert "\n" not in str(caught.value)


@for_each("text", ["", "[1]", "{}", '{"dim": "3"}', '{"dim": 3, "seconds_per_row": 2}', "{"])
def test_a_card_that_is_none(tmp_path: Path, text: str):
    (tmp_path / CARD).write_text(text)
    with pytest.raises(UserError, match=facts("store.json")):
        Store(tmp_path)


def test_folders_that_are_no_store(tmp_path: Path):
    for root, words in ((tmp_path / "absent", ()), (tmp_path, ("store.json", ".npy"))):
        with pytest.raises(UserError, match=facts(str(root), *words)):
            Store(root)


def test_other_features_are_refused_with_what_differs(tmp_path: Path):
    open_for_writing(tmp_path / "s", make_card(3, "vit", "ab12", SPECS[0]))
    open_for_writing(tmp_path / "s", make_card(3, "vit", "ab12", SPECS[0]))
    with pytest.raises(UserError, match=facts("ab12", "cd34")) as caught:
        open_for_writing(tmp_path / "s", make_card(3, "vit", "cd34", SPECS[1]))
    assert "dim" not in str(caught.value)
    np.save(tmp_path / "theirs.npy", np.ones((5, 7), np.float32))
    with pytest.raises(UserError, match=facts("theirs.npy", "store.json")):
        (tmp_path / "s" / CARD).unlink()
        open_for_writing(tmp_path, make_card(3, "vit", "ab12", SPECS[0]))
