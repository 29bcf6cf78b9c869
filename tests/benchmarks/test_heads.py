"""The stacked, folded heads against the modules as published, written plainly on torch's layers, in float64."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from benchmarks.probes import attentive_math
from benchmarks.probes.attentive_math import Form, compute_logits, initialise

D, A, Q, R = 24, 4, 5, 3
SINGLE = Form(D, Q, A, D, 1, False, 1e-6)
BLOCKS = Form(D, Q, A, D, 3, True, 1e-5)


class Plain(nn.Module):
    """VideoGLUE: LayerNorm, a learned query, multi-head attention, dropout (given), classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn = (
            nn.LayerNorm(D, eps=1e-6),
            nn.MultiheadAttention(D, A, batch_first=True),
        )
        self.token, self.out = nn.Parameter(torch.zeros(1, 1, D)), nn.Linear(D, Q)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.norm(x)
        pooled, weight = self.attn(self.token.expand(len(x), -1, -1), x, x)
        return self.out(pooled[:, 0] * mask), weight[:, 0]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.attn = nn.MultiheadAttention(D, A, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        x = x + self.attn(y, y, y)[0]
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vjepa(nn.Module):
    """Blocks, then a query that attends, with a residual and an MLP and no output projection."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block() for _ in range(BLOCKS.depth - 1)])
        self.last, self.token, self.out = (
            Block(),
            nn.Parameter(torch.zeros(1, 1, D)),
            nn.Linear(D, Q),
        )
        nn.init.eye_(self.last.attn.out_proj.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        x = self.last.norm1(x)
        q = self.token.expand(len(x), -1, -1)
        q = q + self.last.attn(q, x, x)[0]
        return self.out((q + self.last.fc2(F.gelu(self.last.fc1(self.last.norm2(q)))))[:, 0])


def attention(attn, p, r):
    """Our names of a MultiheadAttention's query, key and value, with what each is there."""
    for k, name in enumerate(("wq", "wk", "wv")):
        yield attn.in_proj_weight[k * D : (k + 1) * D], rearrange(p[name][r], "A D a -> (A a) D")
    for k, name in ((0, "bq"), (2, "bv")):
        yield attn.in_proj_bias[k * D : (k + 1) * D], p[name][r].flatten()


def pairs(net, p, r):
    """(parameter of the plain module, the same one of ours)."""
    yield net.token[0, 0], p["token"][r]
    yield from ((net.out.weight, p["wc"][r].T), (net.out.bias, p["bc"][r]))
    if isinstance(net, Plain):
        yield from ((net.norm.weight, p["gain"][r]), (net.norm.bias, p["shift"][r]))
        yield from ((net.attn.out_proj.weight, p["wo"][r].T), (net.attn.out_proj.bias, p["bo"][r]))
        yield from attention(net.attn, p, r)
        return
    yield from ((net.last.norm1.weight, p["gain"][r]), (net.last.norm1.bias, p["shift"][r]))
    yield from attention(net.last.attn, p, r)
    for at, block in [
        ("", net.last),
        *((f"block{i}.", block) for i, block in enumerate(net.blocks)),
    ]:
        for name, theirs in (("norm2", block.norm2), ("norm1", block.norm1))[: 2 if at else 1]:
            yield from (
                (theirs.weight, p[f"{at}{name}.gain"][r]),
                (theirs.bias, p[f"{at}{name}.shift"][r]),
            )
        for i, theirs in ((1, block.fc1), (2, block.fc2)):
            yield from ((theirs.weight, p[f"{at}w{i}"][r].T), (theirs.bias, p[f"{at}b{i}"][r]))
        if at:
            yield from (
                (block.attn.in_proj_weight, p[at + "wqkv"][r].T),
                (block.attn.in_proj_bias, p[at + "bqkv"][r]),
            )
            yield from (
                (block.attn.out_proj.weight, p[at + "wo"][r].T),
                (block.attn.out_proj.bias, p[at + "bo"][r]),
            )


def made(form):
    """R heads that differ, no parameter at zero or one."""
    draw = torch.Generator().manual_seed(1)
    p = initialise(form, R, 0)
    noisy = {
        name: v.double() + 0.3 * torch.randn(v.shape, generator=draw).double()
        for name, v in p.items()
    }
    return {name: v.requires_grad_() for name, v in noisy.items()}


@pytest.mark.parametrize("form", [SINGLE, BLOCKS], ids=["videoglue", "blocks"])
@pytest.mark.parametrize("at_once", [1, 2**20])
def test_folded_and_stacked_is_the_plain_module(form, at_once, monkeypatch):
    monkeypatch.setattr(attentive_math, "AT_ONCE", at_once)
    draw = torch.Generator().manual_seed(2)
    feats = torch.randn(9, 7, D, generator=draw, dtype=torch.float64) * 3 + 1  # S N D
    rows, y = torch.tensor([4, 0, 8, 5, 2]), torch.tensor([0, 3, 1, 4, 4])
    mask = (torch.rand(5, D, generator=draw, dtype=torch.float64) > 0.5) * 2.0
    p = made(form)
    ours, weight = compute_logits(p, feats, rows, form, mask if form is SINGLE else None)
    sum(F.cross_entropy(scores, y) for scores in ours).backward()
    for r in range(R):
        net = (Plain() if form is SINGLE else Vjepa()).double()
        with torch.no_grad():
            for theirs, mine in pairs(net, p, r):
                theirs.copy_(mine)
        if form is SINGLE:
            scores, attended = net(feats[rows], mask)
            torch.testing.assert_close(weight[r], attended, rtol=1e-6, atol=1e-9)
        else:
            scores = net(feats[rows])
        torch.testing.assert_close(ours[r], scores, rtol=1e-6, atol=1e-9)
        F.cross_entropy(scores, y).backward()
        for parameter in net.parameters():  # so that slices of gradients can be asked for
            parameter.data = parameter.grad if parameter.grad is not None else parameter.data
        grads = {name: v.grad for name, v in p.items()}
        compared = list(pairs(net, grads, r))
        assert sum(g.numel() for _, g in compared) == sum(g[r].numel() for g in grads.values()), (
            "one is left out"
        )
        for theirs, mine in compared:
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)
    assert weight.shape == (R, 5, 7)


def test_the_published_starts():
    """27.8 M parameters: what facts/probes.md counts of V-JEPA 2's own class, 768 wide with 4 blocks."""
    p = initialise(Form(768, 100, 12, 768, 4, True, 1e-5), 1, 0)
    keys = 768  # the bias of keys, which we leave out
    assert round((sum(v.numel() for v in p.values()) + keys) / 1e6, 1) == 27.8
    single = initialise(Form(768, 400, 12, 768, 1, False, 1e-6), 2, 0)
    assert all(torch.equal(v[0], v[1]) for v in single.values()), "heads of a grid begin alike"
    assert single["token"].abs().max() == 0
    assert single["wk"].abs().max() == pytest.approx((6 / (768 * (12 + 64))) ** 0.5, rel=1e-3)
    assert single["wo"].abs().max() == pytest.approx((6 / (12 * (64 + 768))) ** 0.5, rel=1e-3)
    assert p["wq"].std() == pytest.approx(0.02, rel=0.01)
    assert p["block2.w2"].std() == pytest.approx(0.02 / 6**0.5, rel=0.01)
    assert p["w2"].std() == pytest.approx(0.02 / 6**0.5, rel=0.01)
