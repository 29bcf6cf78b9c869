"""An objective and a batch -> what a step of it keeps for backward and multiplies, with nothing
computed.

Tensors have shapes and storages but no numbers, so a step that no machine could hold is counted
too. The operators are those of this machine's CPU, fused attention included; tests hold bytes and
FLOPs equal to those of a real step.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.profiling.speed.pairs import Saved, saved_bytes
from ssvid.encoder import Encoder
from ssvid.nn.position import cached_table
from ssvid.nn.transformer import Block, recompute_blocks
from ssvid.objective import Objective
from ssvid.shapes import Batch


class Side(NamedTuple):
    """What a step costs."""

    tokens: int  # of a clip, that the encoder sees
    bytes: int  # kept for backward at once
    flops: int
    floor: int  # FLOPs of its encoder alone
    attention: str  # operators that its attention ran through; none named: the plain one, which keeps N x N
    step: float | None = None


def step(made: Objective, batch: Batch) -> None:
    made(batch).total.backward()
    made.zero_grad(set_to_none=True)


def counted(made: Objective, batch: Callable[[], Batch], recompute: bool = False) -> Side:
    """What a step on this CPU would keep and multiply, on tensors that have shapes and storages but
    no numbers.
    """
    tokens: list[int] = []
    with fake(made) as twin:
        if recompute:
            recompute_blocks(twin)
        clips = batch()
        twin.encoder.register_forward_hook(
            lambda net, given, got: tokens.append(got.tokens.shape[1])
        )
        with FlopCounterMode(display=False) as flops:
            step(twin, clips)
        most = kept(twin, clips)
    seen = [
        str(op)
        for op in flops.get_flop_counts()["Global"]
        if "attention" in str(op) and "backward" not in str(op)
    ]
    floor = encoder_flops(made.encoder, tokens[0], len(clips["clips"]))
    return Side(tokens[0], most, flops.get_total_flops(), floor, ", ".join(sorted(seen)))


@contextmanager
def fake(made: Objective) -> Iterator[Objective]:
    """A copy of it, in a mode that computes nothing."""
    cached_table.cache_clear()  # tables of positions are kept from step to step: real ones do not fit fake ones
    try:
        mode = FakeTensorMode()
        with FakeCopyMode(mode):
            twin = copy.deepcopy(made)
        with mode:
            yield twin
    finally:
        cached_table.cache_clear()


def kept(made: Objective, batch: Batch) -> int:
    """The most bytes that are kept for backward at once; while a block recomputes, what it makes
    again among them.
    """
    saved, blocks = (
        Saved(),
        [part for part in made.modules() if isinstance(part, Block) and part.recompute],
    )
    given: dict[Block, tuple[Any, ...]] = {}
    hooks = [block.attn.register_forward_pre_hook(partial(note, given, block)) for block in blocks]
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        total = made(batch).total
        for hook in hooks:
            hook.remove()
        own = {block: alone(block, *given[block]) for block in blocks}
        hooks = [
            block.attn.register_forward_pre_hook(partial(beside, saved, own[block]))
            for block in blocks
        ]
        total.backward()
    for hook in hooks:
        hook.remove()
    made.zero_grad(set_to_none=True)
    return saved.most


def note(
    given: dict[Block, tuple[Any, ...]], block: Block, attention: nn.Module, args: tuple[Any, ...]
) -> None:
    given[block] = (args[0].shape, *args[1:])


def beside(saved: Saved, own: int, attention: nn.Module, args: tuple[Any, ...]) -> None:
    """Runs as a block is run again: checkpointing keeps what comes of it where no hook looks."""
    saved.beside(own)


def alone(block: Block, shape: torch.Size, last: int | None = None) -> int:
    """Bytes that it keeps when it does not recompute, without its input: that is kept already."""
    block.recompute = False
    x = torch.zeros(shape).requires_grad_()  # a leaf, which is not counted
    most = saved_bytes(lambda: block(x, last))
    block.recompute = True
    return most


def encoder_flops(encoder: Encoder, tokens: int, clips: int) -> int:
    """Of a vit, forward and backward, by hand.

    Fused attention makes its scores again for backward: five products.
    """
    assert encoder.tubelet is not None  # can_skip promises it
    D, pixels = encoder.dim, 3 * math.prod(encoder.tubelet)
    embed = 2 * 2 * tokens * pixels * D  # pixels need no gradient
    linear = 3 * 24 * tokens * D * D  # qkv 6, proj 2, mlp 16
    attention = (4 + 10) * tokens * tokens * D
    return clips * (embed + encoder.depth * (linear + attention))
