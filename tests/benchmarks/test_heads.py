"""The stacked, folded heads against the published modules, in float64.

The modules are written plainly with torch's layers.
"""

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
    blocks = {"": net.last}
    for i, block in enumerate(net.blocks):
        blocks[f"block{i}."] = block
    for prefix, block in blocks.items():
        for name, theirs in (("norm2", block.norm2), ("norm1", block.norm1))[: 2 if prefix else 1]:
            yield from (
                (theirs.weight, p[f"{prefix}{name}.gain"][r]),
                (theirs.bias, p[f"{prefix}{name}.shift"][r]),
            )
        for i, theirs in ((1, block.fc1), (2, block.fc2)):
            yield from (
                (theirs.weight, p[f"{prefix}w{i}"][r].T),
                (theirs.bias, p[f"{prefix}b{i}"][r]),
            )
        if prefix:
            yield from (
                (block.attn.in_proj_weight, p[prefix + "wqkv"][r].T),
                (block.attn.in_proj_bias, p[prefix + "bqkv"][r]),
            )
            yield from (
                (block.attn.out_proj.weight, p[prefix + "wo"][r].T),
                (block.attn.out_proj.bias, p[prefix + "bo"][r]),
            )


def create_noisy_heads(form):
    """R heads that differ, no parameter at zero or one."""
    draw = torch.Generator().manual_seed(1)
    p = initialise(form, R, 0)
    noisy = {}
    for name, value in p.items():
        noise = torch.randn(value.shape, generator=draw).double()
        noisy[name] = (value.double() + 0.3 * noise).requires_grad_()
    return noisy


@pytest.mark.parametrize("form", [SINGLE, BLOCKS], ids=["videoglue", "blocks"])
@pytest.mark.parametrize("at_once", [1, 2**20])
def test_folded_and_stacked_is_the_plain_module(form, at_once, monkeypatch):
    monkeypatch.setattr(attentive_math, "AT_ONCE", at_once)
    draw = torch.Generator().manual_seed(2)
    feats = torch.randn(9, 7, D, generator=draw, dtype=torch.float64) * 3 + 1  # S N D
    rows, y = torch.tensor([4, 0, 8, 5, 2]), torch.tensor([0, 3, 1, 4, 4])
    mask = (torch.rand(5, D, generator=draw, dtype=torch.float64) > 0.5) * 2.0
    p = create_noisy_heads(form)
    logits, weight = compute_logits(p, (feats,), rows, form, mask if form is SINGLE else None)
    loss = 0.0
    for scores in logits:
        loss = loss + F.cross_entropy(scores, y)
    loss.backward()
    for r in range(R):
        net = (Plain() if form is SINGLE else Vjepa()).double()
        with torch.no_grad():
            for theirs, value in pairs(net, p, r):
                theirs.copy_(value)
        if form is SINGLE:
            scores, attended = net(feats[rows], mask)
            torch.testing.assert_close(weight[r], attended, rtol=1e-6, atol=1e-9)
        else:
            scores = net(feats[rows])
        torch.testing.assert_close(logits[r], scores, rtol=1e-6, atol=1e-9)
        F.cross_entropy(scores, y).backward()
        for parameter in net.parameters():  # so that slices of gradients can be asked for
            parameter.data = parameter.grad if parameter.grad is not None else parameter.data
        grads = {name: value.grad for name, value in p.items()}
        compared = list(pairs(net, grads, r))
        count = sum(grad.numel() for _, grad in compared)
        assert count == sum(grad[r].numel() for grad in grads.values()), "one is left out"
        for theirs, ours in compared:
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    assert weight.shape == (R, 5, 7)


def test_the_published_starts():
    """27.8 M parameters, as facts/probes.md counts of V-JEPA 2's own class (768 wide, 4 blocks)."""
    p = initialise(Form(768, 100, 12, 768, 4, True, 1e-5), 1, 0)
    keys = 768  # the bias of keys, which our heads do not have
    assert round((sum(v.numel() for v in p.values()) + keys) / 1e6, 1) == 27.8
    single = initialise(Form(768, 400, 12, 768, 1, False, 1e-6), 2, 0)
    assert all(torch.equal(v[0], v[1]) for v in single.values()), "heads of a grid begin alike"
    assert single["token"].abs().max() == 0
    assert single["wk"].abs().max() == pytest.approx((6 / (768 * (12 + 64))) ** 0.5, rel=1e-3)
    assert single["wo"].abs().max() == pytest.approx((6 / (12 * (64 + 768))) ** 0.5, rel=1e-3)
    assert p["wq"].std() == pytest.approx(0.02, rel=0.01)
    assert p["block2.w2"].std() == pytest.approx(0.02 / 6**0.5, rel=0.01)
    assert p["w2"].std() == pytest.approx(0.02 / 6**0.5, rel=0.01)


class PlainLayers(nn.Module):
    """A VideoGLUE pooler for each layer, whose outputs are added before the one classifier."""

    def __init__(self, sources: int) -> None:
        super().__init__()
        self.poolers, self.out = nn.ModuleList(Plain() for _ in range(sources)), nn.Linear(D, Q)

    def forward(self, layers: tuple[torch.Tensor, ...], mask: torch.Tensor) -> torch.Tensor:
        pooled = 0.0
        for pooler, x in zip(self.poolers, layers, strict=True):
            pooler.out = nn.Identity()
            pooled = pooled + pooler(x, 1.0)[0]
        return self.out(pooled * mask)


def test_layers_together_are_poolers_whose_outputs_are_added():
    form = SINGLE._replace(sources=3)
    draw = torch.Generator().manual_seed(2)
    shape = (4, 7, D)
    layers = torch.randn(3, *shape, generator=draw, dtype=torch.float64).unbind()
    mask = (torch.rand(4, D, generator=draw, dtype=torch.float64) > 0.5) * 2.0
    p = create_noisy_heads(form)
    logits, weight = compute_logits(p, layers, torch.arange(4), form, mask)
    net = PlainLayers(3).double()
    for r in range(R):
        with torch.no_grad():
            for i, pooler in enumerate(net.poolers):
                of_layer = dict(p)
                for name, value in p.items():
                    of_layer[name.removeprefix(f"layer{i}.")] = value
                pooler.out = net.out
                for theirs, value in pairs(pooler, of_layer, r):
                    theirs.copy_(value)
        torch.testing.assert_close(logits[r], net(layers, mask), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(weight.sum(-1), torch.ones(R, 4).double())
