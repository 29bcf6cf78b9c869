"""Charades (arXiv:1604.01753) -> Manifest: clips of several of 157 classes, each with its times, in `segments`."""

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
    root: str,  # of the videos: ID.mp4, or folders of frames (Charades_v1_rgb)
    *,
    annotations: str
    | None = None,  # folder of Charades_v1_train.csv and the others; default: looked for by root
    missing_ok: float = 0.0,  # share of listed clips that may be absent
    fps: float | None = None,  # of folders of frames: 24 for Charades_v1_rgb
) -> Manifest:
    """The official test has its labels and is the test; whole subjects of train are val."""
    path = official.need_folder(root, "--data.root of charades", SOURCE)
    folder = official.find_lists(
        path, annotations, "--data.annotations", FILES["train"], ("Charades",), SOURCE
    )
    tables = {split: _read(folder / name) for split, name in FILES.items()}
    names = lists.read_names(
        official.need_file(folder / CLASSES, f"--data.annotations/{CLASSES}", SOURCE)
    )
    seen = [{line["subject"] for _, line in rows} for rows in tables.values()]
    both = set.intersection(*seen)  # such a subject would be refused as a group
    listed = [
        item
        for split, rows in tables.items()
        for item in _listed(folder / FILES[split], split, rows, names, both)
    ]
    return Manifest.build(
        official.locate_clips(path, listed, SOURCE, missing_ok=missing_ok, fps=fps),
        path,
        source=folder,
    )


def _read(file: Path) -> Lines:
    rows, columns = read_table(official.need_file(file, f"--data.annotations/{file.name}", SOURCE))
    for column in ("id", "subject", "actions"):
        need_column(file, columns, column, "--data.annotations")
    return rows


def _listed(
    file: Path, split: str, rows: Lines, names: dict[str, str], both: set[str]
) -> Iterator[tuple[tuple[str, ...], Row]]:
    backwards = 0
    for number, line in rows:
        segments = [
            _segment(f"{file}, line {number}", text, names)
            for text in line["actions"].split(";")
            if text.strip()
        ]
        forwards = tuple(segment for segment in segments if segment[0] <= segment[1])
        backwards += len(segments) - len(forwards)
        subject = line["subject"].strip()
        group = "" if not subject or subject in both else f"subject {subject}"
        length = lists.parse_number(line.get("length"))
        clip = line["id"].strip()
        yield (clip,), Row("", None, split, group, length, video_id=clip, segments=forwards)
    if backwards:
        log_once(f"{file}: {backwards} segments end before they begin and are left out.")


def _segment(where: str, text: str, names: dict[str, str]) -> tuple[float, float, str]:
    """`c092 11.90 21.20`."""
    name, *times = text.split()
    start, end = (
        (lists.parse_number(times[0]), lists.parse_number(times[1]))
        if len(times) == 2
        else (None, None)
    )
    if start is None or end is None or name not in names:
        raise UserError(
            f"{where}: {text!r} is not a class of {CLASSES} with its start and end in seconds."
        )
    return start, end, names[name]
