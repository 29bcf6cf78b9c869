import hashlib
import json
from itertools import pairwise
from operator import attrgetter, itemgetter

import numpy as np
import pytest
import torch

from ssvid.data.datasets.synthetic_narrated import TRUTH, VERSION, draw_film, synthetic_narrated
from ssvid.data.decode import read, read_timestamps
from ssvid.data.narration import synthetic_narrator
from ssvid.data.synthetic import hue_to_rgb
from ssvid.errors import UserError
from ssvid.randomness import uniform
from tests.helpers import facts

SECONDS = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic_narrated(
        str(tmp_path_factory.mktemp("n")), train=3, val=1, test=2, seconds=SECONDS
    )


def test_a_script_has_each_thing_once_and_pauses():
    for index in range(20):
        script = synthetic_narrator.write_script(index, 0, SECONDS)
        assert len(set(map(attrgetter("colour", "shape"), script))) == len(script) > 4
        for action, following in pairwise(script):
            assert 1 <= following.start - action.end <= 4
        assert script[-1].end <= SECONDS


def write_and_narrate(index, seconds):
    script = synthetic_narrator.write_script(index, 0, seconds)
    return script, synthetic_narrator.narrate(script, index, 0, seconds)


def is_exact(utterance):
    """It is as long as its action: neither exchanged nor clipped."""
    start, end = utterance.true
    return abs(utterance.end - utterance.start - end + start) < 1e-9


def test_the_narrator_is_as_careless_as_said():
    """Delay N(4, 4), 30 % irrelevant, about 10 % of sentences exchanged, over 400 videos."""
    late, irrelevant, total, moved = [], 0, 0, 0
    for index in range(400):
        script, utterances = write_and_narrate(index, 128)
        assert len(utterances) == len(script) + round(len(script) * 3 / 7)
        total += len(utterances)
        starts = list(map(attrgetter("start"), utterances))
        assert starts == sorted(starts)
        true = list(filter(attrgetter("true"), utterances))
        irrelevant += len(utterances) - len(true)
        assert sorted(map(attrgetter("true"), true)) == list(map(itemgetter(slice(2)), script))
        exact = list(filter(is_exact, true))
        late += [utterance.start - utterance.true[0] for utterance in exact]
        moved += len(true) - len(exact)
    assert irrelevant / total == pytest.approx(0.3, abs=0.01)
    assert np.mean(late) == pytest.approx(4, abs=0.3) and np.std(late) == pytest.approx(4, abs=0.3)
    # Exchanged with a neighbour, or clipped at an end of the video.
    assert 0.08 < moved / (total - irrelevant) < 0.25


def test_the_set_is_frozen():
    """Published numbers rest on these: another script, narration or picture is a new VERSION."""
    digest = hashlib.sha256()
    for index in range(3):
        script, utterances = write_and_narrate(index, SECONDS)
        actions = [[round(a.start, 4), round(a.end, 4), *a[2:]] for a in script]
        digest.update(repr(actions).encode())
        spoken = [(round(u.start, 4), round(u.end, 4), u.text) for u in utterances]
        digest.update(repr(spoken).encode())
    script = synthetic_narrator.write_script(0, 0, SECONDS)
    frames = draw_film(script, 0, 0, SECONDS, size=16, fps=2)
    assert VERSION == 2
    assert digest.hexdigest()[:16] == "e8d29b443c819d32"
    assert int(frames.astype(np.int64).sum()) == 8598562


def number_utterances(n):
    """Sentence i is heard from second i on, and true half a second later."""
    utterances = []
    for i in range(n):
        true = (i + 0.5, i + 1.5)
        utterances.append(synthetic_narrator.Utterance(float(i), i + 1.0, str(i), true))
    return utterances


