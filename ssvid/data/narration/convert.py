"""Transcripts of any format -> one JSON, in seconds.

python -m ssvid.data.narration --source FILE_OR_FOLDER --out sentences.json [--sentencify true]
"""

import zlib
from pathlib import Path
from typing import Any

from ssvid.data.narration import pairing
from ssvid.data.narration import sentences as rules
from ssvid.data.narration.readers import Narrations, read
from ssvid.data.narration.skipped import LeftOut
from ssvid.errors import UserError
from ssvid.files import write_json_whole
from ssvid.log import log
from ssvid.trust import import_named

LONG = 30  # mean words of a sentence, from which on the captions were hardly cut


def convert_narrations(
    source: str,  # a .vtt, .srt, .json, .json3, .csv, .tsv or .txt file, or a folder of them
    # a .json: {video id: {text: [], start: [], end: []}}; a file beside it lists what is left out
    out: str,
    *,
    # where a video has several transcripts, the one to read: en of ID.en.vtt and ID.de.vtt
    only_language: str | None = None,
    sentencify: bool = False,  # cut captions into sentences by the rules of HTM-370K
    # with sentencify: MODULE:FUNCTION that gives the probability that a text is English
    language: str | None = None,
    # with sentencify: folder of a BERT that restores punctuation, or MODULE:FUNCTION
    punctuation: str | None = None,
    # csv of video ids and seconds: rows past the end are left out, and plain lists get times
    durations: str | None = None,
    seed: int = 0,  # of the captions whose language is checked
) -> dict[str, Any]:
    """Convert narrations of any format to one JSON, in seconds and in order of start."""
    target = Path(out).expanduser()
    if target.suffix != ".json":
        raise UserError(f"--out {out} is not a .json file.")
    if (language or punctuation) and not sentencify:
        raise UserError("--language and --punctuation need --sentencify true.")
    is_english, punctuate = _load_language(language), _load_punctuation(punctuation)
    left = LeftOut()
    seconds = pairing.read_durations(durations, "--durations")
    spoken = read(
        source,
        length=seconds.get,
        ids=seconds,
        left_out=left,
        breaks=sentencify,
        language=only_language,
        language_flag="--only_language",
    )
    captions = sum(map(len, spoken.values()))
    if sentencify:
        spoken = _sentencify(spoken, left, Path(source), seed, is_english, punctuate)
    target.parent.mkdir(parents=True, exist_ok=True)
    write(spoken, target)
    left.log(source)
    left.write(target.with_suffix(".left_out.jsonl"))
    sentences = sum(map(len, spoken.values()))
    counts = {"videos": len(spoken), "rows": captions, "sentences": sentences}
    return {"source": source, "out": str(target), **counts, "left_out": left.counts}


def write(spoken: Narrations, out: Path) -> None:
    """Write {video id: {text: [], start: [], end: []}}."""
    table: dict[str, dict[str, list[Any]]] = {}
    for video, sentences in spoken.items():
        columns = table[video] = {"text": [], "start": [], "end": []}
        for start, end, text in sentences:
            columns["text"].append(text)
            columns["start"].append(start)
            columns["end"].append(end)
    write_json_whole(out, table, ensure_ascii=False, indent=1)


def _load_language(name: str | None) -> rules.Language | None:
    return None if name is None else _import_function(name, "--language")


def _load_punctuation(name: str | None) -> rules.Punctuate | None:
    if name is None:
        return None
    if not Path(name).expanduser().is_dir():
        return _import_function(name, "--punctuation")
    from ssvid.data.narration.punctuation import Marks

    return Marks(name)


def _import_function(name: str, flag: str) -> Any:
    if ":" not in name:
        raise UserError(f"{flag} takes MODULE:FUNCTION, not {name}.")
    function = import_named(name, f"function of {flag}")
    if not callable(function):
        raise UserError(f"{flag} {name} is no function.")
    return function


def _sentencify(
    spoken: Narrations,
    left: LeftOut,
    source: Path,
    seed: int,
    is_english: rules.Language | None,
    punctuate: rules.Punctuate | None,
) -> Narrations:
    """The sentences of each video. Videos that the rules leave out are listed."""
    narrations: Narrations = {}
    words = sentences = 0
    for video, captions in spoken.items():
        index = zlib.crc32(
            video.encode(errors="surrogateescape")
        )  # so that a draw depends on no other video
        cut, why = rules.cut_video(
            captions, index=index, seed=seed, language=is_english, punctuate=punctuate
        )
        if why:
            left.add(source, why, video)
            continue
        narrations[video] = cut
        sentences += len(cut)
        words += sum(len(text.split()) for *_, text in cut)
    if not narrations:
        raise UserError(f"{source}: no video is left to cut into sentences: {left.describe()}.")
    mean = words / max(1, sentences)
    if punctuate is None and mean > LONG:
        log.warning(
            f"sentences have {mean:.0f} words on average: captions without punctuation are only "
            "cut at pauses; --punctuation FOLDER names a model that restores it."
        )
    return narrations
