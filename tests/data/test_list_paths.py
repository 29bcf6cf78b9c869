"""Which file of the disk a name in a list means."""

import unicodedata

from ssvid.data.files import Finder
from ssvid.data.preprocess.prepare import _list_sources
from ssvid.registry import datasets
from tests.data.test_datasets import check_refusal, fields, table, touch
from tests.helpers import for_each, tells

NFC = unicodedata.normalize("NFC", "caf\u00e9")
NFD = unicodedata.normalize("NFD", NFC)


@for_each(
    "paths, name, path",
    [
        (["a/1.mp4", "b/1.mp4"], "a/1.mp4", "a/1.mp4"),
        (["a/1.webm", "b/1.webm"], "./a//x/../1.mp4", "a/1.webm"),
        (["a/1.mp4"], "a\\1.mp4", "a/1.mp4"),
        (["a/1.mp4", "a/1.webm"], "a/1.webm", "a/1.webm"),
        (["a/1.mp4", "a/1.webm"], "a/1.avi", None),
        (["v/a/1.mp4", "v/b/1.mp4"], "a/1.mp4", "v/a/1.mp4"),
        (["v/a/1.mp4"], "1", "v/a/1.mp4"),
        (["a/1.mp4", "b/1.mp4"], "1.mp4", None),
        (["a/1.mp4"], "k400/train/a/1.mp4", "a/1.mp4"),
        (["1.mp4"], "a/1.mp4", "1.mp4"),
        (["b/1.mp4"], "a/1.mp4", None),
        (["val/007.mp4", "train/008.mp4"], "train/007.mp4", None),
        (["v/val/007.mp4"], "v/train/007.mp4", None),
        (["1.mp4", "a/2.mp4"], "a/1.mp4", None),  # the root has a folder a without 1.mp4
        (["a/1.mp4"], "aa/1.mp4", None),
        (["a/b1.mp4"], "1.mp4", None),
        (["a/1.5.mp4", "a/1.6.mp4"], "a/1.mp4", None),
        (["v1.5", "v1.6"], "v1.5", "v1.5"),  # folders of frames
        (["v1.5"], "v1", None),
        (["x/clip.mp4"], "x/clip.gif", None),
        ([f"a/{NFD}.mp4"], f"a/{NFC}.mp4", f"a/{NFD}.mp4"),
        ([f"{NFC}/1.mp4"], f"{NFD}/1.mp4", f"{NFC}/1.mp4"),
        ([f"{NFC}.mp4", f"{NFD}.mp4"], f"{NFD}.mp4", f"{NFD}.mp4"),
        (["CLIP.MP4"], "clip.mp4", None),
        ([], "", None),
        (["a/1.mp4"], "", None),
    ],
)
def test_a_name_means_one_file_or_none(tmp_path, paths, name, path):
    assert Finder(tmp_path / "clips", paths)(name) == path


def test_absolute_paths(tmp_path):
    root = tmp_path / "clips"
    touch(tmp_path, "clips/a/1.mp4", "clips/b/1.webm", "elsewhere/a/1.mp4")
    (tmp_path / "link").symlink_to(root)
    find = Finder(root, ["a/1.mp4", "b/1.webm"])
    assert find(f"{root}/a/1.mp4") == "a/1.mp4"
    assert find(f"{root}/b/1.mp4") == "b/1.webm"
    assert find(f"{tmp_path}/link/a/1.mp4") == "a/1.mp4"
    assert Finder(tmp_path / "link", ["a/1.mp4"])(f"{root}/a/1.mp4") == "a/1.mp4"
    (root / "inner").symlink_to(root / "a")
    assert find("inner/1.mp4") == find(f"{root}/inner/1.mp4") == "a/1.mp4"
    assert find(f"{root}/c/a/1.mp4") is None, "an absolute path below the root is that file alone"
    assert find(f"{tmp_path}/elsewhere/a/1.mp4") is None
    assert find("/of/another/machine/a/1.mp4") == "a/1.mp4"
    assert find("/of/another/machine/c/1.mp4") is None


