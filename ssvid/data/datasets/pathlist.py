"""Published lists -> Manifest: Kinetics csv, SSv2 and Diving48 json, and `path label` text lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ssvid.data import files
from ssvid.data.datasets.csv import need, read_table
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import datasets
from ssvid.shapes import Row


class Entry(NamedTuple):
    names: tuple[str, ...]  # a file may go by any of these
    label: str | None
    video: str = ""  # the film it is cut from


@datasets.register("pathlist")
def pathlist(
    root: str,  # of the videos
    *,
    train: str | None = None,  # list files: .txt, .csv (Kinetics) or .json (SSv2, Diving48)
    val: str | None = None,
    test: str | None = None,
    label_map: str | None = None,  # class names: a line for each id from 0, or SSv2's labels.json
    missing_ok: float = 0.0,  # share of listed clips that may be absent: films vanish from YouTube
) -> Manifest:
    lists = {"train": train, "val": val, "test": test}
    if not any(lists.values()):
        raise UserError("A pathlist data set needs --data.train, --data.val or --data.test: a list file.")
    path = files.folder(root, "--data.root of a pathlist data set")
    found = files.videos(path)
    find = files.Finder(found or files.frame_folders(path))
    names = _label_map(label_map)
    rows, absent = [], []
    for split, name in lists.items():
        for entry in _entries(files.file(name, f"--data.{split}")) if name else ():
            there = next(filter(None, map(find, entry.names)), None)
            if there is None:
                absent.append(entry.names[0])
                continue
            label = None if entry.label is None else names.get(entry.label, entry.label)
            rows.append(Row(there, label, split, entry.video or there, video_id=entry.video))
    if len(absent) > missing_ok * (len(absent) + len(rows)):
        raise UserError(
            f"{path}: {len(absent)} of {len(absent) + len(rows)} listed clips are missing, first {absent[0]}: "
            "check --data.root, or allow a share with --data.missing_ok."
        )
    return Manifest.build(rows, path, source=" and ".join(filter(None, lists.values())))


def _entries(file: Path) -> Iterator[Entry]:
    if file.suffix == ".json":
        return _json(file)
    head = files.text(file).partition("\n")[0]
    return _kinetics(file) if "youtube_id" in head else _lines(file)


def _lines(file: Path) -> Iterator[Entry]:
    """`path label`, `path,label` or a path alone. A path may hold spaces, so the last separator counts."""
    for line in files.text(file).splitlines():
        line = line.strip()
        if not line:
            continue
        for mark in ("\t", ",", ";", " "):
            path, found, label = line.rpartition(mark)
            if found and Path(label).suffix.lower() not in files.VIDEO:
                yield Entry((path.strip(),), label.strip())
                break
        else:
            yield Entry((line,), None)


def _kinetics(file: Path) -> Iterator[Entry]:
    """label,youtube_id,time_start,time_end,split: files are `id_start_end` (six digits) or `id`."""
    rows, columns = read_table(file)
    need(file, columns, "youtube_id", "a Kinetics list")
    for number, line in rows:
        video = line["youtube_id"]
        names: tuple[str, ...] = (video,)
        if line.get("time_start"):
            try:
                start, end = (int(float(line.get(name, ""))) for name in ("time_start", "time_end"))
            except (ValueError, OverflowError) as error:
                raise UserError(
                    f"{file}, line {number}: time_start and time_end of {video} are not two numbers of seconds."
                ) from error
            names = (f"{video}_{start:06d}_{end:06d}", video)
        yield Entry(names, line.get("label") or None, video)


def _json(file: Path) -> Iterator[Entry]:
    """SSv2: [{id, template, ...}]; Diving48: [{vid_name, label, ...}]."""
    entries = _load(file)
    for number, entry in enumerate(entries if isinstance(entries, list) else [None], start=1):
        if isinstance(entry, dict) and "vid_name" in entry and entry.get("label") is not None:
            yield Entry((str(entry["vid_name"]),), str(entry["label"]), str(entry["vid_name"]))
        elif isinstance(entry, dict) and "id" in entry:
            label = entry.get("template") or entry.get("label")
            yield Entry((str(entry["id"]),), label and _template(str(label)), str(entry["id"]))
        else:
            where = f"{file}, entry {number}" if isinstance(entries, list) else str(file)
            raise UserError(f"{where} is neither SSv2's list of id and template nor Diving48's of vid_name and label.")


def _load(file: Path) -> Any:
    try:
        return json.loads(files.text(file))
    except ValueError as error:
        raise UserError(f"{file} is not json: {error}.") from error


def _template(text: str) -> str:
    """`Putting [something] on a surface` -> as SSv2's labels.json spells it."""
    return text.replace("[", "").replace("]", "")


def _label_map(path: str | None) -> dict[str, str]:
    """id in a list -> class name. A json maps names to ids, as SSv2's does, or ids to names."""
    if path is None:
        return {}
    file = files.file(path, "--data.label_map")
    if file.suffix != ".json":
        return {str(i): name.strip() for i, name in enumerate(files.text(file).splitlines())}
    table = _load(file)
    values = table.values() if isinstance(table, dict) else table
    if not isinstance(table, dict | list) or any(isinstance(value, dict | list) for value in values):
        raise UserError(f"{file} is not a table of class names: a list of them, or names and their ids.")
    if isinstance(table, list):
        return {str(i): str(name) for i, name in enumerate(table)}
    flip = all(str(value).isdigit() for value in table.values())
    return {str(v): k for k, v in table.items()} if flip else {k: str(v) for k, v in table.items()}
