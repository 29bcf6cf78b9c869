"""CoCLR's probe against plain torch, and what it must not see."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.probes.coclr import CoCLR, create_head, score_clips
from ssvid.errors import UserError
from ssvid.randomness import permutation
from ssvid.shapes import Frozen

ONE = {"rates": (0.3,), "weight_decays": (1e-2,), "epochs": 10, "batch": 20}


def split(rows: int, seed: int, classes: int = 3, scale: float = 3.0) -> Frozen:
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(rows) % classes
    x = torch.randn(rows, 6, generator=draw) + scale * F.one_hot(y, 6)
    return Frozen({"mean@last": x}, y, [str(i) for i in range(rows)])


def test_it_is_what_the_text_says():
    """Unit features, batch statistics, cross-entropy, momentum, and decay on everything.

    The rate drops to a tenth from epochs 6 and 8 of 10.
    """
    train, val, test = split(40, 0), split(12, 1), split(12, 2)
    result = CoCLR(**ONE).run(train, val, test, 5)
    head = create_head(6, 3, 5)
    parameters = list(head.parameters())
    speed = list(map(torch.zeros_like, parameters))
    for epoch in range(10):
        rate = 0.3 * 0.1 ** ((epoch >= 6) + (epoch >= 8))
        for rows in permutation(5, epoch, 40).split(20):
            x = train.feats["mean@last"][rows]
            loss = F.cross_entropy(head(x / x.norm(dim=1, keepdim=True)), train.labels[rows])
            for p, v, grad in zip(
                parameters, speed, torch.autograd.grad(loss, parameters), strict=True
            ):
                v.mul_(0.9).add_(grad + 1e-2 * p.detach())
                p.data -= rate * v
    torch.testing.assert_close(
        result.scores, score_clips(head.eval(), test.feats["mean@last"]), rtol=1e-4, atol=1e-5
    )
    assert len({round(p, 6) for p in head[0].weight.tolist()}) > 1  # batch norm learns too


def test_the_length_of_features_says_nothing():
    splits = [split(40, 0), split(12, 1), split(12, 2)]
    scale = torch.rand(40, 1, generator=torch.Generator().manual_seed(1)) * 5 + 0.1
    longer = [
        splits[0]._replace(feats={"mean@last": splits[0].feats["mean@last"] * scale}),
        *splits[1:],
    ]
    plain, scaled = CoCLR(**ONE).run(*splits, 0), CoCLR(**ONE).run(*longer, 0)
    torch.testing.assert_close(plain.scores, scaled.scores, rtol=1e-4, atol=1e-4)


def test_a_rest_of_one_clip_is_no_batch():
    train = split(41, 0)
    assert CoCLR(**ONE).run(train, split(12, 1), split(12, 2), 0).scores.isfinite().all()
    with pytest.raises(UserError, match="two train clips or more"):
        CoCLR(**ONE).run(split(1, 0), split(12, 1), split(12, 2), 0)
    with pytest.raises(UserError, match="batch 0: it must be more than 0"):
        CoCLR(batch=1)


def test_the_setting_is_chosen_on_val_and_may_be_trained_anew_on_both():
    """Another draw of val: the grid is that of training on train alone, the scores are not."""
    train, val, test = split(40, 0, scale=1.0), split(30, 1, scale=1.0), split(30, 2, scale=1.0)
    settings = {"rates": (0.01, 0.3), "weight_decays": (1e-3,), "epochs": 10, "batch": 20}
    alone = CoCLR(**settings, refit=False).run(train, val, test, 0)
    both = CoCLR(**settings, refit=True).run(train, val, test, 0)
    assert (
        alone.grid == both.grid
        and alone.chosen == both.chosen
        and not torch.equal(alone.scores, both.scores)
    )
    joined = Frozen(
        {"mean@last": torch.cat([train.feats["mean@last"], val.feats["mean@last"]])},
        torch.cat([train.labels, val.labels]),
        train.groups + val.groups,
    )
    single = settings | {"rates": (both.chosen["rate"],)}
    assert torch.equal(CoCLR(**single).run(joined, val, test, 0).scores, both.scores)
    unseen = val._replace(labels=val.labels + 1)  # a class that train lacks
    assert CoCLR(**settings, refit=True).run(train, unseen, test, 0).scores.shape == (30, 3)
