"""ActivityNet Captions -> Manifest: long videos, each with all its sentences as one caption."""

from pathlib import Path
from typing import Any

from ssvid.data import lists, official
from ssvid.data.manifest import Manifest
from ssvid.data.narration.pairing import Missing, VideoFinder
from ssvid.data.paragraphs import Described, build_from_paragraphs
from ssvid.data.question_lists import FLAG, INSIDE
from ssvid.errors import UserError
from ssvid.registry import datasets

TRAIN = "train.json"
TESTS = "val_1.json", "val.json"  # 2D-TAN has the first as val.json
SOURCE = official.SOURCES["activitynet_captions"]


@datasets.register("activitynet_captions")
def activitynet_captions(
    root: str,  # folder of the videos, or of their features: v_ID.mp4 or ID.mp4
    *,
    # folder of train.json and val_1.json; default: searched in and beside root
    annotations: str | None = None,
    # folder of stored features with one row per second
    features: str | None = None,
    missing: Missing = "refuse",  # skip: leave out and list the videos that cannot be used
) -> Manifest:
    """One row for each video, for paragraph retrieval. The list val_1 is the test.

    Without train.json there is no other split; with it a fifth of it is val. val_2 describes the
    videos of val_1 again and is not read.
    """
    path = official.need_folder(root, "--data.root of activitynet_captions", SOURCE)
    file, train = find_lists(path, annotations)
    described, seconds = [], {}
    for split, list_file in (("train", train), ("test", file)):
        if list_file is None:
            continue
        for id, duration, sentences in _read_list(list_file):
            ids = (id, id.removeprefix("v_"))
            seconds.update(dict.fromkeys(ids, duration))
            described.append(Described(ids, split, sentences))
    finder = VideoFinder(path, features, seconds)
    return build_from_paragraphs(path, described, finder, source=SOURCE, file=file, missing=missing)


def find_lists(root: Path, folder: str | None) -> tuple[Path, Path | None]:
    """The list of the test, and that of train if it lies beside it."""
    for candidate in official.list_folders(root, folder, INSIDE):
        for name in TESTS:
            if (candidate / name).is_file():
                train = candidate / TRAIN
                return candidate / name, train if train.is_file() else None
    raise UserError(
        official.explain_absent_lists(" or ".join(TESTS), root, folder, FLAG, INSIDE, SOURCE)
    )


def _read_list(file: Path) -> list[tuple[str, float, list[str]]]:
    """Id, seconds and sentences of each video."""
    table = lists.read_json(file)
    if not isinstance(table, dict) or not table:
        raise UserError(
            f"{file} is not ActivityNet Captions' json of v_ID -> duration, timestamps, sentences."
        )
    return [(id, *_parse_video(f"{file}: {id}", video)) for id, video in table.items()]


def _parse_video(where: str, video: Any) -> tuple[float, list[str]]:
    sentences = video.get("sentences") if isinstance(video, dict) else None
    duration = lists.parse_number(video.get("duration")) if isinstance(video, dict) else None
    is_texts = isinstance(sentences, list) and all(isinstance(text, str) for text in sentences)
    if not sentences or not is_texts or duration is None or duration <= 0:
        raise UserError(f"{where} has no sentences, or no duration of more than 0 seconds.")
    return duration, sentences
