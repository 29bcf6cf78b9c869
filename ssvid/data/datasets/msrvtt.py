"""MSR-VTT 1k-A -> Manifest: a thousand short clips, each with one sentence, for retrieval."""

from pathlib import Path

from ssvid.data import files, official
from ssvid.data.manifest import Manifest
from ssvid.data.narration.pairing import Missing, VideoFinder, pair_rows
from ssvid.data.narration.read_csv import read_table
from ssvid.data.narration.skipped import LeftOut
from ssvid.errors import UserError
from ssvid.registry import datasets
from ssvid.shapes import Row

NAME = "*SRVTT_JSFUSION_test.csv"  # --data.annotations may also name MIL-NCE's copy of it
COLUMNS = "key, vid_key, video_id, sentence"
SOURCE = official.SOURCES["msrvtt"]


@datasets.register("msrvtt")
def msrvtt(
    root: str,  # folder of the videos (video7020.mp4), or of their features
    *,
    # csv of key, vid_key, video_id, sentence; default: searched in and beside root
    annotations: str | None = None,
    # folder of stored features with one row per second
    features: str | None = None,
    missing: Missing = "refuse",  # skip: leave out and list the videos that cannot be used
) -> Manifest:
    """One row for each video, all in the test. The sentence lasts as long as the clip."""
    path = official.need_folder(root, "--data.root of msrvtt", SOURCE)
    file = _find_list(path, annotations)
    texts_of_video: dict[str, list[str]] = {}
    for id, text in _read_pairs(file):
        texts_of_video.setdefault(id, []).append(text)
    finder, left = VideoFinder(path, features), LeftOut()
    listed = []
    for id, texts in texts_of_video.items():
        seconds = finder.find(id).seconds
        sentences = tuple((0.0, seconds, text) for text in texts)
        row = Row("", split="test", group=id, sentences=sentences, video_id=id)
        listed.append(((id,), row))
    rows = pair_rows(finder, listed, SOURCE, missing, left)
    left.log(file)
    return Manifest.build(rows, path, source=file)


def _find_list(root: Path, annotations: str | None) -> Path:
    if annotations:
        return official.need_file(annotations, "--data.annotations", SOURCE)
    folder = official.find_lists(root, None, "--data.annotations", NAME, ("annotations",), SOURCE)
    return max(folder.glob(NAME))


def _read_pairs(file: Path) -> list[tuple[str, str]]:
    """Video id and sentence of each line."""
    columns, rows = read_table(file, files.read_text(file), COLUMNS)
    if not {"video_id", "sentence"} <= set(columns):
        raise UserError(f"{file} has columns {', '.join(columns)[:80]}: it needs {COLUMNS}.")
    # The key None: more fields than columns.
    pairs = [(row["video_id"].strip(), row["sentence"].strip()) for row in rows if None not in row]
    if not pairs or not all(map(all, pairs)):
        raise UserError(f"{file} has no rows, or a row without video_id and sentence.")
    return pairs
