"""YouCook2's validation -> Manifest: 436 cooking videos with their 3350 steps as sentences, for retrieval."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ssvid.data import files, lists, official
from ssvid.data.manifest import Manifest
from ssvid.data.narration import readers
from ssvid.data.narration.pairing import Missing, Paired, take
from ssvid.data.narration.skipped import LeftOut
from ssvid.errors import UserError
from ssvid.registry import datasets
from ssvid.shapes import Row

NAMES = ("validation_youcook.csv", "youcookii_annotations_trainval.json")
SOURCE = official.SOURCES["youcook2"]
DROPPED = frozenset(
    ("FtHLUsOntqI", "HQtOXHghaL0", "ffoRmenLSLs", "wKHC2gbRdA0")
)  # by TAN: another length there
Step = tuple[str, object, object, object]  # video id, start, end, sentence


@datasets.register("youcook2")
def youcook2(
    root: str,  # of the videos, or of their features, named by YouTube's ids
    *,
    annotations: str
    | None = None,  # validation_youcook.csv of MIL-NCE, or the official json; default: looked for
    features: str
    | None = None,  # folder of stored features, a row a second (below root, or absolute)
    drop: bool = False,  # the four videos that TAN leaves out
    missing: Missing = "refuse",  # skip: leave out what cannot be used, counted and listed
) -> Manifest:
    """One row a video, all in the test; each of its sentences is one clip to be found."""
    path = official.folder(root, "--data.root of youcook2", SOURCE)
    file = official.file(annotations, "--data.annotations", SOURCE) if annotations else _look(path)
    steps: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for number, (id, *row) in enumerate(_steps(file), start=1):
        made = readers.checked(readers.Said(id, *row))
        if isinstance(made, str):
            raise UserError(
                f"{file}, step {number} ({id}) has {made}: wanted are start, end, text and video_id."
            )
        if not (drop and id in DROPPED):
            steps[id].append(made)
    listed = [
        ((id,), Row("", None, "test", id, None, None, tuple(_order(s)), "", id))
        for id, s in steps.items()
    ]
    left = LeftOut()
    rows = take(Paired(path, features), listed, SOURCE, missing, left)
    left.say(file)
    return Manifest.build(rows, path, source=file)


def _order(sentences: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    return sorted(sentences, key=lambda sentence: sentence[0])


def _look(root: Path) -> Path:
    for name in NAMES[1:]:
        for place in (root, root.parent, root / "annotations", root.parent / "annotations"):
            if (place / name).is_file():
                return place / name
    return (
        official.lists(root, None, "--data.annotations", NAMES[0], ("annotations",), SOURCE)
        / NAMES[0]
    )


def _steps(file: Path) -> Iterable[Step]:
    if file.suffix == ".json":
        return _official(file)
    wanted = "start, end, text, video_id"
    columns, rows = readers.table(file, files.text(file), wanted)
    if not {"start", "end", "text", "video_id"} <= set(columns):
        raise UserError(f"{file} has columns {', '.join(columns)[:80]}: wanted are {wanted}.")
    return ((row["video_id"].strip(), row["start"], row["end"], row["text"]) for row in rows)


def _official(file: Path) -> Iterable[Step]:
    held = lists.load(file)
    base = held.get("database") if isinstance(held, dict) else None
    if not isinstance(base, dict):
        raise UserError(f"{file} is not YouCook2's json: it has no `database` of videos.")
    for id, told in base.items():
        if not isinstance(told, dict) or not isinstance(told.get("annotations"), list):
            raise UserError(f"{file}: {id} has no annotations.")
        if told.get("subset") == "validation":
            for part in told["annotations"]:
                times = part.get("segment") if isinstance(part, dict) else None
                if not isinstance(times, list) or len(times) != 2:
                    raise UserError(f"{file}: {id} has a step without a segment of start and end.")
                yield id, times[0], times[1], part.get("sentence")
