"""Subtitles (.vtt, .srt) -> rows."""

from collections.abc import Iterator
from pathlib import Path

from ssvid.data.narration import subtitles
from ssvid.data.narration.spoken_rows import SpokenRow
from ssvid.errors import UserError


def read_cues(file: Path, text: str, video: str) -> Iterator[SpokenRow]:
    """A row for each cue, with line breaks in its text. A UserError if it is another format."""
    first = text.lstrip("\ufeff").lstrip().partition("\n")[0].strip()
    if file.suffix.lower() == ".vtt" and not first.startswith("WEBVTT"):
        raise UserError(
            f"{file} begins with {first[:40]!r} and is not WebVTT: its first line is WEBVTT."
        )
    cues = subtitles.parse_cues(text)
    if not cues and file.suffix.lower() == ".srt":
        raise UserError(
            f"{file} begins with {first[:40]!r} and is not SRT: it has no line of START --> END."
        )
    return (SpokenRow(video, cue.start, cue.end, "\n".join(cue.lines)) for cue in cues)
