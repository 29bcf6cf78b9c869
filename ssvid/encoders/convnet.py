"""A 3-D ConvNet of another library -> Encoder, with its last map as tokens.

The nets of pytorchvideo and torchvision use this wrapper.
"""

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
    """`body` is the library's net without its head, and returns the last map, B D t h w.

    `grid` computes the size of that map from the size of a clip.
    """

    def __init__(
        self,
        net: nn.Module,  # as the library makes it
        body: nn.Module,  # made of the modules of `net`
        dim: int,
        spec: ClipSpec,
        normalisation: Normalisation,
        grid: Callable[[int, int, int], tuple[int, int, int]],
        tiny_kwargs: dict[str, Any],
    ) -> None:
        super().__init__()
        self.body, self.dim, self.spec, self.tiny_kwargs = body, dim, spec, tiny_kwargs
        self.mean, self.std = normalisation
        self._grid, self.layout = grid, map_tensor_names(net, self)

    def grid(self, T: int, H: int, W: int) -> Grid:
        return Grid(*self._grid(T, H, W))

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
                f"A clip of {clip.shape[2]} frame(s) is too short for {self.name}, which pools "
                "frames in pairs."
            )
        x: Tensor = self.body(clip)
        tokens = rearrange(x, "B D t h w -> B (t h w) D")
        return Features(tokens, tokens.mean(1), Grid(*x.shape[2:]))

    def rename_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return rename_tensors(state, self.layout, self.name)


def halve(n: int, times: int) -> int:
    """The size that so many padded convolutions of stride 2 leave: each rounds up."""
    for _ in range(times):
        n = (n + 1) // 2
    return n


def map_tensor_names(net: nn.Module, encoder: Encoder) -> dict[str, str | None]:
    """The library's name of each tensor -> our name, or None for a tensor of its head.

    The encoder holds the very tensors of the net, so they are compared by identity. This cannot go
    wrong, as a table of names could.
    """
    ours = {id(tensor): name for name, tensor in encoder.state_dict(keep_vars=True).items()}
    return {name: ours.get(id(tensor)) for name, tensor in net.state_dict(keep_vars=True).items()}


def rename_tensors(
    state: dict[str, Tensor], layout: dict[str, str | None], name: str
) -> dict[str, Tensor]:
    """The library's state dict under our names, without its head.

    Keys that are ours already, or that nobody knows, stay as they are. `layout`: what
    `map_tensor_names` returns.
    """
    if layout.keys().isdisjoint(state):
        return state
    head, renamed = [], {}
    for key, tensor in state.items():
        if key in layout and layout[key] is None:
            head.append(key)
        else:
            renamed[layout.get(key) or key] = tensor
    if head:
        log.info(f"{name}: the published head is left out: {', '.join(head)}.")
    return renamed


def channels_last_on_cpu(clip: Clip) -> Clip:
    """On a CPU, the clip with channels last in memory.

    The whole step then takes 0.6 to 0.9 of the time (docs/speed.md).
    """
    if clip.device.type != "cpu":
        return clip
    return clip.contiguous(memory_format=torch.channels_last_3d)
