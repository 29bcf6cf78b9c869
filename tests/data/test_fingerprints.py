import numpy as np
import pytest

from ssvid.data import fingerprints
from ssvid.data.fingerprints import Clip, Fingerprint, choose_times, compare, take_fingerprint
from tests.data.test_corpus import draw_scene, resize
from tests.helpers import for_each, write_video


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    root = tmp_path_factory.mktemp("films")
    for i in range(8):
        write_video(root / f"{i}.mp4", draw_scene(i))
    return root


def fingerprint(path):
    return take_fingerprint(Clip(0, str(path), None))


def test_different_films_do_not_look_alike(films):
    prints = take_all(films)
    assert compare(prints) == []
    assert {len(film.bits) for film in prints} == {fingerprints.FEWEST}
    bits, _ = fingerprints.stack_bits(prints)
    other = fingerprints.count_differences(bits[:8], bits[8:])
    assert 40 < np.median(other) < 64 and other.min() > fingerprints.NEAR_BITS


@for_each(
    "change",
    [
        lambda scene: resize(scene, (48, 64)),
        lambda scene: scene[:, 10:-10, 10:-10],
        lambda scene: scene[:, :-8, :-8],
        lambda scene: scene[6:],
        lambda scene: scene[::2],
        lambda scene: (scene * 0.7 + 60).astype(np.uint8),
        lambda scene: np.pad(scene, ((0, 0), (40, 40), (0, 0), (0, 0))),
        lambda scene: np.repeat(scene.mean(-1, keepdims=True).astype(np.uint8), 3, -1),
    ],
)
def test_a_changed_copy_looks_like_its_film_alone(films, tmp_path, change):
    write_video(tmp_path / "copy.mp4", change(draw_scene(3)))
    (pair,) = compare([fingerprint(tmp_path / "copy.mp4")], take_all(films))
    assert pair.second == 3 and pair.share >= fingerprints.SHARE


def take_all(films):
    return list(map(fingerprint, sorted(films.iterdir())))


def test_a_cut_looks_like_the_long_film_that_it_is_in(films, tmp_path):
    scenes = list(map(draw_scene, (60, 4, 61, 62, 63)))
    write_video(tmp_path / "long.mp4", np.concatenate(scenes))
    (pair,) = compare(take_all(films), [fingerprint(tmp_path / "long.mp4")])
    assert pair.first == 4


def test_flat_and_bad_files_look_like_nothing(films, tmp_path):
    write_video(tmp_path / "black.mp4", np.zeros((10, 32, 32, 3), np.uint8))
    write_video(tmp_path / "gray.mp4", np.full((10, 32, 32, 3), 128, np.uint8))
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    bad, black, gray = map(fingerprint, sorted(tmp_path.iterdir()))
    assert len(black.bits) == len(bad.bits) == len(gray.bits) == 0
    assert compare([black, bad, gray, black]) == []
    assert bad.why and not black.why and not gray.why


def make_print(number, bits, frames=1):
    return Fingerprint(number, np.repeat(np.repeat(bits[None, None], 7, 1), frames, 0))


@for_each("frames, differences, alike", [(1, 15, 1), (1, 16, 0), (4, 23, 1), (4, 24, 0)])
def test_single_pictures_have_to_agree_better(frames, differences, alike):
    bits = np.random.default_rng(0).random(128) < 0.5
    other = bits.copy()
    other[:differences] ^= True
    assert len(compare([make_print(0, bits, frames), make_print(1, other, frames)])) == alike


def test_blocks_change_nothing(films, monkeypatch):
    prints = [*take_all(films), *take_all(films)]
    whole = compare(prints)
    monkeypatch.setattr(fingerprints, "BLOCK", 13)
    assert compare(prints) == whole and len(whole) == 8
    assert [pair.second - pair.first for pair in whole] == [8] * 8


def test_times_lie_within_the_film():
    assert choose_times(np.array([2.0])).tolist() == [2.0]
    times = choose_times(np.arange(0, 100, 0.04))
    assert len(times) == fingerprints.MOST and 0 < times[0] < times[-1] < 100
    assert len(choose_times(np.arange(0, 10, 0.04))) == 20
    assert len(choose_times(np.arange(5) / 25)) == 5
