"""Published list files -> entries and class names.

Each form of list is recognised by its content and not by the name of a data set.
"""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

from ssvid.data import files
from ssvid.data.datasets.csv import need_column, read_head, read_table
from ssvid.data.labels import to_nfc
from ssvid.data.lines import Entry, clean_lines, read_lines
from ssvid.errors import UserError
from ssvid.log import log_once

# Jester, Something-Something v1, and the test answers of v2: the number of a clip and its class.
NUMBERED = re.compile(r"\d+;\S.*")
# Moments in Time: path, class, and how many annotators agreed and disagreed.
# The class is a word: three numbers are several labels, which is another form.
RATED = re.compile(r"(?P<path>[^,]+\.\w+),(?P<label>[^,]*[^-.,\d\s][^,]*),\d+,\d+")
# Columns of a list, in any case of letters, with `_` or without. The first one there counts.
NUMBERS = ("videoid", "id")  # of the number of a clip
SURE_PATHS = (  # nothing else than a column of paths has such a name
    *("path", "filename", "filepath", "videopath", "videoname", "videofile", "videofilename"),
    *("clippath", "clipname", "clipfile", "relpath", "relativepath", "framespath", "framedir"),
)
PATHS = (*SURE_PATHS, "file", "video", "clip", "name")
LABELS = (
    *("label", "labels", "class", "classname", "classid", "classlabel", "category", "categoryid"),
    *("action", "actionid", "actionname", "actionlabel", "labelid", "labelname", "template"),
)
COLUMN_NAME = re.compile(r"[A-Za-z_]*|[A-Za-z][A-Za-z _-]*")  # no suffix, no folder, no digit
# Words of the names of columns, which mark a first line as a head.
HEAD_WORDS = frozenset(
    (
        *("path", "file", "filename", "filepath", "video", "videos", "clip", "frames", "name"),
        *("label", "labels", "class", "category", "action", "caption", "text", "title", "target"),
        *("id", "split", "subset", "url", "description", "videoid", "dir", "folder"),
    )
)


def read_entries(file: Path) -> tuple[str | None, Iterator[Entry]]:
    """The data set that uses this form of list (None: several do), and the clips of the list.

    Raises a UserError for a file of an unknown form.
    """
    if file.suffix == ".json":
        return _read_json_entries(file)
    lines = clean_lines(files.read_text(file))
    texts = list(map(itemgetter(1), lines))
    first = texts[0] if texts else ""
    if "youtube_id" in first:
        return "kinetics", _read_kinetics(file)
    columns = {re.sub("[ _]", "", name.lower()): name for name in read_head(first)}
    path = next(filter(columns.__contains__, (*PATHS, *NUMBERS)), None)
    label = next(filter(columns.__contains__, LABELS), None)
    if path and (label or len(columns) == 1):
        numbered = "ssv2" if label == "template" else "jester"
        entries = _read_columns(file, columns[path], columns[label] if label else None)
        return numbered if path in NUMBERS else None, entries
    others = [name for key, name in columns.items() if key != path]
    if path in SURE_PATHS and all(map(COLUMN_NAME.fullmatch, others)):
        log_once(
            f"{file}: no column has the name of a label, so its clips have none; columns that are "
            f"not read: {', '.join(others)}. Name the column of the classes label."
        )
        return None, _read_columns(file, columns[path], None)
    if lines and all(map(NUMBERED.fullmatch, texts)):
        return "jester", _read_numbered(texts)
    if lines and all(map(RATED.fullmatch, texts)):
        return "moments", _read_moments(texts)
    _refuse_unknown_head(file, texts)
    return None, read_lines(file, lines)


def _refuse_unknown_head(file: Path, lines: list[str]) -> None:
    """Raise a UserError if the first line names columns, of which none is known as the path."""
    names = read_head(lines[0]) if len(lines) > 1 else []
    words = set(re.split(r"[ _.-]", " ".join(names).lower()))
    is_head = len(names) > 1 and all(map(COLUMN_NAME.fullmatch, names))
    looks_like_others = any(line.split()[-1:] == lines[0].split()[-1:] for line in lines[1:])
    if is_head and words & HEAD_WORDS and not looks_like_others:
        raise UserError(
            f"{file}: the first line looks like a head ({', '.join(names)}), and no column is "
            "known as the path: name the columns path and label, or remove the line."
        )


def _read_numbered(lines: list[str]) -> Iterator[Entry]:
    """`number;class`."""
    for line in lines:
        number, _, label = line.partition(";")
        yield Entry((number,), _spell_template(label))


