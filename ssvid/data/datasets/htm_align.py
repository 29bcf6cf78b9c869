"""HTM-Align -> Manifest: 80 videos, each sentence with its true times and whether it is seen at all (TAN)."""

from pathlib import Path
from typing import Any, NamedTuple

from ssvid.data import lists, official
from ssvid.data.manifest import Manifest
from ssvid.data.narration.pairing import Missing, Paired, take
from ssvid.data.narration.skipped import LeftOut
from ssvid.errors import UserError
from ssvid.registry import datasets
from ssvid.shapes import Row

NAME = "htm_align.json"
SOURCE = official.SOURCES["htm_align"]


class Spoken(NamedTuple):
    alignable: bool
    start: float  # seconds: true ones where it is alignable, else those of the speech recognition
    end: float
    text: str


@datasets.register("htm_align")
def htm_align(
    root: str,  # of the videos, or of their features: ID.mp4, ID.npy, ID.mp4.npy
    *,
    annotations: str | None = None,  # htm_align.json; default: looked for by root
    features: str
    | None = None,  # folder of stored features, a row a second (below root, or absolute)
    missing: Missing = "refuse",  # skip: leave out what cannot be used, counted and listed
) -> Manifest:
    """All is the test. Sentences stand in the file's order, as `load_annotation` gives them with their flags."""
    path = official.folder(root, "--data.root of htm_align", SOURCE)
    file = annotation_file(path, annotations)
    listed = [
        (
            (id,),
            Row(
                "",
                None,
                "test",
                id,
                sentences=tuple((s.start, s.end, s.text) for s in spoken),
                video_id=id,
            ),
        )
        for id, spoken in sorted(load_annotation(file).items())
    ]
    left = LeftOut()
    rows = take(Paired(path, features), listed, SOURCE, missing, left)
    left.say(file)
    return Manifest.build(rows, path, source=file)


def annotation_file(root: Path, given: str | None) -> Path:
    if given is None:
        return (
            official.lists(root, None, "--data.annotations", NAME, ("annotations",), SOURCE) / NAME
        )
    return official.file(given, "--data.annotations", SOURCE)


def load_annotation(path: str | Path) -> dict[str, list[Spoken]]:
    """video id -> its sentences in the file's order."""
    file = Path(path)
    table = lists.load(file)
    if (
        not isinstance(table, dict)
        or not table
        or not all(isinstance(rows, list) for rows in table.values())
    ):
        shown = (
            type(table).__name__
            if not isinstance(table, dict)
            else "nothing"
            if not table
            else "other entries"
        )
        raise UserError(
            f"{file} is not HTM-Align's json (it holds {shown}): wanted is video id -> "
            "[[alignable 0 or 1, start s, end s, sentence], ...]."
        )
    return {
        str(id): [_spoken(f"{file}: {id}, sentence {i}", row) for i, row in enumerate(rows)]
        for id, rows in table.items()
    }


def _spoken(where: str, row: Any) -> Spoken:
    if isinstance(row, list) and len(row) == 4 and isinstance(row[3], str) and row[0] in (0, 1):
        start, end = lists.number(row[1]), lists.number(row[2])
        if start is not None and end is not None and 0 <= start <= end:
            return Spoken(bool(row[0]), start, end, row[3])
    raise UserError(
        f"{where} is {str(row)[:80]} and not [alignable 0 or 1, start s, end s, sentence]."
    )
