"""tokens, parameters of R attentive heads -> their logits.

A head is one learned query with cross-attention, alone or behind blocks of self-attention.

Every parameter has a leading axis R. The query is learned, not computed, so its products with the
key weights are made once a batch: score = (W_k q) . x, and values are projected after the average
over tokens. A further head then costs N x D for each attention head, not N x D x D. The gain of the
layer norm goes into the same vector. What shifts all scores of a clip by the same amount (the bias
of the norm, a bias of keys) cancels in the softmax. This is exact: a test compares it with the
plain module.

R heads of the grid   A attention heads   a = W / A   W inner width   K = R * A   C clips at once
E hidden units
"""

import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from ssvid.shapes import Tokens

AT_ONCE = 2**20  # numbers of the tokens that are averaged at once; 4 MB stay in the cache
SAVED_NUMBERS = 2**26  # that autograd may save for the backward of the blocks: 256 MB
Params = dict[str, Tensor]
Source = tuple[Tokens, ...]  # what a head reads: the tokens of one layer, or of several


class Form(NamedTuple):
    """The architecture of a head."""

    dim: int  # of tokens
    classes: int
    heads: int  # of attention
    width: int  # of attention, inside
    depth: int  # 1: the cross-attention alone; n: behind n - 1 blocks of self-attention
    complete: bool  # True: query + attention + MLP (V-JEPA). False: a projection (VideoGLUE)
    eps: float  # of layer norms
    sources: int = 1  # layers, each with a query of its own, whose outputs are added

    @property
    def tokens_at_once(self) -> int:
        """Tokens in one backward of the blocks. It bounds what autograd saves."""
        if self.depth <= 1:
            return sys.maxsize
        return SAVED_NUMBERS // (17 * self.dim * (self.depth - 1))


def compute_logits(
    p: Params, feats: Source, rows: Int[Tensor, " C"], form: Form, mask: Tensor | None = None
) -> tuple[Float[Tensor, "R C Q"], Float[Tensor, "R C N"]]:
    """(logits, attention over the tokens) of these rows of `feats`, by each of the R heads.

    `mask`: dropout of the pooled vector, C D. The attention is the mean over the layers.
    """
    if form.depth == 1:
        poolers = list_poolers(p, form)
        outputs, attention = attend_layer(poolers[0], feats[0], rows, form)
        for pooler, tokens in zip(poolers[1:], feats[1:], strict=True):
            output, weight = attend_layer(pooler, tokens, rows, form)
            outputs, attention = outputs + output, attention + weight
        return classify(p, outputs, mask), attention / form.sources
    x = repeat(feats[0][rows].to(p["token"]), "C N D -> R C N D", R=len(p["token"]))
    for i in range(form.depth - 1):
        x = apply_block(p, f"block{i}.", x, form)
    normed = F.layer_norm(x, x.shape[-1:], None, None, form.eps)
    pooled, attention = attend_separate_tokens(normed, compute_query(p))
    return classify(p, finish_pooling(p, project_values(p, pooled), form), mask), attention


def list_poolers(p: Params, form: Form) -> list[Params]:
    """The parameters of the cross-attention on each layer."""
    poolers = [p]
    for i in range(1, form.sources):
        prefix = f"layer{i}."
        pooler = {n.removeprefix(prefix): x for n, x in p.items() if n.startswith(prefix)}
        poolers.append(pooler)
    return poolers


def attend_layer(
    p: Params, tokens: Tokens, rows: Int[Tensor, " C"], form: Form
) -> tuple[Float[Tensor, "R C D"], Float[Tensor, "R C N"]]:
    """(pooled vectors, attention) of one layer, which all heads of the grid share."""
    pooled, attention = attend_shared_tokens(tokens, rows, compute_query(p), form.eps)
    return finish_pooling(p, project_values(p, pooled), form), attention


def compute_query(p: Params) -> Float[Tensor, "R A D"]:
    """The vector whose product with a token, normalised without gain, is the token's score."""
    q = torch.einsum("rd,radh->rah", p["token"], p["wq"]) + p["bq"]
    return torch.einsum("radh,rah->rad", p["wk"], q) / math.sqrt(q.shape[-1]) * p["gain"][:, None]


def attend_shared_tokens(
    feats: Tokens, rows: Int[Tensor, " C"], u: Float[Tensor, "R A D"], eps: float
) -> tuple[Float[Tensor, "R A C D"], Float[Tensor, "R C N"]]:
    """(averages, weights) where every head of the grid averages the same tokens.

    The weights are means over the attention heads.
    """
    pooled, weight = Attend.apply(feats, rows, u.flatten(0, 1), eps)
    pooled = rearrange(pooled, "(R A) C D -> R A C D", R=len(u))
    return pooled, rearrange(weight, "C (R A) N -> R A C N", R=len(u)).mean(1)


