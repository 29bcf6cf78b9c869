"""ActivityNet 1.3 -> Manifest: untrimmed videos of 200 classes, whose times are in `segments`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssvid.data import lists, official
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.log import log_once
from ssvid.registry import datasets
from ssvid.shapes import Row

NAME = "activity_net*.json"
# None: left out, because the labels of testing are secret.
SPLIT = {"training": "train", "validation": "test", "testing": None}
SOURCE = official.SOURCES["activitynet"]


@datasets.register("activitynet")
def activitynet(
    root: str,  # folder of the videos: v_ID.mp4 or ID.mp4
    *,
    # activity_net.v1-3.min.json; default: searched in and beside root
    annotations: str | None = None,
    missing_ok: float = 0.0,  # share of listed videos that may be absent: they vanish from YouTube
) -> Manifest:
    """The official validation is the test, because the labels of testing are secret.

    A fifth of training is val.
    """
    path = official.need_folder(root, "--data.root of activitynet", SOURCE)
    if annotations is None:
        inside = ("annotations",)
        folder = official.find_lists(path, None, "--data.annotations", NAME, inside, SOURCE)
        annotations = str(max(folder.glob(NAME)))
    file = official.need_file(annotations, "--data.annotations", SOURCE)
    listed = list(_read_clips(file, lists.read_json(file)))
    rows = official.locate_clips(path, listed, SOURCE, missing_ok=missing_ok)
    return Manifest.build(rows, path, source=file)


def _read_clips(file: Path, table: Any) -> Iterator[tuple[tuple[str, ...], Row]]:
    """The possible file names of each video, and its row."""
    database = table.get("database") if isinstance(table, dict) else None
    if not isinstance(database, dict):
        raise UserError(f"{file} is not ActivityNet's json: it has no `database` of videos.")
    n_backwards = 0
    for name, video in database.items():
        if not isinstance(video, dict) or video.get("subset") not in SPLIT:
            raise UserError(f"{file}: {name} has no subset of {', '.join(SPLIT)}.")
        split = SPLIT[video["subset"]]
        if split is None:
            continue
        annotations = video.get("annotations") or ()
        segments = [_parse_segment(f"{file}: {name}", entry) for entry in annotations]
        forwards = tuple(segment for segment in segments if segment[0] <= segment[1])
        n_backwards += len(segments) - len(forwards)
        row = Row(
            "",
            split=split,
            group=name,
            duration=lists.parse_number(video.get("duration")),
            video_id=name,
            segments=forwards,
        )
        yield (f"v_{name}", name), row
    if n_backwards:
        log_once(f"{file}: {n_backwards} segments end before they begin and are left out.")


def _parse_segment(where: str, entry: Any) -> tuple[float, float, str]:
    times = entry.get("segment") if isinstance(entry, dict) else None
    if isinstance(times, list) and len(times) == 2 and isinstance(entry.get("label"), str):
        start, end = map(lists.parse_number, times)
        if start is not None and end is not None:
            return start, end, entry["label"]
    raise UserError(
        f"{where} has an annotation without a label and a segment of start and end in seconds."
    )
