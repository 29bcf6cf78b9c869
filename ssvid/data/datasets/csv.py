"""A csv of clips -> Manifest: columns path, label, split, group, caption, question and answer.

Clips of one group are never in two splits. Several rows of one path are several captions of it, or
several questions about it.
"""

import csv as table
import io
import itertools
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ssvid.data import files
from ssvid.data.asked_lines import join_answers, read_question
from ssvid.data.captions import describe_whole
from ssvid.data.decode import read_span
from ssvid.data.labels import parse_label, spell_whole_numbers
from ssvid.data.lines import COMMENT
from ssvid.data.manifest import Manifest
from ssvid.data.splits import SPLIT_OF_NAME, are_groups_single, splits_of
from ssvid.errors import DecodeError, UserError
from ssvid.log import log_once
from ssvid.registry import datasets
from ssvid.shapes import Question, Row

NAMES = ("labels.csv", "manifest.csv")  # searched where root is a folder
# The first of these columns is the path.
PATHS = ("path", "file", "filename", "video", "video_path", "video_id")
UNUSED = ("0", "unused")

Line = dict[str, str]  # column -> field
Lines = list[tuple[int, Line]]  # number of each line in the file, and its fields


@datasets.register("csv")
def csv(
    root: str,  # the csv file, or a folder that holds one
    *,
    # default: the first of path, file, filename, video, video_path, video_id
    path_column: str | None = None,
    label_column: str = "label",  # column of the classes
    caption_column: str = "caption",  # column of sentences, each about a whole clip
    question_column: str = "question",  # column of questions, each about a whole clip
    # column of their answers; columns choices (a|b|c) and type may stand beside it
    answer_column: str = "answer",
    split_column: str = "split",  # for example official_split2
    group: str | None = None,  # column; default: subject, else label + group, else the path
    where: str | None = None,  # COLUMN=VALUE: use only these rows
) -> Manifest:
    """Paths are relative to the csv. A folder must hold labels.csv or manifest.csv.

    Without a column of splits, whole groups of a labelled list are held out for val and test.
    """
    file = find_csv(root)
    columns = Columns(
        path_column,
        label_column,
        caption_column,
        split_column,
        group,
        question_column,
        answer_column,
    )
    return build_from_csv(file, file.parent, columns, where)


class Columns(NamedTuple):
    """The columns of a csv that are read. None: chosen by the names that the csv has."""

    path: str | None = None
    label: str = "label"
    caption: str = "caption"
    split: str = "split"
    group: str | None = None
    question: str = "question"
    answer: str = "answer"


FLAGS = (
    *("path_column", "label_column", "caption_column", "split_column", "group"),
    *("question_column", "answer_column"),
)


def build_from_csv(
    file: Path,
    root: Path,  # folder of the paths
    named: Columns,
    where: str | None = None,
    *,
    fps: float | None = None,  # of folders of frames
    seconds: float | None = None,  # the length of every clip; None: of each by itself
) -> Manifest:
    """The clips of a csv. Raises a UserError if it lacks a column that is named by a flag."""
    lines, columns = read_table(file)
    path_column = named.path or next((name for name in PATHS if name in columns), PATHS[0])
    usual = Columns(path=None)
    for flag, name, default in zip(FLAGS, named, usual, strict=True):
        if flag == "path_column" or name not in (None, default):
            need_column(file, columns, name or path_column, f"--data.{flag}")
    if where is not None:
        lines = _filter_lines(file, lines, columns, where)
    lines, labels = _read_labels(file, lines, named.split, named.label)
    asks = _has_questions(file, columns, named)
    rows, captions, questions = [], [], []
    for (number, line), label in zip(lines, labels, strict=True):
        path = line[path_column].strip().replace("\\", "/")
        if not path:
            raise UserError(
                f"{file}, line {number} has no {path_column}: fill it in or drop the row."
            )
        split = _read_split(line, named.split)
        row = Row(
            path=path,
            label=label,
            split=SPLIT_OF_NAME.get(split.lower(), split),
            group=_group_of(line, named.group, label, path),
            duration=_parse_duration(line.get("duration")),
            fps=fps,
            video_id=(line.get("video_id") or "").strip() if path_column != "video_id" else "",
            columns=tuple(sorted((name, (line.get(name) or "").strip()) for name in columns)),
        )
        rows.append(row)
        captions.append((line.get(named.caption) or "").strip())
        position = f"{file}, line {number}"
        question = None
        if asks:
            question = read_question(position, line, named.question, named.answer)
        questions.append(question)
    rows = _join_rows(file, root, rows, captions, questions, seconds)
    usual_group = next((name for name in ("subject", "group") if name in columns), None)
    hold_out = named.split not in columns and any(row.label for row in rows)
    _warn_of_groups(file, rows, named.group or usual_group, columns, hold_out)
    return Manifest.build(rows, root, source=file, hold_out=hold_out)


