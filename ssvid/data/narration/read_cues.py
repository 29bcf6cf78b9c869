"""Subtitles (.vtt, .srt) -> rows."""

from collections.abc import Iterator
from pathlib import Path

from ssvid.data.narration import subtitles
from ssvid.data.narration.skipped import LeftOut
from ssvid.data.narration.spoken_rows import SpokenRow
from ssvid.errors import UserError


def read_cues(file: Path, text: str, video: str, listing: LeftOut) -> Iterator[SpokenRow]:
    """A row for each cue, with line breaks in its text. A UserError if it is another format.

    A time map of HLS is noted in `listing`, since the video may begin at another time.
    """
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
    if any(map(subtitles.TIME_MAP.match, subtitles.split_lines(text))):
        listing.note(
            "subtitles of HLS with an X-TIMESTAMP-MAP, whose first LOCAL time is taken for the "
            "start of the video",
            file,
        )
    return (_make_row(video, cue) for cue in cues)


def _make_row(video: str, cue: subtitles.Cue) -> SpokenRow:
    """The row of a cue. Times that cannot be read stay text, which names them."""
    text = "\n".join(cue.lines)
    if not cue.times:
        return SpokenRow(video, cue.start, cue.end, text)
    start, _, end = cue.times.partition(subtitles.ARROW)
    return SpokenRow(video, start.strip(), end.strip(), text)
