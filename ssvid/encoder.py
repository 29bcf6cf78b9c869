"""Clip -> Features: what every encoder is. `ssvid.hub` is the door through which one is made or loaded."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssvid import registry
from ssvid.errors import UserError, positive
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Encoder(nn.Module, ABC):
    """`forward(clip, keep, layers)`: any length and size the net allows, tokens time-major on `grid(T, H, W)`.

    `layers_above()` tells how deep each parameter lies, for rates that shrink with depth; its own reading of the net
    (in its docstring) fits most, and an encoder that is laid out otherwise says so by a method of its own.
    """

    name: str = "an unregistered encoder"  # the registry's name and arguments, set by `build`
    kwargs: dict[str, Any]
    dim: int  # width D of tokens and of pooled
    depth: int = 1  # number of layers that `layers` may ask for
    spec: ClipSpec
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    can_skip: bool = False  # accepts `keep`: the tokens left out cost nothing
    tubelet: tuple[int, int, int] | None = (
        None  # frames, pixels, pixels of one token, where can_skip
    )
    has_layers: bool = False  # accepts `layers`
    licence: str | None = None  # of loaded weights
    tiny: dict[str, Any] = {}  # kwargs of a small one, for contract tests

    @abstractmethod
    def grid(self, T: int, H: int, W: int) -> Grid:
        """The token grid of a clip of T frames of H x W pixels. Convolutions round up: ask, do not divide."""

    @abstractmethod
    def forward(
        self, clip: Clip, keep: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        """`keep`: only these tokens are embedded and run, in this order. `layers`: outputs of these blocks as well."""

    def spec_grid(self) -> Grid:
        """The token grid of a clip of its own `spec`."""
        return self.grid(self.spec.frames, self.spec.size, self.spec.size)

    def layers_above(self) -> dict[str, int]:
        """Parameter -> layers above its own, a head on the features included: the last block has 1, a final norm 0.

        Read off the order in which modules are declared, nn.Sequential and nn.ModuleList opened once. A module with
        parts is a layer. What comes before the first (patches, positions, the encoder's own parameters) lies one below
        it, a plain module between two with the one before, and one behind the last (a norm) with the head.
        """
        chain: list[tuple[str, nn.Module]] = []
        for name, child in self.named_children():
            opened = isinstance(child, nn.Sequential | nn.ModuleList)
            chain += (
                [(f"{name}.{key}", part) for key, part in child.named_children()]
                if opened
                else [(name, child)]
            )
        chain = [(prefix, part) for prefix, part in chain if any(True for _ in part.parameters())]
        blocks = [
            place for place, (_, part) in enumerate(chain) if any(True for _ in part.children())
        ]
        above = dict.fromkeys((name for name, _ in self.named_parameters()), len(blocks) + 1)
        for place, (prefix, part) in enumerate(chain):
            done = sum(block <= place for block in blocks)
            behind = bool(blocks) and place > blocks[-1]
            for name, _ in part.named_parameters():
                above[f"{prefix}.{name}"] = 0 if behind else len(blocks) + 1 - done
        return above

    def published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of the library that the net is from, in our names. Our own stays as it is."""
        return state

    def normalise(self, clip: Tensor) -> Tensor:
        """uint8 `... C T H W` -> float32, as the net was trained."""
        mean = torch.tensor(self.mean, device=clip.device).view(-1, 1, 1, 1)
        std = torch.tensor(self.std, device=clip.device).view(-1, 1, 1, 1)
        return (clip.float() / 255 - mean) / std

    @torch.inference_mode()
    def embed(self, path: str | Path, clips: int = 1) -> Tensor:
        """Pooled features `clips D` of a video file, from clips spread evenly over it."""
        from ssvid.data.sampling import eval_clips  # decoding is only needed here

        positive(clips=clips)
        if self.spec.modality != "rgb":
            raise UserError(
                f"This {self.name} sees {self.spec.modality}, and {path} is a video: take ssvid.extract."
            )
        device = next(self.parameters()).device
        with evaluating(self):
            return self(self.normalise(eval_clips(path, self.spec, clips).to(device))).pooled


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """In eval mode; then each module is put back into the mode it had, which need not be that of the whole."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def build(name: str, kwargs: dict[str, Any]) -> Encoder:
    """A registered encoder with random weights. `ssvid.hub` is the door for users: it also reads weights."""
    try:
        encoder = registry.encoders[name](**kwargs)
    except TypeError as error:
        raise UserError(f"Encoder {name} cannot be made: {error}.") from error
    encoder.name, encoder.kwargs = name, kwargs
    return encoder


def class_of(name: str) -> type[Encoder]:
    """The class of a registered encoder, which declares what it can do. Nothing is built."""
    entry = registry.encoders[name]
    return cast(
        type[Encoder],
        entry if inspect.isclass(entry) else inspect.signature(entry).return_annotation,
    )


def list_encoders(**capabilities: bool) -> list[str]:
    """Registered names; `list_encoders(can_skip=True)` gives only those whose class declares it."""
    return [name for name in registry.encoders.names() if has_all(class_of(name), capabilities)]


def has_all(kind: type[Encoder], capabilities: dict[str, bool]) -> bool:
    return all(getattr(kind, name) == value for name, value in capabilities.items())
