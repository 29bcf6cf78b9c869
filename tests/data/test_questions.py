import hashlib
from collections import Counter
from dataclasses import replace
from operator import itemgetter

import pytest
import torch

from ssvid.data.clips import Clips
from ssvid.data.loader import train_loader
from ssvid.data.manifest import Manifest
from ssvid.data.parts import Mixture, Part
from ssvid.data.questions import QuestionedClips, choose_turn
from ssvid.data.training import SamplesByPart, training
from ssvid.errors import UserError
from ssvid.shapes import ClipSpec, Question, Questions, Row, Views
from tests.helpers import facts, for_each

SPEC = ClipSpec(frames=2, stride=3, size=16)
THREE = tuple(Question(text, ((text.upper(), 1.0),)) for text in ("a", "b", "c"))


def questioned(root, questions=THREE) -> Manifest:
    return Manifest.build([Row(f"clip_{i}.mp4", questions=questions) for i in range(6)], root)


def views(spec=SPEC, n=1, augment="none") -> Views:
    return Views(clips=(spec, spec), augment=augment, text=Questions(questions=n))


@for_each("spec", [SPEC, ClipSpec(frames=2, whole=True, size=16)])
def test_the_clips_are_those_of_any_objective(small_set, spec):
    data, wanted = questioned(small_set), views(spec, augment="crop_flip")
    plain = Clips(data, Views(clips=(spec, spec), augment="crop_flip"), seed=3)
    samples = training(data, wanted, seed=3)
    assert isinstance(samples, QuestionedClips)
    for key in ((0, 1), (7, 4)):
        assert torch.equal(samples[key]["clips"], plain[key]["clips"])
        assert samples[key]["questions"][0] in THREE and len(samples[key]["questions"]) == 1


@for_each("n, per_clip", [(5, 1), (6, 2), (7, 3), (1, 1), (3, 5)])
def test_questions_come_in_turn(n, per_clip):
    epochs = max(1, n // per_clip)
    orders = set()
    for draw in range(20):
        chosen = []
        for epoch in range(draw * epochs, (draw + 1) * epochs):
            chosen += choose_turn(n, per_clip, 0, epoch, 4)
        assert len(chosen) == epochs * per_clip
        counts = Counter(chosen).values()
        assert max(counts) - min(counts) <= (1 if per_clip > n else 0)
        assert len(counts) == min(n, epochs * per_clip)
        orders.add(tuple(chosen))
    assert len(orders) > (1 if n > 1 else 0)  # each order is drawn anew


def test_the_order_has_coordinates():
    def list_turns(seed, row):
        return [choose_turn(9, 1, seed, epoch, row)[0] for epoch in range(27)]

    assert list_turns(0, 0) == list_turns(0, 0)
    assert len({tuple(list_turns(*key)) for key in ((0, 0), (0, 1), (1, 0))}) == 3


def test_workers_and_resuming_change_no_question(small_set):
    samples = training(questioned(small_set), views(n=2), seed=1)

    def read(**options):
        loader = train_loader(samples, batch_size=3, steps=4, **{"workers": 0, **options})
        return list(map(itemgetter("questions"), loader))

    alone = read()
    assert read(workers=2) == alone and read(start_step=2) == alone[2:]
    assert list(map(len, alone[0])) == [2, 2, 2]
    assert isinstance(alone[0][0][0], Question) and alone[0][0][0] in THREE


def test_rows_without_questions_are_refused(small_set):
    mute = questioned(small_set, ())
    with pytest.raises(UserError, match=facts("6", "6", "clip_0.mp4", "question")):
        training(mute, views(), seed=0)
    with pytest.raises(UserError, match=facts("0")):
        Questions(questions=0)


def test_the_parts_of_a_mixture_need_questions_and_keep_them(small_set):
    parts = (
        Part("a", 1.0, small_set, "", "", {"frames": 3}),
        Part("b", 1.0, small_set, "", "", {}),
    )
    rows = []
    for i, row in enumerate(questioned(small_set).rows):
        rows.append(replace(row, source="ab"[i % 2]))
    data = Manifest(tuple(rows), small_set, mixture=Mixture(parts, "alternate"))
    samples = training(data, views(), seed=0)
    assert isinstance(samples, SamplesByPart)
    for index in range(2):
        assert samples[0, index]["questions"][0] in THREE
    mute = replace(data, rows=(*rows[:5], replace(rows[5], questions=())))
    with pytest.raises(UserError, match=facts("1", "6", "clip_5.mp4", "question")):
        training(mute, views(), seed=0)


def test_every_part_of_a_question_is_in_the_hash(tmp_path):
    (tmp_path / "a.mp4").touch()
    question = Question("who", (("man", 0.5), ("boy", 0.5)), ("man", "boy"), "W", "1")
    changes = [
        {"text": "what"},
        {"answers": question.answers[::-1]},
        {"answers": (("man", 0.75), ("boy", 0.25))},
        {"choices": ("boy", "man")},
        {"kind": "H"},
        {"id": "2"},
    ]
    variants = [(), (question,), (question, question)]
    for change in changes:
        variants.append((question._replace(**change),))
    hashes = []
    for variant in variants:
        row = Row("a.mp4", "x", questions=variant)
        hashes.append(Manifest.build([row], tmp_path).hash)
    assert len(set(hashes)) == len(variants)
    assert hashes[0] == hashlib.sha256(b"a.mp4\tx\ttrain\ta.mp4").hexdigest()
