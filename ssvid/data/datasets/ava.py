"""AVA actions -> Manifest: films with people in `boxes`, once a second, and all that each does (80 classes)."""

import csv
import io
import re
from collections import defaultdict
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


@datasets.register("ava")
def ava(
    root: str,  # of the films: ID.mkv, ID.mp4, ...
    *,
    annotations: str
    | None = None,  # folder of ava_train_v2.2.csv and the others; default: looked for by root
    classes: str
    | None = None,  # .pbtxt; default: ava_action_list_v*.pbtxt, all 80; boxes keep the classes it names
    begins_s: float = 0.0,  # second of the film at which the files begin: 900 for the usual 15-minute cuts
    missing_ok: float = 0.0,  # share of listed films that may be absent
) -> Manifest:
    """The official val is the test, for the labels of the test are secret; a fifth of the train films is val."""
    path = official.need_folder(root, "--data.root of ava", SOURCE)
    inside = ("annotations", "ava_v2.2")
    folder = official.find_lists(
        path, annotations, "--data.annotations", "ava_train_v*.csv", inside, SOURCE
    )
    wanted = (
        official.need_file(classes, "--data.classes", SOURCE)
        if classes
        else _newest(folder, r"ava_action_list_v[\d.]+\.pbtxt")
    )
    names = lists.read_names(wanted)
    listed = []
    for part, split in SPLIT.items():
        file = _newest(folder, rf"ava_{part}_v[\d.]+\.csv")
        for film, boxes in _films(file, names, begins_s).items():
            listed.append(((film,), Row("", None, split, film, video_id=film, boxes=boxes)))
    return Manifest.build(
        official.locate_clips(path, listed, SOURCE, missing_ok=missing_ok), path, source=folder
    )


def _newest(folder: Path, name: str) -> Path:
    found = [file for file in sorted(folder.iterdir()) if re.fullmatch(name, file.name)]
    if not found:
        shown = name.replace(r"[\d.]+", "2.2").replace("\\", "")
        raise UserError(f"{folder} has no {shown}. {official.where_to_get(SOURCE, SOURCE.lists)}")
    return found[-1]


def _films(file: Path, names: dict[str, str], begins_s: float) -> dict[str, tuple[Box, ...]]:
    """film, second, x0, y0, x1, y1, class, person: one line for each class of a box. Film and second alone: nobody."""
    out = _excluded(file)
    held: dict[str, dict[Key, list[str]]] = defaultdict(dict)
    for number, line in enumerate(csv.reader(io.StringIO(files.read_text(file))), start=1):
        if not line or (line[0], _second(line)) in out:
            continue
        boxes = held[line[0]]
        if len(line) < 7 or not line[2]:
            continue
        values = [lists.parse_number(text) for text in line[1:6]]
        time, x0, y0, x1, y1 = (-1.0 if value is None else value for value in values)
        if not (0 <= x0 <= x1 <= 1 and 0 <= y0 <= y1 <= 1 and time >= 0):
            raise UserError(
                f"{file}, line {number} is not film,second,x0,y0,x1,y1,class,person with a box in 0 to 1."
            )
        if time < begins_s:
            raise UserError(
                f"{file}, line {number}: second {time:g} lies before --data.begins_s {begins_s:g}."
            )
        labels = boxes.setdefault(
            (time - begins_s, x0, y0, x1, y1, line[7] if len(line) > 7 else ""), []
        )
        if line[6] in names:
            labels.append(names[line[6]])
    bare = sum(not labels for boxes in held.values() for labels in boxes.values())
    if bare:
        log_once(f"{file}: {bare} boxes hold none of the {len(names)} classes and are left out.")
    return {
        film: tuple(Box(*key[:5], tuple(labels), key[5]) for key, labels in boxes.items() if labels)
        for film, boxes in held.items()
    }


def _second(line: list[str]) -> float | None:
    return lists.parse_number(line[1]) if len(line) > 1 else None


def _excluded(file: Path) -> set[tuple[str, float | None]]:
    """Film and second of ava_train_excluded_timestamps_v2.2.csv, where it lies beside: AVA does not score them."""
    found = file.with_name(re.sub(r"_v(?=[\d.]+csv)", "_excluded_timestamps_v", file.name))
    lines = csv.reader(io.StringIO(files.read_text(found))) if found.is_file() else ()
    return {(line[0], _second(line)) for line in lines if line}
