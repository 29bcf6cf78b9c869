"""Published list files -> entries and class names: each form is known by its content, not by a data set's name."""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ssvid.data import files
from ssvid.data.datasets.csv import need, read_table
from ssvid.errors import UserError


class Entry(NamedTuple):
    names: tuple[str, ...]  # a file may go by any of these
    label: str | None
    video: str = ""  # the film it is cut from


NUMBERED = re.compile(
    r"\d+;\S.*"
)  # Jester, Something-Something v1 and v2's test answers: a clip's number, its class
RATED = re.compile(
    r"(?P<path>[^,]+\.\w+),(?P<label>[^,]+),\d+,\d+"
)  # Moments in Time: and how many agreed, or did not
IDS = ("id", "video_id")  # columns of a clip's number


def entries(file: Path) -> tuple[str | None, Iterator[Entry]]:
    """The data set whose form this is (None: many write it so), and its clips."""
    if file.suffix == ".json":
        return _json(file)
    text = files.text(file)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = lines[0] if lines else ""
    head = {name.strip().strip('"') for name in re.split("[,;\t]", first)}
    if "youtube_id" in first:
        return "kinetics", _kinetics(file)
    if "label" in head and head & set(IDS):
        return "jester", _columns(file)
    if lines and all(map(NUMBERED.fullmatch, lines)):
        return "jester", (
            Entry((n,), _template(name)) for n, _, name in (line.partition(";") for line in lines)
        )
    if lines and all(map(RATED.fullmatch, lines)):
        return "moments", _moments(lines)
    return None, _lines(lines)


def _lines(lines: list[str]) -> Iterator[Entry]:
    """`path label`, `path,label` or a path alone. A path may hold spaces, so the last separator counts."""
    for line in lines:
        for mark in ("\t", ",", ";", " "):
            path, found, label = line.rpartition(mark)
            if found and Path(label).suffix.lower() not in files.VIDEO:
                yield Entry((path.strip(),), label.strip())
                break
        else:
            yield Entry((line,), None)


def _moments(lines: list[str]) -> Iterator[Entry]:
    """class/file.mp4,class,agreed,disagreed: the files lie in training/class and validation/class."""
    for path, label, *_ in csv.reader(io.StringIO("\n".join(lines))):
        yield Entry((path, f"training/{path}", f"validation/{path}"), label.strip())


def _columns(file: Path) -> Iterator[Entry]:
    rows, columns = read_table(file)
    column = next(name for name in IDS if name in columns)
    for _, line in rows:
        yield Entry((line[column].strip(),), _template(line.get("label", "").strip()) or None)


def _kinetics(file: Path) -> Iterator[Entry]:
    """label,youtube_id,time_start,time_end,split."""
    rows, columns = read_table(file)
    need(file, columns, "youtube_id", "a Kinetics list")
    for number, line in rows:
        times = (
            [line.get(name, "") for name in ("time_start", "time_end")]
            if line.get("time_start")
            else []
        )
        yield _clip(f"{file}, line {number}", line["youtube_id"], line.get("label"), times)


def _clip(where: str, video: str, label: str | None, times: list[Any]) -> Entry:
    """Downloaders write `id_000012_000022`, `id_12_22` or the bare id."""
    try:
        first, last = (int(float(time)) for time in times or (0, 0))
    except (ValueError, OverflowError, TypeError) as error:
        raise UserError(
            f"{where}: time_start and time_end of {video} are not two numbers of seconds."
        ) from error
    cut = (f"{video}_{first:06d}_{last:06d}", f"{video}_{first}_{last}") if times else ()
    return Entry((*cut, video), label or None, video)


def _json(file: Path) -> tuple[str | None, Iterator[Entry]]:
    table = load(file)
    if (
        isinstance(table, dict)
        and table
        and all(isinstance(v, dict) and "annotations" in v for v in table.values())
    ):
        return "kinetics", (
            _annotated(file, name, value["annotations"]) for name, value in table.items()
        )
    first = table[0] if isinstance(table, list) and table and isinstance(table[0], dict) else {}
    form = {"vid_name": "diving48", "youtube_id": "kinetics", "id": "ssv2"}
    return next((name for key, name in form.items() if key in first), None), _records(file, table)


def _annotated(file: Path, name: str, told: Any) -> Entry:
    """Kinetics' own json: {id: {annotations: {label, segment: [start, end]}, subset, ...}}."""
    told = told if isinstance(told, dict) else {}
    times = told.get("segment") or []
    return _clip(
        f"{file}, {name}", name, told.get("label"), times if isinstance(times, list) else [times]
    )


