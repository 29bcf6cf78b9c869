"""tokens, parameters of R attentive heads -> their logits: one learned query, alone or behind blocks of self-attention.

Every parameter has a leading axis R. The query is learned, not computed, so its products with the key weights are made
once a batch: score = (W_k q) . x, and values are projected after the average over tokens. A further head then costs
N x D for each attention head, not N x D x D. The gain of the layer norm goes into the same vector; what shifts all
scores of a clip alike (its bias, a bias of keys) cancels in the softmax. Exact; a test holds it to the plain module.

R heads of the grid   A attention heads   a = W / A   W inner width   K = R * A   C clips at once   E hidden units
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

AT_ONCE = 2**20  # numbers of the tokens that are averaged at once: 4 MB stay in the cache
KEPT = 2**26  # numbers that autograd may keep of the blocks: 256 MB
Params = dict[str, Tensor]


class Form(NamedTuple):
    """What a head is made of."""

    dim: int  # of tokens
    classes: int
    heads: int  # of attention
    width: int  # of attention, inside
    depth: int  # 1: the cross-attention alone; n: behind n - 1 blocks of self-attention
    complete: (
        bool  # True: query + attention + MLP, as V-JEPA; False: an output projection, as VideoGLUE
    )
    eps: float  # of layer norms

    @property
    def at_once(self) -> int:
        """Tokens of the blocks in one backward, so that what autograd keeps is bounded."""
        return KEPT // (17 * self.dim * (self.depth - 1)) if self.depth > 1 else sys.maxsize


def logits(
    p: Params, feats: Tokens, rows: Int[Tensor, " C"], form: Form, mask: Tensor | None = None
) -> tuple[Float[Tensor, "R C Q"], Float[Tensor, "R C N"]]:
    """Of these rows of `feats`; and the attention over their tokens. `mask`: dropout of the pooled vector, C D."""
    if form.depth == 1:
        pooled, attention = shared(feats, rows, query(p), form.eps)
    else:
        x = repeat(feats[rows].to(p["token"]), "C N D -> R C N D", R=len(p["token"]))
        for i in range(form.depth - 1):
            x = block(p, f"block{i}.", x, form)
        pooled, attention = own(F.layer_norm(x, x.shape[-1:], None, None, form.eps), query(p))
    return classify(p, value(p, pooled), form, mask), attention


def query(p: Params) -> Float[Tensor, "R A D"]:
    """The vector whose product with a token, normalised without gain, is its score."""
    q = torch.einsum("rd,radh->rah", p["token"], p["wq"]) + p["bq"]
    return torch.einsum("radh,rah->rad", p["wk"], q) / math.sqrt(q.shape[-1]) * p["gain"][:, None]


def shared(
    feats: Tokens, rows: Int[Tensor, " C"], u: Float[Tensor, "R A D"], eps: float
) -> tuple[Float[Tensor, "R A C D"], Float[Tensor, "R C N"]]:
    """Averages of the same tokens by every head, and the weights averaged over the heads of attention."""
    pooled, weight = Attend.apply(feats, rows, u.flatten(0, 1), eps)
    pooled = rearrange(pooled, "(R A) C D -> R A C D", R=len(u))
    return pooled, rearrange(weight, "C (R A) N -> R A C N", R=len(u)).mean(1)


def own(
    z: Float[Tensor, "R C N D"], u: Float[Tensor, "R A D"]
) -> tuple[Float[Tensor, "R A C D"], Float[Tensor, "R C N"]]:
    """Averages by every head of its own tokens, and the weights averaged over the heads of attention."""
    weight = torch.einsum("rcnd,rad->rcan", z, u).softmax(-1)
    return rearrange(weight @ z, "R C A D -> R A C D"), weight.detach().mean(2)


class Attend(torch.autograd.Function):
    """Tokens as stored -> weighted averages of the normalised ones, a few clips at a time, in both directions.

    Tokens are frozen: they get no gradient, and are read anew for backward rather than kept.
    """

    @staticmethod
    def forward(
        ctx: Any, feats: Tokens, rows: Int[Tensor, " C"], u: Float[Tensor, "K D"], eps: float
    ) -> Any:
        pooled = u.new_empty(len(u), len(rows), feats.shape[2])  # K C D
        weight = u.new_empty(len(rows), len(u), feats.shape[1])  # C K N
        for part, z in read(feats, rows, u, eps):
            weight[part] = torch.softmax(u @ z.mT, -1)
            pooled[:, part] = (weight[part] @ z).transpose(0, 1)
        ctx.save_for_backward(feats, rows, u, weight, pooled)
        ctx.eps = eps
        ctx.mark_non_differentiable(weight)
        return pooled, weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        feats, rows, u, weight, pooled = ctx.saved_tensors
        shift = (
            (grads[0] * pooled).sum(-1).T[..., None]
        )  # C K 1: sum of weight * its gradient, of the softmax
        du = torch.zeros_like(u)
        for part, z in read(feats, rows, u, ctx.eps):
            ds = (
                (grads[0][:, part].transpose(0, 1) @ z.mT).sub_(shift[part]).mul_(weight[part])
            )  # C K N
            du.addmm_(rearrange(ds, "C K N -> K (C N)"), z.flatten(0, 1))
        return None, None, du, None


def read(
    feats: Tokens, rows: Int[Tensor, " C"], like: Tensor, eps: float
) -> Iterator[tuple[slice, Tensor]]:
    """(place in rows, normalised tokens c N D) of a few clips at a time, in a buffer that the next ones overwrite.

    Written out because it was half of the cost of a step: indexing, converting and F.layer_norm each fill new memory,
    which took five times as long.
    """
    clips = max(1, AT_ONCE // feats[0].numel())
    buffer = like.new_empty(clips, *feats.shape[1:])
    for start in range(0, len(rows), clips):
        part = slice(start, start + clips)
        for place, row in enumerate(rows[part].tolist()):
            buffer[place].copy_(feats[row])
        z = buffer[: len(rows[part])]
        z.sub_(z.mean(-1, keepdim=True))
        length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
        yield part, z.mul_(length.square_().div_(z.shape[-1]).add_(eps).rsqrt_())


def value(p: Params, pooled: Float[Tensor, "R A C D"]) -> Float[Tensor, "R C W"]:
    """Gain and shift of the layer norm go into the weights, which are smaller than the averages."""
    w = p["wv"] * p["gain"][:, None, :, None]  # R A D a
    b = p["bv"] + torch.einsum("rd,radh->rah", p["shift"], p["wv"])
    out = torch.baddbmm(b.flatten(0, 1)[:, None], pooled.flatten(0, 1), w.flatten(0, 1))
    return rearrange(out, "(R A) C a -> R C (A a)", R=len(w))


def classify(
    p: Params, out: Float[Tensor, "R C W"], form: Form, mask: Tensor | None
) -> Float[Tensor, "R C Q"]:
    if form.complete:
        x = out + p["token"][:, None]
        x = x + mlp(p, "", x, form)
    else:
        x = linear(out, p["wo"], p["bo"])
    return linear(x if mask is None else x * mask, p["wc"], p["bc"])


def block(p: Params, at: str, x: Float[Tensor, "R C N D"], form: Form) -> Float[Tensor, "R C N D"]:
    flat = rearrange(x, "R C N D -> R (C N) D")
    qkv = linear(norm(p, at + "norm1", flat, form), p[at + "wqkv"], p[at + "bqkv"])
    q, k, v = rearrange(qkv, "R (C N) (k A a) -> k (R C) A N a", C=x.shape[1], k=3, A=form.heads)
    out = rearrange(
        F.scaled_dot_product_attention(q, k, v), "(R C) A N a -> R (C N) (A a)", R=len(x)
    )
    flat = flat + linear(out, p[at + "wo"], p[at + "bo"])
    return (flat + mlp(p, at, flat, form)).view_as(x)


def mlp(p: Params, at: str, x: Float[Tensor, "R M D"], form: Form) -> Float[Tensor, "R M D"]:
    hidden = F.gelu(linear(norm(p, at + "norm2", x, form), p[at + "w1"], p[at + "b1"]))
    return linear(hidden, p[at + "w2"], p[at + "b2"])


def norm(p: Params, at: str, x: Float[Tensor, "R M D"], form: Form) -> Float[Tensor, "R M D"]:
    gain, shift = p[at + ".gain"][:, None], p[at + ".shift"][:, None]
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], None, None, form.eps), gain)


def linear(
    x: Float[Tensor, "R M D"], w: Float[Tensor, "R D E"], b: Float[Tensor, "R E"]
) -> Float[Tensor, "R M E"]:
    return torch.baddbmm(b[:, None], x, w)


def start(form: Form, heads: int, seed: int) -> Params:
    """The same published initialisation for each of `heads`, so that they differ in their settings alone."""
    draw = torch.Generator().manual_seed(seed)
    one = start_complete(form, draw) if form.complete else start_single(form, draw)
    return {
        name: repeat(value, "... -> R ...", R=heads).contiguous() for name, value in one.items()
    }


def start_single(form: Form, draw: torch.Generator) -> Params:
    """VideoGLUE's. Keras takes the fans of a kernel D A a as A D and a D, of A a D as A a and A D. Query: zero."""
    D, A, a = form.dim, form.heads, form.width // form.heads

    def uniform(*shape: int, bound: float) -> Tensor:
        return (torch.rand(shape, generator=draw) * 2 - 1) * bound

    inside, outside = math.sqrt(6 / (D * (A + a))), math.sqrt(6 / (A * (a + D)))
    return {
        "token": torch.zeros(D),
        **{name: uniform(A, D, a, bound=inside) for name in ("wq", "wk", "wv")},
        **{name: torch.zeros(A, a) for name in ("bq", "bv")},
        **{"gain": torch.ones(D), "shift": torch.zeros(D)},
        **{"wo": uniform(A * a, D, bound=outside), "bo": torch.zeros(D)},
        **{"wc": uniform(D, form.classes, bound=0.05), "bc": torch.zeros(form.classes)},
    }


