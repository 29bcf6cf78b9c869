"""Files of what is said in videos -> {video id: [(start s, end s, text), ...]}: the only file that knows their forms.

python -m ssvid.data.narration --source FILE_OR_FOLDER --out sentences.json [--sentencify true]

WebVTT, SRT, HowTo100M's JSON (also of one video, or a list of {start, end, text}), CSV (also HTM-AA's), plain lists.
"""

import csv
import importlib
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ssvid.data import files
from ssvid.data.lists import number
from ssvid.data.narration import pairing, subtitles
from ssvid.data.narration import sentences as rules
from ssvid.data.narration.sentences import Sentence
from ssvid.data.narration.skipped import LeftOut
from ssvid.errors import UserError
from ssvid.files import write_json_whole
from ssvid.log import log

Narrations = dict[str, list[Sentence]]  # video id -> in order of start
Length = Callable[[str], float | None]  # video id -> seconds, where they are known

SUFFIXES = (".vtt", ".srt", ".json", ".csv", ".txt")
LANGUAGE = re.compile(r"\.[a-z]{2,3}(-[A-Za-z0-9]+)*")  # ID.en.vtt, ID.en-US.srt
KEYS = ("start", "end", "text")
IDS = ("video_id", "vid", "video", "youtube_id")  # columns; the first of these that is there
LONG = 30  # words of a sentence, from which on a text was hardly cut
AROUND_S = 3.2  # HTM-AA names one second: the clips of 3.2 s that hold it begin and end within so much of it

EMPTY, UNTIMED, NEGATIVE = "empty sentence", "missing time", "negative time"
BACKWARDS, OUTSIDE = "end not after start", "begins past the video's end"
NAMELESS, FORM, AGAIN = "no video id", "file of another form", "another file of the same video"
WANTED = "wanted is .vtt, .srt, .json, .csv or .txt of what is said"


class Said(NamedTuple):
    """A row as a file has it."""

    video: str
    start: Any
    end: Any
    text: Any


def read(
    source: str | Path,  # a file, or a folder of them, each named after its video
    *,
    length: Length | None = None,
    left_out: LeftOut
    | None = None,  # rows that are no good; None: they are counted on standard error
    breaks: bool = False,  # keep the line breaks of captions
) -> Narrations:
    """Rows that can be used. Those that overlap stay as they are; bad ones are counted, and listed in `left_out`."""
    path = Path(source).expanduser()
    listing = LeftOut() if left_out is None else left_out
    said: Narrations = {}
    owner: dict[str, Path] = {}
    faults: list[UserError] = []
    for file, video in _named_files(path):
        try:
            _take(_rows(file, video, listing, length), file, (said, owner), listing, length, breaks)
        except UserError as error:
            faults.append(error)
            listing.add(file, FORM, str(error))
            for named in [named for named in owner if owner[named] == file]:
                said.pop(named, None)  # what stood before the fault
    if not any(said.values()):
        if faults and (path.is_file() or len(faults) == listing.count):
            raise faults[0]
        raise UserError(
            f"{source} holds no sentence that can be used: {listing.counted() or 'it is empty'}."
        )
    if left_out is None:
        listing.say(source)
    for rows in said.values():
        rows.sort(key=lambda one: one[0])
    return {video: rows for video, rows in said.items() if rows}


def _take(
    rows: Iterable[Said],
    file: Path,
    into: tuple[Narrations, dict[str, Path]],  # what is said, and which file said it
    listing: LeftOut,
    length: Length | None,
    breaks: bool,
) -> None:
    said, owner = into
    video, own, known, kept = None, False, None, []
    for i, row in enumerate(rows, start=1):
        if row.video != video:  # once a video and not once a row: HTM-370K has millions
            video = row.video
            own = owner.setdefault(video, file) == file
            known = length(video) if length else None
            kept = said.setdefault(video, []) if own else []
        made = checked(row, known, breaks) if own else AGAIN
        if isinstance(made, str):
            about = (
                f"{row.start} to {row.end} {row.text!r}"
                if own
                else f"{owner[row.video]} has this video"
            )
            listing.add(file, made, f"{row.video}, row {i}: {about}")
        else:
            kept.append(made)