def attend_separate_tokens(
    z: Float[Tensor, "R C N D"], u: Float[Tensor, "R A D"]
) -> tuple[Float[Tensor, "R A C D"], Float[Tensor, "R C N"]]:
    """(averages, weights) where each head of the grid has tokens of its own, behind its blocks."""
    weight = torch.einsum("rcnd,rad->rcan", z, u).softmax(-1)
    return rearrange(weight @ z, "R C A D -> R A C D"), weight.detach().mean(2)


class Attend(torch.autograd.Function):
    """Stored tokens -> weighted averages of the normalised tokens, a few clips at a time.

    Tokens are frozen, so they get no gradient. Backward reads them again instead of saving them.
    """

    @staticmethod
    def forward(
        ctx: Any, feats: Tokens, rows: Int[Tensor, " C"], u: Float[Tensor, "K D"], eps: float
    ) -> Any:
        pooled = u.new_empty(len(u), len(rows), feats.shape[2])  # K C D
        weight = u.new_empty(len(rows), len(u), feats.shape[1])  # C K N
        for chunk, z in read_normalised(feats, rows, u, eps):
            weight[chunk] = torch.softmax(u @ z.mT, -1)
            pooled[:, chunk] = (weight[chunk] @ z).transpose(0, 1)
        ctx.save_for_backward(feats, rows, u, weight, pooled)
        ctx.eps = eps
        ctx.mark_non_differentiable(weight)
        return pooled, weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        feats, rows, u, weight, pooled = ctx.saved_tensors
        grad = grads[0]  # K C D
        # C K 1: the sum of weight * its gradient, which the softmax subtracts.
        shift = (grad * pooled).sum(-1).T[..., None]
        du = torch.zeros_like(u)
        for chunk, z in read_normalised(feats, rows, u, ctx.eps):
            ds = grad[:, chunk].transpose(0, 1) @ z.mT  # C K N
            ds.sub_(shift[chunk]).mul_(weight[chunk])
            du.addmm_(rearrange(ds, "C K N -> K (C N)"), z.flatten(0, 1))
        return None, None, du, None


def read_normalised(
    feats: Tokens, rows: Int[Tensor, " C"], template: Tensor, eps: float
) -> Iterator[tuple[slice, Tensor]]:
    """(slice of `rows`, normalised tokens c N D) of a few clips at a time.

    The tokens lie in a buffer that the next clips overwrite, of the type of `template`. This is
    written out because it was half of the cost of a step: indexing, converting and F.layer_norm
    each fill new memory, which took five times as long.
    """
    clips = max(1, AT_ONCE // feats[0].numel())
    buffer = template.new_empty(clips, *feats.shape[1:])
    for start in range(0, len(rows), clips):
        chunk = slice(start, start + clips)
        for i, row in enumerate(rows[chunk].tolist()):
            buffer[i].copy_(feats[row])
        z = buffer[: len(rows[chunk])]
        z.sub_(z.mean(-1, keepdim=True))
        length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
        yield chunk, z.mul_(length.square_().div_(z.shape[-1]).add_(eps).rsqrt_())


def project_values(p: Params, pooled: Float[Tensor, "R A C D"]) -> Float[Tensor, "R C W"]:
    """The values of averaged tokens.

    Gain and shift of the layer norm go into the weights, which are smaller than the averages.
    """
    w = p["wv"] * p["gain"][:, None, :, None]  # R A D a
    b = p["bv"] + torch.einsum("rd,radh->rah", p["shift"], p["wv"])
    values = torch.baddbmm(b.flatten(0, 1)[:, None], pooled.flatten(0, 1), w.flatten(0, 1))
    return rearrange(values, "(R A) C a -> R C (A a)", R=len(w))


def finish_pooling(p: Params, values: Float[Tensor, "R C W"], form: Form) -> Float[Tensor, "R C D"]:
    """Averaged values -> the pooled vector: a residual and an MLP, or an output projection."""
    if form.complete:
        x = values + p["token"][:, None]
        return x + apply_mlp(p, "", x, form)
    return apply_linear(values, p["wo"], p["bo"])


def classify(p: Params, x: Float[Tensor, "R C D"], mask: Tensor | None) -> Float[Tensor, "R C Q"]:
    return apply_linear(x if mask is None else x * mask, p["wc"], p["bc"])


def apply_block(
    p: Params, prefix: str, x: Float[Tensor, "R C N D"], form: Form
) -> Float[Tensor, "R C N D"]:
    """A block of self-attention. `prefix`: of the names of its parameters."""
    flat = rearrange(x, "R C N D -> R (C N) D")
    normed = apply_norm(p, prefix + "norm1", flat, form)
    qkv = apply_linear(normed, p[prefix + "wqkv"], p[prefix + "bqkv"])
    q, k, v = rearrange(qkv, "R (C N) (k A a) -> k (R C) A N a", C=x.shape[1], k=3, A=form.heads)
    mixed = F.scaled_dot_product_attention(q, k, v)
    mixed = rearrange(mixed, "(R C) A N a -> R (C N) (A a)", R=len(x))
    flat = flat + apply_linear(mixed, p[prefix + "wo"], p[prefix + "bo"])
    return (flat + apply_mlp(p, prefix, flat, form)).view_as(x)


def apply_mlp(
    p: Params, prefix: str, x: Float[Tensor, "R M D"], form: Form
) -> Float[Tensor, "R M D"]:
    normed = apply_norm(p, prefix + "norm2", x, form)
    hidden = F.gelu(apply_linear(normed, p[prefix + "w1"], p[prefix + "b1"]))
    return apply_linear(hidden, p[prefix + "w2"], p[prefix + "b2"])


def apply_norm(
    p: Params, name: str, x: Float[Tensor, "R M D"], form: Form
) -> Float[Tensor, "R M D"]:
    gain, shift = p[name + ".gain"][:, None], p[name + ".shift"][:, None]
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], None, None, form.eps), gain)


