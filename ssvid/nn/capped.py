"""Queries, keys and values -> attention whose logits are capped (VideoPrism, arXiv:2402.13217).

A logit l becomes cap * tanh(l / cap), so torch's own fused attention cannot be used. No matrix of
attention is stored for a whole clip: a CPU works on a few groups of tokens at a time, and computes
them again in backward; a GPU runs FlexAttention.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CAP = 50.0  # of logits, in every release
BLOCK = 2**20  # logits that are held at a time


class Run(NamedTuple):
    """Groups of equal length, one after the other. The tokens of a group attend to each other."""

    groups: int
    length: int  # tokens of a group


def split_runs(runs: Sequence[Run], rows: int) -> Iterator[tuple[slice, Run]]:
    """Parts of the runs with at most so many rows, but one group at least."""
    first = 0
    for groups, length in runs:
        step = max(1, rows // length)
        for begin in range(0, groups, step):
            n = min(step, groups - begin)
            yield slice(first + begin * length, first + (begin + n) * length), Run(n, length)
        first += groups * length


def attend_capped(
    qkv: Float[Tensor, "R 3 a d"],
    runs: Sequence[Run],
    cap: float = CAP,
    mask: Bool[Tensor, "n q M"] | None = None,
) -> Float[Tensor, "R a d"]:
    """Attention of `a` heads inside each group of tokens. The groups of `runs` fill the R rows.

    `mask`: of one run, the keys M that each query q of a group n attends to; a size of 1 stands for
    all groups or all queries. A query without any key gets the mean of all values, as published.
    """
    if qkv.is_cuda:
        return attend_flex(qkv, runs, cap, mask, compiled=True)
    return BlockwiseAttention.apply(qkv, runs, cap, mask)


class BlockwiseAttention(torch.autograd.Function):
    """It stores queries, keys and values alone. Backward computes the logits again."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, runs: Sequence[Run], cap: float, mask: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(qkv, mask)
        ctx.runs, ctx.cap = runs, cap
        out = torch.empty_like(qkv[:, 0])
        for rows, some, some_mask in split_blocks(qkv, runs, mask):
            weights, _ = compute_weights(some, cap, some_mask)
            mixed = weights.to(qkv.dtype) @ some[2]  # g a L d
            out[rows].view(mixed.transpose(1, 2).shape).copy_(mixed.transpose(1, 2))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, mask = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
        for rows, some, some_mask in split_blocks(qkv, ctx.runs, mask):
            q, k, v = some
            weights, tanh = compute_weights(some, ctx.cap, some_mask)
            grad_out = grad[rows].view(q.transpose(1, 2).shape).transpose(1, 2)  # g a L d
            grad_weights = (grad_out @ v.transpose(2, 3)).to(weights.dtype)  # g a L L
            # The gradient of a softmax, then of the cap: its derivative is 1 - tanh^2.
            mean = (grad_weights * weights).sum(-1, keepdim=True)
            grad_logits = grad_weights.sub_(mean).mul_(weights).mul_(tanh.square_().neg_().add_(1))
            if some_mask is not None:
                grad_logits.masked_fill_(~some_mask, 0)
            grad_logits = (grad_logits * q.shape[-1] ** -0.5).to(q.dtype)
            grads = (
                grad_logits @ k,
                grad_logits.transpose(2, 3) @ q,
                weights.to(q.dtype).transpose(2, 3) @ grad_out,
            )
            target = grad_qkv[rows].view(len(q), -1, *qkv.shape[1:])  # g L 3 a d
            for part, grad_part in enumerate(grads):
                target[:, :, part] = grad_part.transpose(1, 2)
        return grad_qkv, None, None, None


def split_blocks(
    qkv: Float[Tensor, "R 3 a d"], runs: Sequence[Run], mask: Bool[Tensor, "n q M"] | None
) -> Iterator[tuple[slice, tuple[Tensor, ...], Tensor | None]]:
    """Rows of a few groups, their queries, keys and values `g a L d`, and their mask."""
    heads = qkv.shape[2]
    longest = max(run.length for run in runs)
    for rows, (groups, length) in split_runs(runs, BLOCK // (heads * longest)):
        some = qkv[rows].view(groups, length, *qkv.shape[1:])
        parts = tuple(some[:, :, part].transpose(1, 2) for part in range(3))
        some_mask = mask
        if mask is not None and len(mask) > 1:
            begin = rows.start // length  # there is one run, so all groups have this length
            some_mask = mask[begin : begin + groups]
        yield rows, parts, None if some_mask is None else some_mask[:, None]


def compute_weights(
    parts: Sequence[Tensor], cap: float, mask: Bool[Tensor, "n 1 q M"] | None
) -> tuple[Float[Tensor, "g a L M"], Float[Tensor, "g a L M"]]:
    """The weights of attention, and the tanh in their logits, in float32 or more."""
    q, k, _ = parts
    logits = q @ k.transpose(2, 3)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    tanh = logits.mul_(q.shape[-1] ** -0.5 / cap).tanh_()
    capped = cap * tanh
    if mask is not None:
        capped.masked_fill_(~mask, fill_value(capped.dtype))
    return capped.softmax(-1), tanh


def fill_value(dtype: torch.dtype) -> float:
    """What stands for a masked logit. It is finite, so that no softmax is NaN."""
    return -0.7 * torch.finfo(dtype).max


def attend_flex(
    qkv: Float[Tensor, "R 3 a d"],
    runs: Sequence[Run],
    cap: float,
    mask: Bool[Tensor, "n q M"] | None,
    *,
    compiled: bool,
) -> Float[Tensor, "R a d"]:
    """The same by FlexAttention, which changes logits inside its kernel."""
    outs = []
    sizes = [groups * length for groups, length in runs]
    for run, rows in zip(runs, qkv.split(sizes), strict=True):
        parts = rows.view(run.groups, run.length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
        out = get_flex(compiled)(*parts.unbind(0), score_mod=make_score_mod(cap, mask))
        outs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outs)


def make_score_mod(cap: float, mask: Bool[Tensor, "n q M"] | None) -> Callable[..., Tensor]:
    def cap_score(score: Tensor, group: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    if mask is None:
        return cap_score
    many_groups, many_queries = len(mask) > 1, mask.shape[1] > 1

    def mask_score(score: Tensor, group: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        visible = mask[group if many_groups else 0, q if many_queries else 0, k]
        capped = cap_score(score, group, head, q, k)
        return torch.where(visible, capped, fill_value(torch.float32))

    return mask_score


@functools.cache
def get_flex(compiled: bool) -> Callable[..., Any]:
    # The import costs a second, which no run on a CPU should pay.
    from torch.nn.attention.flex_attention import flex_attention

    attend: Callable[..., Any] = flex_attention
    return torch.compile(attend, dynamic=True) if compiled else attend
