"""Clip -> Features: the video encoder of LiteVL (arXiv:2210.11929).

BLIP's picture transformer gets an attention over time in every block, whose strength each block
learns to scale. Of the method the abstract and the figures' captions were to be had; what is
inferred from TimeSformer (arXiv:2102.05095) is a keyword here, and its comment says so.
"""

from typing import Any, Literal, cast

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.encoder import Encoder, build
from ssvid.encoders.blip import BlipViT
from ssvid.encoders.frames import check_all_visible
from ssvid.errors import UserError, check_positive, check_range
from ssvid.nn.clip import ClipBlock
from ssvid.nn.exchange import DropPath
from ssvid.nn.position import resize_rows
from ssvid.nn.scaled_time import ScaledTime, Scaling, join_patches
from ssvid.registry import encoders
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index

# Weights of a picture block -> the part of the attention over time that begins from them.
BEGINNINGS = {"norm1": "norm", "qkv": "qkv", "proj": "proj"}


@encoders.register("litevl")
class LiteVL(Encoder):
    """Each block: attention over time, attention in each frame, and an MLP (order inferred).

    `tokens` are those of the patches. `pooled` is the mean over frames of the class features, and
    `cls` are these features. While nothing is learnt, it equals the picture encoder.
    """

    has_layers = has_cls = True
    takes_adapters = True
    new_parts = ("times.", "time_positions")
    tiny_kwargs = {"image": "blip_vit", "frames": 2, "size": 16}
    tiny_kwargs |= {"image_kwargs": {"dim": 24, "depth": 2, "heads": 2, "patch": 8}}

    def __init__(
        self,
        *,
        image: str = "blip_vit_b16",  # the encoder of single frames
        image_kwargs: dict[str, Any] | None = None,  # its arguments
        frames: int = 8,  # of a clip, spread over the whole video; published: 8 (S) or 16 (L)
        size: int = 224,  # pixels of a side
        time: bool = True,  # attention over time; false: every frame by itself
        # of attention over time: one scale a frame (inferred), one a channel of a frame, or none
        scaling: Scaling = "frame",
        scale_hidden: int | None = None,  # width of the scales' MLP; null: a quarter (inferred)
        # frames: each frame has its class token, so that the net begins as its pictures' net;
        # video: one for all frames, averaged after each block as TimeSformer has it (inferred)
        cls: Literal["frames", "video"] = "frames",
        drop_path: float = 0.0,  # rate of the last block; it rises linearly over the blocks
    ) -> None:
        super().__init__()
        check_positive(frames=frames)
        check_range(0, 0.99, drop_path=drop_path)
        net = build(image, {**(image_kwargs or {}), "frames": frames, "size": size})
        if not isinstance(net, BlipViT):
            raise UserError(f"litevl is made of a BLIP, such as blip_vit_b16, and not of {image}.")
        self.image, self.shares_cls = net, cls == "video"
        self.dim, self.depth = net.dim, net.depth
        self.block_dims = net.block_dims
        self.mean, self.std = net.mean, net.std
        self.spec = ClipSpec(frames=frames, whole=True, size=size)
        blocks = list_blocks(net)
        self.times = nn.ModuleList()
        self.time_positions = nn.Parameter(torch.zeros(frames, self.dim)) if time else None
        for block in blocks if time else []:
            added = ScaledTime(self.dim, block.heads, scaling, scale_hidden)
            added.begin_from(block)
            self.times.append(added)
        self.drops = nn.ModuleList()
        for number in range(self.depth):
            self.drops.append(DropPath(drop_path * number / max(1, self.depth - 1)))

    def grid(self, T: int, H: int, W: int) -> Grid:
        return self.image.grid(T, H, W)

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        check_all_visible(self, visible)
        B, grid = len(clip), self.grid(*clip.shape[2:])
        x = rearrange(self.image.begin(clip), "(B T) N D -> B T N D", B=B)
        cls, x = x[:, :, 0], x[:, :, 1:]
        if self.time_positions is not None:
            x = x + resize_rows(self.time_positions, grid.t)[:, None]
        maps = {}
        for number, block in enumerate(list_blocks(self.image)):
            cls, x = self.run_block(number, block, cls, x)
            if layers and number + 1 in layers:
                maps[number + 1] = x.flatten(1, 2)
        cls, x = self.image.finish(cls), self.image.finish(x.flatten(1, 2))
        return Features(x, cls.mean(1), grid, tuple(maps[n] for n in layers or ()), cls)

    def run_block(
        self,
        number: int,
        block: ClipBlock,
        cls: Float[Tensor, "B T D"],
        x: Float[Tensor, "B T N D"],
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T N D"]]:
        """The class tokens and the patches after a block. `cls` has one row for each frame."""
        B, T = x.shape[:2]
        drop = cast(DropPath, self.drops[number])
        if len(self.times):
            x = drop.add(x, x + self.times[number](x), B)
        frames = join_patches(cls, x)
        frames = drop.add(frames, block.attend(frames), B)
        if self.shares_cls:
            mean = rearrange(frames[:, 0], "(B T) D -> B T D", B=B).mean(1)
            shared = repeat(mean, "B D -> (B T) 1 D", T=T)
            frames = torch.cat([shared, frames[:, 1:]], 1)
        frames = self.adapt(number, drop.add(frames, block.feed(frames), B))
        frames = rearrange(frames, "(B T) N D -> B T N D", B=B)
        return frames[:, :, 0], frames[:, :, 1:]

    def read_scales(self) -> list[float]:
        """The mean scale of attention over time in each block, of the last batch."""
        scales = []
        for added in cast("list[ScaledTime]", [*self.times]):
            if added.scale is not None:
                scales.append(float(added.scale.mean))
        return scales

    def count_layers_above(self) -> dict[str, int]:
        """As the picture transformer counts its own. What a block adds belongs to its layer."""
        above = {f"image.{name}": n for name, n in self.image.count_layers_above().items()}
        for name, _ in self.named_parameters():
            if name.startswith("times."):
                above[name] = self.depth - int(name.split(".")[1])
            elif name == "time_positions":
                above[name] = self.depth + 1
        return above

    def rename_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a picture transformer become those of `image`.

        Its attention in each frame is also where attention over time begins.
        """
        if not any(key.startswith("image.") for key in state):
            pictures = self.image.rename_published(state)
            state = {f"image.{key}": x for key, x in pictures.items()}
            for number in range(len(self.times)):
                state |= self.begin_time(state, number)
            return state
        table, rows = state.get("time_positions"), self.time_positions
        if table is not None and rows is not None:
            state = {**state, "time_positions": resize_rows(table, len(rows))}
        return state

    def begin_time(self, state: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        copies = {}
        for theirs, ours in BEGINNINGS.items():
            for leaf in ("weight", "bias"):
                tensor = state.get(f"image.blocks.{number}.{theirs}.{leaf}")
                if tensor is not None:
                    copies[f"times.{number}.{ours}.{leaf}"] = tensor
        return copies


def list_blocks(net: BlipViT) -> list[ClipBlock]:
    return cast("list[ClipBlock]", [*net.blocks])


@encoders.register("litevl_b16")
def litevl_b16(*, image: str = "blip_vit_b16", **kwargs: Any) -> LiteVL:
    return LiteVL(image=image, **kwargs)


@encoders.register("litevl_l16")
def litevl_l16(*, image: str = "blip_vit_l16", **kwargs: Any) -> LiteVL:
    return LiteVL(image=image, **kwargs)


@encoders.register("litevl_tiny")
def litevl_tiny(
    *,
    image: str = "blip_vit",
    image_kwargs: dict[str, Any] | None = None,
    frames: int = 8,  # of a clip, spread over the whole video
    size: int = 32,  # pixels of a side
    **kwargs: Any,
) -> LiteVL:
    """Two cores can train it: four blocks 96 wide."""
    sizes = image_kwargs or {"dim": 96, "depth": 4, "heads": 3, "patch": 8}
    return LiteVL(image=image, image_kwargs=sizes, frames=frames, size=size, **kwargs)
