"""How a search orders windows: exactly, anew from a shortlist, and without those that overlap."""

import itertools
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.searching.index import KEY, Reader, build_index
from benchmarks.searching.query import Scored, choose_best, find_moments, match_again, score_keys
from benchmarks.searching.windows import Pace, open_film, read_windows
from ssvid import create_encoder
from ssvid.data.augment import RECIPES, crop_frames
from ssvid.data.decode import read
from ssvid.shapes import ClipSpec
from ssvid.text.joint import TOKENS, VIDEO, JointSpace, ProductSpace
from ssvid.text.words import Words
from tests.benchmarks.searches import (
    EACH_S,
    QUERY,
    list_moments,
    list_shortlist,
    name_paths,
    open_reader,
    run_search,
    save_clip,
    save_xclip,
    score_by_hand,
    write_films,
)
from tests.benchmarks.test_label import PICTURE
from tests.helpers import for_each, tells


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def xclip_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_xclip(tmp_path_factory.mktemp("xclip"))


@pytest.fixture
def films(tmp_path: Path) -> Path:
    return write_films(tmp_path)


def test_scores_are_exact_and_ties_are_ordered():
    """Small whole numbers have exact products, and many of them are equal."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(-3, 4, (5000, 8), generator=generator).half()
    queries = torch.randint(-3, 4, (3, 8), generator=generator).float()
    ranks = torch.randperm(5000, generator=generator)
    ranks[torch.randperm(5000, generator=generator)[:500]] = -1
    scores = score_keys(keys, queries)
    assert torch.equal(scores.double(), queries.double() @ keys.double().T)
    for row in scores:
        rows = (ranks >= 0).nonzero()[:, 0].tolist()
        rows.sort(key=lambda i: (-float(row[i]), int(ranks[i])))
        for count in (1, 10, 700, 9000):
            best = choose_best(row, ranks, count)
            assert best.rows.tolist() == rows[:count]
            assert torch.equal(best.scores, row[best.rows])
    # Beside the products of all rows at once.
    keys, queries = torch.randn(4999, 64, generator=generator).half(), torch.randn(2, 64)
    plain = keys.float() @ queries.T
    torch.testing.assert_close(score_keys(keys, queries), plain.T, atol=2e-5, rtol=0)
    assert torch.equal(score_keys(keys, queries).topk(50).indices, plain.T.topk(50).indices)


def test_the_best_of_windows_that_overlap_is_kept(films: Path, run: Path):
    printed = run_search(films, run, "--step", "0.25", "--query", QUERY, "--top", "50")
    assert printed["windows"] == 5 + 9 + 7
    moments = list_moments(printed)
    for video in ("a.mp4", "b.mp4", "sub/c.mp4"):
        starts = sorted(start for name, start in moments if name == video)
        assert starts and min(np.diff(starts), default=1.0) >= 1.0
    wide = run_search(films, run, "--query", QUERY, "--step", "0.25", "--top", "2")
    assert list_moments(wide) == moments[:2]


@for_each(
    "length, window, step, count",
    [(10, 2, 2, 5), (10.5, 2, 2, 6), (10, 4, 2, 4), (1, 4, 4, 1), (10, 2, 5, 2), (10, 3, 0.5, 15)],
)
def test_windows_reach_the_end_of_a_video(length, window, step, count):
    assert Pace(window, step).count(length) == count


def test_a_clip_of_its_own_spacing_lies_in_the_middle_of_its_window(films: Path):
    path, pace = films / "v/b.mp4", Pace(1.0, 1.0)
    film = open_film(path, pace)
    for spec in (ClipSpec(frames=2, fps=5.0, size=16), ClipSpec(frames=2, stride=2, size=16)):
        clips = list(read_windows(film, spec, pace, np.array([0, 2])))
        for clip, second in zip(clips, (0, 2), strict=True):
            pictures = read(path, [second + 0.3, second + 0.5])
            assert torch.equal(clip, crop_frames(pictures, RECIPES["none"], 16, torch.zeros(0)))


def test_a_space_that_is_no_product_orders_a_shortlist(films: Path, xclip_run: Path):
    query = "blue box"
    scores = score_by_hand(films, xclip_run, query)
    best = sorted(scores, key=scores.__getitem__, reverse=True)
    printed = run_search(films, xclip_run, "--query", query)
    assert list_moments(printed) == best and tells(printed["order"], "8 of 8", "clip changes")
    for row in printed["queries"][0]["moments"]:
        assert row["score"] == pytest.approx(scores[row["video"], row["start"]], abs=2e-3)
    arrays = {"key.f16", "joint.f16", "context.f16"}
    assert set(map(attrgetter("name"), (films / "out").glob("*.f16"))) == arrays
    few = run_search(films, xclip_run, "--query", query, "--shortlist", "3", "--top", "3")
    chosen = list_moments(few)
    assert chosen == [moment for moment in best if moment in chosen] and len(chosen) == 3
    assert tells(few["order"], "3 of 8")
    # The shortlist is that of the products.
    reader = open_reader(xclip_run)
    index = build_index(reader, films / "out", name_paths(films), Pace(EACH_S, EACH_S)).index
    assert list_shortlist(index, reader, query, 3) == set(chosen) != set(best[:3])


class Matching(ProductSpace):
    """Its second stage likes dark clips, and short sentences less."""

    can_match = True
    needs_tokens = True

    def read_clips(self, features):
        return {VIDEO: self.embed_videos(features.pooled), TOKENS: features.tokens}

    def match(self, clips, sentences):
        assert len(clips[TOKENS]) == len(sentences)
        length = torch.tensor([*map(len, sentences)])
        return length - clips[TOKENS].flatten(1).sum(1)


def test_matching_reads_the_shortlist_again(films: Path, monkeypatch):
    torch.manual_seed(0)
    net = create_encoder("clip_vit", **PICTURE, frames=2, size=16).eval()
    tower = Words(dim=16, width=8, hidden=8)
    tower.name, tower.kwargs = "words", {}
    joint: JointSpace = Matching(tower, torch.nn.Identity(), cosine=True).eval()
    reader, pace, paths = Reader(net, joint, batch_size=2), Pace(EACH_S, EACH_S), name_paths(films)
    index = build_index(reader, films / "out", paths, pace).index
    assert index.arrays.keys() == {KEY}
    sums, windows = {}, []
    for name, path in paths.items():
        film = open_film(path, pace)
        for number in range(film.windows):
            (vectors,) = reader.read(film, pace, np.array([number]))
            sums[name, float(number)] = float(vectors[TOKENS].sum())
            windows.append((path, number))
    reads = []
    plain = Reader.read

    def count_reads(self, film, pace, rows):
        reads.extend(zip(itertools.repeat(film.path), rows.tolist()))
        return plain(self, film, pace, rows)

    monkeypatch.setattr(Reader, "read", count_reads)
    moments = find_moments(index, reader, ["a red ball", "box"], top=8, shortlist=8)
    best = sorted(sums, key=sums.__getitem__)
    assert sorted(reads) == sorted(windows)  # each once
    for ordered, text in zip(moments, ("a red ball", "box"), strict=True):
        assert [moment[:2] for moment in ordered] == best
        for moment in ordered:
            expected = len(text) - sums[moment.video, moment.start_s]
            assert moment.score == pytest.approx(expected, abs=1e-4)
    reads.clear()
    (few,) = find_moments(index, reader, ["box"], top=2, shortlist=2)
    shortlist = list_shortlist(index, reader, "box", 2)
    assert {moment[:2] for moment in few} == shortlist and len(reads) == 2
    paths["a.mp4"].write_bytes(b"torn")  # after the index was opened
    rows = torch.arange(len(index))
    (scored,) = match_again(index, reader, ["box"], [Scored(rows, torch.zeros(len(rows)))])
    assert len(scored.rows) == 6


def test_a_long_query_is_read_in_part_and_says_so(films: Path, run: Path, caplog):
    caplog.handler.setLevel("WARNING")
    run_search(films, run, "--query", "red ball " * 5)
    (line,) = caplog.messages
    assert tells(line, "6 of 10 words")
    caplog.clear()
    run_search(films, run, "--query", "red ball and blue box")
    assert not caplog.messages
