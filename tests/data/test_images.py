"""Pictures as clips of one frame, and captions in lists of pictures and of videos."""

import logging
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from ssvid.data import files
from ssvid.data.datasets.images import images
from ssvid.data.decode import Span, read, read_span, read_timestamps
from ssvid.data.seconds import in_order, seconds_in
from ssvid.data.training import training
from ssvid.errors import DecodeError
from ssvid.registry import datasets
from ssvid.shapes import Caption, ClipSpec, Views
from tests.data.bars import numbers, picture, write
from tests.data.test_datasets import check_refusal, fields, splits, table, touch
from tests.helpers import facts, for_each, tells

SPECS = {"stride": 4, "fps": 5.0, "whole": True}


def draw(root, *names):
    """Pictures that show their numbers."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(i)).save(root / name)
    return str(root)


@pytest.fixture
def pets(tmp_path):
    return draw(tmp_path, "cat/a.png", "cat/b.bmp", "dog/c.png", "dog/deep/d.PNG")


def test_folders_are_laid_out_as_those_of_videos(tmp_path, pets, caplog):
    touch(tmp_path, "cat/film.mp4", "cat/._a.png", ".hidden/e.png", "notes.txt")
    caplog.set_level(logging.INFO, "ssvid")
    data = images(pets)
    assert sorted(fields(data, "path", "label")) == [
        ("cat/a.png", "cat"),
        ("cat/b.bmp", "cat"),
        ("dog/c.png", "dog"),
        ("dog/deep/d.PNG", "dog"),
    ]
    assert tells(caplog.text, "1 .mp4") and "pictures are" not in caplog.text
    assert images(pets, labels=False).classes == ()
    held = images(draw(tmp_path / "s", "train/x/1.png", "train/y/2.png", "test/x/3.png"))
    assert splits(held)["test"] == ["test/x/3.png"]


@for_each("spacing", sorted(SPECS))
def test_a_picture_is_a_clip_of_one_frame_that_is_repeated(pets, spacing):
    data = images(pets)
    for frames in (1, 3):
        spec = ClipSpec(frames=frames, size=64, **{spacing: SPECS[spacing]})
        sample = training(data, Views(clips=(spec,)), seed=0)[0, 1]
        assert sample["clips"].shape == (1, 3, frames, 64, 64)
        assert sample["padded"] == (frames > 1) and not sample["bad_files"]
        shown = torch.from_numpy(picture(1)).permute(2, 0, 1)  # C H W
        left = (shown.shape[2] - 64) // 2
        for frame in sample["clips"][0].unbind(1):
            assert torch.equal(frame, shown[:, :, left : left + 64])


def test_a_picture_is_shown_at_0_s_for_a_second(tmp_path, monkeypatch):
    monkeypatch.delattr("ssvid.data.seconds.scan_file")  # it is of videos
    file = draw(tmp_path, "7.png") + "/7.png"
    assert read_timestamps(file).tolist() == [0.0] and read_span(file) == Span(0.0, 1.0, 1.0)
    assert numbers(read(file, [0.0, 0.9, -3.0])) == [0, 0, 0]
    assert seconds_in(read_span(file)) == 1
    data = images(str(tmp_path))
    (second,) = in_order(data, 0, ClipSpec(frames=2, fps=4.0, size=64))
    whole = training(data, Views(clips=(ClipSpec(frames=2, fps=4.0, size=64),)), seed=0)
    assert torch.equal(second, whole[0, 0]["clips"][0])


@for_each("suffix", [".jpg", ".JPEG", ".png", ".webp", ".bmp"])
def test_every_kind_is_read_and_cut_off_ones_are_bad_files(tmp_path, suffix):
    file = tmp_path / f"x{suffix}"
    Image.fromarray(picture(5)).save(file, quality=100)
    assert numbers(read(file, [0.0])) == [5]
    whole = file.read_bytes()
    for data in (whole[: len(whole) // 2], b"", whole[:20]):
        file.write_bytes(data)
        with pytest.raises(DecodeError, match=facts(str(file))):
            read(file, [0.0])


def test_damage_is_replaced_by_another_picture(tmp_path, pets):
    (tmp_path / "cat/a.png").write_bytes(b"\x89PNG\r\n\x1a\nno more than that")
    data = images(pets, labels=False)
    spec = ClipSpec(frames=1, stride=1, size=16)
    sample = training(data, Views(clips=(spec,)), seed=0)[0, 0]
    assert sample["bad_files"][0].path.endswith("a.png") and sample["index"] != 0


@for_each("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_pixels_of_every_mode_become_red_green_and_blue(tmp_path, mode):
    file = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new("RGB", (8, 6), (255, 255, 255)).convert(mode).save(file)
    frames = read(file, [0.0])
    assert frames.shape == (1, 3, 6, 8) and int(frames.min()) >= 254


def test_the_orientation_of_the_exif_block_counts(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    blocks = np.kron(np.array([[0, 80]], np.uint8), np.ones((8, 8), np.uint8))
    Image.fromarray(blocks).save(tmp_path / "0.jpg", exif=exif, quality=100)
    assert read(tmp_path / "0.jpg", [0.0])[0, 0, 4::8, 4::8].tolist() == [[0], [80]]


def test_a_list_of_pictures(tmp_path, pets):
    rows = 'cat/a.png,cat,train,1,a cat\ncat/a.png,cat,train,1,"a cat, seen twice"\n'
    rows += "cat/b.bmp,cat,test,2,\ndog/c.png,dog,val,3,a dog\n"
    list_file = table(tmp_path / "captions.csv", "path,label,split,group,caption\n" + rows)
    data = images(pets, list=list_file)
    assert splits(data) == {"train": ["cat/a.png"], "val": ["dog/c.png"], "test": ["cat/b.bmp"]}
    assert data.split("train").rows[0].sentences == (
        (0.0, 1.0, "a cat"),
        (0.0, 1.0, "a cat, seen twice"),
    )
    assert data.split("test").rows[0].sentences == () and data.classes == ("cat", "dog")
    assert fields(images(list_file), "path", "sentences") == fields(data, "path", "sentences")
    views = Views(clips=(ClipSpec(frames=1, stride=1, size=16),), text=Caption(sentences=2))
    sentences = training(data.split("train"), views, seed=0)[0, 0]["sentences"]
    assert sorted(sentences) == ["a cat", "a cat, seen twice"]


def test_faults_of_pictures_are_named(tmp_path, pets):
    check_refusal("images", touch(tmp_path / "e", "a.mp4", "b.gif"), str(tmp_path / "e"), ".webp")
    check_refusal("images", tmp_path / "none", str(tmp_path / "none"), "--data.root")
    check_refusal("images", pets, "no.csv", "--data.list", list="no.csv")
    touch(tmp_path, "film.mp4")
    film = table(tmp_path / "film.csv", "path\nfilm.mp4\n")
    check_refusal("images", pets, "film.mp4", "--data csv", list=film)
    absent = table(tmp_path / "absent.csv", "path\ncat/z.png\n")
    check_refusal("images", pets, "cat/z.png", "1", list=absent)
    check_refusal("images", pets, "--data.labels", list=film, labels=True)
    twice = table(tmp_path / "twice.csv", "path,label\ncat/a.png,cat\ncat/a.png,cat\n")
    check_refusal("images", pets, "cat/a.png", "more than once", list=twice)
    mixed = table(tmp_path / "mixed.csv", "path,caption\ncat/a.png,one\ncat/a.png,\n")
    check_refusal("images", pets, "cat/a.png", "more than once", list=mixed)
    unlike = "path,label,caption\ncat/a.png,cat,one\ncat/a.png,dog,two\n"
    check_refusal("images", pets, "cat/a.png", list=table(tmp_path / "unlike.csv", unlike))


def test_captions_of_videos_last_as_long_as_these(tmp_path, caplog):
    caplog.set_level(logging.INFO, "ssvid")
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.mp4", [i / 25 for i in range(50)])
    (tmp_path / "c.mp4").write_bytes(b"no video")
    text = "path,caption\na.mp4,a dog\nb.mp4,\na.mp4,it barks\na.mp4,a dog\nc.mp4,noise\n"
    data = datasets["csv"](table(tmp_path / "l.csv", text))
    assert fields(data, "path", "sentences") == [
        ("a.mp4", ((0.0, 2.0, "a dog"), (0.0, 2.0, "it barks"))),
        ("b.mp4", ()),
        ("c.mp4", ((0.0, 0.0, "noise"),)),
    ]
    assert tells(caplog.text, "l.csv", "duration")
    stated = datasets["csv"](
        table(tmp_path / "s.csv", "path,text,duration\nc.mp4,noise,7.5\n"), caption_column="text"
    )
    assert stated.rows[0].sentences == ((0.0, 7.5, "noise"),)
    check_refusal(
        "csv", tmp_path / "s.csv", "about", "--data.caption_column", caption_column="about"
    )


def test_captions_of_folders_of_frames(tmp_path):
    draw(tmp_path, *(f"one/{i}.png" for i in range(6)))
    file = table(tmp_path / "l.csv", "path,caption\none,six pictures\n")
    assert datasets["frames"](file, fps=4.0).rows[0].sentences == ((0.0, 1.5, "six pictures"),)


def test_pictures_beside_videos_are_counted_in_one_line(tmp_path, caplog):
    caplog.set_level(logging.INFO, "ssvid")
    names = (*(f"x/{i}.jpg" for i in range(9)), "1.webp", "2.PNG", "3.bmp")
    touch(tmp_path, "film.mp4", *names, "a.divx")
    for _ in range(2):
        datasets["folder"](str(tmp_path))
    lines = list(filter(lambda line: "passed over" in line, caplog.messages))
    assert len(lines) == 2, "one of pictures, one of other kinds, each once"
    assert tells(lines[0], str(tmp_path), "12 pictures", "--data images")
    assert tells(lines[1], "1 .divx") and not tells(lines[1], ".jpg")
    caplog.clear()
    files.log_skipped_files(tmp_path / "one", Counter({".png": 1}), files.VIDEO_SUFFIXES)
    assert tells(caplog.text, "1 picture is")
