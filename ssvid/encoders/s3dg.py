"""Clip -> Features: MIL-NCE's S3D-G (arXiv:1912.06430): pixels from 0 to 1, gates, pools padded as TensorFlow does.

The linear map to words' space that the published files hold behind it belongs to the objective `mil_nce`.
"""

from functools import partial

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.encoders.convnet import halved, quick
from ssvid.encoders.s3d import Gate, Three, conv, mixed, scaled, separable
from ssvid.errors import UserError, positive
from ssvid.registry import encoders
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index


class SamePool(nn.Module):
    """Max pool that leaves half of an odd size rounded up: zeros on the right alone, and windows that end outside.

    What is pooled here comes out of a ReLU, so a zero beside it changes no maximum: only an odd size, whose last window
    would be missing, is padded at all.
    """

    def __init__(self, kernel: Three, stride: Three) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        sizes = zip(x.shape[2:], self.kernel, self.stride, strict=True)
        t, h, w = (n % 2 * (k - s) for n, k, s in sizes)
        x = F.pad(x, (0, w, 0, h, 0, t)) if t or h or w else x
        return F.max_pool3d(x, self.kernel, self.stride, ceil_mode=True)


@encoders.register("s3dg")
class S3DG(Encoder):
    """1024 channels at T/8 x H/32 x W/32, sizes rounded up. `tokens` are mixed_5c, `pooled` their mean."""

    tiny_kwargs = {"width": 0.125, "frames": 16, "size": 64}
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(
        self,
        *,
        stem: str = "s2d",  # s2d: of cells of 2x2x2, as the released net; or plain, as the training code's
        width: float = 1.0,  # of every layer; 1 as published
        frames: int = 32,  # of a clip
        fps: float = 10.0,  # frames a second
        size: int = 200,  # pixels of a side
    ) -> None:
        super().__init__()
        if stem not in ("s2d", "plain"):
            raise UserError(f"s3dg has no stem {stem!r}: take s2d or plain.")
        positive(width=width)
        self.spec, self.cells = ClipSpec(frames=frames, fps=fps, size=size), stem == "s2d"
        wide, norm = partial(scaled, by=width), nn.BatchNorm3d
        first = (
            conv(24, wide(64), norm, kernel=(2, 4, 4), pad=(1, 2, 2))
            if self.cells
            else conv(3, wide(64), norm, kernel=(3, 7, 7), stride=2, pad=(1, 3, 3))
        )
        self.stem = nn.Sequential(
            first,
            SamePool((1, 3, 3), (1, 2, 2)),
            conv(wide(64), wide(64), norm),
            nn.Sequential(separable(wide(64), wide(192), norm, kernel=3), Gate(wide(192))),
            SamePool((1, 3, 3), (1, 2, 2)),
        )
        self.mixed3, outs = mixed("3", wide(192), width, norm, gating=True)
        self.pool4 = SamePool((3, 3, 3), (2, 2, 2))
        self.mixed4, outs = mixed("4", outs, width, norm, gating=True)
        self.pool5 = SamePool((2, 2, 2), (2, 2, 2))
        self.mixed5, self.dim = mixed("5", outs, width, norm, gating=True)

    def grid(self, T: int, H: int, W: int) -> Grid:
        if self.cells:  # what fills no cell of 2x2x2 is left out
            T, H, W = T // 2 * 2, H // 2 * 2, W // 2 * 2
        return Grid(halved(T, 3), halved(H, 5), halved(W, 5))

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        if visible is not None or layers:
            raise UserError(
                f"{self.name} is a ConvNet: it cannot leave tokens out, and gives its last map only."
            )
        if not self.grid(*clip.shape[2:]).n:
            raise UserError(
                f"A clip of {clip.shape[2]} frame(s) is too short for {self.name}: it takes them in pairs."
            )
        x = self.embedded(clip)
        for stage in (self.stem[1:], self.mixed3, self.pool4, self.mixed4, self.pool5, self.mixed5):
            x = stage(x)
        tokens = rearrange(x, "B D t h w -> B (t h w) D")
        return Features(tokens, tokens.mean(1), Grid(*x.shape[2:]))

    def embedded(self, clip: Clip) -> Tensor:
        """The first convolution, B D T/2 H/2 W/2."""
        if not self.cells:
            return self.stem[0](quick(clip))
        T, H, W = (n // 2 * 2 for n in clip.shape[2:])
        cells = rearrange(
            clip[:, :, :T, :H, :W], "B C (T t) (H h) (W w) -> B (t h w C) T H W", t=2, h=2, w=2
        )
        # Padded on both sides, of which the published net leaves the first place out: behind its norm, which saw it.
        return self.stem[0](quick(cells))[:, :, 1:, 1:, 1:]
