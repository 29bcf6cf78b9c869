"""A stranger's 3-D ConvNet -> Encoder: its last map as tokens. Used by the pytorchvideo and torchvision nets."""

from collections.abc import Callable

from einops import rearrange
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.errors import UserError
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index


class ConvNet(Encoder):
    """`body` gives the last map `B D t h w`; `grid` counts what its strides leave."""

    tiny = {"frames": 8, "size": 64}

    def __init__(
        self,
        body: nn.Module,
        dim: int,
        spec: ClipSpec,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        grid: Callable[[int, int, int], tuple[int, int, int]],
    ) -> None:
        super().__init__()
        self.body, self.dim, self.spec, self.mean, self.std = body, dim, spec, mean, std
        self._grid = grid

    def grid(self, T: int, H: int, W: int) -> Grid:
        return Grid(*self._grid(T, H, W))

    def forward(self, clip: Clip, keep: Index | None = None, layers: tuple[int, ...] | None = None) -> Features:
        if keep is not None or layers:
            raise UserError(f"{self.name} is a ConvNet: it cannot leave tokens out, and gives its last map only.")
        x: Tensor = self.body(clip)
        tokens = rearrange(x, "B D t h w -> B (t h w) D")
        return Features(tokens, tokens.mean(1), Grid(*x.shape[2:]))


def halved(n: int, times: int) -> int:
    """A padded stride-2 convolution rounds up."""
    for _ in range(times):
        n = (n + 1) // 2
    return n
