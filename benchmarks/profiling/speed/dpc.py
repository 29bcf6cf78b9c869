"""A pretraining step of our `dpc` against the plain way it was published in.

ResNet-18, 4 clips of 8 x 5 frames, 128 px.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.profiling.speed.pairs import DEVICE, Case, steps
from ssvid import create_encoder, registry
from ssvid.shapes import Batch

CLIPS, BLOCKS, FRAMES, SIZE = 4, 8, 5, 128


def dpc() -> Case:
    """Forward and backward on random pixels, without optimiser and decoding.

    Both sides use the same weights.
    """
    torch.manual_seed(0)
    ours = registry.objectives["dpc"](
        create_encoder("resnet18_2d3d", frames=FRAMES, size=SIZE), blocks=BLOCKS
    )
    ours, theirs = ours.to(DEVICE), Plain(ours.to(DEVICE))
    clips = torch.randn(CLIPS, 1, 3, BLOCKS * FRAMES, SIZE, SIZE).to(DEVICE)
    zeros = torch.zeros(CLIPS, dtype=torch.int64, device=DEVICE)
    batch: Batch = {"clips": clips, "index": zeros, "epoch": zeros, "seed": 0}
    blocks = in_blocks(clips[:, 0], BLOCKS)

    def step(loss: Callable[[], Tensor]) -> None:
        loss().backward()
        ours.zero_grad(set_to_none=True)

    return steps(lambda: step(lambda: ours(batch).total), lambda: step(lambda: theirs(blocks)))


def in_blocks(clip: Tensor, blocks: int) -> Tensor:
    """B C T H W -> B N C L H W, laid out as the published loader hands it over."""
    return clip.unflatten(2, (blocks, -1)).transpose(1, 2).contiguous()


class Plain:
    """The published sequence of operations, on the parameters of our objective."""

    def __init__(self, ours: Any) -> None:  # our objective; benchmarks must not import its class
        self.ours = ours
        self.mask: Tensor | None = None  # the published code builds it once too

    def __call__(self, blocks: Tensor) -> Tensor:
        B, N, C, L, H, W = blocks.shape
        P = self.ours.predicted
        maps = plain_net(self.ours.encoder, blocks.view(B * N, C, L, H, W))
        maps = F.avg_pool3d(maps, (maps.shape[2], 1, 1), stride=1)
        true = maps.view(B, N, *maps.shape[1:2], *maps.shape[3:])
        context = true.relu()[:, : N - P].contiguous()
        true = true[:, N - P :].contiguous()
        state = torch.zeros_like(context[:, 0])
        for n in range(N - P):
            state = self.cell(context[:, n], state)
        preds = []
        for _ in range(P):
            preds.append(self.ours.predict(state))
            state = self.cell(preds[-1].relu(), state)
        h, w = true.shape[-2:]
        pred = torch.stack(preds, 1).permute(0, 1, 3, 4, 2).contiguous().view(B * P * h * w, -1)
        true = true.permute(0, 1, 3, 4, 2).contiguous().view(B * P * h * w, -1)
        score = torch.matmul(pred, true.transpose(0, 1)).view(B, P, h * w, B, P, h * w)
        if self.mask is None:
            self.mask = plain_mask(B, P, h * w).to(score.device)
        target = (self.mask == 1).view(B * P * h * w, -1).int().argmax(1)
        return F.cross_entropy(score.view(B * P * h * w, -1), target)

    def cell(self, x: Tensor, state: Tensor) -> Tensor:
        gru = self.ours.gru
        (cell,) = gru.cells
        both = torch.cat([x, state], 1)
        update, reset = torch.sigmoid(cell.update(both)), torch.sigmoid(cell.reset(both))
        new = torch.tanh(cell.out(torch.cat([x, state * reset], 1)))
        return gru.dropout(state * (1 - update) + new * update)


def plain_net(net: Any, x: Tensor) -> Tensor:
    x = F.max_pool3d(torch.relu_(net.bn1(net.conv1(x))), (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        for block in stage:
            x = plain_block(block, x)
    return x


def plain_block(block: Any, x: Tensor) -> Tensor:
    y = block.bn2(block.conv2(torch.relu_(block.bn1(block.conv1(x)))))
    y += x if block.downsample is None else block.downsample(x)
    return y if block.last else torch.relu_(y)


def plain_mask(clips: int, steps: int, places: int) -> Tensor:
    """What each pair of places is, as the published code numbers it.

    1: the same place, time and clip; -1: another time of the same place; -3: another place of the
    same clip; 0: another clip.
    """
    mask = torch.zeros(clips, steps, places, clips, steps, places, dtype=torch.int8)
    for b in range(clips):
        mask[b, :, :, b] = -3
        for s in range(places):
            mask[b, :, s, b, :, s] = -1
            for p in range(steps):
                mask[b, p, s, b, p, s] = 1
    return mask