def checked(row: Said, length: float | None = None, breaks: bool = False) -> Sentence | str:
    """The sentence, or why it cannot be used. `length`: of the video in seconds, where it is known."""
    if not row.video:
        return NAMELESS
    text = row.text.strip() if isinstance(row.text, str) else ""
    if not text:
        return EMPTY
    start, end = _seconds(row.start), _seconds(row.end)
    if start is None or end is None:
        return UNTIMED
    if start < 0 or end < 0:
        return NEGATIVE
    if end <= start:
        return BACKWARDS
    if length is not None and start >= length:
        return OUTSIDE
    return start, end, text if breaks else " ".join(text.split())


def _seconds(value: Any) -> float | None:
    found = number(value)
    return subtitles.seconds(value) if found is None and isinstance(value, str) else found


def decoded(file: Path, listing: LeftOut) -> str:
    """UTF-8, UTF-16, or what Windows wrote before; the latter two are said."""
    data = file.read_bytes()
    if data[:2] not in (b"\xff\xfe", b"\xfe\xff") and b"\0" not in data:
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            try:
                text, name = data.decode("cp1252"), "cp1252"
            except UnicodeDecodeError:
                text, name = data.decode("latin-1"), "latin-1"
    else:
        even = data[::2].count(0) > data[1::2].count(0)
        name = (
            "utf-16"
            if data[:2] in (b"\xff\xfe", b"\xfe\xff")
            else "utf-16-be"
            if even
            else "utf-16-le"
        )
        try:
            text = data.decode(name)
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is no text ({error.reason}): {WANTED}.") from error
        if "\0" in text:
            raise UserError(f"{file} is no text (it holds zeros): {WANTED}.")
    listing.note(f"no UTF-8 and read as {name}", file)
    return text


def video_of(path: Path) -> str:
    """The id that a file is named after: `ID.vtt`, `ID.en.vtt`, `ID.mp4.json`."""
    stem, language = os.path.splitext(path.stem)
    named = (
        stem
        if language and LANGUAGE.fullmatch(language) and path.suffix in (".vtt", ".srt")
        else path.stem
    )
    bare, suffix = os.path.splitext(named)
    return bare if suffix.lower() in files.VIDEO else named


def _named_files(path: Path) -> list[tuple[Path, str]]:
    """Each with the id of its video; where several folders have that name, with its path, as videos are paired."""
    found = _files(path)
    homes: dict[str, set[Path]] = {}
    for file in found:
        homes.setdefault(video_of(file), set()).add(file.parent)
    plain = {name for name, folders in homes.items() if len(folders) == 1}
    names = ((file, video_of(file)) for file in found)
    return [(f, n if n in plain else (f.parent.relative_to(path) / n).as_posix()) for f, n in names]


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"{path} does not exist: {WANTED}, or a folder of such files.")
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path} is a {path.suffix or 'file without a suffix'}: {WANTED}.")
        return [path]
    found = []
    for here, folders, names in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        good = [
            n for n in names if os.path.splitext(n)[1].lower() in SUFFIXES and not n.startswith(".")
        ]
        found += [Path(here) / name for name in good]
    if not found:
        raise UserError(f"{path} holds no narrations: {WANTED}.")
    return sorted(found)


def _rows(file: Path, video: str, listing: LeftOut, length: Length | None) -> Iterator[Said]:
    text, suffix = decoded(file, listing), file.suffix.lower()
    if not text.strip():
        raise UserError(f"{file} is empty: {WANTED}.")
    if suffix in (".vtt", ".srt"):
        return _cues(file, text, video)
    if suffix == ".json":
        return _json(file, text, video, listing)
    return _csv(file, text, video) if suffix == ".csv" else _list(file, text, video, length)


def _cues(file: Path, text: str, video: str) -> Iterator[Said]:
    first = text.lstrip("\ufeff").lstrip().partition("\n")[0].strip()
    if file.suffix.lower() == ".vtt" and not first.startswith("WEBVTT"):
        raise UserError(
            f"{file} begins with {first[:40]!r} and is no WebVTT: its first line is WEBVTT."
        )
    found = subtitles.cues(text)
    if not found and file.suffix.lower() == ".srt":
        raise UserError(
            f"{file} begins with {first[:40]!r} and is no SRT: it has no line of START --> END."
        )
    return (Said(video, cue.start, cue.end, "\n".join(cue.lines)) for cue in found)


