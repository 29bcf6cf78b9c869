"""results and files -> the head of a page: what it shows, the data, the test clips, the date."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from ssvid.results import TUNED, Result

SEVERAL = 3  # names that a head lists; more are counted
UNBROKEN = re.compile(r" (?=%)|(?<=\bp) (?=[=<])|(?<=\bp [=<]) ")  # blanks inside of numbers
FROM_FILES = ("csv", "folder", "frames", "pathlist")  # readers: the data set is what `root` names


class Head(NamedTuple):
    title: str
    about: str


def join_facts(facts: Iterable[str]) -> str:
    """Line two of a head; empty facts are left out."""
    return " - ".join(filter(None, facts))


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def print_text(text: str) -> str:
    """With the sign of a page for +-, and without a line break inside of numbers."""
    return UNBROKEN.sub("\xa0", text.replace("+-", "\N{PLUS-MINUS SIGN}"))


def list_names(names: Iterable[str], noun: str) -> str:
    """Each name once; only their number where they are many."""
    unique = list(dict.fromkeys(names))
    return ", ".join(unique) if len(unique) <= SEVERAL else count(len(unique), noun)


def date_of(files: Iterable[Path]) -> str:
    """The day (UTC) of the newest file, so that a page is the same however often it is made."""
    newest = 0.0
    for file in files:
        if file.exists():
            newest = max(newest, file.stat().st_mtime)
    return datetime.fromtimestamp(newest, UTC).date().isoformat() if newest else ""


def name_data(settings: dict[str, Any] | None) -> str:
    """Of `data` in a config or a result: the folder or list that is read, else the set's name."""
    if not settings or not isinstance(settings.get("name"), str):
        return ""
    name, root = settings["name"], settings.get("root")
    if name in FROM_FILES and isinstance(root, str) and Path(root).stem:
        return Path(root).stem
    return str(name)


def name_data_of(results: Sequence[Result]) -> str:
    return list_names(list_data(results), "data set")


def list_data(results: Sequence[Result]) -> list[str]:
    """Each name once."""
    names = dict.fromkeys(name_data(result.data.set) for result in results)
    return list(filter(None, names))


def count_test_clips(results: Sequence[Result]) -> str:
    clips = [result.data.clips["test"] for result in results]
    if min(clips) < max(clips):
        return f"{min(clips)} to {max(clips)} test clips"
    return count(clips[0], "test clip")


def title_of(result: Result) -> str:
    return result.encoder.title


def head_of_results(results: Sequence[Result], date: str) -> Head:
    encoders = list_names(map(title_of, results), "encoder")
    about = [name_data_of(results), count_test_clips(results), date]
    topic = "Frozen features"
    if all(result.kind == TUNED for result in results):
        topic, encoders = "Fine-tuning", encoders.replace(", fine-tuned", "")
    return Head(f"{topic} of {encoders}", join_facts(about))
