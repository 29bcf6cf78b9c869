"""NExT-QA -> Manifest: questions about causes, times and descriptions in VidOR's videos.

The header of the lists tells whether a question has five choices or an answer in free words.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssvid.data import files, lists, official
from ssvid.data.datasets.csv import Line
from ssvid.data.manifest import Manifest
from ssvid.data.question_lists import (
    ListedQuestion,
    find_beside,
    find_split_lists,
    list_rows,
    make_question,
    read_form,
)
from ssvid.errors import UserError
from ssvid.registry import datasets

CHOICES = tuple(f"a{i}" for i in range(5))
OPEN = frozenset(("video", "frame_count", "width", "height", "question", "answer", "qid", "type"))
MULTIPLE_CHOICE = OPEN | set(CHOICES)
MAPPING = "map_vid_vidorID.json"
REFERENCES = "add_reference_answer_test.json"
SOURCE = official.SOURCES["nextqa"]

Answers = Mapping[str, Mapping[str, str]]  # video -> number of a question -> answer


@datasets.register("nextqa")
def nextqa(
    root: str,  # folder of the videos: VidOR's folders (0101/4010069381.mp4), or the videos alone
    *,
    # folder of train.csv, val.csv and test.csv; default: searched in and beside root
    annotations: str | None = None,
    # json of video -> VidOR's path; default: map_vid_vidorID.json beside the lists
    mapping: str | None = None,
    # json of second answers to open-ended questions of the test; default:
    # add_reference_answer_test.json beside the lists
    references: str | None = None,
    # lines with numbers of rows of val.csv, from 0, to which val is cut: ATP-hard
    hard_rows: str | None = None,
    missing_ok: float = 0.0,  # share of listed videos that may be absent
) -> Manifest:
    """One row for each video with all its questions. Lists that are absent are left out.

    The id of a question is video_qid, and its kind NExT-QA's type: CW CH TN TC TP DC DL DO DB.
    """
    path = official.need_folder(root, "--data.root of nextqa", SOURCE)
    file_of_split = find_split_lists(path, annotations, ("{split}.csv",), SOURCE)
    map_file = find_beside(file_of_split, mapping, "--data.mapping", MAPPING)
    path_of = read_texts(map_file) if map_file.is_file() else {}
    second_file = find_beside(file_of_split, references, "--data.references", REFERENCES)
    second = read_answers(second_file) if second_file.is_file() else {}
    questions_of = {}
    for split, file in file_of_split.items():
        questions_of[split] = _read_list(file, second if split == "test" else {})
    forms = {bool(entries[0].question.choices) for entries in questions_of.values()}
    if len(forms) > 1:
        folder = next(iter(file_of_split.values())).parent
        raise UserError(f"{folder} mixes lists with choices and open-ended ones: part them.")
    if hard_rows is not None:
        rows_file = official.need_file(hard_rows, "--data.hard_rows", None)
        questions_of = {**questions_of, "val": _take_rows(rows_file, questions_of.get("val", []))}

    def name_files(video: str) -> tuple[str, ...]:
        return tuple(filter(None, (path_of.get(video, ""), video)))

    listed = list_rows(questions_of, name_files)
    rows = official.locate_clips(path, listed, SOURCE, missing_ok=missing_ok)
    return Manifest.build(rows, path, source=next(iter(file_of_split.values())).parent)


def _read_list(file: Path, second: Answers) -> list[ListedQuestion]:
    questions = []
    for where, line in read_form(file, MULTIPLE_CHOICE, OPEN):
        video, number = line["video"].strip(), line["qid"].strip()
        if not video or not number:
            raise UserError(f"{where} has no video or no qid: fill it in or drop the row.")
        choices = tuple(line[name].strip() for name in CHOICES if name in line)
        answers = [_choose_answer(where, line, choices)]
        if number in second.get(video, {}):
            answers.append(second[video][number])
        kind = line["type"].strip()
        id = f"{video}_{number}"
        questions.append(
            ListedQuestion(
                video, make_question(where, line["question"], answers, choices, kind, id)
            )
        )
    return questions


def _choose_answer(where: str, line: Line, choices: tuple[str, ...]) -> str:
    """The answer in words, which a list with choices gives by its number."""
    if not choices:
        return line["answer"]
    if not all(choices):
        raise UserError(f"{where} has an empty choice: fill it in or drop the row.")
    number = line["answer"].strip()
    if number not in map(str, range(len(choices))):
        raise UserError(
            f"{where} has the answer {number!r}, which is none of the numbers 0 to "
            f"{len(choices) - 1} of its choices."
        )
    return choices[int(number)]


def _take_rows(file: Path, questions: list[ListedQuestion]) -> list[ListedQuestion]:
    """The questions of val whose numbers a file lists, in the order of val."""
    if not questions or not questions[0].question.choices:
        raise UserError(
            f"--data.hard_rows {file} chooses rows of val.csv with choices, and there is no such "
            "list here."
        )
    numbers = set()
    for text in files.read_text(file).split():
        if not text.isdigit() or int(text) >= len(questions):
            raise UserError(
                f"{file} has {text[:20]!r}, which is no row of val.csv: its {len(questions)} rows "
                "are numbered from 0."
            )
        numbers.add(int(text))
    return [questions[number] for number in sorted(numbers)]


def read_texts(file: Path) -> dict[str, str]:
    """A json of texts by texts. A UserError if it is another."""
    table = lists.read_json(file)
    if not _are_texts(table):
        raise UserError(f"{file} is not a json of video -> folder/video, as {MAPPING} is.")
    return dict(table)


def read_answers(file: Path) -> dict[str, dict[str, str]]:
    """video -> number of a question -> answer. A UserError if the json is another."""
    table = lists.read_json(file)
    if not isinstance(table, dict) or not all(map(_are_texts, table.values())):
        raise UserError(f"{file} is not a json of video -> qid -> answer, as {REFERENCES} is.")
    return table


def _are_texts(table: Any) -> bool:
    return isinstance(table, dict) and all(isinstance(text, str) for text in table.values())
