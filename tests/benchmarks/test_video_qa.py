"""Questions about videos and retrieval in two stages: numbers by hand, and runs of tiny nets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.features.bench import Bench, extract_bench
from benchmarks.features.evaluated_encoder import open_evaluated_encoder
from benchmarks.features.options import FeatureOptions
from benchmarks.tasks.scoring import score_task
from benchmarks.tasks.text_retrieval import compute_recalls, put_first, rank_diagonal
from benchmarks.tasks.video_qa import VideoQA, average_by_kind, count_answers, list_targets
from objectives.litevl import LiteVLQuestions, LiteVLRetrieval
from ssvid import create_encoder
from ssvid.data.manifest import Manifest
from ssvid.engine.train_flags import UNCHANGED
from ssvid.errors import UserError
from ssvid.objective import Objective
from ssvid.registry import tasks
from ssvid.shapes import Question, Row
from ssvid.text.answering import Ranking
from ssvid.text.joint_files import save_joint
from ssvid.weights.encoders import save_encoder
from tests.helpers import squares, write_video

IMAGE = {"dim": 24, "depth": 1, "heads": 2, "patch": 8}
TEXT = {"width": 24, "layers": 1, "heads": 2, "length": 12, "dropout": 0.0}
CHOICES = ("a star", "a bar")


@pytest.fixture(scope="module")
def questioned(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Six videos with an open question and one of choices each: of train, of val, four of test."""
    root = tmp_path_factory.mktemp("questioned")
    rows = []
    for n in range(6):
        write_video(root / f"{n}.mp4", squares(n, frames=8))
        colour = ("red", "red", "blue", "Red", "green", "red")[n]
        questions = (
            Question("which colour is it?", ((colour, 1.0),), kind="what"),
            Question("what comes first?", ((CHOICES[n % 2], 1.0),), choices=CHOICES, kind="when"),
        )
        sentences = ((0.0, 1.0, f"a {colour} square {n}"),)
        split = "train" if n < 2 else "test"
        row = Row(f"{n}.mp4", None, split, f"g{n}", sentences=sentences, questions=questions)
        rows.append(row)
    return Manifest.build(tuple(rows), root)


def build_encoder() -> Any:
    torch.manual_seed(0)
    return create_encoder("litevl", image="blip_vit", image_kwargs=IMAGE, frames=2, size=16)


def save_run(objective: Objective, folder: Path) -> str:
    save_encoder(objective.encoder.eval(), folder, "encoder", {})
    objective.save_assets(folder)
    space = objective.joint_space()
    if space is not None:
        save_joint(space, folder)
    return str(folder)


def extract(run: str, data: Manifest, task: Any, tmp_path: Path) -> Bench:
    encoder = open_evaluated_encoder(run, "tiny", UNCHANGED, "last")
    options = FeatureOptions(cache=tmp_path / "cache", batch_size=4, workers=0, twins=2)
    return extract_bench(encoder, data, options, task.list_source_names(2), task.kind)


class Oracle:
    """Answers by the position of a question, and remembers which clips it was shown."""

    def __init__(self, bests: list[int]) -> None:
        self.bests, self.clips = bests, []

    def rank(self, clips: Any, rows: Any, texts: Any, answers: Any, candidates: int) -> Ranking:
        self.clips.append(list(rows))
        best = [min(best, len(answers) - 1) for best in self.bests[: len(texts)]]
        return Ranking(torch.tensor(best)[:, None], torch.zeros(len(texts), 1))


def make_bench(data: Manifest, oracle: Oracle) -> Bench:
    features = {"encoder:answers": {"tokens": torch.zeros(len(data), 2, 5, 24)}}
    test = [row for row, video in enumerate(data.rows) if video.split == "test"]
    fields: dict[str, Any] = dict.fromkeys(Bench._fields)
    fields |= {"data": data, "row_of_unit": range(len(data)), "position_of_unit": (), "views": 1}
    fields |= {"labels": torch.full((len(data),), -1), "splits": {"train": [], "test": test}}
    fields |= {"features": features, "answerer": oracle, "other_streams": (), "folds": ()}
    return Bench(**fields)


