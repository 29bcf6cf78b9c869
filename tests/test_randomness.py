"""Uniforms have coordinates, look uniform, and are the same everywhere."""

import torch

from ssvid.randomness import draw, permutation, uniform


def test_a_row_depends_on_its_coordinates_alone():
    whole = uniform(3, "mask", torch.tensor([0, 1, 1]), torch.tensor([7, 7, 9]), 5)
    assert whole.shape == (3, 5) and whole.dtype == torch.float64
    assert torch.equal(whole[2:], uniform(3, "mask", 1, 9, 5))
    assert torch.equal(
        whole[:, :2], uniform(3, "mask", torch.tensor([0, 1, 1]), torch.tensor([7, 7, 9]), 2)
    )


def test_every_coordinate_matters():
    base = uniform(0, "a", 0, 0, 4)
    for other in ((1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1)):
        assert not (base == uniform(*other, 4)).any()


def test_values_are_pinned():
    """Another value here would change every run that was ever made."""
    expected = [0.1667788952303373, 0.24985838812162642, 0.8336109504775553]
    assert uniform(0, "mask", 0, torch.tensor([0]), 3)[0].tolist() == expected


def test_moments_and_independence():
    u = uniform(1, "x", 0, torch.arange(20_000), 4)
    assert abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.002
    assert u.min() >= 0 and u.max() < 1
    correlation = torch.corrcoef(torch.cat([u, u.roll(1, 0)], 1).T) - torch.eye(8)
    assert correlation.abs().max() < 0.03
    assert torch.histc(u.float(), 16, 0, 1).sub(u.numel() / 16).abs().max() < 400


def test_it_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    uniform(0, "a", 0, torch.arange(5), 3)
    permutation(0, 1, 100)
    assert torch.equal(before, torch.get_rng_state())


def test_permutation():
    first, second = permutation(0, 0, 1000), permutation(0, 1, 1000)
    assert torch.equal(first.sort().values, torch.arange(1000)) and not torch.equal(first, second)


def test_draw_reads_a_batch():
    batch = {"seed": 2, "epoch": torch.tensor([1]), "index": torch.tensor([3])}
    assert torch.equal(draw(batch, "mask", 6), uniform(2, "mask", 1, 3, 6))
