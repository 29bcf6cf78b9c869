"""ActivityNet 1.3 -> Manifest: untrimmed videos with the times of their classes in `segments` (200 classes)."""

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
SPLIT = {
    "training": "train",
    "validation": "test",
    "testing": None,
}  # the labels of testing are secret
SOURCE = official.SOURCES["activitynet"]


@datasets.register("activitynet")
def activitynet(
    root: str,  # of the videos: v_ID.mp4 or ID.mp4
    *,
    annotations: str | None = None,  # activity_net.v1-3.min.json; default: looked for by root
    missing_ok: float = 0.0,  # share of listed videos that may be absent: they vanish from YouTube
) -> Manifest:
    """The official validation is the test, for the labels of testing are secret; a fifth of training is val."""
    path = official.need_folder(root, "--data.root of activitynet", SOURCE)
    if annotations is None:
        folder = official.find_lists(
            path, None, "--data.annotations", NAME, ("annotations",), SOURCE
        )
        annotations = str(max(folder.glob(NAME)))
    file = official.need_file(annotations, "--data.annotations", SOURCE)
    listed = list(_listed(file, lists.read_json(file)))
    return Manifest.build(
        official.locate_clips(path, listed, SOURCE, missing_ok=missing_ok), path, source=file
    )


def _listed(file: Path, table: Any) -> Iterator[tuple[tuple[str, ...], Row]]:
    base = table.get("database") if isinstance(table, dict) else None
    if not isinstance(base, dict):
        raise UserError(f"{file} is not ActivityNet's json: it has no `database` of videos.")
    backwards = 0
    for name, told in base.items():
        if not isinstance(told, dict) or told.get("subset") not in SPLIT:
            raise UserError(f"{file}: {name} has no subset of {', '.join(SPLIT)}.")
        split = SPLIT[told["subset"]]
        if split is None:
            continue
        segments = [_segment(f"{file}: {name}", part) for part in told.get("annotations") or ()]
        forwards = tuple(segment for segment in segments if segment[0] <= segment[1])
        backwards += len(segments) - len(forwards)
        row = Row(
            "",
            None,
            split,
            name,
            lists.parse_number(told.get("duration")),
            video_id=name,
            segments=forwards,
        )
        yield (f"v_{name}", name), row
    if backwards:
        log_once(f"{file}: {backwards} segments end before they begin and are left out.")


def _segment(where: str, part: Any) -> tuple[float, float, str]:
    times = part.get("segment") if isinstance(part, dict) else None
    start, end = (
        map(lists.parse_number, times)
        if isinstance(times, list) and len(times) == 2
        else (None, None)
    )
    if start is None or end is None or not isinstance(part.get("label"), str):
        raise UserError(
            f"{where} has an annotation without a label and a segment of start and end in seconds."
        )
    return start, end, part["label"]