def test_answers_by_hand(questioned: Manifest):
    """The vocabulary is red alone. Of four test colours two are red; the first choice is a star."""
    oracle = Oracle([0, 0, 0, 0])
    bench, task = make_bench(questioned, oracle), VideoQA()
    answer = task.answer(bench, "encoder:answers")
    assert answer.details["by_kind"] == {"what": 0.5, "when": 0.5}
    assert answer.details["questions"] == 8
    assert answer.details["answers_outside_the_vocabulary"] == 2
    assert answer.details["most_frequent_answer"] == 0.5  # red, and a star of equal counts
    assert oracle.clips == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert answer.measure is not None
    assert answer.measure(torch.ones(1, 4).double()).item() == 0.5
    only_third = torch.tensor([[0.0, 0.0, 1.0, 0.0]]).double()
    assert answer.measure(only_third).item() == 0.5  # green is wrong, a star is right
    assert task.chance(bench) == 0.5


def test_readers_of_words_count_train(questioned: Manifest):
    bench = make_bench(questioned, Oracle([0]))
    counts = count_answers(bench)
    assert counts["which colour is it?"] == {"red": 1}  # the other one is val
    targets = list_targets(bench)
    assert targets.clip == [0, 0, 1, 1, 2, 2, 3, 3]
    right = torch.tensor([1.0, 0.0] * 4).double()
    assert average_by_kind(targets, right) == {"what": 1.0, "when": 0.0}
    mute = []
    for row in questioned.rows:
        mute.append(replace(row, questions=()) if row.split == "train" else row)
    with pytest.raises(UserError, match="no vocabulary"):
        count_answers(make_bench(replace(questioned, rows=tuple(mute)), Oracle([0])))
    with pytest.raises(UserError, match="leave out --clips"):
        VideoQA().answer(bench._replace(views=2), "encoder:answers")


def test_a_run_answers_with_its_controls(questioned: Manifest, tmp_path: Path):
    run = save_run(LiteVLQuestions(build_encoder(), options=TEXT), tmp_path / "run")
    for answering in ("ranked", "generated"):
        task = tasks["video_qa"](answering=answering)
        scored = score_task(task, extract(run, questioned, task, tmp_path))
        assert 0 <= scored.score.value <= 1
        assert set(scored.controls) == {"random", "single_frame", "shuffled", "blank"}
    no_answers = save_run(
        LiteVLRetrieval(build_encoder(), dim=8, queue=4, options=TEXT), tmp_path / "other"
    )
    with pytest.raises(UserError, match="answers no questions"):
        extract(no_answers, questioned, task, tmp_path)


def test_the_best_are_ordered_anew_and_come_first():
    table = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    best = table.topk(2, dim=1).indices
    scores = torch.tensor([[-5.0, -4.0], [-5.0, -4.0], [-5.0, -4.0]])
    again = put_first(table, best, scores)
    assert again.argsort(dim=1, descending=True).tolist() == [[1, 0, 2]] * 3
    assert compute_recalls(rank_diagonal(again))["mean_rank"] == pytest.approx((2 + 1 + 3) / 3)


def test_retrieval_in_two_stages(questioned: Manifest, tmp_path: Path, monkeypatch: Any):
    """The second stage is given every pair of a candidate and a query, in both directions."""
    objective = LiteVLRetrieval(build_encoder(), dim=8, queue=4, options=TEXT)
    run = save_run(objective, tmp_path / "run")
    task = tasks["text_retrieval"](windows=1, rerank=2)
    bench = extract(run, questioned, task, tmp_path)
    assert bench.text is not None
    calls: list[int] = []

    def match(clips: dict[str, Tensor], sentences: list[str]) -> Tensor:
        """A sentence belongs to the clip whose tokens are those of its own video."""
        calls.append(len(sentences))
        tokens = bench.get_frozen("encoder:joint", "test").feats["tokens"]
        scores = []
        for clip, sentence in zip(clips["tokens"], sentences, strict=True):
            number = int(sentence.split()[-1])
            scores.append(float(torch.equal(clip, tokens[number - 2])))
        return torch.tensor(scores)

    monkeypatch.setattr(bench.text, "match", match)
    details = task.answer(bench, "encoder:joint").details
    assert calls == [8, 8] and details["second_stage"]["pairs"] == 16
    first, second = details["first_stage"], details["text_to_video"]
    # Whatever the first stage puts among its best two, the second puts first.
    assert second["recall1"] >= first["text_to_video"]["recall1"]
    whole = tasks["text_retrieval"](windows=1, rerank=4).answer(bench, "encoder:joint").details
    assert whole["text_to_video"]["recall1"] == whole["video_to_text"]["recall1"] == 1
    with pytest.raises(UserError, match="windows 1 beside rerank"):
        tasks["text_retrieval"](rerank=2)
    assert "rerank" not in tasks["text_retrieval"]().settings()
