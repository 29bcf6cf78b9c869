from collections import Counter
from operator import attrgetter

import numpy as np
import pytest

from ssvid.data import captioned_films as films
from ssvid.data.captions import list_captions
from ssvid.data.datasets.synthetic_captioned import (
    MOTIONS,
    Unseen,
    list_labels,
    list_things,
    parse_unseen,
    synthetic_captioned,
)
from ssvid.data.decode import read, read_timestamps
from ssvid.data.manifest import SPLITS, Manifest
from ssvid.data.narration.synthetic_narrator import COLOURED_SHAPES
from ssvid.data.training import training
from ssvid.errors import UserError
from ssvid.shapes import Caption, ClipSpec, Views
from tests.helpers import facts, for_each

THREE = "moves left", "grows", "shrinks"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("captioned"))


def draw(root, train=6, val=3, test=6, **options) -> Manifest:
    options = {"size": 16, "frames": 4, "motions": THREE, **options}
    return synthetic_captioned(root, train=train, val=val, test=test, **options)


@pytest.fixture
def undrawn(monkeypatch):
    """Files without any film, for large sets of which only the rows are asked."""
    monkeypatch.setattr("ssvid.data.synthetic.encode", lambda path, *_: path.write_bytes(b"x"))
    monkeypatch.setattr("ssvid.data.captioned_films.draw_film", lambda *_: None)


def columns_of(data: Manifest) -> list[dict[str, str]]:
    return [dict(row.columns) for row in data.rows]


def test_the_rows(root):
    data = draw(root, sentences=2)
    assert [len(data.split(split)) for split in SPLITS] == [6, 3, 6]
    for row, columns in zip(data.rows, columns_of(data), strict=True):
        assert row.label == columns["motion"] and columns["unseen"] == "no"
        assert len(set(list_captions(row))) == 2 and row.sentences[0][:2] == (0.0, 0.5)
        for text in list_captions(row):
            for name in ("colour", "shape", "place", "motion"):
                assert columns[name] in text
    labels = Counter(map(attrgetter("label"), data.split("test").rows))
    assert labels == dict.fromkeys(THREE, 2)


def test_files_show_what_was_drawn(root):
    data = draw(root)
    for i, index in ((1, 1), (7, 10**6 + 1), (14, 2 * 10**6 + 5)):
        columns = dict(data.rows[i].columns)
        (u,) = films.draw_numbers(index, 1, seed=0)
        script = films.Script(columns["colour"], columns["shape"], (columns["motion"],), u)
        meant = films.draw_film(script, 4, 16).astype(int)
        times = read_timestamps(data.path(i))
        shown = read(data.path(i), times).permute(0, 2, 3, 1).numpy()
        assert len(times) == 4 and np.abs(shown - meant).mean() < 8
        assert script.quarter == columns["place"]


def test_a_set_is_drawn_once_and_a_larger_one_extends_it(root, undrawn):
    data = draw(root, seed=5)
    words = draw(root, seed=5, captions="still", sentences=3)
    assert words.root == data.root and words.hash != data.hash
    assert draw(root, seed=5).hash == data.hash
    longer = draw(root, train=9, seed=5)
    assert longer.rows[:6] == data.rows[:6] and longer.root != data.root
    for options in ({"seed": 6}, {"fps": 4}, {"acts": 2}, {"unseen": ("red grows",)}):
        assert draw(root, **{"seed": 5, **options}).root != data.root


def test_things_places_and_motions_are_independent(root, undrawn):
    data = draw(root, train=1200, motions=tuple(MOTIONS)[:4])
    table = columns_of(data.split("train"))
    for one, other, cells in (("place", "motion", 16), ("colour", "motion", 24)):
        counts = Counter((columns[one], columns[other]) for columns in table)
        mean = 1200 / cells
        assert len(counts) == cells
        assert sum((count - mean) ** 2 / mean for count in counts.values()) < 60


