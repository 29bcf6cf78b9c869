"""The synthetic set: what reveals its labels, and that several processes make it once."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from ssvid.data.decode import read, read_timestamps
from ssvid.data.synthetic import (
    VERSION,
    _tour,
    draw_clip,
    list_clips,
    list_motions,
    tour_frames,
    write_set,
)
from ssvid.errors import UserError
from ssvid.randomness import uniform
from ssvid.registry import datasets
from tests import warm
from tests.helpers import facts, for_each

USED = ("across", "orbit", "spin")
MOTIONS = list_motions(USED)
TOUR = tour_frames(USED)
SMALL = {
    "train": 16,
    "val": 8,
    "test": 8,
    "acts": USED,
    "frames": TOUR + 3,
    "size": 32,
    "fps": 8,
    "seed": 0,
}

FROZEN = [-4684, 7333, -9127, 6564]  # weighted sums of a clip's pixels each


class Drawn(NamedTuple):
    x: torch.Tensor  # N T 8 8 in grey
    labels: torch.Tensor
    acts: tuple[str, ...]

    @property
    def limit(self) -> float:
        """Three standard errors over chance, on 400 test clips."""
        chance = 1 / len(list_motions(self.acts))
        return chance + 3 * (chance * (1 - chance) / 400) ** 0.5


@pytest.fixture(scope="module", params=[USED, ("grow", "along"), ("across", "along")], ids="-".join)
def drawn(request):
    """1200 clips of a tour, in any of whose acts a single frame could tell."""
    n, acts = 1200, request.param
    labels = torch.arange(n) % len(list_motions(acts))
    tour = tour_frames(acts)
    pictures = []
    for i, label in enumerate(labels.tolist()):
        pictures.append(draw_clip(label, i, 0, acts=acts, frames=tour, size=16).mean(-1))
    x = torch.from_numpy(np.stack(pictures)).float() / 255  # N T 16 16
    return Drawn(torch.nn.functional.avg_pool2d(x, 2), labels, acts)


def accuracy(x, labels, train=800):
    """A linear probe: ridge regression on one-hot labels, with a decay chosen within train."""
    x = x.flatten(1).double()
    x = (x - x[:train].mean(0)) / (x[:train].std(0) + 1e-6)
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    y = torch.eye(int(labels.max()) + 1, dtype=torch.float64)[labels]

    def fit(rows, decay):
        gram = x[rows].T @ x[rows] + decay * torch.eye(x.shape[1])
        return torch.linalg.solve(gram, x[rows].T @ y[rows])

    def score(w, rows):
        return ((x[rows] @ w).argmax(1) == labels[rows]).double().mean().item()

    inner, held, test = slice(0, 600), slice(600, train), slice(train, None)
    decay = max((10.0**k for k in range(1, 6)), key=lambda decay: score(fit(inner, decay), held))
    return score(fit(slice(0, train), decay), test)


def test_a_clip_is_what_its_coordinates_say():
    one = draw_clip(3, 5, 7, acts=USED, frames=20, size=32)
    assert one.shape == (20, 32, 32, 3) and one.dtype == np.uint8
    assert (one == draw_clip(3, 5, 7, acts=USED, frames=20, size=32)).all()
    assert (one[:4] == one[TOUR : TOUR + 4]).all()  # a closed loop
    for other in (
        draw_clip(3, 6, 7, acts=USED, frames=20, size=32),
        draw_clip(3, 5, 8, acts=USED, frames=20, size=32),
    ):
        assert (one != other).any()


@for_each("acts", [USED, ("across", "orbit"), ("grow", "along"), ("spin",)])
def test_every_label_shows_the_same_frames(acts):
    """So shuffled frames and single frames reveal nothing: exactly, not just by measurement."""
    tour = tour_frames(acts)
    for index in range(6):
        sets = []
        for label in range(len(list_motions(acts))):
            frames = (
                draw_clip(label, index, 0, acts=acts, frames=tour, size=32)
                .reshape(tour, -1)
                .astype(int)
            )
            sets.append(frames[np.lexsort(frames.T[:64])])
        for other in sets[1:]:
            near = np.abs(sets[0][:, None] - other[None]).max(-1)  # rounding may differ by a level
            assert near.min(0).max() <= 2 and near.min(1).max() <= 2


def test_the_ways_are_as_named():
    acts = ("across", "along", "spin")
    for label, motion in enumerate(list_motions(acts)):
        for axis, (act, way) in enumerate(zip(acts, motion.split("_"), strict=True)):
            first = tour_frames(acts[:axis])
            path = _tour(label, acts, 0.0)[axis]
            assert (path[first + 1] - path[first] > 0) == (way in ("right", "down", "cw")), act


def test_an_unknown_act():
    with pytest.raises(UserError, match=facts("jump")):
        list_motions(("across", "jump"))


def test_one_frame_tells_nothing(drawn):
    tour = drawn.x.shape[1]
    for frame in (0, 1, tour // 2, tour - 1):
        x = drawn.x[:, frame].flatten(1)
        sorted_x = x.sort(dim=1).values  # wherever the shape is: how large and how bright
        assert accuracy(torch.cat([x, sorted_x], dim=1), drawn.labels) < drawn.limit


def test_shuffled_frames_tell_nothing(drawn):
    n, tour = drawn.x.shape[:2]
    order = uniform(0, "shuffle", 0, torch.arange(n), tour).argsort(1)
    mixed = drawn.x[torch.arange(n)[:, None], order]
    for features in (mixed, mixed.diff(dim=1).abs().sum(1), drawn.x.sum(1)):
        assert accuracy(features, drawn.labels) < drawn.limit


def test_order_tells(drawn):
    """The control: the same probe reads the label where the features know of time."""
    assert accuracy(drawn.x, drawn.labels) < 2 / len(
        list_motions(drawn.acts)
    )  # pixels in order do not help a linear probe
    paths = [torch.from_numpy(_tour(label, drawn.acts, 0.0)) for label in drawn.labels.tolist()]
    steps = torch.stack(paths).diff(dim=2)  # N 4 T-1
    noise = 0.3 * torch.randn(steps.shape, generator=torch.Generator().manual_seed(0))
    assert accuracy(steps + noise, drawn.labels) > 0.5


def test_the_generator_is_frozen():
    """Published numbers rest on these pictures. A change needs a new VERSION and a new demo."""
    assert VERSION == 3
    weights = np.cos(np.arange(14 * 32 * 32 * 3) / 97).reshape(
        14, 32, 32, 3
    )  # moves of a pixel change the sums
    shown = [
        round(float((weights * draw_clip(label, index, seed, acts=acts, frames=14, size=32)).sum()))
        for label, index, seed, acts in (
            (0, 0, 0, ("across", "along")),
            (3, 7, 0, ("across", "along")),
            (2, 5, 1, ("across", "along")),
            (5, 2 * 10**6, 0, ("orbit", "spin", "grow")),
        )
    ]
    assert np.abs(np.array(shown) - np.array(FROZEN)).max() <= 20, (
        shown
    )  # rounding of single pixels by a level


def test_files_show_what_was_drawn(tmp_path):
    write_set(tmp_path / "set", **SMALL)
    for row in (0, 5, 20):
        path, index = (
            list_clips(train=16, val=8, test=8, acts=USED)[row],
            (0, 5, 10**6 + 4)[row // 5 if row < 20 else 2],
        )
        file = tmp_path / "set" / path.path
        assert len(read_timestamps(file)) == SMALL["frames"]
        shown = read(file, read_timestamps(file)).permute(0, 2, 3, 1).numpy().astype(int)
        meant = draw_clip(
            int(path.path.split("/")[-1][:5]) % 8,
            index,
            0,
            acts=USED,
            frames=SMALL["frames"],
            size=32,
        )
        assert np.abs(shown - meant).mean() < 8  # chroma has half the resolution


def test_the_data_set(tmp_path):
    data = datasets["synthetic"](str(tmp_path), train=32, labelled=8, val=16, test=24)
    assert [len(data.split(name)) for name in ("train", "val", "test")] == [32, 16, 24]
    assert set(data.classes) == set(list_motions(("across", "along")))
    assert (data.split("train").labels >= 0).tolist() == [True] * 8 + [False] * 24
    for split in ("train", "val", "test"):
        labels = data.split(split).labels
        assert len(labels[labels >= 0].unique(return_counts=True)[1].unique()) == 1
    again = datasets["synthetic"](str(tmp_path), train=32, labelled=8, val=16, test=24)
    assert again.hash == data.hash and again.root == data.root
    assert datasets["synthetic"](str(tmp_path), train=16, val=16, test=24).root != data.root


def test_two_processes_make_one_set(tmp_path):
    code = "import sys; from ssvid.registry import datasets; "
    code += "print(datasets['synthetic'](sys.argv[1], train=64, val=8, test=8).root)"
    both = [warm.start("-c", code, str(tmp_path)) for _ in range(2)]
    roots = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.wait() for process in both] == [0, 0] and len(roots) == 1
    assert len(list(tmp_path.rglob("*.mp4"))) == 80
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    write_set(tmp_path / "set", **SMALL)
    with pytest.raises(UserError, match=facts(str(tmp_path / "set"))):
        write_set(tmp_path / "set", **{**SMALL, "seed": 1})
    with pytest.raises(UserError, match=facts("33")):
        write_set(tmp_path / "odd", **{**SMALL, "size": 33})
