"""HTM-Align -> Manifest: 80 videos of HowTo100M with true times (TAN).

For each sentence the annotation says whether it is shown in the video at all, and when.
"""

from pathlib import Path
from typing import Any, NamedTuple

from ssvid.data import lists, official
from ssvid.data.manifest import Manifest
from ssvid.data.narration.pairing import Missing, VideoFinder, pair_rows
from ssvid.data.narration.skipped import LeftOut
from ssvid.errors import UserError
from ssvid.registry import datasets
from ssvid.shapes import Row

NAME = "htm_align.json"
SOURCE = official.SOURCES["htm_align"]


class Spoken(NamedTuple):
    """One sentence of the annotation."""

    alignable: bool  # whether the video shows it
    start: float  # seconds: true ones if it is alignable, else those of the speech recognition
    end: float
    text: str


@datasets.register("htm_align")
def htm_align(
    root: str,  # folder of the videos, or of their features: ID.mp4, ID.npy, ID.mp4.npy
    *,
    annotations: str | None = None,  # htm_align.json; default: searched in and beside root
    # folder of stored features with one row per second
    features: str | None = None,
    missing: Missing = "refuse",  # skip: leave out and list the videos that cannot be used
) -> Manifest:
    """All videos are the test.

    The sentences are in the order of the file, in which `load_annotation` gives their flags.
    """
    path = official.need_folder(root, "--data.root of htm_align", SOURCE)
    file = annotation_file(path, annotations)
    listed = []
    for id, spoken in sorted(load_annotation(file).items()):
        sentences = tuple((s.start, s.end, s.text) for s in spoken)
        row = Row("", split="test", group=id, sentences=sentences, video_id=id)
        listed.append(((id,), row))
    left = LeftOut()
    rows = pair_rows(VideoFinder(path, features), listed, SOURCE, missing, left)
    left.log(file)
    return Manifest.build(rows, path, source=file)


def annotation_file(root: Path, path: str | None) -> Path:
    """The annotation: the file at `path`, else one in or beside the folder of the videos.

    Raises a UserError if it does not exist.
    """
    if path is not None:
        return official.need_file(path, "--data.annotations", SOURCE)
    folder = official.find_lists(root, None, "--data.annotations", NAME, ("annotations",), SOURCE)
    return folder / NAME


def load_annotation(path: str | Path) -> dict[str, list[Spoken]]:
    """video id -> its sentences in the order of the file. A UserError if it is another form."""
    file = Path(path)
    table = lists.read_json(file)
    is_dict = isinstance(table, dict)
    if not is_dict or not table or not all(isinstance(rows, list) for rows in table.values()):
        content = "nothing" if is_dict and not table else "other entries"
        content = content if is_dict else type(table).__name__
        raise UserError(
            f"{file} is not HTM-Align's json (it holds {content}): it needs video id -> "
            "[[alignable 0 or 1, start s, end s, sentence], ...]."
        )
    annotation: dict[str, list[Spoken]] = {}
    for id, rows in table.items():
        spoken = annotation[str(id)] = []
        for i, row in enumerate(rows):
            spoken.append(_parse_row(f"{file}: {id}, sentence {i}", row))
    return annotation


def _parse_row(where: str, row: Any) -> Spoken:
    if isinstance(row, list) and len(row) == 4 and isinstance(row[3], str) and row[0] in (0, 1):
        start, end = lists.parse_number(row[1]), lists.parse_number(row[2])
        if start is not None and end is not None and 0 <= start <= end:
            return Spoken(bool(row[0]), start, end, row[3])
    raise UserError(
        f"{where} is {str(row)[:80]} and not [alignable 0 or 1, start s, end s, sentence]."
    )