@for_each(
    "acts, unseen, hidden",
    [
        (1, ("grows",), ("grows", "", "")),
        (1, ("red square grows",), ("grows", "red", "square")),
        (1, ("square grows",), ("grows", "", "square")),
        (1, ("blue star",), ("", "blue", "star")),
        (2, ("grows then shrinks",), ("grows then shrinks", "", "")),
        (2, ("moves left",), ("moves left", "", "")),
        (0, ("pink bar",), ("", "pink", "bar")),
    ],
)
def test_what_is_unseen_is_in_test_alone(root, undrawn, acts, unseen, hidden):
    data = draw(root, train=200, val=20, test=200, acts=acts, unseen=unseen)
    motion, colour, shape = hidden
    counts: Counter[tuple[str, bool]] = Counter()
    for row, columns in zip(data.rows, columns_of(data), strict=True):
        is_hidden = (
            motion in columns["motion"]
            and colour in ("", columns["colour"])
            and shape in ("", columns["shape"])
        )
        assert columns["unseen"] == ("yes" if is_hidden else "no")
        counts[row.split, is_hidden] += 1
    assert counts["train", False] == 200 and counts["val", False] == 20
    assert counts["test", True] > 0 and counts["test", False] > 0
    shown = set(map(attrgetter("label"), data.split("train").rows))
    assert len(shown) >= {0: 20, 1: 2, 2: 2}[acts]


def test_unseen_words_are_parsed_and_others_refused():
    labels = list_labels(2, THREE)
    assert len(labels) == 6 and labels["grows then shrinks"] == ("grows", "shrinks")
    assert parse_unseen("red star grows then shrinks", labels) == Unseen(
        "red", "star", "grows then shrinks"
    )
    assert parse_unseen("red moves left", labels) == Unseen("red", "", "moves left")
    for entry in ("", " ", "moves up", "square red", "red square flies", "outgrows"):
        with pytest.raises(UserError, match=facts("--data.unseen", repr(entry))):
            parse_unseen(entry, labels)
    assert len(list_things(labels, [])["grows then shrinks"]) == len(COLOURED_SHAPES)


@for_each(
    "options, words",
    [
        ({"acts": 3}, ("acts",)),
        ({"val": 0}, ("val",)),
        ({"motions": ("flies",)}, ("--data.motions", "moves left")),
        ({"motions": ("grows", "grows")}, ("--data.motions",)),
        ({"motions": ("grows",), "acts": 2}, ("--data.motions", "2")),
        ({"motions": ()}, ("--data.motions",)),
        ({"sentences": 6}, ("5", "6")),
        ({"sentences": 0}, ("sentences",)),
        ({"size": 15}, ("15",)),
        ({"acts": 2, "frames": 3}, ("3 frames",)),
        ({"unseen": THREE}, ("--data.unseen",)),
    ],
)
def test_impossible_sets_are_refused(tmp_path, options, words):
    with pytest.raises(UserError, match=facts(*words)):
        draw(str(tmp_path), **options)
    assert not list(tmp_path.iterdir())


def test_stills_have_one_frame_and_the_name_of_their_thing(root):
    data = draw(root, acts=0, train=3, val=1, test=1)
    for i, (row, columns) in enumerate(zip(data.rows, columns_of(data), strict=True)):
        assert row.label == f"{columns['colour']} {columns['shape']}" and columns["motion"] == ""
        assert len(read_timestamps(data.path(i))) == 1
        (text,) = list_captions(row)
        assert not list(filter(text.__contains__, MOTIONS)) and columns["place"] in text


def test_an_objective_of_captions_learns_from_it(root):
    spec = ClipSpec(frames=2, whole=True, size=16)
    views = Views(clips=(spec,), augment="crop_flip", text=Caption(sentences=1))
    data = draw(root)
    for split in SPLITS:
        sample = training(data.split(split), views, seed=0)[0, 1]
        assert sample["sentences"] == list_captions(data.split(split).rows[1])
        assert sample["clips"].shape == (1, 3, 2, 16, 16) and sample["label"] >= 0
