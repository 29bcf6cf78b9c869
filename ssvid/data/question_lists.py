"""Official lists of questions about videos -> rows, one for each video.

A form of list is known by its columns or keys. What stands in no known form is refused by name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from ssvid.data import lists, official
from ssvid.data.datasets.csv import Line, read_table
from ssvid.data.manifest import SPLITS
from ssvid.data.official import Source
from ssvid.errors import UserError
from ssvid.shapes import Question, Row

INSIDE = ("annotations",)
FLAG = "--data.annotations"
KEYS = "question", "answer", "video_id", "id"
FIRST_WORDS = "what", "who", "how", "when", "where"  # by which the authors report accuracies


class ListedQuestion(NamedTuple):
    """A question of a list."""

    video: str  # as the list names it
    question: Question
    columns: tuple[tuple[str, str], ...] = ()  # what else the list says of the video


Names = Callable[[str], tuple[str, ...]]  # video of a list -> possible names of its file


def find_split_lists(
    root: Path, folder: str | None, patterns: Sequence[str], source: Source
) -> dict[str, Path]:
    """split -> its list, in the first folder that has one.

    `folder`: the one that the user has named; None: in and beside the folder of the videos.
    `patterns`: names of lists with {split}, of which the first that any list has counts. Raises a
    UserError if there is no list.
    """
    for candidate in official.list_folders(root, folder, INSIDE):
        for pattern in patterns:
            file_of_split = {}
            for split in SPLITS:
                file = candidate / pattern.format(split=split)
                if file.is_file():
                    file_of_split[split] = file
            if file_of_split:
                return file_of_split
    names = " or ".join(patterns).replace("{split}", "test")
    message = official.explain_absent_lists(names, root, folder, FLAG, INSIDE, source)
    raise UserError(message)


def find_beside(lists_of_split: Mapping[str, Path], path: str | None, flag: str, name: str) -> Path:
    """The file that the user has named, else the one of this name beside the lists.

    The latter may not exist.
    """
    folder = next(iter(lists_of_split.values())).parent
    return folder / name if path is None else official.need_file(path, flag, None)


def list_rows(
    questions_of: Mapping[str, Iterable[ListedQuestion]], name_files: Names
) -> list[tuple[tuple[str, ...], Row]]:
    """The possible names of each video's file, and its row with all its questions.

    `questions_of`: split -> its questions. Raises a UserError if a question has the id of another.
    """
    listed: list[tuple[tuple[str, ...], Row]] = []
    ids: set[str] = set()
    for split, listed_questions in questions_of.items():
        entries_of: dict[str, list[ListedQuestion]] = {}
        for entry in listed_questions:
            if entry.question.id in ids:
                raise UserError(
                    f"Two questions of the {split} list or another have the id "
                    f"{entry.question.id}, the second is of video {entry.video}: keep one of them."
                )
            ids.add(entry.question.id)
            entries_of.setdefault(entry.video, []).append(entry)
        for video, entries in entries_of.items():
            questions = tuple(map(attrgetter("question"), entries))
            row = Row(
                "",
                split=split,
                group=video,
                video_id=video,
                columns=entries[0].columns,
                questions=questions,
            )
            listed.append((name_files(video), row))
    return listed


def read_questions(file: Path, columns: frozenset[str]) -> list[ListedQuestion]:
    """The questions of the official json of MSRVTT-QA and MSVD-QA, or of HQGA's csv.

    `columns`: those of the csv. Raises a UserError for a file of another form.
    """
    return _read_json(file) if file.suffix == ".json" else _read_csv(file, columns)


def _read_json(file: Path) -> list[ListedQuestion]:
    table = lists.read_json(file)
    if not isinstance(table, list) or not table:
        raise UserError(f"{file} is not a json list of questions with {', '.join(KEYS)}.")
    questions = []
    for number, entry in enumerate(table, start=1):
        where = f"{file}, entry {number}"
        if not isinstance(entry, dict) or not set(KEYS) <= set(entry):
            raise UserError(f"{where} is not a question with {', '.join(KEYS)}.")
        text, answer, video, id = itemgetter(*KEYS)(entry)
        questions.append(_make_listed(where, text, answer, video, id, entry.get("category_id")))
    return questions


def _read_csv(file: Path, columns: frozenset[str]) -> list[ListedQuestion]:
    questions = []
    for where, line in read_form(file, columns):
        text, answer, video, id = itemgetter("question", "answer", "video", "qid")(line)
        questions.append(_make_listed(where, text, answer, video, id, line.get("type")))
    return questions


def read_form(file: Path, *forms: frozenset[str]) -> list[tuple[str, Line]]:
    """Where each line stands, and its fields. A UserError if the columns are of no form."""
    rows, columns = read_table(file)
    if set(columns) not in forms or not rows:
        wanted = " or ".join(",".join(sorted(form)) for form in forms)
        raise UserError(
            f"{file} has the columns {','.join(columns)[:80]} and {len(rows)} rows: it needs rows "
            f"of {wanted}, in any order."
        )
    return [(f"{file}, line {number}", line) for number, line in rows]


def _make_listed(
    where: str, text: Any, answer: Any, video: Any, id: Any, category: Any = None
) -> ListedQuestion:
    number = str(video).strip()
    if isinstance(video, bool) or not (number.isascii() and number.isdigit()):
        raise UserError(f"{where} has the video {video!r}, which is no whole number.")
    question = make_question(where, text, [answer], id=str(id).strip())
    first_word = question.text.split()[0].lower().rstrip("?")
    question = question._replace(kind=first_word if first_word in FIRST_WORDS else "other")
    columns = () if category is None else (("category", str(category).strip()),)
    return ListedQuestion(str(int(number)), question, columns)


def make_question(
    where: str,
    text: Any,
    answers: Iterable[Any],
    choices: tuple[str, ...] = (),
    kind: str = "",
    id: str = "",
) -> Question:
    """A question whose answers, of which equal ones are one, have equal weights of sum 1.

    Raises a UserError if the question or an answer has no text.
    """
    texts = [str(answer).strip() for answer in answers if isinstance(answer, str)]
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where} has a question without text: fill it in or drop it.")
    if not texts or not all(texts):
        raise UserError(f"{where} has an empty answer: fill it in or drop the question.")
    distinct = list(dict.fromkeys(texts))
    weighted = tuple((answer, 1 / len(distinct)) for answer in distinct)
    return Question(text.strip(), weighted, choices, kind, id)
