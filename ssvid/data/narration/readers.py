"""Transcript files -> {video id: [(start s, end s, text), ...]}.

Finds the files of a folder, reads each with the reader of its format, and collects the rows that
can be used.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from ssvid.data.files import is_video
from ssvid.data.narration.encodings import decode_text
from ssvid.data.narration.languages import Transcript, choose_language, parse_name
from ssvid.data.narration.milliseconds import convert_to_seconds
from ssvid.data.narration.read_csv import read_csv
from ssvid.data.narration.read_cues import read_cues
from ssvid.data.narration.read_json import read_json
from ssvid.data.narration.read_plain_list import read_plain_list
from ssvid.data.narration.sentences import Sentence
from ssvid.data.narration.skipped import LeftOut
from ssvid.data.narration.spoken_rows import WANTED, Length, SpokenRow, check_row
from ssvid.errors import UserError

Narrations = dict[str, list[Sentence]]  # video id -> sentences in order of start

SUFFIXES = (".vtt", ".srt", ".json", ".json3", ".csv", ".tsv", ".txt")
# Reasons. They are written to files.
FORM, AGAIN = "file of another form", "another file of the same video"


def read(
    source: str | Path,  # a file, or a folder of files that are named after their videos
    *,
    length: Length | None = None,
    left_out: LeftOut | None = None,  # lists the rows that cannot be used; None: they are logged
    breaks: bool = False,  # keep the line breaks of captions
    language: str | None = None,  # of the files, where a video has several: ID.en.vtt, ID.de.vtt
    language_flag: str = "--data.language",  # which the error names
    ids: Collection[str] = (),  # of the videos, as far as they are known
) -> Narrations:
    """The rows that can be used, per video and in order of start. They may overlap.

    Videos that lie beside the transcripts are known.

    Raises a UserError if the source does not exist, has another form, or holds no usable sentence.
    """
    path = Path(source).expanduser()
    listing = LeftOut() if left_out is None else left_out
    collector = _Collector(listing, length, breaks)
    faults: list[UserError] = []
    transcripts = choose_language(_list_transcripts(path, ids), language, language_flag, listing)
    for file, video, _ in transcripts:
        try:
            collector.add(_read_rows(file, video, listing, length), file)
        except Exception as error:  # numbers of hundreds of digits raise many kinds
            why = f"{file} cannot be read: {type(error).__name__}: {error}."
            fault = error if isinstance(error, UserError) else UserError(why)
            faults.append(fault)
            listing.add(file, FORM, str(fault))
            collector.remove(file)
    if not any(collector.sentences.values()):
        if faults and (path.is_file() or len(faults) == listing.count):
            raise faults[0]
        first = f"; first {listing.items[0].what}" if listing.items else ""
        raise UserError(
            f"{source} holds no sentence that can be used: {listing.describe() or 'it is empty'}"
            f"{first}."
        )
    if left_out is None:
        listing.log(source)
    narrations = {}
    for name, sentences in collector.sentences.items():
        if sentences:
            narrations[name] = sorted(sentences, key=lambda sentence: sentence[0])
    return narrations


class _Collector:
    """The sentences of each video. If several files have a video, only the first of them counts."""

    def __init__(self, listing: LeftOut, length: Length | None, breaks: bool) -> None:
        self.listing, self.length, self.breaks = listing, length, breaks
        self.sentences: Narrations = {}
        self.file_of_video: dict[str, Path] = {}

    def add(self, rows: Iterable[SpokenRow], file: Path) -> None:
        """Add the usable rows of a file, and list the others with their reasons."""
        video, is_first_file, seconds, target = None, False, None, []
        for i, row in enumerate(rows, start=1):
            if row.video != video:  # once per video and not per row: HTM-370K has millions of rows
                video = row.video
                is_first_file = self.file_of_video.setdefault(video, file) == file
                seconds = self.length(video) if self.length else None
                target = self.sentences.setdefault(video, []) if is_first_file else []
            sentence = check_row(row, seconds, self.breaks) if is_first_file else AGAIN
            if not isinstance(sentence, str):
                target.append(sentence)
                continue
            details = f"{row.start} to {row.end} {row.text!r}"
            if not is_first_file:
                details = f"{self.file_of_video[row.video]} has this video"
            self.listing.add(file, sentence, f"{row.video}, row {i}: {details}")

    def remove(self, file: Path) -> None:
        """Remove what a file has given before a fault in it."""
        for video, source in self.file_of_video.items():
            if source == file:
                self.sentences.pop(video, None)


def _read_rows(
    file: Path, video: str, listing: LeftOut, length: Length | None
) -> Iterator[SpokenRow]:
    """The rows of a file, by the reader of its suffix."""
    text, suffix = decode_text(file, listing), file.suffix.lower()
    if not text.strip():
        raise UserError(f"{file} is empty: {WANTED}.")
    if suffix in (".vtt", ".srt"):
        return read_cues(file, text, video, listing)
    if suffix in (".json", ".json3"):
        return convert_to_seconds(read_json(file, text, video, listing), file, listing, length)
    if suffix in (".csv", ".tsv"):
        return convert_to_seconds(read_csv(file, text, video), file, listing, length)
    return read_plain_list(file, text, video, length)


def _list_transcripts(path: Path, ids: Collection[str]) -> list[Transcript]:
    """Each file with the id of its video and its language.

    Where several folders have a file of that name, the id is its path, as in `VideoFinder`.
    """
    names = set(map(os.path.basename, ids))
    paths = _list_files(path)
    for folder in {file.parent for file in paths}:
        names.update(map(_stem, filter(is_video, os.listdir(folder))))
    transcripts = [parse_name(file, names) for file in paths]
    folders_of_name: dict[str, set[Path]] = {}
    for file, video, _ in transcripts:
        folders_of_name.setdefault(video, set()).add(file.parent)
    renamed = []
    for transcript in transcripts:
        file, video, _ = transcript
        if len(folders_of_name[video]) > 1:
            video = (file.parent.relative_to(path) / video).as_posix()
        renamed.append(transcript._replace(video=video))
    return renamed


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _is_transcript(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _list_files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"{path} does not exist: {WANTED}, or a folder of such files.")
    if path.is_file():
        if not _is_transcript(path):
            raise UserError(f"{path} is a {path.suffix or 'file without a suffix'}: {WANTED}.")
        return [path]
    transcripts = []
    for directory, folders, names in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = [name for name in names if not name.startswith(".")]
        paths = [Path(directory) / name for name in names]
        transcripts += [path for path in paths if _is_transcript(path)]
    if not transcripts:
        raise UserError(f"{path} holds no transcripts: {WANTED}.")
    return sorted(transcripts)
