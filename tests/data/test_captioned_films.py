"""Films with captions: what reveals a motion, and that every word of a sentence is true."""

import hashlib
from itertools import permutations

import numpy as np
import torch

from ssvid.data import captioned_films as films
from ssvid.data import synthetic as drawing
from ssvid.data.captioned_films import MOTIONS, QUARTERS, Script
from ssvid.data.datasets import synthetic_captioned
from ssvid.data.narration.synthetic_narrator import COLOURED_SHAPES, COLOURS
from tests.data.test_synthetic import accuracy
from tests.helpers import for_each

FRAMES = 16
ORDERS = (("moves left", "grows"), ("circles clockwise", "moves up"), ("shrinks", "moves right"))
FROZEN = [-20972, -2842, -12031, -13308]  # weighted sums of a film's pixels each


NUMBERS = films.draw_numbers(0, 1200, seed=0)


def write_script(index: int, *motions: str) -> Script:
    return films.write_script(NUMBERS[index], COLOURED_SHAPES, motions)


def see_shape(script: Script, size: int = 64) -> np.ndarray:
    """Where the shape is, bool `T H W`: where the film differs from its background."""
    ground = (drawing.draw_background(size, script.u[films.GROUND]).clip(0, 1) * 255 + 0.5).astype(
        int
    )
    return np.abs(films.draw_film(script, FRAMES, size) - ground).sum(-1) > 60


def find_centres(mask: np.ndarray) -> np.ndarray:
    """x and y of the middle of what is shown, `T 2`, as fractions of the picture."""
    grid = (np.arange(mask.shape[-1]) + 0.5) / mask.shape[-1]
    area = mask.sum((1, 2))
    return (
        np.stack([(mask * grid).sum((1, 2)), (mask * grid[:, None]).sum((1, 2))], 1) / area[:, None]
    )


def test_the_first_frame_is_the_same_whatever_the_motion():
    for index in range(8):
        first = films.draw_film(write_script(index), 1, 32)[0]
        for motions in (*((name,) for name in MOTIONS), *ORDERS):
            film = films.draw_film(write_script(index, *motions), FRAMES, 32)
            assert (film[0] == first).all() and (film[4] != first).any()


@for_each("motions", [*((name,) for name in MOTIONS), *ORDERS])
def test_place_and_size_are_uniform_at_every_frame(motions):
    """Kolmogorov and Smirnov's distance, and the pairs of x and y in sixteen cells."""
    n = 240
    paths = np.stack([films.trace_film(write_script(i, *motions), FRAMES) for i in range(n)])
    x, y, _, size = paths.transpose(1, 2, 0)  # T N each
    wanted = (np.arange(n) + 0.5) / n
    for values in (x, y, size):
        assert np.abs(np.sort(values, 1) - wanted).max() < 2.2 / n**0.5
    cells = (x * 4).astype(int) * 4 + (y * 4).astype(int)
    for frame in cells:
        counts = np.bincount(frame, minlength=16)
        assert ((counts - n / 16) ** 2 / (n / 16)).sum() < 50  # chi squared, 15 degrees: p 1e-5


def test_a_single_frame_tells_no_motion_and_the_order_of_frames_does():
    n, names = 1200, tuple(MOTIONS)
    labels = torch.arange(n) % len(names)
    stills, paths = [], []
    for i, label in enumerate(labels.tolist()):
        script = write_script(i, names[label])
        paths.append(films.trace_film(script, FRAMES))
        stills.append(films.draw_film(script, FRAMES, 16)[i % FRAMES])
    x = torch.from_numpy(np.stack(stills)).float().flatten(1) / 255
    limit = 0.1 + 3 * (0.1 * 0.9 / 400) ** 0.5
    assert accuracy(torch.cat([x, x.sort(1).values], 1), labels) < limit
    steps = torch.from_numpy(np.stack(paths)).diff(dim=2)
    assert accuracy(((steps + 0.5) % 1).flatten(1), labels) > 0.8


def test_the_whole_shape_is_in_the_picture():
    for index in range(60):
        mask = see_shape(write_script(index, "grows", "moves right"))
        assert not mask[:, [0, -1]].any() and not mask[:, :, [0, -1]].any()


def test_the_words_for_things_and_places_are_true():
    quarters = set()
    for index in range(40):
        script = write_script(index, "spins clockwise")
        mask, film = see_shape(script), films.draw_film(script, FRAMES, 64)
        shown = film[0][mask[0]].mean(0)
        hues = {name: drawing.hue_to_rgb(turns, 0.8, 1.0) for name, turns in COLOURS.items()}
        distances = {name: np.abs(shown / shown.max() - hue).sum() for name, hue in hues.items()}
        assert min(distances, key=distances.__getitem__) == script.colour
        centre = find_centres(mask)[0]
        if np.abs(centre - 0.5).min() > 0.03:  # the middle of a triangle is not that of its turns
            right, down = (centre > 0.5).astype(int).tolist()
            assert script.quarter == f"{('top', 'bottom')[down]} {('left', 'right')[right]}"
            quarters.add(script.quarter)
    assert quarters == set(QUARTERS)