def _read_moments(lines: list[str]) -> Iterator[Entry]:
    """class/file.mp4,class,agreed,disagreed: files are in training/class and validation/class."""
    for path, label, *_ in csv.reader(lines):
        yield Entry((path,), label.strip())


def _read_columns(file: Path, path: str, label: str | None) -> Iterator[Entry]:
    """A csv whose first line names the columns. `label`: its column, if it has one."""
    for number, row in read_table(file)[0]:
        name = row[path].strip()
        if not name:
            raise UserError(f"{file}, line {number} has no {path}: fill it in or drop the row.")
        yield Entry((name,), _spell_template(row[label].strip()) if label else None)


def _read_kinetics(file: Path) -> Iterator[Entry]:
    """label,youtube_id,time_start,time_end,split."""
    rows, columns = read_table(file)
    need_column(file, columns, "youtube_id", "a Kinetics list")
    for number, row in rows:
        times = [row["time_start"], row.get("time_end", "")] if row.get("time_start") else []
        yield _kinetics_clip(f"{file}, line {number}", row["youtube_id"], row.get("label"), times)


def _kinetics_clip(where: str, video: str, label: str | None, times: list[Any]) -> Entry:
    """Tools that download Kinetics name a file `id_000012_000022`, `id_12_22` or just by the id."""
    try:
        first, last = map(_whole_second, times or (0, 0))
    except (ValueError, OverflowError, TypeError) as error:
        raise UserError(
            f"{where}: time_start and time_end of {video} are not two numbers of seconds."
        ) from error
    cut = (f"{video}_{first:06d}_{last:06d}", f"{video}_{first}_{last}") if times else ()
    return Entry((*cut, video), label or None, video)


def _whole_second(time: Any) -> int:
    return int(float(time))


def _read_json_entries(file: Path) -> tuple[str | None, Iterator[Entry]]:
    table = read_json(file)
    if isinstance(table, dict) and table and all(map(_is_annotated, table.values())):
        return "kinetics", _read_annotated(file, table)
    first = table[0] if isinstance(table, list) and table and isinstance(table[0], dict) else {}
    data_set = None
    for key, name in (("vid_name", "diving48"), ("youtube_id", "kinetics"), ("id", "ssv2")):
        if key in first:
            data_set = name
            break
    return data_set, _read_records(file, table)


def _is_annotated(value: Any) -> bool:
    return isinstance(value, dict) and "annotations" in value


def _read_annotated(file: Path, table: dict[str, Any]) -> Iterator[Entry]:
    """Kinetics' own json: {id: {annotations: {label, segment: [start, end]}, subset, ...}}."""
    for name, value in table.items():
        annotation = value["annotations"]
        if not isinstance(annotation, dict):
            annotation = {}
        times = annotation.get("segment") or []
        if not isinstance(times, list):
            times = [times]
        where = f"{file}, {name}"
        label = _spell_label(where, annotation.get("label"))
        yield _kinetics_clip(where, name, label, times)


def _read_records(file: Path, table: Any) -> Iterator[Entry]:
    """A list of dicts.

    SSv2 has [{id, template, ...}], Diving48 [{vid_name, label, ...}], and few-shot lists of
    Kinetics [{file, youtube_id, ...}].
    """
    for number, record in enumerate(table if isinstance(table, list) else [None], start=1):
        where = f"{file}, entry {number}" if isinstance(table, list) else str(file)
        entry = _read_record(where, record) if isinstance(record, dict) else None
        if entry is None:
            raise UserError(
                f"{where} is neither SSv2's list of id and template nor Diving48's of vid_name and "
                "label nor Kinetics' of youtube_id."
            )
        yield entry


def _read_record(where: str, record: dict[str, Any]) -> Entry | None:
    label = _spell_label(where, record.get("template") or record.get("label"))
    if "vid_name" in record and record.get("label") is not None:
        return Entry((str(record["vid_name"]),), label, str(record["vid_name"]))
    if "youtube_id" in record:
        video, file = str(record["youtube_id"]), str(record.get("file") or "")
        return Entry(tuple(filter(None, (file, video))), label, video)
    if "id" in record:
        number = str(record["id"])
        return Entry((number,), label and _spell_template(label), number)
    return None


def _spell_label(where: str, label: Any) -> str | None:
    if isinstance(label, list | dict):
        raise UserError(f"{where} has several labels, and a clip has one here: keep one of them.")
    return None if label is None else str(label)


