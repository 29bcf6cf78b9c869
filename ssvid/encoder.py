"""Clip -> Features: the interface of all encoders. `ssvid.hub` creates and loads them."""

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
from ssvid.old_names import refuse_old_names
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index

OLD_NAMES = {  # attributes of an earlier version -> their names now
    "published": "rename_published",
    "layers_above": "count_layers_above",
    "tiny": "tiny_kwargs",
}
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Encoder(nn.Module, ABC):
    """A video encoder. It takes clips of any length and size that the net allows.

    `forward(clip, visible, layers)` gives tokens in time-major order on `grid(T, H, W)`.
    `count_layers_above()` tells how deep each parameter lies, for learning rates that shrink with
    depth. The method below fits most nets; an encoder that it does not fit has its own.
    """

    name: str = "an unregistered encoder"  # the registry's name; `build` sets it and kwargs
    kwargs: dict[str, Any]
    dim: int  # width D of the tokens and of the pooled features
    depth: int = 1  # number of layers that `layers` may ask for
    spec: ClipSpec
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    can_skip: bool = False  # accepts `visible`: hidden tokens cost nothing
    tubelet: tuple[int, int, int] | None = None  # frames, pixels, pixels of one token; if can_skip
    has_layers: bool = False  # accepts `layers`
    licence: str | None = None  # of loaded weights
    tiny_kwargs: dict[str, Any] = {}  # kwargs of a small one, for the contract tests

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_old_names(cls, OLD_NAMES)
        if "keep" in inspect.signature(cls.forward).parameters:
            raise UserError(
                f"{cls.__module__}.{cls.__name__}.forward has a parameter `keep`, which is now "
                "called `visible`: rename it."
            )

    @abstractmethod
    def grid(self, T: int, H: int, W: int) -> Grid:
        """The token grid of a clip of T frames of H x W pixels. Convolutions may round up."""

    @abstractmethod
    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        """The features of a clip.

        `visible`: indices of the tokens that are embedded and run, in this order; None: all.
        `layers`: also return the tokens after these blocks.
        """

    def spec_grid(self) -> Grid:
        """The token grid of a clip of its own `spec`."""
        return self.grid(self.spec.frames, self.spec.size, self.spec.size)

    def count_layers_above(self) -> dict[str, int]:
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

    def rename_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the keys of a state dict of the net's own library. Keys of ours stay as they are."""
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


def get_encoder_class(name: str) -> type[Encoder]:
    """The class of a registered encoder, which declares what it can do. Nothing is built."""
    entry = registry.encoders[name]
    return cast(
        type[Encoder],
        entry if inspect.isclass(entry) else inspect.signature(entry).return_annotation,
    )


def list_encoders(**capabilities: bool) -> list[str]:
    """Registered names; `list_encoders(can_skip=True)` gives only those whose class declares it."""
    return [
        name for name in registry.encoders.names() if has_all(get_encoder_class(name), capabilities)
    ]


def has_all(kind: type[Encoder], capabilities: dict[str, bool]) -> bool:
    return all(getattr(kind, name) == value for name, value in capabilities.items())
