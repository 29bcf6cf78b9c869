"""A step of our `s3dg` with MIL-NCE's video head against the plain way it was published in.

2 clips of 16 frames, 112 px.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.profiling.speed.pairs import DEVICE, Case, steps
from ssvid import create_encoder

CLIPS, FRAMES, SIZE, DIM = 2, 16, 112, 512


def milnce() -> Case:
    """Forward and backward on random pixels, without an optimiser.

    The loss is the mean square of the vectors. Both sides use the same weights.
    """
    torch.manual_seed(0)
    encoder = create_encoder("s3dg", frames=FRAMES, size=SIZE).to(DEVICE)
    head = nn.Linear(encoder.dim, DIM).to(DEVICE)
    clips = torch.rand(CLIPS, 3, FRAMES, SIZE, SIZE, device=DEVICE)
    theirs = Plain(encoder)

    def step(pooled: Tensor) -> None:
        head(pooled).square().mean().backward()
        encoder.zero_grad(set_to_none=True)
        head.zero_grad(set_to_none=True)

    return steps(lambda: step(encoder(clips).pooled), lambda: step(theirs(clips)))


class Plain:
    """The published sequence of operations, on the parameters of our encoder (stem s2d)."""

    def __init__(self, ours: Any) -> None:  # our encoder; benchmarks must not import its class
        self.ours = ours

    def __call__(self, x: Tensor) -> Tensor:
        net = self.ours
        B, C, T, H, W = x.shape
        x = (
            x.view(B, C, T // 2, 2, H // 2, 2, W // 2, 2)
            .permute(0, 3, 5, 7, 1, 2, 4, 6)
            .contiguous()
        )
        x = net.stem[0](x.view(B, 8 * C, T // 2, H // 2, W // 2))[:, :, 1:, 1:, 1:]
        x = net.stem[2](pool(x, net.stem[1]))
        x = pool(gate(net.stem[3][1], net.stem[3][0](x)), net.stem[4])
        for block in net.mixed3:
            x = mixed(block, x)
        x = pool(x, net.pool4)
        for block in net.mixed4:
            x = mixed(block, x)
        x = pool(x, net.pool5)
        for block in net.mixed5:
            x = mixed(block, x)
        return x.mean((2, 3, 4))


def pool(x: Tensor, same: Any) -> Tensor:
    """Max pooling with zeros on both sides, whatever the size of the map."""
    pad: list[int] = []
    for kernel, stride in zip(reversed(same.kernel), reversed(same.stride), strict=True):
        excess = kernel - stride
        pad += [excess // 2, excess - excess // 2]
    return F.max_pool3d(F.pad(x, pad), same.kernel, same.stride, ceil_mode=True)


def gate(ours: Any, x: Tensor) -> Tensor:
    weight = torch.sigmoid(ours.linear(torch.mean(x, dim=[2, 3, 4])))
    return weight[:, :, None, None, None] * x


def mixed(block: Any, x: Tensor) -> Tensor:
    return torch.cat(
        [gate(g, branch(x)) for branch, g in zip(block.branches, block.gates, strict=True)], dim=1
    )
