"""The text encoder of BLIP with one cross-attention written out, so that its weights can be had.

ssvid.nn.bert attends by a fused kernel, which never has them. The layers and their weights are the
same, and so is the output but for rounding.
"""

import math
from typing import NamedTuple, cast

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ssvid.nn.bert import PAD, Bert, BertLayer, Context, CrossAttention
from ssvid.nn.linear import apply_linear
from ssvid.shapes import Tokens


class WatchedPass(NamedTuple):
    """What came of a pass in which a layer was watched."""

    states: Tokens  # of the last layer, with the graph that leads back to the weights
    weights: Float[Tensor, "B a W M"]  # of each head of the watched layer


def ground_watched(
    bert: Bert, ids: Int[Tensor, "B W"], context: Context, layer: int
) -> WatchedPass:
    """The hidden states of sentences that look at a context, and the weights of one layer.

    `layer`: counted from 1. The net is in eval mode. The weights are a leaf: what comes before them
    gets no gradient, so a pass costs no memory for it.
    """
    mask = (ids != PAD)[:, None, None]
    layers = cast("list[BertLayer]", [*bert.layers])
    watched = layers[layer - 1]
    with torch.no_grad():
        x = bert.begin(ids)
        for below in layers[: layer - 1]:
            x = below(x, mask, context)
        x = watched.attention(x, mask)
        weights = weigh_context(watched.cross, x, context)
    with torch.enable_grad():
        weights.requires_grad_()
        x = watched.feed(read_context(watched.cross, x, context, weights))
        for above in layers[layer:]:
            x = above(x, mask, context)
    return WatchedPass(x, weights)


def weigh_context(cross: CrossAttention, x: Tokens, context: Context) -> Float[Tensor, "B a W M"]:
    """How much each token reads of each token of the context; they sum to 1 over it."""
    q = split_heads(apply_linear(cross.q, x), cross.heads)
    k = split_heads(cross.map_context(cross.k, context), cross.heads)
    products = q @ k.mT / math.sqrt(q.shape[-1])
    if context.mask is not None:
        products = products.masked_fill(~context.mask[:, None, None], -math.inf)
    return products.softmax(-1)


def read_context(
    cross: CrossAttention, x: Tokens, context: Context, weights: Float[Tensor, "B a W M"]
) -> Tokens:
    """x, and what its tokens read by these weights, normalised."""
    v = split_heads(cross.map_context(cross.v, context), cross.heads)
    mixed = rearrange(weights @ v, "B a W d -> B W (a d)")
    return cross.norm(x + apply_linear(cross.proj, mixed))


def split_heads(x: Float[Tensor, "B N D"], heads: int) -> Float[Tensor, "B a N d"]:
    return rearrange(x, "B N (a d) -> B a N d", a=heads)
