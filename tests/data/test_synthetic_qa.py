import hashlib
import itertools
import json
from collections import Counter, defaultdict
from operator import attrgetter

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from ssvid.data import captioned_films
from ssvid.data import synthetic as drawing
from ssvid.data.captioned_films import MOTIONS, Script, trace_film
from ssvid.data.captions import list_captions
from ssvid.data.datasets.synthetic_captioned import synthetic_captioned
from ssvid.data.datasets.synthetic_qa import synthetic_qa
from ssvid.data.film_questions import (
    ASPECTS,
    KINDS,
    QA_VERSION,
    UNDONE,
    deal,
    list_options,
    pair_apart,
    to_base,
)
from ssvid.data.manifest import SPLITS, Manifest
from ssvid.data.training import training
from ssvid.errors import UserError
from ssvid.shapes import Caption, ClipSpec, Question, Questions, Views
from tests.helpers import facts, for_each

FOUR = "moves left", "moves right", "grows", "shrinks"


@pytest.fixture
def undrawn(monkeypatch):
    """Files without any film, for large sets of which only the rows are asked."""
    monkeypatch.setattr("ssvid.data.synthetic.encode", lambda path, *_: path.write_bytes(b"x"))
    monkeypatch.setattr("ssvid.data.captioned_films.draw_film", lambda *_: None)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("qa"))


def draw(root, train=24, val=12, test=24, **options) -> Manifest:
    options = {"size": 16, "frames": 4, "motions": FOUR, "questions": 8, **options}
    return synthetic_qa(root, train=train, val=val, test=test, **options)


def list_asked(data: Manifest) -> list[tuple[dict[str, str], Question]]:
    """What each film shows, with each question about it."""
    pairs: list[tuple[dict[str, str], Question]] = []
    for row in data.rows:
        pairs += zip(itertools.repeat(dict(row.columns)), row.questions)
    return pairs


