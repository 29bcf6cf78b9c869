"""A list of sentences (.txt), with or without times -> rows."""

from collections.abc import Iterator
from pathlib import Path

from ssvid.data.narration import subtitles
from ssvid.data.narration.spoken_rows import Length, SpokenRow
from ssvid.data.narration.timed_lines import begins_with_time, read_timed_lines
from ssvid.errors import UserError


def read_plain_list(
    file: Path, text: str, video: str, length: Length | None
) -> Iterator[SpokenRow]:
    """A row for each line that is not empty.

    Lines that begin with their times have these. Else a sentence may be spoken at any time, so its
    times are those of the whole video. A UserError is raised if the length of the video is not
    known, or if the file holds subtitles.
    """
    if subtitles.find_times(text.splitlines()) and not begins_with_time(text):
        raise UserError(f"{file} holds subtitles and not plain sentences: name it .srt or .vtt.")
    if rows := read_timed_lines(file, text, video):
        return iter(rows)
    seconds = length(video) if length else None
    if seconds is None:
        raise UserError(
            f"{file} is a list of sentences without times, and the length of its video {video} is "
            "not known: give --durations (a csv of video ids and seconds), or the video itself."
        )
    lines = filter(str.strip, text.splitlines())
    return (SpokenRow(video, 0.0, seconds, line) for line in lines)