def _has_questions(file: Path, columns: list[str], named: Columns) -> bool:
    """Whether the csv has the columns of questions and of answers. One without the other is told.

    A column that a flag names is there.
    """
    present = {named.question, named.answer} & set(columns)
    if named.question in present and len(present) == 1:
        log_once(
            f"{file}: the column {named.question} is not read as questions, because there is no "
            f"column {named.answer} beside it."
        )
    if len(present) == 1 and (named.question, named.answer) != ("question", "answer"):
        raise UserError(
            f"{file} has the column {present.pop()} alone, and questions need both: name them with "
            "--data.question_column and --data.answer_column."
        )
    return len(present) == 2


def _join_rows(
    file: Path,
    root: Path,
    rows: list[Row],
    captions: list[str],
    questions: list[Question | None],
    seconds: float | None,
) -> list[Row]:
    """Rows with captions and questions, of which those of one path are one row.

    Rows without either stay. Raises a UserError if rows of one path have different labels, splits
    or groups.
    """
    joint: list[Row] = []
    captions_of: dict[str, list[str]] = {}  # path -> captions, in the order of the list
    questions_of: dict[str, list[Question]] = {}
    first_of: dict[str, Row] = {}
    for row, caption, question in zip(rows, captions, questions, strict=True):
        first = first_of.get(row.path)
        has_text = bool(caption) or question is not None
        if has_text and first is not None:
            if replace(first, columns=()) != replace(row, columns=()):
                raise UserError(
                    f"{file}: {row.path} stands in several rows, which are captions of one clip or "
                    "questions about it, but their labels, splits or groups differ: correct the "
                    "list."
                )
        else:
            joint.append(row)
        if has_text:
            first_of.setdefault(row.path, row)
        if caption:
            captions_of.setdefault(row.path, []).append(caption)
        if question is not None:
            questions_of.setdefault(row.path, []).append(question)
    described = []
    for row in _add_captions(file, root, joint, captions_of, seconds):
        described.append(replace(row, questions=join_answers(questions_of.get(row.path, []))))
    return described


def _add_captions(
    file: Path,
    root: Path,
    rows: list[Row],
    captions_of: dict[str, list[str]],
    seconds: float | None,
) -> list[Row]:
    """The rows with the captions of their paths, each once."""
    if seconds is None and any(row.duration is None for row in rows if row.path in captions_of):
        log_once(
            f"{file}: how long the clips with captions are is read from the files; a column "
            "duration (seconds) spares it."
        )
    described: list[Row] = []
    for row in rows:
        texts = list(dict.fromkeys(captions_of.get(row.path, [])))
        if texts:
            length = _measure_seconds(root, row) if seconds is None else seconds
            row = replace(row, sentences=describe_whole(texts, length))
        described.append(row)
    return described


def _measure_seconds(root: Path, row: Row) -> float:
    """How long a clip is, by its list or by its file. A file that cannot be read has no length."""
    if row.duration is not None and 0 < row.duration < math.inf:
        return row.duration
    try:
        span = read_span(root / row.path, row.fps)
    except DecodeError:
        return 0.0  # Manifest.build tells of a file that is missing, the loader of a bad one
    return span.end - span.start


def _read_labels(
    file: Path, lines: Lines, split_column: str, label_column: str
) -> tuple[Lines, list[str | None]]:
    """The lines that are used, and their labels."""
    used, labels = [], []
    for number, line in lines:
        if _read_split(line, split_column).lower() not in UNUSED:
            used.append((number, line))
            labels.append(parse_label(f"{file}, line {number}", line.get(label_column)))
    return used, spell_whole_numbers(labels)


def _read_split(line: Line, column: str) -> str:
    return (line.get(column) or "train").strip()


