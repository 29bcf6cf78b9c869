"""Charades (arXiv:1604.01753) -> Manifest: clips of several of 157 classes.

The times of the classes are in `segments`.
"""

from collections.abc import Iterator
from pathlib import Path

from ssvid.data import lists, official
from ssvid.data.datasets.csv import Lines, need_column, read_table
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.log import log_once
from ssvid.registry import datasets
from ssvid.shapes import Row

FILES = {"train": "Charades_v1_train.csv", "test": "Charades_v1_test.csv"}
CLASSES = "Charades_v1_classes.txt"
SOURCE = official.SOURCES["charades"]


@datasets.register("charades")
def charades(
    root: str,  # folder of the videos: ID.mp4, or folders of frames (Charades_v1_rgb)
    *,
    # folder of Charades_v1_train.csv and the others; default: searched in and beside root
    annotations: str | None = None,
    missing_ok: float = 0.0,  # share of listed clips that may be absent
    fps: float | None = None,  # of folders of frames: 24 for Charades_v1_rgb
) -> Manifest:
    """The official test has labels and is the test. Whole subjects of train are val."""
    path = official.need_folder(root, "--data.root of charades", SOURCE)
    name, inside = FILES["train"], ("Charades",)
    folder = official.find_lists(path, annotations, "--data.annotations", name, inside, SOURCE)
    tables = {split: _read_lines(folder / name) for split, name in FILES.items()}
    class_file = official.need_file(folder / CLASSES, f"--data.annotations/{CLASSES}", SOURCE)
    names = lists.read_names(class_file)
    # A subject of both splits cannot be a group.
    shared = _subjects(tables["train"]) & _subjects(tables["test"])
    listed: list[tuple[tuple[str, ...], Row]] = []
    for split, lines in tables.items():
        listed += _read_clips(folder / FILES[split], split, lines, names, shared)
    rows = official.locate_clips(path, listed, SOURCE, missing_ok=missing_ok, fps=fps)
    return Manifest.build(rows, path, source=folder)


def _read_lines(file: Path) -> Lines:
    lines, columns = read_table(official.need_file(file, f"--data.annotations/{file.name}", SOURCE))
    for column in ("id", "subject", "actions"):
        need_column(file, columns, column, "--data.annotations")
    return lines


def _subjects(lines: Lines) -> set[str]:
    return {line["subject"] for _, line in lines}


def _read_clips(
    file: Path, split: str, lines: Lines, names: dict[str, str], shared: set[str]
) -> Iterator[tuple[tuple[str, ...], Row]]:
    """The file name of each clip, and its row. `shared`: subjects of both splits."""
    n_backwards = 0
    for number, line in lines:
        where = f"{file}, line {number}"
        texts = filter(str.strip, line["actions"].split(";"))
        segments = [_parse_segment(where, text, names) for text in texts]
        forwards = tuple(filter(lambda segment: segment[0] <= segment[1], segments))
        n_backwards += len(segments) - len(forwards)
        subject = line["subject"].strip()
        clip = line["id"].strip()
        row = Row(
            "",
            split=split,
            group="" if not subject or subject in shared else f"subject {subject}",
            duration=lists.parse_number(line.get("length")),
            video_id=clip,
            segments=forwards,
        )
        yield (clip,), row
    if n_backwards:
        log_once(f"{file}: {n_backwards} segments end before they begin and are left out.")


def _parse_segment(where: str, text: str, names: dict[str, str]) -> tuple[float, float, str]:
    """(start, end, name of the class) of a text like `c092 11.90 21.20`: code, start and end.

    Times are in seconds. `names`: code of a class -> its name. A UserError names `where`.
    """
    code, *times = text.split()
    if len(times) == 2 and code in names:
        start, end = map(lists.parse_number, times)
        if start is not None and end is not None:
            return start, end, names[code]
    raise UserError(
        f"{where}: {text!r} is not a class of {CLASSES} with its start and end in seconds."
    )
