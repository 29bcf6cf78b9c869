"""HMDB51 with its official split files -> Manifest (serre-lab.clps.brown.edu; 51 classes, 3 folds of 70 + 30 each)."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ssvid.data import files, official
from ssvid.data.datasets.csv import need_column, read_table
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import datasets
from ssvid.shapes import Row

SPLIT = {"1": "train", "2": "test", "0": None}  # 0: in neither, in this fold
# film_class, then what is seen of the body, camera, people, side, quality, number: clips of one film and class stay
# together in all three folds (one film may hold several classes, on both sides of a split)
FILM = re.compile(r"(?P<film>.+)_[fhlu]_[cn]m_np\d+_(ba|fr|le|ri)_(bad|goo|med)_\d+")
SOURCE = official.SOURCES["hmdb51"]


@datasets.register("hmdb51")
def hmdb51(
    root: str,  # of the videos: class/film_class_....avi, or re-encoded under the same names
    *,
    splits: str
    | None = None,  # folder of CLASS_test_splitN.txt, or one csv of video_id,label,split1,split2,split3
    fold: int = 1,  # 1 | 2 | 3; a score is the mean of the three
    present: bool = False,  # take the listed clips that are there: a part of the classes
) -> Manifest:
    if fold not in (1, 2, 3):
        raise UserError(f"--data.fold {fold}: HMDB51 has folds 1, 2 and 3.")
    path = official.need_folder(root, "--data.root of hmdb51", SOURCE)
    if splits is not None and Path(splits).expanduser().is_file():
        lines = list(_table(Path(splits).expanduser(), fold))
    else:
        inside = ("testTrainMulti_7030_splits", "test_train_splits", "splits")
        lines = list(
            _texts(
                official.find_lists(
                    path, splits, "--data.splits", "*_test_split1.txt", inside, SOURCE
                ),
                fold,
            )
        )
    _check(lines, splits or str(path))
    listed = [
        ((f"{label}/{name}",), _row(name, label, mark))
        for name, label, mark in lines
        if SPLIT[mark]
    ]
    allow = "take the part that is there with --data.present true"
    return Manifest.build(
        official.locate_clips(path, listed, SOURCE, missing_ok=float(present), allow=allow), path
    )


def _row(name: str, label: str, mark: str) -> Row:
    stem = PurePosixPath(name).stem
    match = FILM.fullmatch(stem)
    return Row(
        "", label, SPLIT[mark] or "", f"{label}/{match['film'] if match else stem}", video_id=stem
    )


def _texts(folder: Path, fold: int) -> Iterator[tuple[str, str, str]]:
    """A file for each class: `name.avi mark`. A name, its class, its mark."""
    for file in sorted(folder.glob(f"*_test_split{fold}.txt")):
        for line in filter(str.strip, files.read_text(file).split("\n")):
            name, _, mark = line.strip().rpartition(" ")
            if mark not in SPLIT or not name.strip():
                raise UserError(
                    f"{file}: {line!r} is not a file's name and 1 (train), 2 (test) or 0 (neither)."
                )
            yield name.strip(), file.name.removesuffix(f"_test_split{fold}.txt"), mark


def _table(file: Path, fold: int) -> Iterator[tuple[str, str, str]]:
    """All folds in one csv, as some projects give them; there a label may end in `_test`."""
    rows, columns = read_table(file)
    for column in ("video_id", "label", f"split{fold}"):
        need_column(file, columns, column, "--data.splits")
    for number, line in rows:
        name, label, mark = (
            line[column].strip() for column in ("video_id", "label", f"split{fold}")
        )
        if mark not in SPLIT or not name:
            raise UserError(
                f"{file}, line {number}: split{fold} of {name!r} is {mark!r}, not 1, 2 or 0."
            )
        yield name, label.removesuffix("_test"), mark


def _check(lines: list[tuple[str, str, str]], source: str) -> None:
    for mark, split in (("1", "train"), ("2", "test")):
        bare = {label for _, label, _ in lines} - {label for _, label, own in lines if own == mark}
        if bare:
            raise UserError(
                f"{source}: class {min(bare)} has no {split} clips (mark {mark}): get its split file anew."
            )
