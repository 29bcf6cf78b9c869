"""The small perceptron: its written-out step is torch's AdamW, and settings do not mix."""

import math

import torch
import torch.nn.functional as F

from benchmarks.probes.perceptron import Perceptron, score_clips
from ssvid.shapes import Frozen


def make_products(rows, seed):
    """The class is the sign of a product of two columns, which no linear map can tell."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 8, generator=draw)
    return Frozen({"cube8": x}, (x[:, 0] * x[:, 1] > 0).long(), [""] * rows)


def test_steps_are_those_of_autograd_and_adamw():
    x, y = make_products(60, 0).feats["cube8"] / 3, make_products(60, 0).labels
    probe = Perceptron(hidden=6, min_steps=30, epochs=1)
    layers = probe.fit(x, y, 2, 5, [(1e-2, 0.1), (1e-3, 1.0)])
    for number, (rate, decay) in enumerate([(1e-2, 0.1), (1e-3, 1.0)]):
        weights = [layer.clone().requires_grad_() for layer in probe.initialise(8, 2, 5)]
        optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=decay)
        for step in range(30):
            optimizer.param_groups[0]["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * step / 30))
            hidden = (x * math.sqrt(8) @ weights[0] + weights[1]).relu()
            loss = F.cross_entropy(hidden @ weights[2] + weights[3], y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for ours, theirs in zip(layers, weights, strict=True):
            torch.testing.assert_close(ours[number], theirs.detach(), rtol=1e-3, atol=1e-4)


def test_products_of_columns_are_learnt():
    splits = [make_products(rows, seed) for seed, rows in enumerate((400, 200, 600))]
    assert Perceptron(min_steps=200).run(*splits, 0).metrics["test/top1"] > 0.85


def test_draws_side_by_side_are_those_trained_alone():
    train, test = make_products(200, 0), make_products(50, 1)
    chosen = {"pooling": "cube8", "rate": 1e-2, "weight_decay": 1e-2}
    draws = [torch.arange(40) + 30 * i for i in range(3)]
    probe = Perceptron(hidden=16)
    together = probe.answer_draws(train, test, draws, chosen, 0)
    for rows, predictions in zip(draws, together, strict=True):
        alone = probe.answer_draws(train, test, [rows], chosen, 0)[0]
        assert (alone == predictions).double().mean() > 0.97  # equal up to rounding
    assert together.shape == (3, 50) and not torch.equal(together[0], together[1])
    layers = probe.fit(torch.zeros(4, 8), torch.tensor([0, 1, 0, 1]), 2, 0, probe.grid)
    assert score_clips(layers, torch.zeros(7, 8)).shape == (len(probe.grid), 7, 2)