def _list(file: Path, text: str, video: str, length: Length | None) -> Iterator[Said]:
    """A sentence a line. When each is said is not known: at any time of the video, whose length must be known."""
    if subtitles.ARROW in text:
        raise UserError(f"{file} holds subtitles and no plain sentences: name it .srt or .vtt.")
    known = length(video) if length else None
    if known is None:
        raise UserError(
            f"{file} is a list of sentences without times, and the length of its video {video} is not known: give "
            "--durations (a csv of video ids and seconds), or the video itself."
        )
    return (Said(video, 0.0, known, line) for line in text.splitlines() if line.strip())


def table(file: Path, text: str, wanted: str) -> tuple[list[str], Iterator[dict[str, str]]]:
    """Columns and rows of a csv; the separator is whichever of comma, semicolon and tab the head holds most."""
    head = text.lstrip().partition("\n")[0]
    reader = csv.DictReader(
        io.StringIO(text.lstrip(), newline=""), delimiter=max(",;\t", key=head.count), restval=""
    )
    names = [name.strip().lower() for name in reader.fieldnames or []]
    reader.fieldnames = names

    def rows() -> Iterator[dict[str, str]]:
        try:
            yield from reader
        except csv.Error as error:
            where = f"{file}, line {reader.reader.line_num}"
            raise UserError(
                f"{where} cannot be read as a csv ({error}): wanted are columns {wanted}."
            ) from error

    return names, rows()


def _csv(file: Path, text: str, video: str) -> Iterator[Said]:
    wanted = "start, end and text (of several videos: video_id too), or vid, timestamp and text"
    columns, rows = table(file, text, wanted)
    id = next((name for name in IDS if name in columns), None)
    single = id is not None and "timestamp" in columns and "start" not in columns
    lacking = [name for name in (("text",) if single else KEYS) if name not in columns]
    if lacking:
        shown = ", ".join(columns)[:80]
        raise UserError(
            f"{file} has columns {shown} and no {' or '.join(lacking)}: wanted are {wanted}."
        )
    for row in rows:
        named = video if id is None else row[id].strip()
        said = (
            None if None in row else row["text"]
        )  # more fields than the head: a comma that is not quoted
        if single:
            at = _seconds(row["timestamp"])
            early = at is not None and at < 0
            start = None if at is None else at if early else max(0.0, at - AROUND_S)
            yield Said(named, start, None if at is None else at + AROUND_S, said)
        else:
            yield Said(named, row["start"], row["end"], said)


def _json(file: Path, text: str, video: str, listing: LeftOut) -> Iterator[Said]:
    try:
        held = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not json ({error}): {WANTED}.") from error
    own = _entry(held)
    if own is not None:
        return (Said(video, *row) for row in own)
    found = {name: _entry(entry) for name, entry in held.items()} if isinstance(held, dict) else {}
    if all(rows is None for rows in found.values()):
        raise UserError(
            f"{file} holds {_form(held)}: wanted is {{video id: {{text: [], start: [], end: []}}}}."
        )
    for name, rows in found.items():
        if rows is None:
            listing.add(
                file,
                "video of another form",
                f"{name}: text, start and end are not lists of one length",
            )
    return (Said(name, *row) for name, rows in found.items() for row in rows or ())


def _entry(entry: Any) -> list[tuple[Any, Any, Any]] | None:
    """Of one video: lists of start, end and text; or a list of such; or None."""
    if isinstance(entry, dict) and isinstance(entry.get("segments"), list):
        entry = entry["segments"]  # as speech recognition writes it
    if isinstance(entry, dict):
        lists = [entry.get(key) for key in KEYS]
        if (
            all(isinstance(part, list) for part in lists)
            and len({len(part) for part in lists if part is not None}) == 1
        ):
            return list(zip(*(part for part in lists if part is not None), strict=True))
    elif (
        isinstance(entry, list)
        and entry
        and all(isinstance(part, dict) and "text" in part for part in entry)
    ):
        return [(part.get("start"), part.get("end"), part["text"]) for part in entry]
    return None


