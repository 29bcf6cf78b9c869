"""DiDeMo -> Manifest: videos of Flickr, each with all its descriptions as one caption."""

import os
from pathlib import Path
from typing import Any

from ssvid.data import lists, official
from ssvid.data.manifest import Manifest
from ssvid.data.narration.pairing import Missing, VideoFinder
from ssvid.data.paragraphs import Described, build_from_paragraphs
from ssvid.data.question_lists import find_split_lists
from ssvid.errors import UserError
from ssvid.registry import datasets

SOURCE = official.SOURCES["didemo"]
DESCRIBED_S = 30.0  # the descriptions are about the first six parts of 5 s


@datasets.register("didemo")
def didemo(
    root: str,  # folder of the videos, or of their features
    *,
    # folder of train_data.json, val_data.json and test_data.json; default: searched in and beside
    # root
    annotations: str | None = None,
    # folder of stored features with one row per second
    features: str | None = None,
    missing: Missing = "refuse",  # skip: leave out and list the videos that cannot be used
) -> Manifest:
    """One row for each video, for paragraph retrieval. Lists that are absent are left out.

    A file has the name of the list, with any suffix or two, or Flickr's number alone. The list
    names a few videos under two suffixes, which are one video here.
    """
    path = official.need_folder(root, "--data.root of didemo", SOURCE)
    file_of_split = find_split_lists(path, annotations, ("{split}_data.json",), SOURCE)
    described = []
    for split, file in file_of_split.items():
        described += _read_list(file, split)
    return build_from_paragraphs(
        path,
        described,
        VideoFinder(path, features),
        source=SOURCE,
        file=next(iter(file_of_split.values())),
        missing=missing,
        most_s=DESCRIBED_S,
    )


def _read_list(file: Path, split: str) -> list[Described]:
    table = lists.read_json(file)
    if not isinstance(table, list) or not table:
        raise UserError(f"{file} is not DiDeMo's json list of video and description.")
    name_of: dict[str, str] = {}  # video without suffix -> its first name in the list
    sentences_of: dict[str, list[str]] = {}
    for number, entry in enumerate(table, start=1):
        name, text = _parse_entry(f"{file}, entry {number}", entry)
        video = os.path.splitext(name)[0]  # a few end with a dot
        name_of.setdefault(video, name)
        sentences_of.setdefault(video, []).append(text)
    described = []
    for video, sentences in sentences_of.items():
        ids = (video, name_of[video], *video.split("_")[1:2])
        described.append(Described(ids, split, sentences))
    return described


def _parse_entry(where: str, entry: Any) -> tuple[str, str]:
    name = entry.get("video") if isinstance(entry, dict) else None
    text = entry.get("description") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not name or not isinstance(text, str):
        raise UserError(f"{where} has no video or no description of it.")
    return name, text
