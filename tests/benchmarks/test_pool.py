import pytest
import torch

from benchmarks.features.pooling import pool
from ssvid.errors import UserError
from ssvid.shapes import Features, Grid
from tests.helpers import facts


def features(grid, dim=2, layers=0):
    tokens = torch.randn(3, grid.n, dim)
    return Features(
        tokens, tokens.mean(1), grid, tuple(torch.randn(3, grid.n, dim) for _ in range(layers))
    )


def test_each_pooling_is_the_mean_it_says():
    f = features(Grid(4, 6, 6))
    pooled = pool(f)
    maps = f.tokens.reshape(3, 4, 6, 6, 2)
    torch.testing.assert_close(pooled["mean@last"], f.tokens.mean(1))
    torch.testing.assert_close(pooled["time@last"], maps.mean((2, 3)).flatten(1))
    torch.testing.assert_close(
        pooled["grid@last"].reshape(3, 4, 3, 3, 2)[:, 1, 2, 0], maps[:, 1, 4:, :2].mean((1, 2))
    )


def test_long_clips_are_averaged_to_eight_slots():
    pooled = pool(features(Grid(16, 5, 7)))
    assert {k: v.shape[1] for k, v in pooled.items()} == {
        "mean@last": 2,
        "time@last": 16,
        "grid@last": 8 * 9 * 2,
    }


def test_layers_have_names_and_repeats_are_left_out():
    pooled = pool(features(Grid(2, 1, 1), layers=2), layers=(6, 9))
    assert list(pooled) == ["mean@last", "time@last", "mean@6", "time@6", "mean@9", "time@9"]
    assert list(pool(features(Grid(1, 1, 1)))) == ["mean@last"]
    assert list(pool(features(Grid(2, 4, 4)), poolings=("mean",))) == ["mean@last"]
    with pytest.raises(UserError, match=facts("max")):
        pool(features(Grid(1, 1, 1)), poolings=("max",))
