"""Both sides of the cases `distillation` see the same clips with the same weights, and masks of one
size.
"""

import pytest
import torch

from benchmarks.profiling.speed import masked_distillation as speed


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "NET", {"frames": 4, "size": 32})


def build(**changes: object):
    decoder = {"dec_dim": 16, "dec_depth": 1, "dec_heads": 2, "dec_hidden": 32}
    return speed.build("videoprism_tiny", **decoder, **changes)


def test_one_side_hides_most_tokens_and_the_other_none():
    objective, batch = build(), speed.make_batch()
    hidden = objective.mask(batch, objective.encoder.spec_grid())[1]
    visible, nothing = speed.Everything()(batch, objective.encoder.spec_grid())
    assert hidden.shape == (2, round(0.65 * 64)) and nothing.shape == (2, 0)
    objective.mask = speed.Everything()
    whole = objective.encoder(batch["clips"][:, 0]).tokens
    torch.testing.assert_close(objective.encoder(batch["clips"][:, 0], visible).tokens, whole)
    assert objective(batch).total.isfinite()


def test_stored_targets_are_those_of_the_teacher():
    objective, batch = build(), speed.make_batch()
    loss = objective(batch).total
    objective.store = speed.Stored(objective, batch)
    assert torch.equal(objective(batch).total, loss)


def test_ragged_masks_hide_as_many_tokens_as_tubes():
    batch, tubes = speed.make_batch(), build(mask="tube")
    grid = tubes.encoder.spec_grid()
    n_hidden = tubes.mask(batch, grid)[1].shape[1]
    ragged = build(mask="bevt", mask_ratio=n_hidden / grid.n)
    assert ragged.mask(batch, grid)[1].shape[1] == n_hidden
