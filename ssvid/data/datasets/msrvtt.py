"""MSR-VTT 1k-A -> Manifest: a thousand short clips, each with one sentence, for retrieval."""

from pathlib import Path

from ssvid.data import files, official
from ssvid.data.manifest import Manifest
from ssvid.data.narration import readers
from ssvid.data.narration.pairing import Missing, Paired, take
from ssvid.data.narration.skipped import LeftOut
from ssvid.errors import UserError
from ssvid.registry import datasets
from ssvid.shapes import Row

NAME = "*SRVTT_JSFUSION_test.csv"  # also MIL-NCE's copy of it, named by --data.annotations
SOURCE = official.SOURCES["msrvtt"]


@datasets.register("msrvtt")
def msrvtt(
    root: str,  # of the videos, video7020.mp4, or of their features
    *,
    annotations: str
    | None = None,  # csv of key, vid_key, video_id, sentence; default: looked for by root
    features: str
    | None = None,  # folder of stored features, a row a second (below root, or absolute)
    missing: Missing = "refuse",  # skip: leave out what cannot be used, counted and listed
) -> Manifest:
    """One row a video, all in the test; its sentence lasts as long as the clip."""
    path = official.folder(root, "--data.root of msrvtt", SOURCE)
    file = official.file(annotations, "--data.annotations", SOURCE) if annotations else _look(path)
    said: dict[str, list[str]] = {}
    for id, text in _pairs(file):
        said.setdefault(id, []).append(text)
    paired, left = Paired(path, features), LeftOut()
    listed = []
    for id, texts in said.items():
        seconds = paired.find(id).seconds
        sentences = tuple((0.0, seconds, text) for text in texts)
        listed.append(((id,), Row("", None, "test", id, sentences=sentences, video_id=id)))
    rows = take(paired, listed, SOURCE, missing, left)
    left.say(file)
    return Manifest.build(rows, path, source=file)


def _look(root: Path) -> Path:
    folder = official.lists(root, None, "--data.annotations", NAME, ("annotations",), SOURCE)
    return max(folder.glob(NAME))


def _pairs(file: Path) -> list[tuple[str, str]]:
    columns, rows = readers.table(file, files.text(file), "key, vid_key, video_id, sentence")
    if not {"video_id", "sentence"} <= set(columns):
        raise UserError(
            f"{file} has columns {', '.join(columns)[:80]}: wanted are key, vid_key, video_id, sentence."
        )
    found = [(row["video_id"].strip(), row["sentence"].strip()) for row in rows if None not in row]
    if not found or not all(id and text for id, text in found):
        raise UserError(f"{file} has a row without video_id and sentence, or none at all.")
    return found