def count_answers(data: Manifest, key) -> dict[str, Counter[str]]:
    """The answers to all questions of the same text, or kind."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for _, question in list_asked(data):
        counts[key(question)][question.answers[0][0]] += 1
    return counts


def score_reader(train: Manifest, test: Manifest, key) -> float:
    """The share of test answers that are the most frequent answer of train to the same key."""
    learnt = count_answers(train, key)
    hits = 0
    for _, question in list_asked(test):
        best = learnt.get(key(question), Counter(["none"])).most_common(1)[0][0]
        hits += best == question.answers[0][0]
    return hits / len(list_asked(test))


def sum_chance(data: Manifest) -> float:
    """The share that the best answer to each text gets, which knows the answers."""
    counts = count_answers(data, attrgetter("text")).values()
    return sum(max(count.values()) for count in counts) / len(list_asked(data))


def answer_truly(shown: dict[str, str], text: str) -> set[str]:
    """Answers to a question of these films, from what the film shows alone."""
    first, last = shown["motion"].split(" then ")
    parts = [first, last]
    if ASPECTS[first] != ASPECTS[last]:
        parts += [ASPECTS[first], ASPECTS[last]]
    words = text.removesuffix("?")
    if words.startswith("does it begin") or words.startswith("in which quarter"):
        return {shown["place"], *shown["place"].split()}
    if " before it " in words and words.startswith("does it"):
        one, other = words.removeprefix("does it ").split(" before it ")
        bases = list(map(to_base, parts))
        return {"yes" if bases.index(one) % 2 == 0 and parts.index(other) % 2 else "no"}
    for word, act, answer in ((" before it ", 1, first), (" after it ", 0, last)):
        if word in words:
            return {answer if parts.index(words.split(word)[1]) % 2 == act else "nothing"}
    if words.startswith("what does it do"):
        return {first if " first" in words else last}
    return {shown["colour"], shown["shape"]}


def test_answers_are_true_of_the_films(root, undrawn):
    data = draw(root, train=90, val=90, test=90, motions=tuple(MOTIONS), seed=3)
    pairs = list_asked(data)
    assert Counter(question.kind for _, question in pairs) == dict.fromkeys(KINDS, 540)
    for shown, question in pairs:
        ((answer, weight),) = question.answers
        assert answer in answer_truly(shown, question.text) and weight == 1.0
        if question.text.startswith(("what colour", "what shape")):
            assert answer == shown[question.text.split()[1]]
        elif " or " in question.text and question.kind != "order":
            assert answer in question.text or to_base(answer) in question.text


@for_each("questions, counts", [(8, (180, 90, 180)), (4, (90, 90, 90)), (8, (100, 17, 31))])
def test_words_alone_tell_nothing(root, undrawn, questions, counts):
    train, val, test = counts
    motions = tuple(MOTIONS)
    data = draw(root, train, val, test, motions=motions, questions=questions, seed=1)
    for split in SPLITS:
        part = data.split(split)
        for text, answers in count_answers(part, attrgetter("text")).items():
            if "nothing" in answers:  # half of them; the other answers to this text vary
                assert 2 * answers["nothing"] == answers.total()
            else:
                assert len(answers) > 1 and len(set(answers.values())) == 1, text
    train_split = data.split("train")
    for split in ("val", "test"):
        part = data.split(split)
        for key in (attrgetter("text"), attrgetter("kind"), lambda question: len(question.text)):
            assert score_reader(train_split, part, key) <= sum_chance(part) + 1e-12
    if counts == (180, 90, 180):
        assert sum_chance(data.split("test")) < 0.36


def test_a_question_of_order_is_asked_of_a_film_and_of_its_reverse(root, undrawn):
    """So a bag of frames, which both have, answers half of these questions."""
    data = draw(root, 180, 90, 180, motions=tuple(MOTIONS), seed=2)
    counts: Counter[tuple[str, tuple[str, str], bool]] = Counter()
    for shown, question in list_asked(data.split("test")):
        first, last = shown["motion"].split(" then ")
        if question.kind == "order" and ASPECTS[first] != ASPECTS[last]:
            is_first = question.answers[0][0] not in ("no", "nothing")
            key = tuple(sorted([(first, last), (UNDONE[last], UNDONE[first])]))
            counts[question.text, key, is_first] += 1
    assert counts.total() == 2 * 160
    for (text, key, is_first), count in counts.items():
        assert counts[text, key, not is_first] == count


def list_features(data: Manifest, texts: list[str], in_order: bool) -> tuple[np.ndarray, list[str]]:
    """What a reader of exact frames and of words sees of each question of order; the answers.

    The frames are those of a clip of 8 in evaluation. Without order they are sorted along x, y,
    turn and size in turn, and what else they show goes with them.
    """
    table, answers = [], []
    for number, row in enumerate(data.rows):
        (u,) = captioned_films.draw_numbers(drawing.SPLITS[row.split] + number, 1, 0)
        motions = tuple(dict(row.columns)["motion"].split(" then "))
        path = trace_film(Script("red", "bar", motions, u), 16)[:, 1::2].round(6)
        path[2] = (path[2] + u[3]) % 1
        shuffled = path[:, np.random.default_rng(number).permutation(8)]
        sorts = [shuffled[:, shuffled[axis].argsort(kind="stable")] for axis in range(4)]
        seen_frames = np.stack([path, np.diff(path, axis=1, append=0)] if in_order else sorts)
        for question in row.questions:
            if question.kind == "order":
                words = np.eye(len(texts))[texts.index(question.text)]
                table.append(np.concatenate([seen_frames.ravel(), words]))
                answers.append(question.answers[0][0])
    return np.stack(table), answers


@pytest.mark.slow
def test_a_bag_of_frames_answers_half_of_the_questions_of_order(root, undrawn):
    data = draw(root, 3600, 90, 900, motions=tuple(MOTIONS), questions=4, frames=16)
    texts = sorted(count_answers(data, attrgetter("text")))
    scores = []
    for in_order in (False, True):
        reader = HistGradientBoostingClassifier(max_iter=100, random_state=0)
        reader.fit(*list_features(data.split("train"), texts, in_order))
        scores.append(reader.score(*list_features(data.split("test"), texts, in_order)))
    assert scores[0] < 0.55 and scores[1] > 0.9  # of 900: three standard errors are 0.05


def test_frames_of_both_orders_are_the_same_where_one_undoes_the_other():
    u = np.random.default_rng(0).random(captioned_films.DRAWS)
    for motion in ("moves left", "moves down", "grows", "spins clockwise"):
        path = trace_film(Script("red", "bar", (motion, UNDONE[motion]), u), 16)
        start = path[:, 8]  # where the second act begins
        other = u.copy()
        other[[0, 1, 3]] = start[0], start[1], other[3]
        other[2] = start[3]
        back = trace_film(Script("red", "bar", (UNDONE[motion], motion), other), 16)
        back[2] += start[2]
        assert np.allclose(np.sort(path, 1), np.sort(back, 1))


def test_the_films_are_those_of_synthetic_captioned(root):
    data = draw(root, 12, 12, 12, sentences=2)
    options = {"size": 16, "frames": 4, "motions": FOUR, "sentences": 2}
    films = synthetic_captioned(root, train=12, val=12, test=12, acts=2, **options)
    assert data.root == films.root and data.hash != films.hash
    for row, film in zip(data.rows, films.rows, strict=True):
        assert row.path == film.path and list_captions(row) == list_captions(film)
    spec = ClipSpec(frames=2, whole=True, size=16)
    for text, key in ((Questions(questions=2), "questions"), (Caption(), "sentences")):
        sample = training(data.split("train"), Views(clips=(spec,), text=text), seed=0)[0, 1]
        assert len(sample[key]) == (2 if key == "questions" else 1)


def test_the_questions_are_frozen(root, undrawn):
    data = draw(root, seed=7)
    questions = [row.questions for row in data.rows]
    digest = hashlib.sha256(json.dumps(questions).encode()).hexdigest()
    frozen = {1: "4faf306b090189fdb73d8b2532ef631dc6273050bb84d33185e2daf28cea98f2"}
    assert digest == frozen[QA_VERSION], "other questions or words need another QA_VERSION"
    ids = [question.id for _, question in list_asked(data)]
    assert len(set(ids)) == len(ids) and ids[0].startswith(f"qa{QA_VERSION}/train/0/")
    assert draw(root, seed=7).hash == data.hash != draw(root, seed=8).hash
    fewer = draw(root, seed=7, questions=3)
    for row, short in zip(data.rows, fewer.rows, strict=True):
        assert len(row.questions) >= len(short.questions) <= 3
        assert set(short.questions) <= set(row.questions)


def test_questions_that_no_film_balances_are_counted(root, undrawn, capsys):
    data = draw(root, train=14, val=7, test=5, seed=4)
    absent = 8 * 26 - len(list_asked(data))
    assert absent > 0
    assert f"{absent} of {8 * 26} questions are left out" in capsys.readouterr().err


@for_each(
    "options, words",
    [
        ({"questions": 0}, ("8", "0")),
        ({"questions": 9}, ("8", "9")),
        ({"val": 1}, ("val", "1 films", "12")),
        ({"motions": ("grows",)}, ("--data.motions",)),
        ({"val": 0}, ("val",)),
    ],
)
def test_impossible_sets_are_refused(tmp_path, undrawn, options, words):
    with pytest.raises(UserError, match=facts(*words)):
        draw(str(tmp_path), **options)


@for_each(
    "counts, values, sizes",
    [
        ((4, 4, 4), 3, [3] * 4),
        ((5, 4, 4), 3, [3, 3, 3, 2, 2]),
        ((2, 2), 3, [2, 2]),
        ((9, 1), 2, [2]),
        ((3, 0), 2, []),
        ((1, 1, 1, 1, 1), 6, [3, 2]),
    ],
)
def test_groups_hold_different_values(counts, values, sizes):
    names = list(itertools.chain(*(name * n for name, n in zip("abcde", counts, strict=False))))
    groups = deal(dict(enumerate(names)), values)
    assert sorted(map(len, groups), reverse=True) == sizes
    for group in groups:
        assert len({names[n] for n in group}) == len(group)
    for one, other in pair_apart(dict(enumerate(names))):
        assert names[one] != names[other]


def test_words():
    assert list_options(["a", "b"]) == "a or b" and list_options(["a", "b", "c"]) == "a, b or c"
    assert to_base("changes its size") == "change its size" and to_base("grows") == "grow"
    assert set(UNDONE) == set(ASPECTS) == set(MOTIONS)
    for motion, undone in UNDONE.items():
        assert UNDONE[undone] == motion and ASPECTS[motion] == ASPECTS[undone]
        ways = zip(MOTIONS[motion], MOTIONS[undone], strict=True)
        assert all(way == -back for way, back in ways)
