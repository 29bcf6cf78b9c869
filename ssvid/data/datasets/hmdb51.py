"""HMDB51 with its official split files -> Manifest.

See serre-lab.clps.brown.edu. There are 51 classes and 3 folds of 70 + 30 clips for each class.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ssvid.data import files, official
from ssvid.data.datasets.csv import need_column, read_table
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import datasets
from ssvid.shapes import Row

SPLIT = {"1": "train", "2": "test", "0": None}  # 0: in neither, in this fold
# Names are film_class, then the visible part of the body, camera, people, side, quality and number.
# Clips of one film and class are in the same split in all three folds. One film may hold several
# classes, on both sides of a split.
FILM = re.compile(r"(?P<film>.+)_[fhlu]_[cn]m_np\d+_(ba|fr|le|ri)_(bad|goo|med)_\d+")
SOURCE = official.SOURCES["hmdb51"]


class Clip(NamedTuple):
    """One line of a split file."""

    name: str
    label: str
    mark: str  # a key of SPLIT


@datasets.register("hmdb51")
def hmdb51(
    root: str,  # folder of the videos: class/film_class_....avi, or re-encoded with the same names
    *,
    # folder of CLASS_test_splitN.txt, or one csv of video_id,label,split1,split2,split3
    splits: str | None = None,
    fold: int = 1,  # 1 | 2 | 3; a score is the mean of the three
    present: bool = False,  # use the listed clips that exist, if they are a part of the classes
) -> Manifest:
    if fold not in (1, 2, 3):
        raise UserError(f"--data.fold {fold}: HMDB51 has folds 1, 2 and 3.")
    path = official.need_folder(root, "--data.root of hmdb51", SOURCE)
    if splits is not None and Path(splits).expanduser().is_file():
        clips = list(_read_csv(Path(splits).expanduser(), fold))
    else:
        name = "*_test_split1.txt"
        inside = ("testTrainMulti_7030_splits", "test_train_splits", "splits")
        folder = official.find_lists(path, splits, "--data.splits", name, inside, SOURCE)
        clips = list(_read_texts(folder, fold))
    _check_classes(clips, splits or str(path))
    used = [clip for clip in clips if SPLIT[clip.mark]]
    listed = [((f"{clip.label}/{clip.name}",), _make_row(clip)) for clip in used]
    allow = "use the part that exists with --data.present true"
    rows = official.locate_clips(path, listed, SOURCE, missing_ok=float(present), allow=allow)
    return Manifest.build(rows, path)


def _make_row(clip: Clip) -> Row:
    stem = PurePosixPath(clip.name).stem
    match = FILM.fullmatch(stem)
    group = f"{clip.label}/{match['film'] if match else stem}"
    return Row("", clip.label, SPLIT[clip.mark] or "", group, video_id=stem)


def _read_texts(folder: Path, fold: int) -> Iterator[Clip]:
    """A file for each class, with lines `name.avi mark`."""
    for file in sorted(folder.glob(f"*_test_split{fold}.txt")):
        for line in filter(str.strip, files.read_text(file).split("\n")):
            name, _, mark = line.strip().rpartition(" ")
            if mark not in SPLIT or not name.strip():
                raise UserError(
                    f"{file}: {line!r} is not a file's name and 1 (train), 2 (test) or 0 (neither)."
                )
            yield Clip(name.strip(), file.name.removesuffix(f"_test_split{fold}.txt"), mark)


def _read_csv(file: Path, fold: int) -> Iterator[Clip]:
    """All folds in one csv, as some projects publish them. There a label may end in `_test`."""
    lines, columns = read_table(file)
    for column in ("video_id", "label", f"split{fold}"):
        need_column(file, columns, column, "--data.splits")
    for number, line in lines:
        name, mark = line["video_id"].strip(), line[f"split{fold}"].strip()
        if mark not in SPLIT or not name:
            raise UserError(
                f"{file}, line {number}: split{fold} of {name!r} is {mark!r}, not 1, 2 or 0."
            )
        yield Clip(name, line["label"].strip().removesuffix("_test"), mark)


def _check_classes(clips: list[Clip], source: str) -> None:
    """Every class has train and test clips."""
    for mark, split in (("1", "train"), ("2", "test")):
        missing = {clip.label for clip in clips} - {c.label for c in clips if c.mark == mark}
        if missing:
            raise UserError(
                f"{source}: class {min(missing)} has no {split} clips (mark {mark}): get its split "
                "file again."
            )