def apply_linear(
    x: Float[Tensor, "R M D"], w: Float[Tensor, "R D E"], b: Float[Tensor, "R E"]
) -> Float[Tensor, "R M E"]:
    return torch.baddbmm(b[:, None], x, w)


def initialise(form: Form, heads: int, seed: int) -> Params:
    """The same published initialisation for each of `heads`, which then differ only by setting."""
    generator = torch.Generator().manual_seed(seed)
    initialise_one = initialise_complete if form.complete else initialise_projection
    params = initialise_one(form, generator)
    for i in range(1, form.sources):
        for name, value in initialise_one(form, generator).items():
            if name not in ("wc", "bc"):  # the classifier is one for all layers
                params[f"layer{i}.{name}"] = value
    return {n: repeat(value, "... -> R ...", R=heads).contiguous() for n, value in params.items()}


def initialise_projection(form: Form, generator: torch.Generator) -> Params:
    """The parameters of VideoGLUE's head.

    Keras takes the fans of a kernel D A a as D A and a D, of A a D as A a and A D. The query
    starts at zero.
    """
    D, A, a = form.dim, form.heads, form.width // form.heads

    def uniform(*shape: int, bound: float) -> Tensor:
        return (torch.rand(shape, generator=generator) * 2 - 1) * bound

    inside, outside = math.sqrt(6 / (D * (A + a))), math.sqrt(6 / (A * (a + D)))
    # The order of the draws is part of the published numbers: wq, wk, wv, wo, wc.
    return {
        "token": torch.zeros(D),
        "wq": uniform(A, D, a, bound=inside),
        "wk": uniform(A, D, a, bound=inside),
        "wv": uniform(A, D, a, bound=inside),
        "bq": torch.zeros(A, a),
        "bv": torch.zeros(A, a),
        "gain": torch.ones(D),
        "shift": torch.zeros(D),
        "wo": uniform(A * a, D, bound=outside),
        "bo": torch.zeros(D),
        "wc": uniform(D, form.classes, bound=0.05),
        "bc": torch.zeros(form.classes),
    }


def initialise_complete(form: Form, generator: torch.Generator) -> Params:
    """The parameters of V-JEPA's head.

    Weights are normal with std 0.02, and outputs of block i are divided by sqrt(2 i). The
    classifier starts as nn.Linear does.
    """
    D, A, a, Q = form.dim, form.heads, form.width // form.heads, form.classes

    def normal(*shape: int) -> Tensor:
        return torch.nn.init.trunc_normal_(torch.empty(shape), std=0.02, generator=generator)

    def perceptron(prefix: str, i: int) -> Params:
        return {
            prefix + "norm2.gain": torch.ones(D),
            prefix + "norm2.shift": torch.zeros(D),
            prefix + "w1": normal(D, 4 * D),
            prefix + "b1": torch.zeros(4 * D),
            prefix + "w2": normal(4 * D, D) / math.sqrt(2 * i),
            prefix + "b2": torch.zeros(D),
        }

    params = {
        "token": normal(D),
        "wq": normal(A, D, a),
        "wk": normal(A, D, a),
        "wv": normal(A, D, a),
        "bq": torch.zeros(A, a),
        "bv": torch.zeros(A, a),
        "gain": torch.ones(D),
        "shift": torch.zeros(D),
        **perceptron("", max(form.depth - 1, 1)),
    }
    for i in range(form.depth - 1):
        prefix = f"block{i}."
        params |= {
            prefix + "norm1.gain": torch.ones(D),
            prefix + "norm1.shift": torch.zeros(D),
            prefix + "wqkv": normal(D, 3 * D),
            prefix + "bqkv": torch.zeros(3 * D),
            prefix + "wo": normal(D, D) / math.sqrt(2 * (i + 1)),
            prefix + "bo": torch.zeros(D),
        }
        params |= perceptron(prefix, i + 1)
    bound = 1 / math.sqrt(D)
    params["wc"] = (torch.rand((D, Q), generator=generator) * 2 - 1) * bound
    params["bc"] = (torch.rand((Q,), generator=generator) * 2 - 1) * bound
    return params
