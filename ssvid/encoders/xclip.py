"""Clip -> Features: X-CLIP (Ni et al. 2022, arXiv:2208.02816).

A picture transformer becomes a video encoder: in every block the frames send each other messages,
and a small transformer joins their class features.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.encoder import IMAGENET, Encoder, build
from ssvid.encoders.clip import join_frames
from ssvid.encoders.frames import check_all_visible, require_frames
from ssvid.errors import UserError, check_positive, check_range
from ssvid.nn.clip import ClipBlock
from ssvid.nn.exchange import EXCHANGES, DropPath, Exchange, FrameBlock
from ssvid.registry import encoders
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index

HEAD = 64  # width of an attention head, as published; narrower nets have one head


class FrameJoiner(nn.Module):
    """Class features of the frames -> one feature of the video (MIT in the paper).

    The inputs are added to the outputs before the mean over time.
    """

    def __init__(self, dim: int, layers: int, frames: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(frames, dim))
        heads = max(1, dim // HEAD)
        self.blocks = nn.ModuleList(ClipBlock(dim, heads) for _ in range(layers))
        for block in cast("list[ClipBlock]", [*self.blocks]):
            # Published: a normal distribution cut at 2, which is 100 standard deviations.
            for linear in (block.proj, block.fc1, block.fc2):
                nn.init.normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)
            nn.init.xavier_uniform_(block.qkv.weight)
            nn.init.zeros_(block.qkv.bias)

    def check_frames(self, frames: int) -> None:
        """Raise a UserError for another number of frames than it has positions for."""
        if frames != len(self.positions):
            raise UserError(
                f"This X-CLIP joins {len(self.positions)} frames, and the clip has {frames}: "
                f"give --clip.frames {len(self.positions)}, or train an encoder of other frames."
            )

    def check_weights(self, frames: int) -> None:
        """Raise a UserError for weights that join another number of frames."""
        if frames != len(self.positions):
            raise UserError(
                f"These weights join {frames} frames, and this X-CLIP {len(self.positions)}: "
                f"give --encoder.frames {frames}, or start from the picture net (a file of CLIP)."
            )

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        self.check_frames(x.shape[1])
        y = x + self.positions
        for block in self.blocks:
            y = block(y)
        return (y + x).mean(1)


@encoders.register("xclip")
class XClip(Encoder):
    """An exchange between frames and a joiner around a picture transformer of the registry.

    `pooled` is the feature of the video. `tokens` are those of the picture transformer.
    """

    has_layers = True
    takes_adapters = True
    new_parts = ("exchanges.", "joiner.")
    pooled_parts = ("joiner.",)
    tiny_kwargs = {"image": "clip_vit", "frames": 2, "size": 16}
    tiny_kwargs |= {"image_kwargs": {"width": 24, "depth": 2, "heads": 2, "patch": 8, "dim": 16}}

    def __init__(
        self,
        *,
        image: str = "clip_vit_b32",  # the encoder of single frames
        image_kwargs: dict[str, Any] | None = None,  # its arguments
        frames: int = 8,  # of a clip, spread over the whole video
        size: int = 224,  # pixels of a side
        # between the frames, in every block: messages, joint or divided attention, or none
        exchange: str = "messages",
        joiner_layers: int = 1,  # blocks over the frames' features; 0: their mean
        drop_path: float = 0.0,  # rate of the last block; it rises linearly over the blocks
    ) -> None:
        super().__init__()
        check_positive(frames=frames)
        check_range(0, 0.99, drop_path=drop_path)
        if exchange not in EXCHANGES:
            raise UserError(f"xclip has no exchange {exchange!r}: take {', '.join(EXCHANGES)}.")
        net = build(image, {**(image_kwargs or {}), "frames": frames, "size": size})
        self.image = require_frames("xclip", net)
        self.dim, self.depth = self.image.dim, len(self.image.blocks)
        self.layer_dim = width = self.image.width
        self.block_dims = (width,) * self.depth
        self.mean, self.std = IMAGENET  # as published; CLIP itself has another normalisation
        self.spec = ClipSpec(frames=frames, whole=True, size=size)
        heads = max(1, width // HEAD)
        self.exchanges, self.drops = nn.ModuleList(), nn.ModuleList()
        for number in range(self.depth):
            self.exchanges.append(EXCHANGES[exchange](width, heads))
            self.drops.append(DropPath(drop_path * number / max(1, self.depth - 1)))
        self.joiner = FrameJoiner(self.dim, joiner_layers, frames) if joiner_layers else None
        self.fixed_frames = self.joiner is not None

    def grid(self, T: int, H: int, W: int) -> Grid:
        return self.image.grid(T, H, W)

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        check_all_visible(self, visible)
        if self.joiner is not None:
            self.joiner.check_frames(clip.shape[2])
        B, grid = len(clip), self.grid(*clip.shape[2:])
        x = self.image.begin(clip)  # (B T) 1+P W
        maps = {}
        blocks = cast("list[FrameBlock]", [*self.image.blocks])
        exchanges = cast("list[Exchange]", [*self.exchanges])
        drops = cast("list[DropPath]", [*self.drops])
        for number, (block, exchange, drop) in enumerate(
            zip(blocks, exchanges, drops, strict=True), 1
        ):
            x = exchange.attend(block, x, B, drop)
            x = self.adapt(number - 1, drop.add(x, block.feed(x), B))
            if layers and number in layers:
                maps[number] = join_frames(x[:, 1:], grid.t)
        # Apart, so that a loss on the pooled features has no gradient of the tokens to compute.
        cls = join_frames(self.image.finish(x[:, :1]), grid.t)
        tokens = join_frames(self.image.finish(x[:, 1:]), grid.t)
        pooled = cls.mean(1) if self.joiner is None else self.joiner(cls)
        return Features(tokens, pooled, grid, tuple(maps[n] for n in layers or ()))

    def count_layers_above(self) -> dict[str, int]:
        """As the picture transformer counts its own, with the joiner's blocks above them.

        The exchange of a block belongs to the layer of that block.
        """
        joining = 0 if self.joiner is None else len(self.joiner.blocks)
        above = {}
        for name, layers in self.image.count_layers_above().items():
            above[f"image.{name}"] = layers + joining
        for name, _ in self.named_parameters():
            if name.startswith("exchanges."):
                above[name] = self.depth - int(name.split(".")[1]) + joining
            elif name.startswith("joiner.blocks."):
                above[name] = joining - int(name.split(".")[2])
            elif name.startswith("joiner."):
                above[name] = joining
        return above

    def rename_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a picture transformer become those of `image`, which may resize them.

        A UserError where the state joins another number of frames.
        """
        if not any(key.startswith("image.") for key in state):
            state = {f"image.{key}": x for key, x in state.items()}
        table = state.get("joiner.positions")
        if self.joiner is not None and table is not None:
            self.joiner.check_weights(len(table))
        of_image, others = {}, {}
        for key, x in state.items():
            if key.startswith("image."):
                of_image[key.removeprefix("image.")] = x
            else:
                others[key] = x
        renamed = self.image.rename_published(of_image)
        return {**{f"image.{key}": x for key, x in renamed.items()}, **others}


@encoders.register("xclip_tiny")
def xclip_tiny(
    *,
    image: str = "clip_vit",
    image_kwargs: dict[str, Any] | None = None,
    frames: int = 8,  # of a clip, spread over the whole video
    size: int = 64,  # pixels of a side
    **kwargs: Any,
) -> XClip:
    """Two cores can train it: four blocks 128 wide."""
    sizes = image_kwargs or {"width": 128, "depth": 4, "heads": 2, "patch": 16, "dim": 128}
    return XClip(image=image, image_kwargs=sizes, frames=frames, size=size, **kwargs)


@encoders.register("xclip_b32")
def xclip_b32(*, image: str = "clip_vit_b32", **kwargs: Any) -> XClip:
    return XClip(image=image, **kwargs)


@encoders.register("xclip_b16")
def xclip_b16(*, image: str = "clip_vit_b16", **kwargs: Any) -> XClip:
    return XClip(image=image, **kwargs)


@encoders.register("xclip_l14")
def xclip_l14(*, image: str = "clip_vit_l14", **kwargs: Any) -> XClip:
    return XClip(image=image, **kwargs)