def test_a_tenth_of_neighbouring_pairs_is_exchanged():
    pairs = exchanged = 0
    for index in range(400):
        u = uniform(0, "swaps", 0, index, 16)[0].tolist()
        swapped = synthetic_narrator.swap_neighbours(number_utterances(16), u)
        moved = sum(utterance.text != str(i) for i, utterance in enumerate(swapped))
        exchanged += moved // 2
        pairs += 15 - moved // 2  # a pair that overlaps an exchanged one is not drawn
    assert exchanged / pairs == pytest.approx(0.1, abs=0.01)


def test_exchanged_sentences_take_their_truth_along():
    u = [0.0, 0.0, 0.5, 0.05, 0.0]
    swapped = synthetic_narrator.swap_neighbours(number_utterances(5), u)
    for i, (utterance, text) in enumerate(zip(swapped, "10243", strict=True)):
        assert utterance.text == text and utterance.start == i
        assert utterance.true[0] - 0.5 == int(text)


def test_irrelevant_sentences_are_of_nothing_that_is_shown():
    for index in range(20):
        script, utterances = write_and_narrate(index, SECONDS)
        shown = {f"{a.colour} {a.shape}" for a in script}
        for utterance in utterances:
            is_shown = any(name in utterance.text for name in shown)
            assert is_shown == (utterance.true is not None)


def test_the_picture_is_empty_between_actions():
    script = synthetic_narrator.write_script(3, 0, SECONDS)
    frames = draw_film(script, 3, 0, SECONDS, size=32, fps=4)
    empty = frames[0]
    for t, frame in enumerate(frames):
        acted = any(round(a.start * 4) <= t < round(a.end * 4) for a in script)
        assert acted == (not np.array_equal(frame, empty)), t


def test_what_is_said_is_seen():
    """The pixels that differ from the background have the colour of the true sentence."""
    script = synthetic_narrator.write_script(5, 0, SECONDS)
    frames = draw_film(script, 5, 0, SECONDS, size=32, fps=4).astype(int)
    for action in script:
        frame = frames[round((action.start + action.end) * 2)]
        shape = frame[abs(frame - frames[0]).sum(-1) > 60].mean(0)
        hues = {
            name: hue_to_rgb(turns, 0.8, 1.0) for name, turns in synthetic_narrator.COLOURS.items()
        }
        assert (
            min(hues, key=lambda name: np.abs(shape / shape.max() - hues[name]).sum())
            == action.colour
        )


def test_rows_and_truth(data):
    assert [len(data.split(s)) for s in ("train", "val", "test")] == [3, 1, 2]
    truth = json.loads((data.root / TRUTH).read_text())
    assert sorted(truth) == ["test_00000", "test_00001", "val_00000"]
    for row in data.rows:
        in_order = sorted(row.sentences, key=itemgetter(0))
        assert row.duration == SECONDS and list(row.sentences) == in_order
        if row.video_id in truth:
            texts = list(map(itemgetter(3), truth[row.video_id]))
            assert texts == list(map(itemgetter(2), row.sentences))
    assert data.rows[0].features == ""


def test_files_are_as_long_as_they_say(data):
    table = read_timestamps(data.path(0))
    assert len(table) == SECONDS * 4 and read(data.path(0), table[:1]).shape == (1, 3, 32, 32)


def test_the_same_seed_gives_the_same_set_and_features_are_named(data, tmp_path):
    (tmp_path / "f").mkdir()
    np.save(tmp_path / "f/a.npy", np.zeros((2, 3), np.float16))
    sizes = {"train": 3, "val": 1, "test": 2, "seconds": SECONDS}
    again = synthetic_narrated(str(data.root.parent), features=str(tmp_path / "f"), **sizes)
    assert again.root == data.root and again.hash == data.hash
    assert again.rows[0].features == str(tmp_path / "f" / "train_00000.npy")
    other = synthetic_narrated(str(data.root.parent), seed=1, **sizes)
    assert other.hash != data.hash
    assert not torch.equal(read(other.path(0), [20.0]), read(data.path(0), [20.0]))


def test_nonsense_is_refused(tmp_path):
    with pytest.raises(UserError, match=facts("16")):
        synthetic_narrated(str(tmp_path), train=0)