def _warn_of_groups(
    file: Path, rows: list[Row], column: str | None, columns: list[str], hold_out: bool
) -> None:
    """Warn if no group holds two clips, so that none protects a split. It may be right."""
    if column is None and (hold_out or splits_of(rows) != {"train"}):
        log_once(
            f"{file}: no group column among {', '.join(columns)}, so every clip counts as its own "
            "film or person, and clips of one may be in train and in test: --data.group COLUMN "
            "names the column of it.",
            logging.WARNING,
        )
    if column is not None and len(rows) > 1 and are_groups_single(rows):
        log_once(
            f"{file}: each group of column {column!r} holds one clip. If clips share a film or a "
            "person, name the column of it with --data.group, or they may be in train and in test."
        )


def read_head(line: str) -> list[str]:
    """The fields of a table's first line. A column's name has no blanks around it."""
    try:
        fields = next(table.reader([line], delimiter=_choose_separator(line)), [])
    except table.Error as error:
        raise UserError(
            f"The first line {line[:40]!r} ... is no head of a table: {error}."
        ) from error
    return list(map(str.strip, fields))


def _choose_separator(head: str) -> str:
    """The one of comma, semicolon and tab that the first line holds most; a space if none."""
    separator = max(",;\t", key=head.count)
    return separator if separator in head or " " not in head.strip() else " "


def read_table(file: Path) -> tuple[Lines, list[str]]:
    """Lines and columns of a csv.

    Blank lines and comments (`# ...`) are passed over. Raises a UserError if the file is empty or a
    line has too many fields.
    """
    lines = io.StringIO(files.read_text(file), newline="")  # cuts at \n, \r and \r\n alone
    texts = ["\n" if COMMENT.fullmatch(line.strip()) else line for line in lines]
    blank = len(list(itertools.takewhile(str.isspace, texts)))  # lines above the first one
    if blank == len(texts):
        raise UserError(
            f"{file} is empty: its first line names the columns, for example path,label,split."
        )
    head = texts[blank].rstrip("\r\n")  # a leading tab is a column without a name
    columns = read_head(head)
    repeated = next((name for name in columns if columns.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{file} has two columns {repeated!r}: keep one.")
    separator = _choose_separator(head)
    reader = table.DictReader(texts[blank + 1 :], columns, delimiter=separator, restval="")
    return list(_read_rows(file, reader, blank + 1)), columns


def _read_rows(
    file: Path, reader: "table.DictReader[str]", above: int
) -> Iterator[tuple[int, Line]]:
    """Number and fields of each row. `above`: lines of the file before the first row."""
    try:
        for row in reader:
            if None in row:
                raise UserError(
                    f"{file}, line {above + reader.line_num} has more fields than the first line: "
                    "quote fields that hold the separator."
                )
            yield above + reader.line_num, row
    except table.Error as error:
        number = above + reader.reader.line_num
        raise UserError(f"{file}, line {number} cannot be read as a csv: {error}.") from error


def find_csv(root: str) -> Path:
    path = Path(root).expanduser()
    if path.is_dir():
        for name in NAMES:
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path} holds no {' or '.join(NAMES)}: give --data.root the csv itself.")
    return files.need_file(path, "--data.root of a csv data set")


def need_column(file: Path, columns: list[str], name: str, flag: str) -> None:
    """Raise a UserError if a csv has no column of this name."""
    if name not in columns:
        raise UserError(
            f"{file} has no column {name!r} ({flag}); it has {', '.join(columns) or 'none'}."
        )


def _filter_lines(file: Path, lines: Lines, columns: list[str], where: str) -> Lines:
    name, equals, value = where.partition("=")
    if not equals:
        raise UserError(f"--data.where {where!r} is not COLUMN=VALUE.")
    need_column(file, columns, name, "--data.where")
    matching = [(number, line) for number, line in lines if line[name].strip() == value]
    if not matching:
        values = sorted({line[name] for _, line in lines})
        raise UserError(f"No row of {file} has {where}: values are {', '.join(values[:8])}.")
    return matching


def _group_of(line: Line, column: str | None, label: str | None, path: str) -> str:
    if column is None and "subject" in line:
        column = "subject"
    if column is not None:
        return line[column].strip() or path
    group = (line.get("group") or "").strip()
    return f"{label}/{group}" if group and label else group or path


def _parse_duration(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