def start_complete(form: Form, draw: torch.Generator) -> Params:
    """V-JEPA's: normals of 0.02, outputs of block i divided by sqrt(2 i); the classifier as nn.Linear."""
    D, A, a, Q = form.dim, form.heads, form.width // form.heads, form.classes

    def normal(*shape: int) -> Tensor:
        return torch.nn.init.trunc_normal_(torch.empty(shape), std=0.02, generator=draw)

    def perceptron(at: str, i: int) -> Params:
        w1, w2 = normal(D, 4 * D), normal(4 * D, D) / math.sqrt(2 * i)
        norm2 = {at + "norm2.gain": torch.ones(D), at + "norm2.shift": torch.zeros(D)}
        return norm2 | {
            at + "w1": w1,
            at + "b1": torch.zeros(4 * D),
            at + "w2": w2,
            at + "b2": torch.zeros(D),
        }

    made = {
        "token": normal(D),
        **{name: normal(A, D, a) for name in ("wq", "wk", "wv")},
        **{name: torch.zeros(A, a) for name in ("bq", "bv")},
        **{"gain": torch.ones(D), "shift": torch.zeros(D)},
        **perceptron("", max(form.depth - 1, 1)),
    }
    for i in range(form.depth - 1):
        at = f"block{i}."
        made |= {at + "norm1.gain": torch.ones(D), at + "norm1.shift": torch.zeros(D)}
        made |= {at + "wqkv": normal(D, 3 * D), at + "bqkv": torch.zeros(3 * D)}
        made |= {at + "wo": normal(D, D) / math.sqrt(2 * (i + 1)), at + "bo": torch.zeros(D)}
        made |= perceptron(at, i + 1)
    bound = 1 / math.sqrt(D)
    classifier = [(torch.rand(shape, generator=draw) * 2 - 1) * bound for shape in ((D, Q), (Q,))]
    return made | dict(zip(("wc", "bc"), classifier, strict=True))
