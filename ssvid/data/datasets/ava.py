"""AVA actions -> Manifest: films with people in `boxes`, once a second, and all that each does.

There are 80 classes.
"""

import re
from pathlib import Path

from ssvid.data import files, lists, official
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.log import log_once
from ssvid.registry import datasets
from ssvid.shapes import Box, Row

SPLIT = {"train": "train", "val": "test"}  # the labels of AVA's own test are secret
SOURCE = official.SOURCES["ava"]
Key = tuple[float, float, float, float, float, str]  # time, box, person
Labels = dict[Key, list[str]]  # the classes of each box


@datasets.register("ava")
def ava(
    root: str,  # folder of the films: ID.mkv, ID.mp4, ...
    *,
    # folder of ava_train_v2.2.csv and the others; default: searched in and beside root
    annotations: str | None = None,
    # a .pbtxt; only boxes of its classes are used; default: ava_action_list_v*.pbtxt, all 80
    classes: str | None = None,
    # second of the film at which the files begin: 900 for the usual 15-minute cuts
    begins_s: float = 0.0,
    missing_ok: float = 0.0,  # share of listed films that may be absent
) -> Manifest:
    """The official val is the test, because the labels of the test are secret.

    A fifth of the train films is val.
    """
    path = official.need_folder(root, "--data.root of ava", SOURCE)
    inside, name = ("annotations", "ava_v2.2"), "ava_train_v*.csv"
    folder = official.find_lists(path, annotations, "--data.annotations", name, inside, SOURCE)
    if classes:
        class_file = official.need_file(classes, "--data.classes", SOURCE)
    else:
        class_file = _newest(folder, r"ava_action_list_v[\d.]+\.pbtxt")
    names = lists.read_names(class_file)
    listed = []
    for official_split, split in SPLIT.items():
        file = _newest(folder, rf"ava_{official_split}_v[\d.]+\.csv")
        for film, boxes in _read_films(file, names, begins_s).items():
            row = Row("", split=split, group=film, video_id=film, boxes=boxes)
            listed.append(((film,), row))
    rows = official.locate_clips(path, listed, SOURCE, missing_ok=missing_ok)
    return Manifest.build(rows, path, source=folder)


def _newest(folder: Path, pattern: str) -> Path:
    versions = [file for file in sorted(folder.iterdir()) if re.fullmatch(pattern, file.name)]
    if not versions:
        name = pattern.replace(r"[\d.]+", "2.2").replace("\\", "")
        raise UserError(f"{folder} has no {name}. {official.where_to_get(SOURCE, SOURCE.lists)}")
    return versions[-1]


def _read_films(file: Path, names: dict[str, str], begins_s: float) -> dict[str, tuple[Box, ...]]:
    """Film -> its boxes.

    A line is film, second, x0, y0, x1, y1, class, person; there is one for each class of a box. A
    line of film and second alone says that nobody is there.
    """
    excluded = _read_excluded(file)
    labels_of_film: dict[str, Labels] = {}
    for number, line in enumerate(files.read_csv_rows(file), start=1):
        if not line or (line[0], _parse_second(line)) in excluded:
            continue
        labels_of_box = labels_of_film.setdefault(line[0], {})
        if len(line) < 7 or not line[2]:
            continue
        key = _parse_box(f"{file}, line {number}", line, begins_s)
        labels = labels_of_box.setdefault(key, [])
        if line[6] in names:
            labels.append(names[line[6]])
    boxes_of_film, unlabelled = {}, 0
    for film, labels_of_box in labels_of_film.items():
        boxes = []
        for key, labels in labels_of_box.items():
            if labels:
                boxes.append(Box(*key[:5], tuple(labels), key[5]))
        boxes_of_film[film] = tuple(boxes)
        unlabelled += len(labels_of_box) - len(boxes)
    if unlabelled:
        log_once(
            f"{file}: {unlabelled} boxes hold none of the {len(names)} classes and are left out."
        )
    return boxes_of_film


def _parse_box(where: str, line: list[str], begins_s: float) -> Key:
    values = [lists.parse_number(text) for text in line[1:6]]
    time, x0, y0, x1, y1 = (-1.0 if value is None else value for value in values)
    if not (0 <= x0 <= x1 <= 1 and 0 <= y0 <= y1 <= 1 and time >= 0):
        raise UserError(
            f"{where} is not film,second,x0,y0,x1,y1,class,person with a box in 0 to 1."
        )
    if time < begins_s:
        raise UserError(f"{where}: second {time:g} lies before --data.begins_s {begins_s:g}.")
    return time - begins_s, x0, y0, x1, y1, line[7] if len(line) > 7 else ""


def _parse_second(line: list[str]) -> float | None:
    return lists.parse_number(line[1]) if len(line) > 1 else None


def _read_excluded(file: Path) -> set[tuple[str, float | None]]:
    """Film and second of what AVA does not score.

    They are in ava_train_excluded_timestamps_v2.2.csv, if it is beside the list.
    """
    name = re.sub(r"_v(?=[\d.]+csv)", "_excluded_timestamps_v", file.name)
    excluded = file.with_name(name)
    lines = files.read_csv_rows(excluded) if excluded.is_file() else []
    return {(line[0], _parse_second(line)) for line in lines if line}
