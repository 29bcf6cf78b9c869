"""Clip -> Features: the S3D-G of MIL-NCE (arXiv:1912.06430).

It takes pixels from 0 to 1, has gates, and pads its pools as TensorFlow does. The published files
hold a linear map to the space of words behind it, which belongs to the objective `mil_nce`.
"""

from functools import partial

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.encoders.convnet import channels_last_on_cpu, halve
from ssvid.encoders.s3d import (
    Gate,
    Size3d,
    make_conv,
    make_mixed_stage,
    make_separable,
    scale_width,
)
from ssvid.errors import UserError, check_positive
from ssvid.registry import encoders
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index


class SamePool(nn.Module):
    """A max pool that rounds half of an odd size up.

    It pads zeros on the right only, and its windows may end outside. Its input comes out of a ReLU,
    so a zero beside it changes no maximum. Therefore only an odd size is padded, whose last window
    would be missing.
    """

    def __init__(self, kernel: Size3d, stride: Size3d) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        sizes = zip(x.shape[2:], self.kernel, self.stride, strict=True)
        t, h, w = (n % 2 * (k - s) for n, k, s in sizes)
        x = F.pad(x, (0, w, 0, h, 0, t)) if t or h or w else x
        return F.max_pool3d(x, self.kernel, self.stride, ceil_mode=True)


@encoders.register("s3dg")
class S3DG(Encoder):
    """1024 channels at T/8 x H/32 x W/32, rounded up.

    `tokens` are the map of mixed_5c, and `pooled` is their mean.
    """

    tiny_kwargs = {"width": 0.125, "frames": 16, "size": 64}
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(
        self,
        *,
        # s2d: on cells of 2x2x2, as in the released net; plain: as in the training code
        stem: str = "s2d",
        width: float = 1.0,  # of every layer; 1 as published
        frames: int = 32,  # of a clip
        fps: float = 10.0,  # frames a second
        size: int = 200,  # pixels of a side
    ) -> None:
        super().__init__()
        if stem not in ("s2d", "plain"):
            raise UserError(f"s3dg has no stem {stem!r}: take s2d or plain.")
        check_positive(width=width)
        self.spec, self.cells = ClipSpec(frames=frames, fps=fps, size=size), stem == "s2d"
        wide, norm = partial(scale_width, by=width), nn.BatchNorm3d
        first = (
            make_conv(24, wide(64), norm, kernel=(2, 4, 4), pad=(1, 2, 2))
            if self.cells
            else make_conv(3, wide(64), norm, kernel=(3, 7, 7), stride=2, pad=(1, 3, 3))
        )
        self.stem = nn.Sequential(
            first,
            SamePool((1, 3, 3), (1, 2, 2)),
            make_conv(wide(64), wide(64), norm),
            nn.Sequential(make_separable(wide(64), wide(192), norm, kernel=3), Gate(wide(192))),
            SamePool((1, 3, 3), (1, 2, 2)),
        )
        self.mixed3, outs = make_mixed_stage("3", wide(192), width, norm, gating=True)
        self.pool4 = SamePool((3, 3, 3), (2, 2, 2))
        self.mixed4, outs = make_mixed_stage("4", outs, width, norm, gating=True)
        self.pool5 = SamePool((2, 2, 2), (2, 2, 2))
        self.mixed5, self.dim = make_mixed_stage("5", outs, width, norm, gating=True)

    def grid(self, T: int, H: int, W: int) -> Grid:
        if self.cells:  # pixels that fill no cell of 2x2x2 are left out
            T, H, W = T // 2 * 2, H // 2 * 2, W // 2 * 2
        return Grid(halve(T, 3), halve(H, 5), halve(W, 5))

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        if visible is not None or layers:
            raise UserError(
                f"{self.name} is a ConvNet: it cannot leave tokens out, and returns its last map "
                "only."
            )
        if not self.grid(*clip.shape[2:]).n:
            raise UserError(
                f"A clip of {clip.shape[2]} frame(s) is too short for {self.name}, which takes "
                "frames in pairs."
            )
        x = self.convolve_first(clip)
        for stage in (self.stem[1:], self.mixed3, self.pool4, self.mixed4, self.pool5, self.mixed5):
            x = stage(x)
        tokens = rearrange(x, "B D t h w -> B (t h w) D")
        return Features(tokens, tokens.mean(1), Grid(*x.shape[2:]))

    def convolve_first(self, clip: Clip) -> Tensor:
        """The output of the first convolution, B D T/2 H/2 W/2."""
        if not self.cells:
            return self.stem[0](channels_last_on_cpu(clip))
        T, H, W = (n // 2 * 2 for n in clip.shape[2:])
        cells = rearrange(
            clip[:, :, :T, :H, :W], "B C (T t) (H h) (W w) -> B (t h w C) T H W", t=2, h=2, w=2
        )
        # The convolution pads both sides. The published net leaves the first position out, but only
        # behind its norm, which therefore sees it.
        return self.stem[0](channels_last_on_cpu(cells))[:, :, 1:, 1:, 1:]