def read_json(file: Path) -> Any:
    """The content of a json file. A UserError if it is not json, or no UTF-8, with the line."""
    try:
        return json.loads(files.read_text(file))
    except ValueError as error:
        raise UserError(f"{file} is not json: {error}.") from error
    except RecursionError as error:
        raise UserError(f"{file} is nested too deeply: check that this is the list.") from error


def _spell_template(text: str) -> str:
    """`Putting [something] on a surface`, spelled as in SSv2's labels.json."""
    return text.replace("[", "").replace("]", "")


# Layouts of a text of class names, tried in turn. A layout must fit every line; a line of column
# names may come before.
HEADER = re.compile(r"id\s*,\s*name", re.IGNORECASE)
LAYOUTS = (
    # X-CLIP, ER-ZSAR: 0,acting in play
    re.compile(r"(?P<id>\d+),(?P<name>.+)"),
    # 1 ApplyEyeMakeup | 1: bend/bow | c000 Holding some clothes
    re.compile(r"(?P<id>c?\d+)[:;,]?\s+(?P<name>.+)"),
    # Moments in Time: clapping,0
    re.compile(r"(?P<name>[^,]+),\s*(?P<id>\d+)"),
)
# AVA: label { name: "sit" label_id: 11 ... } or item { name: "sit" id: 11 }
ITEM = re.compile(r"\{[^{}]*\}")


def read_names(file: Path) -> dict[str, str]:
    """id in a list -> class name.

    Names without ids are counted from 0. Two ids of one name stay two classes. Raises a UserError
    if the file is not a table of names.
    """
    names = _read_names_json(file) if file.suffix == ".json" else _read_names_text(file)
    counts = Counter(names.values())  # FineGym's 99 classes have one name twice
    for id, name in names.items():
        names[id] = to_nfc(f"{name} ({id})" if counts[name] > 1 else name)
    return names


def _read_names_text(file: Path) -> dict[str, str]:
    text = files.read_text(file)
    if file.suffix == ".pbtxt":
        return _read_items(file, text)
    lines = list(map(str.strip, text.rstrip().splitlines()))
    if lines and HEADER.fullmatch(lines[0]):
        lines = lines[1:]
    for layout in LAYOUTS:
        matches = list(map(layout.fullmatch, filter(None, lines)))
        names = {match["id"]: match["name"].strip() for match in matches if match}
        if matches and len(names) == len(matches):
            return names
    return dict(zip(map(str, range(len(lines))), lines, strict=True))


def _read_items(file: Path, text: str) -> dict[str, str]:
    items, names = ITEM.findall(text), {}
    for item in items:
        name, id = re.search(r"\bname:\s*\"([^\"]+)\"", item), re.search(r"id:\s*(\d+)", item)
        if name and id:
            names[id[1]] = name[1]
    if not names or len(names) < len(items):
        raise UserError(f"{file} is not a list of items with a name and an id.")
    return names


def _read_names_json(file: Path) -> dict[str, str]:
    """SSv2: {name: id}; also {id: name} and [name, ...]; Diving48: [[part, ...], ...]."""
    table = read_json(file)
    if isinstance(table, list) and table and all(isinstance(parts, list) for parts in table):
        table = ["+".join(map(str, parts)) for parts in table]
    values = table.values() if isinstance(table, dict) else table
    if not isinstance(table, dict | list) or any(isinstance(v, dict | list) for v in values):
        raise UserError(
            f"{file} is not a table of class names: a list of them, or names and their ids."
        )
    if isinstance(table, list):
        return {str(i): str(name) for i, name in enumerate(table)}
    if all(str(value).isdigit() for value in table.values()):
        return {str(id): name for name, id in table.items()}
    return {id: str(name) for id, name in table.items()}


def look_up_label(
    label: str | None, table: dict[str, str], source: Path, label_map: str | Path | None
) -> str | None:
    """The class name of a list's label.

    `table`: id -> name, read from the file `label_map`; empty: the label is returned. A label that
    the table lacks raises a UserError, because the ids of the list may count from 1.
    """
    if label is None or not table:
        return label
    if label in table:
        return table[label]
    if label in table.values():
        return label
    ids = list(table)
    raise UserError(
        f"{source}: label {label!r} is not in {label_map}, which has {ids[0]} to {ids[-1]}: check "
        "that they belong together. If the list counts classes from 1, begin each line of the "
        "names with its number, as in `1 NAME`."
    )


def parse_number(text: Any) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
