"""Clip -> Features: ResNet with 2-D convolutions first and 3-D ones last, as in DPC (arXiv:1909.04656).

Two things differ from other ResNets: the last stage keeps the width of the one before, and its last block ends without
ReLU, so that features have both signs.
"""

from functools import partial
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.encoders.convnet import halved, quick
from ssvid.errors import UserError, positive
from ssvid.registry import encoders
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index

Size = tuple[int, int, int]  # time, height, width


def conv(ins: int, outs: int, kernel: Size, stride: Size = (1, 1, 1)) -> nn.Conv3d:
    t, h, w = kernel
    return nn.Conv3d(ins, outs, kernel, stride, padding=(t // 2, h // 2, w // 2), bias=False)


class Block(nn.Module):
    def __init__(
        self, ins: int, outs: int, kernel: Size, stride: Size, norm: Any, last: bool
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(ins, outs, kernel, stride), norm(outs)
        self.conv2, self.bn2 = conv(outs, outs, kernel), norm(outs)
        strided = stride != (1, 1, 1) or ins != outs
        self.downsample = (
            nn.Sequential(conv(ins, outs, (1, 1, 1), stride), norm(outs)) if strided else None
        )
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += (
            x if self.downsample is None else self.downsample(x)
        )  # in place: new memory costs as much as the sum
        return y if self.last else F.relu(y, inplace=True)


class ResNet2d3d(Encoder):
    """Stages 1 and 2 see one frame at a time, 3 and 4 halve time and space. `tokens`: the last map, before any ReLU."""

    tiny_kwargs = {"width": 8, "frames": 5, "size": 64}

    def __init__(
        self,
        *,
        blocks: tuple[int, int, int, int],
        width: int = 64,  # channels of the first stage
        running_stats: bool = True,  # False: as DPC was published; such an encoder is no good frozen
        frames: int = 5,  # of a clip
        stride: int = 3,  # of the file's frames
        size: int = 128,  # pixels
    ) -> None:
        super().__init__()
        positive(width=width)
        self.dim, self.spec = 4 * width, ClipSpec(frames=frames, stride=stride, size=size)
        norm = partial(nn.BatchNorm3d, track_running_stats=running_stats)
        self.conv1, self.bn1 = conv(3, width, (1, 7, 7), (1, 2, 2)), norm(width)
        self.maxpool = nn.Sequential(
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)), nn.ReLU(inplace=True)
        )
        flat, deep = (1, 3, 3), (3, 3, 3)
        self.layer1 = stage(blocks[0], width, width, flat, (1, 1, 1), norm)
        self.layer2 = stage(blocks[1], width, 2 * width, flat, (1, 2, 2), norm)
        self.layer3 = stage(blocks[2], 2 * width, 4 * width, deep, (2, 2, 2), norm)
        self.layer4 = stage(blocks[3], 4 * width, 4 * width, deep, (2, 2, 2), norm, last=True)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def grid(self, T: int, H: int, W: int) -> Grid:
        return Grid(halved(T, 2), halved(H, 5), halved(W, 5))

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        if visible is not None or layers:
            raise UserError(
                f"{self.name} is a ConvNet: it cannot leave tokens out, and gives its last map only."
            )
        x = self.maxpool(
            self.bn1(self.conv1(quick(clip)))
        )  # ReLU after the maximum is the same, on a quarter
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        tokens = rearrange(x, "B D t h w -> B (t h w) D")
        return Features(tokens, tokens.mean(1), Grid(*x.shape[2:]))


def stage(
    n: int, ins: int, outs: int, kernel: Size, stride: Size, norm: Any, last: bool = False
) -> nn.Sequential:
    return nn.Sequential(
        *(
            Block(
                outs if i else ins,
                outs,
                kernel,
                (1, 1, 1) if i else stride,
                norm,
                last=last and i == n - 1,
            )
            for i in range(n)
        )
    )


@encoders.register("resnet18_2d3d")
def resnet18_2d3d(**kwargs: Any) -> ResNet2d3d:
    return ResNet2d3d(blocks=(2, 2, 2, 2), **kwargs)


@encoders.register("resnet34_2d3d")
def resnet34_2d3d(**kwargs: Any) -> ResNet2d3d:
    return ResNet2d3d(blocks=(3, 4, 6, 3), **kwargs)
