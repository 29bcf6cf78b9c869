"""Stored features and sentences -> the outputs of TAN's two branches.

The dual branch sees the video alone, the joint branch sees video and sentences. `ssvid.weights.tan`
translates the names of the parameters from the published ones.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ssvid.engine.warm_start import objective_state
from ssvid.errors import UserError
from ssvid.nn.ema import freeze
from ssvid.nn.gather import gather_rows
from ssvid.nn.timeline import Timeline, select_positions, sine
from ssvid.text.tower import Tower
from ssvid.weights.state_dict import load_state

ROWS = 1024  # positions in the tables
STAGE = 2  # the stage of the joint branch, counted from 0, that the alignability head reads


class Branches(NamedTuple):
    """The outputs of all stages of both branches, before `normalise`."""

    video: Float[Tensor, "B E T D"]
    text: Float[Tensor, "B N D"]
    joint_video: Float[Tensor, "B L T D"]
    joint_text: Float[Tensor, "B L N D"]


class Aligner(nn.Module):
    """Both branches and the text tower, which is part of the published state dict."""

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
        # Published files have this table and `mlp` even if nothing reads them.
        self.text_positions = nn.Parameter(
            0.01 * torch.randn(ROWS, dim), requires_grad=text_positions
        )
        self.video = Timeline(dim, heads, video_layers)
        self.joint = Timeline(dim, heads, joint_layers)
        self.video_in = nn.Linear(features, dim, bias=False)
        self.text_in = nn.Linear(tower.dim, dim, bias=False)
        self.text_norm = nn.LayerNorm(dim)
        self.video_norm = nn.LayerNorm(dim)
        self.position_norm = nn.LayerNorm(dim)
        self.mlp = nn.Linear(dim, dim)
        if alignability and joint_layers <= STAGE:
            raise UserError(
                f"The alignability head reads joint stage {STAGE + 1}: give more "
                "--objective.joint_layers."
            )
        self.head = nn.Linear(dim, 1) if alignability else None
        for linear in filter(None, (self.video_in, self.text_in, self.mlp, self.head)):
            nn.init.normal_(linear.weight, std=0.01)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        freeze(self.mlp)
        for stack in (self.video, self.joint):
            stack.init_weights(joint_layers)  # the depth of the joint branch for both, as published

    def forward(
        self,
        features: Float[Tensor, "B T C"],
        video_padding_mask: Bool[Tensor, "B T"],
        text: Float[Tensor, "B N W"],
        text_padding_mask: Bool[Tensor, "B N"],
        # First positions of the dual branch, the joint branch, and the joint branch's sentences.
        starts: tuple[int, int, int] = (0, 0, 0),
        interpolate_from: int | None = None,  # see ssvid.nn.timeline.select_positions
    ) -> Branches:
        T, N = features.shape[1], text.shape[1]
        video = self.video_norm(self.video_in(features))
        words = self.text_norm(self.text_in(text))
        dual = self.position_norm(select_positions(self.positions, T, starts[0], interpolate_from))
        joint = self.position_norm(select_positions(self.positions, T, starts[1], interpolate_from))
        stages = self.video(video + dual, video_padding_mask)
        sentences = words
        if self.text_positions.requires_grad:
            sentences = words + self.position_norm(
                select_positions(self.text_positions, N, starts[2])
            )
        both = self.joint(
            torch.cat([video + joint, sentences], 1),
            torch.cat([video_padding_mask, text_padding_mask], 1),
        ).transpose(0, 1)
        return Branches(stages.transpose(0, 1), words, both[:, :, :T], both[:, :, T:])

    def predict_alignability(self, sentences: Float[Tensor, "*n D"]) -> Float[Tensor, "*n"]:
        """Logits of whether a sentence can be aligned."""
        assert self.head is not None
        return self.head(sentences)[..., 0]


def normalise(branches: Branches) -> Branches:
    """Unit vectors, in single precision or better."""
    units = []
    for x in branches:
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        units.append(F.normalize(precise, dim=-1))
    return Branches(*units)


def gather_processes(fields: Any) -> Any:
    """A tuple of tensors, batch first -> the same of all processes, in order of rank.

    It takes one exchange. None and a single tensor work too.
    """
    if fields is None or not dist.is_initialized() or dist.get_world_size() == 1:
        return fields
    if isinstance(fields, Tensor):
        return gather_rows(fields).rows
    like = next((x for x in fields if x.is_floating_point()), fields[0].float())
    widths = [x[0].numel() for x in fields]
    flat = torch.cat([x.flatten(1).to(like) for x in fields], 1)
    columns = gather_rows(flat).rows.split(widths, 1)
    gathered = []
    for column, x in zip(columns, fields, strict=True):
        gathered.append(column.unflatten(1, x.shape[1:]).to(x.dtype))
    return type(fields)(*gathered)


def load_aligner(aligner: Aligner, path: str) -> None:
    """Load the student of an earlier run or of a published file.

    An alignability head that the file lacks stays new, and one that is not wanted is ignored. A
    UserError if the file holds no aligner or does not fit.
    """
    state = {}
    for key, x in objective_state(path, "--objective.init").items():
        if key.startswith("aligner."):
            state[key.removeprefix("aligner.")] = x
    if not state:
        raise UserError(
            f"--objective.init {path} holds no aligner: name a run of tan, or its file."
        )
    merged = {key: x for key, x in state.items() if not key.startswith("head.")}
    for key, x in aligner.state_dict().items():
        if key.startswith("head."):
            merged[key] = state.get(key, x)
    load_state(aligner, merged, path)
