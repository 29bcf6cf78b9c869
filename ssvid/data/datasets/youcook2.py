"""YouCook2's validation -> Manifest: 436 cooking videos with 3350 steps, for retrieval."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ssvid.data import files, lists, official
from ssvid.data.manifest import Manifest
from ssvid.data.narration.pairing import Missing, VideoFinder, pair_rows
from ssvid.data.narration.read_csv import read_table
from ssvid.data.narration.sentences import Sentence
from ssvid.data.narration.skipped import LeftOut
from ssvid.data.narration.spoken_rows import SpokenRow, check_row
from ssvid.errors import UserError
from ssvid.registry import datasets
from ssvid.shapes import Row

CSV, JSON = "validation_youcook.csv", "youcookii_annotations_trainval.json"
COLUMNS = "start, end, text, video_id"
SOURCE = official.SOURCES["youcook2"]
# TAN leaves these out, because their lengths differ there.
DROPPED = frozenset(("FtHLUsOntqI", "HQtOXHghaL0", "ffoRmenLSLs", "wKHC2gbRdA0"))


@datasets.register("youcook2")
def youcook2(
    root: str,  # folder of the videos, or of their features, named by YouTube's ids
    *,
    # validation_youcook.csv of MIL-NCE, or the official json; default: searched in and beside root
    annotations: str | None = None,
    # folder of stored features with one row per second
    features: str | None = None,
    drop: bool = False,  # leave out the four videos that TAN leaves out
    missing: Missing = "refuse",  # skip: leave out and list the videos that cannot be used
) -> Manifest:
    """One row for each video, all in the test. Each of its sentences is a clip to retrieve."""
    path = official.need_folder(root, "--data.root of youcook2", SOURCE)
    file = _find_list(path, annotations)
    listed = []
    for id, sentences in _read_sentences(file).items():
        if drop and id in DROPPED:
            continue
        in_order = tuple(sorted(sentences, key=lambda sentence: sentence[0]))
        listed.append(((id,), Row("", split="test", group=id, sentences=in_order, video_id=id)))
    left = LeftOut()
    rows = pair_rows(VideoFinder(path, features), listed, SOURCE, missing, left)
    left.log(file)
    return Manifest.build(rows, path, source=file)


def _find_list(root: Path, annotations: str | None) -> Path:
    if annotations:
        return official.need_file(annotations, "--data.annotations", SOURCE)
    for folder in (root, root.parent, root / "annotations", root.parent / "annotations"):
        if (folder / JSON).is_file():
            return folder / JSON
    folder = official.find_lists(root, None, "--data.annotations", CSV, ("annotations",), SOURCE)
    return folder / CSV


def _read_sentences(file: Path) -> dict[str, list[Sentence]]:
    """video id -> its sentences."""
    sentences: dict[str, list[Sentence]] = defaultdict(list)
    for number, step in enumerate(_read_steps(file), start=1):
        sentence = check_row(step)
        if isinstance(sentence, str):
            raise UserError(
                f"{file}, step {number} ({step.video}) has {sentence}: it needs {COLUMNS}."
            )
        sentences[step.video].append(sentence)
    return sentences


def _read_steps(file: Path) -> Iterable[SpokenRow]:
    if file.suffix == ".json":
        yield from _read_official_json(file)
        return
    columns, rows = read_table(file, files.read_text(file), COLUMNS)
    if not {"start", "end", "text", "video_id"} <= set(columns):
        raise UserError(f"{file} has columns {', '.join(columns)[:80]}: it needs {COLUMNS}.")
    for row in rows:
        yield SpokenRow(row["video_id"].strip(), row["start"], row["end"], row["text"])


def _read_official_json(file: Path) -> Iterable[SpokenRow]:
    content = lists.read_json(file)
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict):
        raise UserError(f"{file} is not YouCook2's json: it has no `database` of videos.")
    for id, video in database.items():
        if not isinstance(video, dict) or not isinstance(video.get("annotations"), list):
            raise UserError(f"{file}: {id} has no annotations.")
        if video.get("subset") != "validation":
            continue
        for step in video["annotations"]:
            times = step.get("segment") if isinstance(step, dict) else None
            if not isinstance(times, list) or len(times) != 2:
                raise UserError(f"{file}: {id} has a step without a segment of start and end.")
            yield SpokenRow(id, times[0], times[1], step.get("sentence"))
