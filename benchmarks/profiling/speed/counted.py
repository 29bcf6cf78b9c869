"""Objective, batch -> the bytes that a step saves for backward, and its FLOPs.

Nothing is computed. Tensors have shapes and storages but no values, so that a step that no machine
could hold is counted too. The operators are those of this machine's CPU, fused attention included.
Tests check that bytes and FLOPs are equal to those of a real step.
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

from benchmarks.profiling.speed.pairs import SavedTensors, saved_bytes
from ssvid.encoder import Encoder
from ssvid.nn.position import cached_table
from ssvid.nn.transformer import Block, recompute_blocks
from ssvid.objective import Objective
from ssvid.shapes import Batch

Inputs = tuple[Any, ...]  # of a module's forward


class Side(NamedTuple):
    """What a step of one side costs."""

    tokens: int  # tokens of a clip that the encoder sees
    bytes: int  # most bytes saved for backward at once
    flops: int
    floor: int  # FLOPs of its encoder alone
    attention: str  # names of the fused attention operators; "": plain attention, which saves N x N
    step: float | None = None


def run_step(objective: Objective, batch: Batch) -> None:
    """Forward and backward, without an optimiser."""
    objective(batch).total.backward()
    objective.zero_grad(set_to_none=True)


def count_step(
    objective: Objective, build_batch: Callable[[], Batch], recompute: bool = False
) -> Side:
    """Counts what a step would save and multiply on this CPU.

    `build_batch` runs inside the mode in which tensors have no values. With `recompute` every
    block recomputes its activations in backward.
    """
    tokens: list[int] = []
    with fake_copy(objective) as twin:
        if recompute:
            recompute_blocks(twin)
        batch = build_batch()
        twin.encoder.register_forward_hook(
            lambda net, inputs, features: tokens.append(features.tokens.shape[1])
        )
        with FlopCounterMode(display=False) as flops:
            run_step(twin, batch)
        most = count_saved(twin, batch)
    attention = []
    for operator in map(str, flops.get_flop_counts()["Global"]):
        if "attention" in operator and "backward" not in operator:
            attention.append(operator)
    floor = encoder_flops(objective.encoder, tokens[0], len(batch["clips"]))
    return Side(tokens[0], most, flops.get_total_flops(), floor, ", ".join(sorted(attention)))


@contextmanager
def fake_copy(objective: Objective) -> Iterator[Objective]:
    """A copy of the objective, in a mode in which tensors have no values.

    Position tables stay cached from step to step. The cache is cleared before and after, because
    tables with values and tables without do not fit together.
    """
    cached_table.cache_clear()
    try:
        mode = FakeTensorMode()
        with FakeCopyMode(mode):
            twin = copy.deepcopy(objective)
        with mode:
            yield twin
    finally:
        cached_table.cache_clear()


def count_saved(objective: Objective, batch: Batch) -> int:
    """The most bytes that are saved for backward at once.

    While a block recomputes, the activations that it makes again are counted too.
    """
    saved = SavedTensors()
    blocks = []
    for module in objective.modules():
        if isinstance(module, Block) and module.recompute:
            blocks.append(module)
    inputs: dict[Block, Inputs] = {}
    hooks = []
    for block in blocks:
        hooks.append(block.attn.register_forward_pre_hook(partial(note_inputs, inputs, block)))
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        total = objective(batch).total
        for hook in hooks:
            hook.remove()
        block_bytes = {block: count_block(block, *inputs[block]) for block in blocks}
        hooks = []
        for block in blocks:
            add_bytes = partial(add_block_bytes, saved, block_bytes[block])
            hooks.append(block.attn.register_forward_pre_hook(add_bytes))
        total.backward()
    for hook in hooks:
        hook.remove()
    objective.zero_grad(set_to_none=True)
    return saved.most


def note_inputs(
    inputs: dict[Block, Inputs], block: Block, attention: nn.Module, args: Inputs
) -> None:
    """A forward hook of a block's attention: remembers the shape of its input."""
    inputs[block] = (args[0].shape, *args[1:])


def add_block_bytes(
    saved: SavedTensors, block_bytes: int, attention: nn.Module, args: Inputs
) -> None:
    """A forward hook that runs when backward runs a block again.

    Checkpointing saves the block's tensors where no saved-tensor hook sees them.
    """
    saved.add_untracked(block_bytes)


def count_block(block: Block, shape: torch.Size, last: int | None = None) -> int:
    """Bytes that a block saves when it does not recompute.

    Its input is left out, because it is saved already.
    """
    block.recompute = False
    x = torch.zeros(shape).requires_grad_()  # a leaf, which is not counted
    most = saved_bytes(lambda: block(x, last))
    block.recompute = True
    return most


def encoder_flops(encoder: Encoder, tokens: int, clips: int) -> int:
    """FLOPs of a vit, forward and backward, by formula.

    Fused attention computes its scores again in backward, which makes five products there.
    """
    assert encoder.tubelet is not None  # every encoder with can_skip has one
    D, pixels = encoder.dim, 3 * math.prod(encoder.tubelet)
    embed = 2 * 2 * tokens * pixels * D  # pixels need no gradient
    linear = 3 * 24 * tokens * D * D  # qkv 6, proj 2, mlp 16
    attention = (4 + 10) * tokens * tokens * D
    return clips * (embed + encoder.depth * (linear + attention))