def _records(file: Path, table: Any) -> Iterator[Entry]:
    """SSv2: [{id, template, ...}]; Diving48: [{vid_name, label, ...}]; few-shot Kinetics: [{file, youtube_id, ...}]."""
    for number, entry in enumerate(table if isinstance(table, list) else [None], start=1):
        label = entry.get("template") or entry.get("label") if isinstance(entry, dict) else None
        if isinstance(entry, dict) and "vid_name" in entry and entry.get("label") is not None:
            yield Entry((str(entry["vid_name"]),), str(entry["label"]), str(entry["vid_name"]))
        elif isinstance(entry, dict) and "youtube_id" in entry:
            video = str(entry["youtube_id"])
            yield Entry(
                tuple(filter(None, (str(entry.get("file") or ""), video))),
                label and str(label),
                video,
            )
        elif isinstance(entry, dict) and "id" in entry:
            yield Entry((str(entry["id"]),), label and _template(str(label)), str(entry["id"]))
        else:
            where = f"{file}, entry {number}" if isinstance(table, list) else str(file)
            raise UserError(
                f"{where} is neither SSv2's list of id and template nor Diving48's of vid_name and label "
                "nor Kinetics' of youtube_id."
            )


def load(file: Path) -> Any:
    try:
        return json.loads(files.text(file))
    except ValueError as error:
        raise UserError(f"{file} is not json: {error}.") from error


def _template(text: str) -> str:
    """`Putting [something] on a surface` -> as SSv2's labels.json spells it."""
    return text.replace("[", "").replace("]", "")


LAYOUTS = (  # of a text of class names, tried in turn; each must fit every line
    re.compile(
        r"(?P<id>c?\d+)[:;,]?\s+(?P<name>.+)"
    ),  # 1 ApplyEyeMakeup | 1: bend/bow | c000 Holding some clothes
    re.compile(r"(?P<name>[^,]+),\s*(?P<id>\d+)"),  # Moments in Time: clapping,0
)
ITEM = re.compile(
    r"\{[^{}]*\}"
)  # AVA: label { name: "sit" label_id: 11 ... } or item { name: "sit" id: 11 }


def names(file: Path) -> dict[str, str]:
    """id in a list -> class name. Without ids of their own, names are counted from 0. Ids of one name stay apart."""
    found = _names_json(file) if file.suffix == ".json" else _names_text(file)
    often = Counter(found.values())  # FineGym's 99 classes have one name twice
    return {id: name if often[name] == 1 else f"{name} ({id})" for id, name in found.items()}


def _names_text(file: Path) -> dict[str, str]:
    text = files.text(file)
    if file.suffix == ".pbtxt":
        items = [
            (re.search(r"\bname:\s*\"([^\"]+)\"", i), re.search(r"id:\s*(\d+)", i))
            for i in ITEM.findall(text)
        ]
        found = {id[1]: name[1] for name, id in items if name and id}
        if not found or len(found) < len(items):
            raise UserError(f"{file} is not a list of items with a name and an id.")
        return found
    lines = [line.strip() for line in text.rstrip().splitlines()]
    for layout in LAYOUTS:
        fits = [layout.fullmatch(line) for line in lines if line]
        if fits and all(fits) and len({fit["id"] for fit in fits if fit}) == len(fits):
            return {fit["id"]: fit["name"].strip() for fit in fits if fit}
    return {str(i): line for i, line in enumerate(lines)}


def _names_json(file: Path) -> dict[str, str]:
    """SSv2: {name: id}; also {id: name} and [name, ...]; Diving48's vocabulary: [[part, ...], ...]."""
    table = load(file)
    if isinstance(table, list) and table and all(isinstance(parts, list) for parts in table):
        table = ["+".join(map(str, parts)) for parts in table]
    values = table.values() if isinstance(table, dict) else table
    if not isinstance(table, dict | list) or any(
        isinstance(value, dict | list) for value in values
    ):
        raise UserError(
            f"{file} is not a table of class names: a list of them, or names and their ids."
        )
    if isinstance(table, list):
        return {str(i): str(name) for i, name in enumerate(table)}
    flip = all(str(value).isdigit() for value in table.values())
    return {str(v): k for k, v in table.items()} if flip else {k: str(v) for k, v in table.items()}


def named(
    label: str | None, table: dict[str, str], source: Path, of: str | Path | None
) -> str | None:
    """A list's label as the class name; a label that the table lacks is refused, for ids may count from 1."""
    if label is None or not table:
        return label
    if label in table:
        return table[label]
    if label in table.values():
        return label
    ids = list(table)
    raise UserError(
        f"{source}: label {label!r} is not in {of}, which has {ids[0]} to {ids[-1]}: check that they belong together, "
        "and where a list counts classes from 1, begin each line of the names with its number, as in `1 NAME`."
    )


def number(text: Any) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