def test_a_folder_of_the_list_is_not_the_root_where_both_are_there(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/2.mp4", "val/1.mp4")
    assert Finder(tmp_path / "a", ["1.mp4"])("a/1.mp4") == "1.mp4"
    assert Finder(tmp_path / "a", ["1.mp4"])("b/1.mp4") is None
    assert Finder(tmp_path / "val", ["1.mp4"])("train/1.mp4") is None
    assert Finder(tmp_path / "val", ["1.mp4"])("validation/1.mp4") == "1.mp4"


@for_each(
    "listed, words",
    [
        ("a/1.mp4", ("b/1.mp4",)),
        ("2.mp4", ("c/2.mp4", "d/2.mp4")),
        ("b/3.gif", (".gif",)),
        ("{tmp}/other.mp4", ("--data.root",)),
        ("b", ("folder",)),
    ],
)
def test_a_missing_clip_is_told_with_what_is_there(tmp_path, listed, words):
    root = touch(tmp_path / "v", "b/1.mp4", "c/2.mp4", "d/2.mp4", "b/3.gif")
    touch(tmp_path, "other.mp4")
    listed = listed.format(tmp=tmp_path)
    train = table(tmp_path / "t.csv", f"{listed},x\n")
    check_refusal("pathlist", root, "1", listed, *words, train=train)


def test_missing_clips_that_are_allowed_are_counted(tmp_path, capsys):
    root = touch(tmp_path / "v", "b/1.mp4")
    train = table(tmp_path / "t.csv", "b/1.mp4,x\nb/2.mp4,x\n")
    assert len(datasets["pathlist"](root, train=train, missing_ok=0.5)) == 1
    assert tells(capsys.readouterr().err, root, "1", "2", "b/2.mp4")


def test_an_accent_is_found_in_either_spelling(tmp_path):
    touch(tmp_path, f"{NFD}/{NFD}.mp4", "b.mp4")
    text = f"path,label\n{NFC}/{NFC}.mp4,x\nb.mp4,y\n"
    data = datasets["csv"](table(tmp_path / "labels.csv", text))
    assert fields(data, "path", "group") == [(f"{NFD}/{NFD}.mp4",) * 2, ("b.mp4",) * 2]
    assert data.path(0).is_file()
    check_refusal("csv", table(tmp_path / "l.csv", f"path\n{NFC}/none.mp4\n"), "1", "none.mp4")


def test_files_that_a_folder_passes_over_are_counted_by_suffix(tmp_path, capsys):
    root = touch(tmp_path / "a", "x/1.mp4", "y/2.mp4", "x/3.GIF", "y/4.gif", "x/5.divx", "y/6")
    touch(tmp_path / "a", "x/._1.gif", ".x/2.gif", "notes.txt", "labels.csv", "x/1.en.vtt")
    datasets["folder"](root)
    lines = [line for line in capsys.readouterr().err.splitlines() if tells(line, ".divx")]
    assert len(lines) == 1 and tells(lines[0], root, "2 .gif", "1 .divx", "1 without")
    assert not tells(lines[0], ".txt") and not tells(lines[0], ".mp4")
    datasets["frames"](touch(tmp_path / "b", "x/1/1.jpg", "y/2/1.png", "y/3/1.webp"), fps=8.0)
    assert tells(capsys.readouterr().err, "1 .webp")
    datasets["folder"](touch(tmp_path / "c", "x/1.mp4", "y/2.mp4"))
    assert not tells(capsys.readouterr().err, "passed over")


def test_prepare_counts_what_it_passes_over(tmp_path, capsys):
    root = touch(tmp_path / "a", "1.mp4", "2.divx")
    assert _list_sources(root)[1] == ["1.mp4"]
    assert tells(capsys.readouterr().err, "1 .divx")
