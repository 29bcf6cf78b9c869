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
from ssvid.errors import UserError, check_positive
from ssvid.old_names import refuse_old_names
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index, Views

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
    layer_dim: int | None = None  # width of the tokens of `layers`; None: `dim`
    fixed_frames: bool = False  # takes clips of `spec.frames` frames alone
    has_cls: bool = False  # exports the class tokens of its frames, as `Features.cls`
    per_frame: bool = False  # sees each frame by itself (ssvid.encoders.frames)
    takes_adapters: bool = False  # has transformer blocks, and calls `adapt` after each
    block_dims: tuple[int, ...] = ()  # width of the tokens after each block; if takes_adapters
    adapter_dim: int | None = None  # inner width of its adapters, if it has any
    # Beginnings of the names of parameters that the weights of a picture net lack. They start anew
    # where such weights are loaded, and learn faster.
    new_parts: tuple[str, ...] = ()
    # Beginnings of the names of parameters that `pooled` alone depends on, and no token.
    pooled_parts: tuple[str, ...] = ()
    # Why a probe of this encoder should attend to its tokens; results of other probes say it.
    attentive_advice: str | None = None
    licence: str | None = None  # of loaded weights
    tiny_kwargs: dict[str, Any] = {}  # kwargs of a small one, for the contract tests

    def __init__(self) -> None:
        super().__init__()
        self.adapters: nn.ModuleList | None = None  # ssvid.nn.adapters gives them

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
        `layers`: also return the tokens after these blocks, `layer_dim` wide.
        """

    def __call__(self, clip: Any, *args: Any, **kwargs: Any) -> Features:
        """The features of a clip; see `forward`. A UserError if it is no batch of float clips."""
        check_clip(self.name, clip)
        return cast(Features, super().__call__(clip, *args, **kwargs))

    def adapt(self, block: int, x: Tensor) -> Tensor:
        """The tokens after a block, counted from 0: its adapter changes them, if there is one."""
        return x if self.adapters is None else self.adapters[block](x)

    def make_views(self, augment: str, clips: int = 1, **options: Any) -> Views:
        """What an objective takes from each video: clips as this encoder sees them.

        `augment`: a recipe of ssvid.data.augment. `options`: other fields of Views.
        """
        specs = (self.spec,) * clips
        return Views(clips=specs, augment=augment, mean=self.mean, std=self.std, **options)

    def spec_grid(self) -> Grid:
        """The token grid of a clip of its own `spec`."""
        return self.grid(self.spec.frames, self.spec.size, self.spec.size)

    def count_layers_above(self) -> dict[str, int]:
        """Parameter -> the number of layers above its own layer, counting a head on the features.

        The last block has 1 and a final norm has 0. The layers are read off the order in which
        modules are declared; nn.Sequential and nn.ModuleList are opened once. A module that has
        children is a layer. What comes before the first layer (patches, positions, parameters of
        the encoder itself) counts as one layer below it. A plain module between two layers belongs
        to the lower one, and a plain module after the last (a norm) to the head.
        """
        chain = [(prefix, module) for prefix, module in self.open_children() if has_weights(module)]
        layers = [i for i, (_, module) in enumerate(chain) if any(module.children())]
        lowest = len(layers) + 1
        above = {name: lowest for name, _ in self.named_parameters()}
        for i, (prefix, module) in enumerate(chain):
            begun = sum(layer <= i for layer in layers)
            is_after_last = bool(layers) and i > layers[-1]
            for name, _ in module.named_parameters():
                above[f"{prefix}.{name}"] = 0 if is_after_last else lowest - begun
        return above

    def open_children(self) -> Iterator[tuple[str, nn.Module]]:
        """The child modules by name. A Sequential or ModuleList is replaced by its modules."""
        for name, child in self.named_children():
            if child is self.adapters:
                continue  # they are beside the layers, and not above them
            if isinstance(child, nn.Sequential | nn.ModuleList):
                for key, module in child.named_children():
                    yield f"{name}.{key}", module
            else:
                yield name, child

    def rename_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the keys of a state dict of the net's own library.

        Keys of ours stay as they are.
        """
        return state

    def normalise(self, clip: Tensor) -> Tensor:
        """uint8 `... C T H W` -> float32, normalised as in the training of the net."""
        mean = torch.tensor(self.mean, device=clip.device).view(-1, 1, 1, 1)
        std = torch.tensor(self.std, device=clip.device).view(-1, 1, 1, 1)
        return (clip.float() / 255 - mean) / std

    def transform(self, frames: Any) -> Tensor:
        """Frames of one's own loader, uint8 `T H W C` -> a clip float32 `C T s s`, normalised.

        The short side is resized to the size s of the encoder's clip and the centre is cropped. The
        frames, an array or a tensor, are those of the clip already. A UserError for other input.
        """
        from ssvid.data.augment import RECIPES, crop_frames  # imports decoders only where needed

        pixels = torch.as_tensor(frames)
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
            raise UserError(
                f"transform takes the frames of one clip, uint8 T H W 3, not {pixels.dtype} "
                f"{tuple(pixels.shape)}."
            )
        nothing_random = torch.zeros(0)
        planes = pixels.permute(0, 3, 1, 2)
        return self.normalise(crop_frames(planes, RECIPES["none"], self.spec.size, nothing_random))

    @torch.inference_mode()
    def embed(self, path: str | Path, clips: int = 1) -> Tensor:
        """Pooled features `clips D` of a video file, from clips spread evenly over it.

        Raises a UserError for an encoder of flow, and a DecodeError for a damaged file.
        """
        from ssvid.data.sampling import eval_clips  # decoding is only needed here

        check_positive(clips=clips)
        if self.spec.modality != "rgb":
            raise UserError(
                f"This {self.name} sees {self.spec.modality}, and {path} is a video: "
                "take ssvid.extract."
            )
        device = next(self.parameters()).device
        with evaluating(self):
            return self(self.normalise(eval_clips(path, self.spec, clips).to(device))).pooled


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put the net into eval mode. At the end every module gets back its own mode."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def check_clip(name: str, clip: Any) -> None:
    """Raise a UserError if this is no batch of normalised clips, `B C T H W` floats.

    An encoder may take other numbers of channels than 3, which it checks by itself.
    """
    if not isinstance(clip, Tensor):
        raise UserError(f"{name} takes clips as a tensor B 3 T H W, not {type(clip).__name__}.")
    shape = tuple(clip.shape)
    if not clip.is_floating_point():
        hint = "encoder.normalise(clip) turns uint8 B 3 T H W into it"
    elif clip.ndim == 4 and shape[1] == 3:
        hint = "it looks like pictures B 3 H W, so give clip[:, :, None], clips of one frame"
        hint += ", or clip[None] for one clip 3 T H W" if shape[0] == 3 else ""
        hint += "; frames T 3 H W of one clip are clip.transpose(0, 1)[None]"
    elif clip.ndim == 4:
        hint = "clip[None] is a batch of one clip"
    elif clip.ndim == 5 and shape[1] != 3 and shape[2] == 3:
        hint = "it looks like B T C H W, so give clip.transpose(1, 2)"
    elif clip.ndim == 5 and shape[1] != 3 and shape[4] == 3:
        hint = "it looks like B T H W C, so give clip.permute(0, 4, 1, 2, 3)"
    elif clip.ndim != 5:
        hint = "one clip of frames T H W 3 becomes it by encoder.transform(frames)[None]"
    else:
        return
    raise UserError(
        f"{name} takes normalised float clips B 3 T H W, not {clip.dtype} of shape {shape}: {hint}."
    )


def has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def build(name: str, kwargs: dict[str, Any]) -> Encoder:
    """A registered encoder with random weights. A UserError if the kwargs do not fit it."""
    try:
        encoder = registry.encoders[name](**kwargs)
    except TypeError as error:
        raise UserError(f"Encoder {name} cannot be made: {error}.") from error
    encoder.name, encoder.kwargs = name, kwargs
    return encoder


def get_encoder_class(name: str) -> type[Encoder]:
    """The class of a registered encoder, which declares its capabilities. Nothing is built."""
    entry = registry.encoders[name]
    if not inspect.isclass(entry):
        entry = inspect.signature(entry).return_annotation
    return cast(type[Encoder], entry)


def list_encoders(**capabilities: bool) -> list[str]:
    """Names of the registered encoders that have the capabilities, such as `can_skip=True`."""
    names = []
    for name in registry.encoders.names():
        encoder = get_encoder_class(name)
        if all(getattr(encoder, key) == value for key, value in capabilities.items()):
            names.append(name)
    return names
