"""MSRVTT-QA -> Manifest: questions about MSR-VTT's clips, each with an answer of one word."""

from ssvid.data import official
from ssvid.data.manifest import Manifest
from ssvid.data.question_lists import find_split_lists, list_rows, read_questions
from ssvid.registry import datasets

PATTERNS = "{split}_qa.json", "{split}.csv"
COLUMNS = frozenset(("video", "question", "answer", "qid", "type"))  # of HQGA
SOURCE = official.SOURCES["msrvtt_qa"]


@datasets.register("msrvtt_qa")
def msrvtt_qa(
    root: str,  # folder of the videos: video7010.mp4
    *,
    # folder of train_qa.json, val_qa.json and test_qa.json, or of HQGA's train.csv, val.csv and
    # test.csv; default: searched in and beside root
    annotations: str | None = None,
    missing_ok: float = 0.0,  # share of listed videos that may be absent
) -> Manifest:
    """One row for each video with all its questions. Lists that are absent are left out.

    The kind of a question is its first word. The column category is that of the video.
    """
    path = official.need_folder(root, "--data.root of msrvtt_qa", SOURCE)
    file_of_split = find_split_lists(path, annotations, PATTERNS, SOURCE)
    questions_of = {split: read_questions(file, COLUMNS) for split, file in file_of_split.items()}
    listed = list_rows(questions_of, lambda video: (f"video{video}",))
    rows = official.locate_clips(path, listed, SOURCE, missing_ok=missing_ok)
    return Manifest.build(rows, path, source=next(iter(file_of_split.values())).parent)
