"""Clip -> Features: X-CLIP (Ni et al. 2022, arXiv:2208.02816).

A picture transformer becomes a video encoder: in every block the frames send each other messages,
and a small transformer joins their class features.
"""

from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.encoder import IMAGENET, Encoder, build
from ssvid.encoders.clip import join_frames
from ssvid.encoders.frames import FrameBlock, require_frames
from ssvid.errors import UserError, check_positive, check_range
from ssvid.nn.clip import ClipBlock, attend_heads
from ssvid.nn.linear import apply_linear
from ssvid.registry import encoders
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index

HEAD = 64  # width of an attention head, as published; narrower nets have one head


class Messages(nn.Module):
    """Class tokens of a video's frames -> one message for each frame.

    The message is a linear map of the raw class token, and then attends to the messages of the
    other frames of its video.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fc = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        nn.init.xavier_uniform_(self.qkv.weight)  # as torch's attention
        for linear in (self.qkv, self.proj):
            nn.init.zeros_(linear.bias)

    def forward(self, cls: Float[Tensor, "B T D"], drop: "DropPath") -> Float[Tensor, "B T D"]:
        message = apply_linear(self.fc, cls)
        q, k, v = apply_linear(self.qkv, self.norm(message)).chunk(3, -1)
        branch = apply_linear(self.proj, attend_heads(q, k, v, self.heads))
        return drop.add(message, message + branch, len(cls))


class DropPath(nn.Module):
    """Leave a residual branch out for some videos in training, and scale it up for the others.

    The published code draws for each token position instead, but never with a rate above 0.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def add(self, x: Tensor, with_branch: Tensor, videos: int) -> Tensor:
        """`with_branch` is x plus the branch. The rows belong to `videos` videos, in order."""
        if not self.rate or not self.training:
            return with_branch
        survives = torch.rand(videos, device=x.device) >= self.rate
        scale = (survives / (1 - self.rate)).repeat_interleave(len(x) // videos).to(x)
        return x + (with_branch - x) * scale.view(-1, *[1] * (x.ndim - 1))


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
            for linear in (block.proj, block.fc1, block.fc2):
                nn.init.trunc_normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)
            nn.init.xavier_uniform_(block.qkv.weight)
            nn.init.zeros_(block.qkv.bias)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        if x.shape[1] != len(self.positions):
            raise UserError(
                f"This X-CLIP joins {len(self.positions)} frames, and the clip has {x.shape[1]}: "
                f"give --clip.frames {len(self.positions)}, or train an encoder of other frames."
            )
        y = x + self.positions
        for block in self.blocks:
            y = block(y)
        return (y + x).mean(1)


@encoders.register("xclip")
class XClip(Encoder):
    """Messages and a joiner around a picture transformer of the registry.

    `pooled` is the feature of the video. `tokens` are those of the picture transformer.
    """

    has_layers = True
    tiny_kwargs = {"image": "clip_vit", "frames": 2, "size": 16}
    tiny_kwargs |= {"image_kwargs": {"width": 24, "depth": 2, "heads": 2, "patch": 8, "dim": 16}}

    def __init__(
        self,
        *,
        image: str = "clip_vit_b32",  # the encoder of single frames
        image_kwargs: dict[str, Any] | None = None,  # its arguments
        frames: int = 8,  # of a clip, spread over the whole video
        size: int = 224,  # pixels of a side
        messages: bool = True,  # between the frames, in every block
        joiner_layers: int = 1,  # blocks over the frames' features; 0: their mean
        drop_path: float = 0.0,  # rate of the last block; it rises linearly over the blocks
    ) -> None:
        super().__init__()
        check_positive(frames=frames)
        check_range(0, 0.99, drop_path=drop_path)
        net = build(image, {**(image_kwargs or {}), "frames": frames, "size": size})
        self.image = require_frames("xclip", net)
        self.dim, self.depth = self.image.dim, len(self.image.blocks)
        self.mean, self.std = IMAGENET  # as published; CLIP itself has another normalisation
        self.spec = ClipSpec(frames=frames, whole=True, size=size)
        width, heads = self.image.width, max(1, self.image.width // HEAD)
        count = self.depth if messages else 0
        self.messages = nn.ModuleList(Messages(width, heads) for _ in range(count))
        self.drops = nn.ModuleList()
        for number in range(self.depth):
            self.drops.append(DropPath(drop_path * number / max(1, self.depth - 1)))
        self.joiner = FrameJoiner(self.dim, joiner_layers, frames) if joiner_layers else None

    def grid(self, T: int, H: int, W: int) -> Grid:
        return self.image.grid(T, H, W)

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        B, grid = len(clip), self.grid(*clip.shape[2:])
        x = self.image.begin(clip)  # (B T) 1+P W
        maps = {}
        blocks = cast("list[FrameBlock]", [*self.image.blocks])
        drops = cast("list[DropPath]", [*self.drops])
        for number, (block, drop) in enumerate(zip(blocks, drops, strict=True), 1):
            message = None
            if self.messages:
                cls = rearrange(x[:, 0], "(B T) W -> B T W", B=B)
                message = self.messages[number - 1](cls, drop)
                message = rearrange(message, "B T W -> (B T) 1 W")
            x = drop.add(x, block.attend(x, message), B)
            x = drop.add(x, block.feed(x), B)
            if layers and number in layers:
                maps[number] = join_frames(x[:, 1:], grid.t)
        # Apart, so that a loss on the pooled features has no gradient of the tokens to compute.
        cls = join_frames(self.image.finish(x[:, :1]), grid.t)
        tokens = join_frames(self.image.finish(x[:, 1:]), grid.t)
        pooled = cls.mean(1) if self.joiner is None else self.joiner(cls)
        return Features(tokens, pooled, grid, tuple(maps[n] for n in layers or ()))


@encoders.register("xclip_tiny")
def xclip_tiny(
    *,
    frames: int = 8,  # of a clip, spread over the whole video
    size: int = 64,  # pixels of a side
    **kwargs: Any,
) -> XClip:
    """Two cores can train it: four blocks 128 wide."""
    sizes = {"width": 128, "depth": 4, "heads": 2, "patch": 16, "dim": 128}
    return XClip(image="clip_vit", image_kwargs=sizes, frames=frames, size=size, **kwargs)


@encoders.register("xclip_b32")
def xclip_b32(*, image: str = "clip_vit_b32", **kwargs: Any) -> XClip:
    return XClip(image=image, **kwargs)


@encoders.register("xclip_b16")
def xclip_b16(*, image: str = "clip_vit_b16", **kwargs: Any) -> XClip:
    return XClip(image=image, **kwargs)


@encoders.register("xclip_l14")
def xclip_l14(*, image: str = "clip_vit_l14", **kwargs: Any) -> XClip:
    return XClip(image=image, **kwargs)
