"""MSVD-QA -> Manifest: questions about MSVD's clips, each with an answer of one word."""

from pathlib import Path

from ssvid.data import files, official
from ssvid.data.manifest import Manifest
from ssvid.data.question_lists import find_beside, find_split_lists, list_rows, read_questions
from ssvid.errors import UserError
from ssvid.registry import datasets

PATTERNS = "{split}_qa.json", "{split}.csv"
COLUMNS = frozenset(("video", "width", "height", "question", "answer", "qid"))  # of HQGA
MAPPING = "youtube_mapping.txt"
SOURCE = official.SOURCES["msvd_qa"]


@datasets.register("msvd_qa")
def msvd_qa(
    root: str,  # folder of the videos: youtubeid_start_end.avi or vid7.avi
    *,
    # folder of train_qa.json, val_qa.json and test_qa.json, or of HQGA's train.csv, val.csv and
    # test.csv; default: searched in and beside root
    annotations: str | None = None,
    # lines of `youtubeid_start_end vid7`; default: youtube_mapping.txt beside the lists
    mapping: str | None = None,
    missing_ok: float = 0.0,  # share of listed videos that may be absent
) -> Manifest:
    """One row for each video with all its questions. Lists that are absent are left out.

    The kind of a question is its first word. Files are named by the mapping or, as without it,
    by the numbers of the videos.
    """
    path = official.need_folder(root, "--data.root of msvd_qa", SOURCE)
    file_of_split = find_split_lists(path, annotations, PATTERNS, SOURCE)
    file = find_beside(file_of_split, mapping, "--data.mapping", MAPPING)
    name_of = read_mapping(file) if file.is_file() else {}
    questions_of = {split: read_questions(file, COLUMNS) for split, file in file_of_split.items()}

    def name_files(video: str) -> tuple[str, ...]:
        names = (name_of.get(video, ""), f"vid{video}")
        return tuple(filter(None, names))

    rows = official.locate_clips(
        path, list_rows(questions_of, name_files), SOURCE, missing_ok=missing_ok
    )
    return Manifest.build(rows, path, source=next(iter(file_of_split.values())).parent)


def read_mapping(file: Path) -> dict[str, str]:
    """Number of a video -> name of its file. A UserError if a line is of another form.

    A YouTube id may begin with `-` and hold `_`, so a line is cut at its blank alone.
    """
    name_of: dict[str, str] = {}
    for number, line in enumerate(files.read_text(file).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        video = fields[-1].removeprefix("vid")
        if len(fields) != 2 or not video.isdigit() or video in name_of:
            raise UserError(
                f"{file}, line {number} is {line.strip()[:60]!r} and not `youtubeid_start_end "
                "vid7` with a number that no other line has."
            )
        name_of[video] = fields[0]
    return name_of
