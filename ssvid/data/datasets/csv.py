"""A csv of clips -> Manifest: columns path, label, split, and a group that never stands in two splits."""

import csv as table
import io
from pathlib import Path

from ssvid.data import files
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.log import log_once
from ssvid.registry import datasets
from ssvid.shapes import Row

NAMES = ("labels.csv", "manifest.csv")  # looked for where root is a folder
PATHS = (
    "path",
    "file",
    "filename",
    "video",
    "video_path",
    "video_id",
)  # the first of these is the path
SPLIT = {
    **dict.fromkeys(("train", "training", "1"), "train"),  # the numbers are HMDB51's
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "2"), "test"),
}
UNUSED = ("0", "unused")

Lines = list[tuple[int, dict[str, str]]]  # line of the file, column -> field


@datasets.register("csv")
def csv(
    root: str,  # the csv file, or a folder that holds one
    *,
    path_column: str
    | None = None,  # default: the first of path, file, filename, video, video_path, video_id
    label_column: str = "label",  # of the classes
    split_column: str = "split",  # for example official_split2
    group: str | None = None,  # column; default: subject, else label + group, else the path
    where: str | None = None,  # COLUMN=VALUE keeps these rows only
) -> Manifest:
    """Paths are relative to the csv. `root` is the csv, or a folder that holds labels.csv or manifest.csv."""
    file = _locate(root)
    rows, columns = read_table(file)
    path_column = path_column or next((name for name in PATHS if name in columns), PATHS[0])
    need_column(file, columns, path_column, "--data.path_column")
    if split_column != "split":
        need_column(file, columns, split_column, "--data.split_column")
    if label_column != "label":
        need_column(file, columns, label_column, "--data.label_column")
    if group is not None:
        need_column(file, columns, group, "--data.group")
    if where is not None:
        rows = _filter(file, rows, columns, where)
    made = []
    for number, line in rows:
        if not line[path_column].strip():
            raise UserError(
                f"{file}, line {number} has no {path_column}: fill it in or drop the row."
            )
        split = (line.get(split_column) or "train").strip()
        if split.lower() in UNUSED:
            continue
        label = (line.get(label_column) or "").strip() or None
        path = line[path_column].strip().replace("\\", "/")
        video = (line.get("video_id") or "").strip() if path_column != "video_id" else ""
        made.append(
            Row(
                path=path,
                label=label,
                split=SPLIT.get(split.lower(), split),
                group=_group(line, group, label, path),
                duration=_number(line.get("duration")),
                video_id=video,
            )
        )
    _say_lone(
        file, made, group or next((name for name in ("subject", "group") if name in columns), None)
    )
    return Manifest.build(made, file.parent, source=file)


def _say_lone(file: Path, rows: list[Row], column: str | None) -> None:
    """Groups that hold nothing together guard nothing: said, for it may be right."""
    if column is not None and len({row.group for row in rows}) == len(rows) > 1:
        log_once(
            f"{file}: each group of column {column!r} holds one clip; if clips share a film or a person, name the "
            "column that says so with --data.group, or they may stand in train and in test."
        )


def read_table(file: Path) -> tuple[Lines, list[str]]:
    """Rows and columns of a csv; the separator is whichever of comma, semicolon and tab the head holds most."""
    text = files.read_text(file)
    if not text.strip():
        raise UserError(
            f"{file} is empty: it should begin with a head, for example path,label,split."
        )
    head = text.partition("\n")[0]
    reader = table.DictReader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), restval=""
    )
    names = [name.strip() for name in reader.fieldnames or []]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{file} has two columns {twice!r}: keep one.")
    reader.fieldnames = names
    rows: Lines = []
    try:
        for line in reader:
            if None in line:
                raise UserError(
                    f"{file}, line {reader.line_num} has more fields than the head: quote fields that hold a comma."
                )
            rows.append((reader.line_num, line))
    except table.Error as error:
        raise UserError(
            f"{file}, line {reader.reader.line_num} cannot be read as a csv: {error}."
        ) from error
    return rows, list(reader.fieldnames or [])


def _locate(root: str) -> Path:
    path = Path(root).expanduser()
    if path.is_dir():
        for name in NAMES:
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path} holds no {' or '.join(NAMES)}: give --data.root the csv itself.")
    return files.need_file(path, "--data.root of a csv data set")


def need_column(file: Path, columns: list[str], name: str, flag: str) -> None:
    if name not in columns:
        raise UserError(
            f"{file} has no column {name!r} ({flag}); it has {', '.join(columns) or 'none'}."
        )


def _filter(file: Path, rows: Lines, columns: list[str], where: str) -> Lines:
    name, equals, value = where.partition("=")
    if not equals:
        raise UserError(f"--data.where {where!r} is not COLUMN=VALUE.")
    need_column(file, columns, name, "--data.where")
    kept = [(number, line) for number, line in rows if line[name].strip() == value]
    if not kept:
        values = sorted({line[name] for _, line in rows})
        raise UserError(f"No row of {file} has {where}: values are {', '.join(values[:8])}.")
    return kept


def _group(line: dict[str, str], column: str | None, label: str | None, path: str) -> str:
    if column is None and "subject" in line:
        column = "subject"
    if column is not None:
        return line[column].strip() or path
    own = (line.get("group") or "").strip()
    return f"{label}/{own}" if own and label else own or path


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