def find_way(name: str, index: int) -> float:
    """More than 0 if the pixels do what the motion says, from frame to frame."""
    script = write_script(index, name)
    if "spins" in name:
        script = script._replace(shape="bar")
    mask = see_shape(script)
    steps = np.diff(find_centres(mask), axis=0)
    steps = steps[np.abs(steps).max(1) < 0.2]  # without those from end to end of the range
    if name.startswith("moves"):
        word = name.split()[1]
        axis, sign = int(word in ("up", "down")), 1 if word in ("right", "down") else -1
        return sign * float(np.median(steps[:, axis])) - float(np.abs(steps[:, 1 - axis]).mean())
    if name in ("grows", "shrinks"):
        change = np.median(np.diff(mask.sum((1, 2))))
        return float(change if name == "grows" else -change)
    sign = -1 if "anticlockwise" in name else 1
    if name.startswith("circles"):
        turns = steps[:-1, 0] * steps[1:, 1] - steps[:-1, 1] * steps[1:, 0]  # y points down
        return sign * float(np.median(turns))
    axes = np.unwrap(np.array(list(map(find_axis, mask))), period=np.pi)
    return sign * float(np.median(np.diff(axes))) - float(np.abs(steps).mean())


def find_axis(mask: np.ndarray) -> float:
    """The angle of the long side of a bar, clockwise from the right."""
    y, x = np.nonzero(mask)
    cov = np.cov(x, y)
    return 0.5 * float(np.arctan2(2 * cov[0, 1], cov[0, 0] - cov[1, 1]))


@for_each("name", sorted(MOTIONS))
def test_the_pixels_do_what_the_motion_says(name):
    assert min(find_way(name, index) for index in range(10)) > 0


def test_the_second_act_goes_on_where_the_first_ends():
    for index in range(30):
        for motions in permutations(("moves left", "grows", "circles clockwise"), 2):
            path = films.trace_film(write_script(index, *motions), FRAMES)
            steps = np.abs((np.diff(path, axis=1) + 0.5) % 1 - 0.5)
            assert steps.max() < 0.16
        path = films.trace_film(write_script(index, "moves left", "grows"), FRAMES)
        assert (path[3, :9] == path[3, 0]).all() and (path[0, 8:] == path[0, 8]).all()
        assert path[0, 8] != path[0, 0] and path[3, 9] != path[3, 8]


def read_motions(sentence: str) -> tuple[str, ...]:
    """What a sentence says to happen, in order of time."""
    names = sorted(filter(sentence.__contains__, MOTIONS), key=sentence.index)
    return tuple(reversed(names) if " after it " in sentence else names)


@for_each("motions", [("grows",), ("moves left", "grows"), ("grows", "moves left")])
def test_every_sentence_tells_its_parts(motions):
    forms = films.list_forms(len(motions), appearance_only=False)
    assert len(forms) == 5 * (1, 4)[len(motions) - 1]
    for index in range(6):
        script = write_script(index, *motions)
        sentences = films.write_sentences(script, forms, len(forms))
        assert len(set(sentences)) == len(forms)
        for sentence in sentences:
            assert read_motions(sentence) == motions
            for word in (script.colour, script.shape, script.quarter):
                assert word in sentence
            assert "{" not in sentence


def test_sentences_of_stills_and_first_frames_tell_no_motion():
    script = write_script(3, "moves left")
    quarter = script.quarter
    for acts in (0, 1, 2):
        forms = films.list_forms(acts, appearance_only=True)
        for sentence in films.write_sentences(script, forms, len(forms)):
            assert not read_motions(sentence) and quarter in sentence
            assert ("first" in sentence or "begins" in sentence) == (acts > 0)


def test_the_films_are_frozen():
    """Published numbers rest on these: another film or sentence is a new VERSION."""
    assert synthetic_captioned.VERSION == 1
    digest, sums = hashlib.sha256(), []
    weights = np.cos(np.arange(FRAMES * 32 * 32 * 3) / 97).reshape(FRAMES, 32, 32, 3)
    for index, motions in enumerate((("grows",), ORDERS[0], ("spins clockwise",), ORDERS[1])):
        script = write_script(index, *motions)
        for appearance_only in (False, True):
            forms = films.list_forms(len(motions), appearance_only)
            texts = films.write_sentences(script, forms, 3)
            digest.update(repr((script[:3], script.quarter, texts)).encode())
        sums.append(round(float((weights * films.draw_film(script, FRAMES, 32)).sum())))
    assert digest.hexdigest()[:16] == "5b3dbf52ea026064"
    assert np.abs(np.array(sums) - FROZEN).max() <= 20, sums  # rounding of single pixels
