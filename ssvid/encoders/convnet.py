"""A stranger's 3-D ConvNet -> Encoder: its last map as tokens. Used by the pytorchvideo and torchvision nets."""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.errors import UserError
from ssvid.log import log
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean, std


class ConvNet(Encoder):
    """`body`, the library's net less its head, gives the last map `B D t h w`; `grid` counts what its strides leave."""

    def __init__(
        self,
        net: nn.Module,  # as the library makes it
        body: nn.Module,  # of the net's own modules
        dim: int,
        spec: ClipSpec,
        normalisation: Normalisation,
        grid: Callable[[int, int, int], tuple[int, int, int]],
        tiny_kwargs: dict[str, Any],
    ) -> None:
        super().__init__()
        self.body, self.dim, self.spec, self.tiny_kwargs = body, dim, spec, tiny_kwargs
        self.mean, self.std = normalisation
        self._grid, self.layout = grid, layout_of(net, self)

    def grid(self, T: int, H: int, W: int) -> Grid:
        return Grid(*self._grid(T, H, W))

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        if visible is not None or layers:
            raise UserError(
                f"{self.name} is a ConvNet: it cannot leave tokens out, and gives its last map only."
            )
        if not self.grid(*clip.shape[2:]).n:
            raise UserError(
                f"A clip of {clip.shape[2]} frame(s) is too short for {self.name}: it pools them in pairs."
            )
        x: Tensor = self.body(clip)
        tokens = rearrange(x, "B D t h w -> B (t h w) D")
        return Features(tokens, tokens.mean(1), Grid(*x.shape[2:]))

    def rename_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return renamed(state, self.layout, self.name)


def halved(n: int, times: int) -> int:
    """A padded stride-2 convolution rounds up."""
    for _ in range(times):
        n = (n + 1) // 2
    return n


def layout_of(net: nn.Module, encoder: Encoder) -> dict[str, str | None]:
    """The library's name of each tensor -> ours, None in its head. Found by identity: no table can be wrong."""
    ours = {id(tensor): name for name, tensor in encoder.state_dict(keep_vars=True).items()}
    return {name: ours.get(id(tensor)) for name, tensor in net.state_dict(keep_vars=True).items()}


def renamed(
    state: dict[str, Tensor], layout: dict[str, str | None], name: str
) -> dict[str, Tensor]:
    """The library's state dict under our names, less its head. Ours, and what is neither's, stay as they are."""
    if layout.keys().isdisjoint(state):
        return state
    head = [key for key in state if key in layout and layout[key] is None]
    if head:
        log.info(f"{name}: the published head is left out: {', '.join(head)}.")
    return {layout.get(key) or key: tensor for key, tensor in state.items() if key not in head}


def quick(clip: Clip) -> Clip:
    """On a CPU, channels last in memory: the whole step then takes 0.6 to 0.9 of the time (docs/speed.md)."""
    return (
        clip.contiguous(memory_format=torch.channels_last_3d) if clip.device.type == "cpu" else clip
    )