def _form(held: Any) -> str:
    inside = next(iter(held.values()), None) if isinstance(held, dict) else None
    if isinstance(inside, list) and inside and isinstance(inside[0], list) and len(inside[0]) == 4:
        return "rows of [alignable, start, end, sentence] (HTM-Align's: take --data htm_align)"
    if isinstance(inside, dict):
        return f"videos with {', '.join(map(str, inside)) or 'nothing'}"
    return f"a json {type(held).__name__}" + (
        f" of {type(inside).__name__}s" if inside is not None else ""
    )


def write(said: Narrations, out: Path) -> None:
    lists = {
        video: {
            "text": [t for *_, t in s],
            "start": [a for a, *_ in s],
            "end": [b for _, b, _ in s],
        }
        for video, s in said.items()
    }
    write_json_whole(out, lists, ensure_ascii=False, indent=1)


def narrations(
    source: str,  # a .vtt, .srt, .json, .csv or .txt, or a folder of them
    out: str,  # .json: {video id: {text: [], start: [], end: []}}; what is left out is listed beside it
    *,
    sentencify: bool = False,  # cut captions into sentences by the rules of HTM-370K
    language: str
    | None = None,  # of sentencify: MODULE:FUNCTION, a text -> the probability that it is English
    punctuation: str
    | None = None,  # of sentencify: folder of a BERT that puts marks, or MODULE:FUNCTION
    durations: str
    | None = None,  # csv of video ids and seconds: rows past the end are left out, plain lists have times
    seed: int = 0,  # of the captions whose language is asked
) -> dict[str, Any]:
    """Narrations of any form in one JSON, in seconds and in order of start."""
    target = Path(out).expanduser()
    if target.suffix != ".json":
        raise UserError(f"--out {out} is a .json.")
    if (language or punctuation) and not sentencify:
        raise UserError("--language and --punctuation are for --sentencify true.")
    plugged = _plugged(language, punctuation)
    left = LeftOut()
    said = read(source, length=_lengths(durations), left_out=left, breaks=sentencify)
    captions = sum(map(len, said.values()))
    if sentencify:
        said = _sentencified(said, left, Path(source), seed, *plugged)
    target.parent.mkdir(parents=True, exist_ok=True)
    write(said, target)
    left.say(source)
    left.write(target.with_suffix(".left_out.jsonl"))
    counts = {"videos": len(said), "rows": captions, "sentences": sum(map(len, said.values()))}
    return {"source": source, "out": str(target), **counts, "left_out": left.counts}


def _lengths(file: str | None) -> Length:
    return pairing.durations(file, "--durations").get


def _plugged(
    language: str | None, punctuation: str | None
) -> tuple[rules.Language | None, rules.Punctuate | None]:
    marks = None
    if punctuation is not None:
        from ssvid.data.narration.punctuation import Marks

        marks = (
            Marks(punctuation)
            if Path(punctuation).expanduser().is_dir()
            else _named(punctuation, "--punctuation")
        )
    return None if language is None else _named(language, "--language"), marks


def _named(name: str, flag: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{flag} {name} is no MODULE:FUNCTION that can be imported ({error})."
        ) from error


def _sentencified(
    said: Narrations,
    left: LeftOut,
    source: Path,
    seed: int,
    language: rules.Language | None,
    punctuate: rules.Punctuate | None,
) -> Narrations:
    found = {}
    for video, captions in said.items():
        index = zlib.crc32(video.encode())  # so that a draw depends on no other video
        sentences, why = rules.of_video(
            captions, index=index, seed=seed, language=language, punctuate=punctuate
        )
        if why:
            left.add(source, why, video)
        else:
            found[video] = sentences
    if not found:
        raise UserError(f"{source}: no video is left to cut into sentences: {left.counted()}.")
    words = [len(text.split()) for sentences in found.values() for _, _, text in sentences] or [0]
    if punctuate is None and (mean := sum(words) / len(words)) > LONG:
        log.warning(
            f"sentences have {mean:.0f} words on average: captions without marks are cut at pauses alone; "
            "--punctuation FOLDER names a model that puts marks."
        )
    return found
