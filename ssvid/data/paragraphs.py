"""Lists of sentences about parts of videos -> one row for each video with all of them as one text.

Paragraph retrieval takes the sentences of a video together for its caption.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ssvid.data.manifest import Manifest
from ssvid.data.narration.pairing import Missing, VideoFinder, pair_rows
from ssvid.data.narration.skipped import LeftOut
from ssvid.data.official import Source
from ssvid.errors import UserError
from ssvid.shapes import Row


class Described(NamedTuple):
    """A video of a list."""

    ids: tuple[str, ...]  # possible names of its file without suffix; the first is the video's id
    split: str
    sentences: Sequence[str]  # in the order of the list


def join_sentences(sentences: Iterable[str]) -> str:
    """The sentences in one text, with single blanks between their words."""
    return " ".join(" ".join(sentences).split())


def build_from_paragraphs(
    root: Path,
    described: Iterable[Described],
    finder: VideoFinder,
    *,
    source: Source,
    file: Path,  # the list that errors name
    missing: Missing,
    most_s: float = float("inf"),  # seconds of a video that the sentences are about
) -> Manifest:
    """One row for each video, whose caption lasts as long as what the sentences are about.

    Raises a UserError if a video has no words.
    """
    listed = []
    for video in described:
        text = join_sentences(video.sentences)
        if not text:
            raise UserError(f"{file}: {video.ids[0]} has no words: fill them in or drop it.")
        end = min(finder.find(*video.ids).seconds, most_s)
        row = Row(
            "",
            split=video.split,
            group=video.ids[0],
            sentences=((0.0, end, text),),
            video_id=video.ids[0],
        )
        listed.append((video.ids, row))
    left = LeftOut()
    rows = pair_rows(finder, listed, source, missing, left)
    left.log(file)
    return Manifest.build(rows, root, source=file)
