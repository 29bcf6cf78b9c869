"""Stored features and sentences -> TAN's two branches: a dual one, and a joint one that sees both.

The names of its parts are ours; `ssvid.weights.tan` has the published ones.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ssvid.errors import UserError
from ssvid.nn.ema import freeze
from ssvid.nn.gather import gather_rows
from ssvid.nn.timeline import Timeline, places, sine
from ssvid.text.tower import Tower

ROWS = 1024  # of the tables of positions
STAGE = 2  # of the joint branch, counted from 0: the one whose sentences the head is trained on


class Seen(NamedTuple):
    """Windows first; video and text of a stage. Not yet of length 1."""

    video: Float[Tensor, "B E T D"]
    text: Float[Tensor, "B N D"]
    joint_video: Float[Tensor, "B L T D"]
    joint_text: Float[Tensor, "B L N D"]


class Aligner(nn.Module):
    """Features and sentences -> both branches. The text tower lies here because the published state dict has it so."""

    def __init__(
        self,
        tower: Tower,
        *,
        features: int,
        dim: int,
        heads: int,
        video_layers: int,
        joint_layers: int,
        learned: bool,
        text_positions: bool,
        alignability: bool,
    ) -> None:
        super().__init__()
        self.tower = tower
        if learned:
            self.positions = nn.Parameter(0.01 * torch.randn(ROWS, dim))
        else:
            self.register_buffer("positions", sine(ROWS, dim))
        # Kept where nothing reads it, as is `mlp`: published files have both.
        self.text_positions = nn.Parameter(
            0.01 * torch.randn(ROWS, dim), requires_grad=text_positions
        )
        self.video, self.joint = (
            Timeline(dim, heads, video_layers),
            Timeline(dim, heads, joint_layers),
        )
        self.video_in, self.text_in = (
            nn.Linear(features, dim, bias=False),
            nn.Linear(tower.dim, dim, bias=False),
        )
        self.text_norm, self.video_norm, self.position_norm = (
            nn.LayerNorm(dim),
            nn.LayerNorm(dim),
            nn.LayerNorm(dim),
        )
        self.mlp = nn.Linear(dim, dim)
        if alignability and joint_layers <= STAGE:
            raise UserError(
                f"The alignability head reads joint stage {STAGE + 1}: give more --objective.joint_layers."
            )
        self.head = nn.Linear(dim, 1) if alignability else None
        for linear in filter(None, (self.video_in, self.text_in, self.mlp, self.head)):
            nn.init.normal_(linear.weight, std=0.01)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        freeze(self.mlp)
        for stack in (self.video, self.joint):
            stack.start(joint_layers)  # of both: published

    def forward(
        self,
        features: Float[Tensor, "B T C"],
        video_padding_mask: Bool[Tensor, "B T"],
        text: Float[Tensor, "B N W"],
        text_padding_mask: Bool[Tensor, "B N"],
        starts: tuple[int, int, int] = (
            0,
            0,
            0,
        ),  # of the positions: dual, joint, sentences of the joint branch
        interpolate_from: int | None = None,
    ) -> Seen:
        T, N = features.shape[1], text.shape[1]
        video = self.video_norm(self.video_in(features))
        words = self.text_norm(self.text_in(text))
        dual, joint = (
            self.position_norm(places(self.positions, T, start, interpolate_from))
            for start in starts[:2]
        )
        stages = self.video(video + dual, video_padding_mask)
        said = words
        if self.text_positions.requires_grad:
            said = words + self.position_norm(places(self.text_positions, N, starts[2]))
        both = self.joint(
            torch.cat([video + joint, said], 1),
            torch.cat([video_padding_mask, text_padding_mask], 1),
        ).transpose(0, 1)
        return Seen(stages.transpose(0, 1), words, both[:, :, :T], both[:, :, T:])

    def tell(self, sentences: Float[Tensor, "*n D"]) -> Float[Tensor, "*n"]:
        """Logits: whether each can be aligned."""
        assert self.head is not None
        return self.head(sentences)[..., 0]


def units(seen: Seen) -> Seen:
    """Of length 1, in single precision or better."""
    return Seen(
        *(F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1) for x in seen)
    )


def everywhere(fields: Any) -> Any:
    """Of a tuple of tensors, windows first: those of all processes, in order of rank, in one exchange."""
    if fields is None or not dist.is_initialized() or dist.get_world_size() == 1:
        return fields
    if isinstance(fields, Tensor):
        return gather_rows(fields).rows
    like = next((x for x in fields if x.is_floating_point()), fields[0].float())
    widths = [x[0].numel() for x in fields]
    whole = gather_rows(torch.cat([x.flatten(1).to(like) for x in fields], 1)).rows.split(widths, 1)
    return type(fields)(
        *(row.unflatten(1, x.shape[1:]).to(x.dtype) for row, x in zip(whole, fields, strict=True))
    )
