"""results and files -> the head of a page: what it is of, the data set, the test clips and the date."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from ssvid.results import Result

SEVERAL = 3  # names that a head lists; more are counted
FROM_FILES = ("csv", "folder", "frames", "pathlist")  # readers: the data set is what `root` names


class Head(NamedTuple):
    title: str
    about: str


def join_facts(facts: Iterable[str]) -> str:
    """Line two of a head; empty facts are left out."""
    return " - ".join(fact for fact in facts if fact)


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def list_names(names: Iterable[str], noun: str) -> str:
    """Each name once; only their number where they are many."""
    unique = list(dict.fromkeys(names))
    return ", ".join(unique) if len(unique) <= SEVERAL else count(len(unique), noun)


def date_of(files: Iterable[Path]) -> str:
    """The day (UTC) when the newest of the files was written: the same however often a page is made."""
    times = [file.stat().st_mtime for file in files if file.exists()]
    return datetime.fromtimestamp(max(times), UTC).date().isoformat() if times else ""


def name_data(settings: dict[str, Any] | None) -> str:
    """Of `data` in a config or a result: the folder or list that a reader reads, else the data set's own name."""
    if not settings or not isinstance(settings.get("name"), str):
        return ""
    name, root = settings["name"], settings.get("root")
    if name in FROM_FILES and isinstance(root, str) and Path(root).stem:
        return Path(root).stem
    return str(name)


def name_data_of(results: Sequence[Result]) -> str:
    names = [name_data(result.data.set) for result in results]
    return list_names(filter(None, names), "data set")


def count_test_clips(results: Sequence[Result]) -> str:
    clips = sorted({result.data.clips["test"] for result in results})
    if len(clips) > 1:
        return f"{clips[0]} to {clips[-1]} test clips"
    return count(clips[0], "test clip")


def head_of_results(results: Sequence[Result], date: str) -> Head:
    encoders = list_names((result.encoder.title for result in results), "encoder")
    about = [name_data_of(results), count_test_clips(results), date]
    return Head(f"Frozen features of {encoders}", join_facts(about))
