"""Clip -> Features: a ResNet with 2-D convolutions first and 3-D ones last (DPC, arXiv:1909.04656).

It differs from other ResNets in two ways. The last stage is as wide as the stage before it. Its
last block ends without ReLU, so that features have both signs.
"""

from functools import partial
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.encoders.convnet import channels_last_on_cpu, halve
from ssvid.errors import UserError, check_positive
from ssvid.registry import encoders
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index

Size = tuple[int, int, int]  # time, height, width


def make_conv(ins: int, outs: int, kernel: Size, stride: Size = (1, 1, 1)) -> nn.Conv3d:
    t, h, w = kernel
    return nn.Conv3d(ins, outs, kernel, stride, padding=(t // 2, h // 2, w // 2), bias=False)


class Block(nn.Module):
    def __init__(
        self, ins: int, outs: int, kernel: Size, stride: Size, norm: Any, last: bool
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = make_conv(ins, outs, kernel, stride), norm(outs)
        self.conv2, self.bn2 = make_conv(outs, outs, kernel), norm(outs)
        strided = stride != (1, 1, 1) or ins != outs
        self.downsample = (
            nn.Sequential(make_conv(ins, outs, (1, 1, 1), stride), norm(outs)) if strided else None
        )
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        # The sum is in place, because new memory costs as much time as the sum itself.
        y += x if self.downsample is None else self.downsample(x)
        return y if self.last else F.relu(y, inplace=True)


class ResNet2d3d(Encoder):
    """Stages 1 and 2 see one frame at a time; stages 3 and 4 halve time and space.

    `tokens` are the last map, before any ReLU.
    """

    tiny_kwargs = {"width": 8, "frames": 5, "size": 64}

    def __init__(
        self,
        *,
        blocks: tuple[int, int, int, int],
        width: int = 64,  # channels of the first stage
        # keep batch-norm statistics; False: as DPC was published, useless as a frozen encoder
        running_stats: bool = True,
        frames: int = 5,  # of a clip
        stride: int = 3,  # of the file's frames
        size: int = 128,  # pixels
    ) -> None:
        super().__init__()
        check_positive(width=width)
        self.dim, self.spec = 4 * width, ClipSpec(frames=frames, stride=stride, size=size)
        norm = partial(nn.BatchNorm3d, track_running_stats=running_stats)
        self.conv1, self.bn1 = make_conv(3, width, (1, 7, 7), (1, 2, 2)), norm(width)
        self.maxpool = nn.Sequential(
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)), nn.ReLU(inplace=True)
        )
        flat, deep = (1, 3, 3), (3, 3, 3)
        self.layer1 = make_stage(blocks[0], width, width, flat, (1, 1, 1), norm)
        self.layer2 = make_stage(blocks[1], width, 2 * width, flat, (1, 2, 2), norm)
        self.layer3 = make_stage(blocks[2], 2 * width, 4 * width, deep, (2, 2, 2), norm)
        self.layer4 = make_stage(blocks[3], 4 * width, 4 * width, deep, (2, 2, 2), norm, last=True)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def grid(self, T: int, H: int, W: int) -> Grid:
        return Grid(halve(T, 2), halve(H, 5), halve(W, 5))

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        if visible is not None or layers:
            raise UserError(
                f"{self.name} is a ConvNet: it cannot leave tokens out, and returns its last map "
                "only."
            )
        # The ReLU stands behind the maximum, where it gives the same with a quarter of the work.
        x = self.maxpool(self.bn1(self.conv1(channels_last_on_cpu(clip))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        tokens = rearrange(x, "B D t h w -> B (t h w) D")
        return Features(tokens, tokens.mean(1), Grid(*x.shape[2:]))


def make_stage(
    n: int, ins: int, outs: int, kernel: Size, stride: Size, norm: Any, last: bool = False
) -> nn.Sequential:
    """`n` blocks, of which the first has the stride. `last`: the final block ends without ReLU."""
    blocks = []
    for i in range(n):
        is_last = last and i == n - 1
        if i == 0:
            blocks.append(Block(ins, outs, kernel, stride, norm, is_last))
        else:
            blocks.append(Block(outs, outs, kernel, (1, 1, 1), norm, is_last))
    return nn.Sequential(*blocks)


@encoders.register("resnet18_2d3d")
def resnet18_2d3d(**kwargs: Any) -> ResNet2d3d:
    return ResNet2d3d(blocks=(2, 2, 2, 2), **kwargs)


@encoders.register("resnet34_2d3d")
def resnet34_2d3d(**kwargs: Any) -> ResNet2d3d:
    return ResNet2d3d(blocks=(3, 4, 6, 3), **kwargs)
