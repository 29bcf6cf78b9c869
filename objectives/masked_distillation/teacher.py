"""A run or a published file -> the frozen teacher, which sees whole clips."""

import copy
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ssvid.encoder import Encoder, evaluating
from ssvid.errors import UserError
from ssvid.log import log
from ssvid.nn.ema import freeze
from ssvid.nn.prism import AttentionPooler
from ssvid.shapes import Clip, Pooled, Tokens
from ssvid.text.joint_files import load_joint
from ssvid.text.pooled import PooledSpace, refine_tokens
from ssvid.text.published import load_published_pooler
from ssvid.weights.encoders import load_encoder

FLAG = "--objective.teacher"


class Targets(NamedTuple):
    tokens: Tokens
    pooled: Pooled


class Teacher(nn.Module):
    """An encoder, and the pooler that was trained behind it. Nothing of it learns.

    Without a pooler the vector of a clip is the mean of its tokens.
    """

    def __init__(
        self,
        encoder: Encoder,
        pooler: AttentionPooler | None = None,
        auxiliary: nn.ModuleList | None = None,  # blocks between the encoder and the pooler
    ) -> None:
        super().__init__()
        self.encoder, self.pooler = encoder, pooler
        self.auxiliary = nn.ModuleList() if auxiliary is None else auxiliary
        freeze(self)

    @property
    def pooled_dim(self) -> int:
        return self.encoder.dim if self.pooler is None else self.pooler.sizes["query_dim"]

    @torch.no_grad()
    def forward(self, clip: Clip) -> Targets:
        with evaluating(self):
            teacher_tokens = self.encoder(clip).tokens
            if self.pooler is None:
                return Targets(teacher_tokens, teacher_tokens.mean(1))
            refined = refine_tokens(self.auxiliary, teacher_tokens)
            return Targets(teacher_tokens, self.pooler(refined)[:, 0])


def copy_student(encoder: Encoder) -> Teacher:
    return Teacher(copy.deepcopy(encoder))


def load_teacher(path: str, student: Encoder) -> Teacher:
    """The teacher of a run or of a published file.

    Raises a UserError if it is absent, or if the student's tokens are not the teacher's.
    """
    if not Path(path).exists():
        raise UserError(
            f"{FLAG} {path} is not there: it is the folder of a run of stage 1, its encoder or a "
            "published file."
        )
    encoder = load_encoder(path)
    check_teacher(path, encoder, student)
    pooler, auxiliary = load_pooler(Path(path))
    target = "the mean of its tokens" if pooler is None else "what its pooler makes of a clip"
    log.info(f"{FLAG} {path}: the target of the global loss is {target}")
    return Teacher(encoder, pooler, auxiliary)


def check_teacher(path: str, teacher: Encoder, student: Encoder) -> None:
    """Raise a UserError if the two would give other tokens of a clip, or see other pixels."""
    spec, grid = student.spec, student.spec_grid()
    if teacher.dim != student.dim:
        raise UserError(
            f"{FLAG} {path} has tokens of width {teacher.dim}, and {student.name} of "
            f"{student.dim}: take an encoder as wide as its teacher."
        )
    teacher_grid = teacher.grid(spec.frames, spec.size, spec.size)
    if teacher_grid != grid:
        raise UserError(
            f"{FLAG} {path} has {describe_grid(teacher_grid)} tokens for a clip of {spec.frames} "
            f"frames of {spec.size} pixels, and {student.name} {describe_grid(grid)}: take an "
            "encoder with the patches of its teacher."
        )
    if teacher.fixed_frames and teacher.spec.frames != spec.frames:
        raise UserError(
            f"{FLAG} {path} takes clips of {teacher.spec.frames} frames alone: give "
            f"--clip.frames {teacher.spec.frames}."
        )
    if teacher.spec.modality != spec.modality:
        raise UserError(
            f"{FLAG} {path} was trained on {teacher.spec.modality}, and this run on "
            f"{spec.modality}: give --clip.modality {teacher.spec.modality}."
        )
    if (tuple(teacher.mean), tuple(teacher.std)) != (tuple(student.mean), tuple(student.std)):
        raise UserError(
            f"{FLAG} {path} normalises its clips in another way than {student.name}: take an "
            "encoder of its family."
        )


def describe_grid(grid: tuple[int, ...]) -> str:
    return " x ".join(map(str, grid))


def load_pooler(path: Path) -> tuple[AttentionPooler | None, nn.ModuleList | None]:
    """The pooler of a run or a published file, and the blocks below it; None where it has none."""
    card = path / "text.json" if path.is_dir() else path.with_name("text.json")
    is_export = path.is_dir() or path.with_suffix(".json").exists()
    if not is_export:
        return load_published_pooler(path)
    space = load_joint(card) if card.exists() else None
    if not isinstance(space, PooledSpace):
        return None, None
    return space.pooler, space.auxiliary


def normalise_targets(targets: Targets) -> Targets:
    """Every token and vector with a mean of 0 and a variance of 1."""
    tokens, pooled = targets
    return Targets(F.layer_norm(tokens, tokens.shape[-1:]), F.layer_norm(pooled, pooled.shape[-1:]))
