"""Clip -> Features: S3D, a separable 3-D Inception (arXiv:1712.04851).

Its batch norm is that of CoCLR (torch's defaults). `gating` gates the channels of each branch of
the Mixed blocks, where CoCLR has its gates. The S3D-G of MIL-NCE has one more gate and other
pools: see s3dg.py.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.encoders.convnet import channels_last_on_cpu, halve
from ssvid.errors import UserError
from ssvid.registry import encoders
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index

Norm = Callable[[int], nn.Module]
Size3d = tuple[int, int, int]  # time, height, width


def make_conv(
    ins: int,
    outs: int,
    norm: Norm,
    *,
    kernel: Size3d = (1, 1, 1),
    stride: int = 1,
    pad: Size3d = (0, 0, 0),
) -> nn.Sequential:
    """Convolution (1x1x1 by default), batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv3d(ins, outs, kernel, stride, pad, bias=False), norm(outs), nn.ReLU(inplace=True)
    )


def make_separable(
    ins: int, outs: int, norm: Norm, *, kernel: int, stride: int = 1
) -> nn.Sequential:
    """A convolution over space, then one over time, each with batch norm and ReLU."""
    pad = kernel // 2
    return nn.Sequential(
        nn.Conv3d(ins, outs, (1, kernel, kernel), (1, stride, stride), (0, pad, pad), bias=False),
        norm(outs),
        nn.ReLU(inplace=True),
        nn.Conv3d(outs, outs, (kernel, 1, 1), (stride, 1, 1), (pad, 0, 0), bias=False),
        norm(outs),
        nn.ReLU(inplace=True),
    )


class Gate(nn.Module):
    """Multiplies each channel by a weight from 0 to 1, computed from the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.linear(x.mean((2, 3, 4))).sigmoid()  # B C
        return x * weight[..., None, None, None]


class Widths(NamedTuple):
    """Channels of the branches of a Mixed block; a pair is the inner and the outer width."""

    b0: int
    b1: tuple[int, int]
    b2: tuple[int, int]
    b3: int


class Mixed(nn.Module):
    def __init__(self, ins: int, widths: Widths, norm: Norm, gating: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                make_conv(ins, widths.b0, norm),
                nn.Sequential(
                    make_conv(ins, widths.b1[0], norm), make_separable(*widths.b1, norm, kernel=3)
                ),
                nn.Sequential(
                    make_conv(ins, widths.b2[0], norm), make_separable(*widths.b2, norm, kernel=3)
                ),
                nn.Sequential(nn.MaxPool3d(3, 1, 1), make_conv(ins, widths.b3, norm)),
            ]
        )
        outs = (widths.b0, widths.b1[1], widths.b2[1], widths.b3)
        self.gates = nn.ModuleList(Gate(n) if gating else nn.Identity() for n in outs)
        self.out = sum(outs)

    def forward(self, x: Tensor) -> Tensor:
        pairs = zip(self.branches, self.gates, strict=True)
        return torch.cat([gate(branch(x)) for branch, gate in pairs], dim=1)


MIXED = {
    "3b": Widths(64, (96, 128), (16, 32), 32),
    "3c": Widths(128, (128, 192), (32, 96), 64),
    "4b": Widths(192, (96, 208), (16, 48), 64),
    "4c": Widths(160, (112, 224), (24, 64), 64),
    "4d": Widths(128, (128, 256), (24, 64), 64),
    "4e": Widths(112, (144, 288), (32, 64), 64),
    "4f": Widths(256, (160, 320), (32, 128), 128),
    "5b": Widths(256, (160, 320), (32, 128), 128),
    "5c": Widths(384, (192, 384), (48, 128), 128),
}


def scale_width(channels: int, by: float) -> int:
    """The published number of channels times a factor, at least 4."""
    return max(4, round(channels * by))


def make_mixed_stage(
    stage: str, ins: int, width: float, norm: Norm, gating: bool
) -> tuple[nn.Sequential, int]:
    """The Mixed blocks of a stage (3, 4 or 5), and the number of channels behind them."""
    wide, blocks = partial(scale_width, by=width), []
    for name, (b0, (b1_in, b1), (b2_in, b2), b3) in MIXED.items():
        if name[0] != stage:
            continue
        widths = Widths(wide(b0), (wide(b1_in), wide(b1)), (wide(b2_in), wide(b2)), wide(b3))
        blocks.append(Mixed(ins, widths, norm, gating))
        ins = blocks[-1].out
    return nn.Sequential(*blocks), ins


@encoders.register("s3d")
class S3D(Encoder):
    """1024 channels at T/8 x H/32 x W/32. `tokens` are the last map, `pooled` their mean."""

    tiny_kwargs = {"width": 0.125, "frames": 16, "size": 64}

    def __init__(
        self,
        *,
        width: float = 1.0,  # of every layer; 1 as published
        gating: bool = False,  # of each branch: S3D-G
        # keep batch-norm statistics; False: for a checkpoint without, useless as a frozen encoder
        running_stats: bool = True,
        frames: int = 32,  # of a clip
        stride: int = 1,  # of the file's frames
        size: int = 128,  # pixels of a side
    ) -> None:
        super().__init__()
        self.spec = ClipSpec(frames=frames, stride=stride, size=size)
        wide = partial(scale_width, by=width)
        norm = partial(nn.BatchNorm3d, track_running_stats=running_stats)
        self.stem = nn.Sequential(
            make_separable(3, wide(64), norm, kernel=7, stride=2),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            make_conv(wide(64), wide(64), norm),
            make_separable(wide(64), wide(192), norm, kernel=3),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        self.mixed3, outs = make_mixed_stage("3", wide(192), width, norm, gating)
        self.mixed4, outs = make_mixed_stage("4", outs, width, norm, gating)
        self.mixed5, self.dim = make_mixed_stage("5", outs, width, norm, gating)
        self.pool4 = nn.MaxPool3d(3, 2, 1)
        self.pool5 = nn.MaxPool3d(2, 2)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.normal_(module.weight, std=0.01)

    def grid(self, T: int, H: int, W: int) -> Grid:
        # The last pool has no padding, so it rounds down.
        return Grid(halve(T, 2) // 2, halve(H, 4) // 2, halve(W, 4) // 2)

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        if visible is not None or layers:
            raise UserError(
                f"{self.name} is a ConvNet: it cannot leave tokens out, and returns its last map "
                "only."
            )
        x = self.run_stages(clip)[-1]
        grid = Grid(*x.shape[2:])
        tokens = rearrange(x, "B D t h w -> B (t h w) D")
        return Features(tokens, tokens.mean(1), grid)

    def run_stages(self, clip: Clip) -> list[Tensor]:
        """The maps after each of the five stages, B C t h w."""
        first = self.stem[0](channels_last_on_cpu(clip))
        second = self.stem[3](self.stem[2](self.stem[1](first)))
        third = self.mixed3(self.stem[4](second))
        fourth = self.mixed4(self.pool4(third))
        return [first, second, third, fourth, self.mixed5(self.pool5(fourth))]
