"""Names of transcript files -> the video and the language of each, and one file for each video.

`ID.en.vtt` and `ID.de.vtt` are one video in two languages. Nobody can guess which one is wanted.
"""

import os
import re
from collections.abc import Collection
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from ssvid.data import files
from ssvid.data.narration.skipped import LeftOut
from ssvid.errors import UserError

TAG = re.compile(r"\.[a-z]{2,3}(-[A-Za-z0-9]+)*")  # ID.en.vtt, ID.en-US.srt
# Three letters before .json may be anything (ID.val.json), so only two are a language there.
SHORT_TAG = re.compile(r"\.[a-z]{2}(-[A-Za-z0-9]+)*")
TAG_OF_SUFFIX = {".vtt": TAG, ".srt": TAG, ".json3": TAG, ".json": SHORT_TAG}

OTHER_LANGUAGE = "another language"  # a reason, which is written to files


class Transcript(NamedTuple):
    """A file with what its name says."""

    file: Path
    video: str
    language: str  # empty: its name has none


def parse_name(file: Path, ids: Collection[str]) -> Transcript:
    """The id in the name of a file: `ID.vtt`, `ID.en.vtt`, `ID.mp4.json`.

    `ids`: names of videos that exist. `how.to.vtt` is that of `how.to.mp4` and no language `to`.
    """
    stem, language = os.path.splitext(file.stem)
    tag = TAG_OF_SUFFIX.get(file.suffix.lower())
    has_tag = tag is not None and tag.fullmatch(language) is not None
    if file.stem in ids or files.is_video(file.stem) or not has_tag:
        stem, language = file.stem, ""
    video = os.path.splitext(stem)[0] if files.is_video(stem) else stem
    return Transcript(file, video, language[1:])


def choose_language(
    transcripts: list[Transcript], language: str | None, flag: str, listing: LeftOut
) -> list[Transcript]:
    """The transcripts in one language. Those without a language in their name stay, at the end.

    `language`: such as `en`, which `en-US` is too; None raises a UserError where a video has
    several, which names their files and the `flag` that chooses. Others are listed.
    """
    if language is None:
        _refuse_several(transcripts, flag)
        return transcripts
    wanted = language.lower()
    chosen = []
    for transcript in transcripts:
        tag = transcript.language.lower()
        if not tag or tag == wanted or tag.startswith(f"{wanted}-"):
            chosen.append(transcript)
        else:
            listing.add(transcript.file, OTHER_LANGUAGE, f"{transcript.language}, not {language}")
    if not any(transcript.language for transcript in chosen):
        languages = sorted({transcript.language for transcript in transcripts} - {""})
        names = f"the files name {', '.join(languages)}" if languages else "no file names one"
        raise UserError(f"No transcript is in the language {flag} {language}: {names}.")
    # The first file of a video counts: the exact language, then its variants, then those without.
    return sorted(chosen, key=lambda item: (not item.language, item.language.lower() != wanted))


def _refuse_several(transcripts: list[Transcript], flag: str) -> None:
    of_video: dict[str, list[Transcript]] = {}
    for transcript in transcripts:
        if transcript.language:
            of_video.setdefault(transcript.video, []).append(transcript)
    for same_video in of_video.values():
        languages = list(map(attrgetter("language"), same_video))
        if len(set(map(_main_part, languages))) > 1:
            names = ", ".join(map(attrgetter("file.name"), same_video))
            raise UserError(
                f"{same_video[0].file.parent} has transcripts of one video in several languages "
                f"({names}): choose with {flag} {f' or {flag} '.join(languages)}."
            )


def _main_part(language: str) -> str:
    """`en` of `en-US`: YouTube has several captions of one language."""
    return language.partition("-")[0].lower()
