"""VideoPrism's second stage (Zhao et al. 2024, arXiv:2402.13217): masked distillation.

A student sees a third of a clip's tokens. It predicts the tokens that a frozen teacher of the first
stage makes of the whole clip, and the teacher's vector of the clip. Before the decoder predicts the
tokens it gets its input shuffled, so that it cannot copy what it is given.

No training code is public. Facts that the paper does not state are marked "ours".
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from objectives.masked_distillation.branches import (
    GlobalBranch,
    LocalBranch,
    MaskToken,
    Order,
    Sizes,
)
from objectives.masked_distillation.store import TargetStore, check_views
from objectives.masked_distillation.teacher import (
    Targets,
    copy_student,
    load_teacher,
    normalise_targets,
)
from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.engine.logs import draw_clips
from ssvid.engine.warm_start import start_encoder
from ssvid.errors import UserError, check_positive
from ssvid.nn.ema import update_momentum
from ssvid.nn.masks import Kind, Mask, draw_for_clips
from ssvid.nn.patches import check_divisible
from ssvid.nn.position import Kind as Positions
from ssvid.nn.precise import raise_precision
from ssvid.nn.prism import AttentionPooler
from ssvid.objective import SMALL_BATCH, Objective, require
from ssvid.registry import objectives
from ssvid.shapes import Batch, Clip, Dropped, Grid, Loss, Views, take_first_sample

NAME = "masked_distillation"
HEADS = 8  # of the student's pooler where its teacher has none; they divide every even width


@objectives.register("masked_distillation")
class MaskedDistillation(Objective):
    """Cosine distances to a frozen teacher: of every token (local), and of the clip (global).

    Without `teacher` the teacher is a copy of the student's own start, which `--init` gives: stage
    2 begins with the weights of stage 1. Checkpoints hold the teacher once, so that a run goes on
    where the teacher's own folder has gone.
    """

    tiny_kwargs = {"mask_ratio": 0.5, "dec_dim": 16, "dec_depth": 1, "dec_heads": 2}
    tiny_kwargs |= {"dec_hidden": 32, "pool_heads": 2}
    default_flags = {"encoder": {"name": "videoprism_tiny"}, "clip": {}, **SMALL_BATCH}
    small_settings = {"dec_dim": 128, "dec_depth": 2, "dec_heads": 4, "dec_hidden": 512}
    preset_flags = {"one_gpu": {"encoder": {"name": "videoprism_b"}}}

    def __init__(
        self,
        encoder: Encoder,
        *,
        # a run of stage 1 or a published file; null: a frozen copy of the student's own start
        teacher: str | None = None,
        start: Literal["teacher", "new"] = "teacher",  # the student's weights, where it is a file
        mask: Kind = "bevt",  # how tokens are hidden
        mask_ratio: float = 0.65,  # fraction of tokens that are hidden
        local: bool = True,  # predict the teacher's tokens, hidden and visible ones
        global_loss: bool = True,  # predict the teacher's vector of the clip
        shuffle: bool = True,  # shuffle the tokens before the decoder, of each clip in its own way
        local_weight: float = 1.0,  # of the local loss
        global_weight: float = 1.0,  # of the global loss
        target_norm: bool = False,  # layer norm of targets; ours: the paper mentions none
        mask_token: MaskToken = "decoder",  # whose width it has; ours: as in MAE
        dec_dim: int = 512,  # width of the decoders
        dec_depth: int = 4,  # blocks of each decoder
        dec_heads: int = 8,  # of their attention; ours: 64 wide each, as in the encoder
        dec_hidden: int = 2048,  # width of their MLPs
        dec_positions: Positions = "joint",  # of the local decoder; ours: a learnt row for a token
        # of the student's pooler; null: those of the teacher's pooler, or 8 where it has none
        pool_heads: int | None = None,
        augment: str = "resized_flip",  # a recipe of ssvid.data.augment; ours
        middle: bool = False,  # the middle clip of every video in every epoch, not a random one
        targets: str | None = None,  # a folder for the teacher's targets of clips that never change
    ) -> None:
        super().__init__()
        check_positive(local_weight=local_weight, global_weight=global_weight)
        if not local and not global_loss:
            raise UserError(f"{NAME} has nothing to learn: --objective.local or .global_loss true.")
        self.encoder = require(NAME, encoder, can_skip=True)
        check_divisible(NAME, encoder, encoder.spec.frames, encoder.spec.size)
        self.augment, self.middle, self.shuffle = augment, middle, shuffle
        self.weights = {"local": local_weight, "global": global_weight}
        self.target_norm, self.copies_student = target_norm, teacher is None
        grid = encoder.spec_grid()
        self.mask = Mask(NAME, "mask_ratio", mask, mask_ratio, grid)
        self.store = None if targets is None else TargetStore(targets)
        if self.store is not None:
            check_views(self.views)
        self.teacher = copy_student(encoder) if teacher is None else load_teacher(teacher, encoder)
        if teacher is not None and start == "teacher":
            start_from_teacher(encoder, self.teacher.encoder, teacher)
        sizes = Sizes(dec_dim, dec_depth, dec_heads, dec_hidden)
        self.local_branch = self.global_branch = None
        if local:
            self.local_branch = LocalBranch(encoder.dim, grid, sizes, dec_positions, mask_token)
        if global_loss:
            pooler = make_pooler(self.teacher.pooler, encoder.dim, pool_heads)
            self.global_branch = GlobalBranch(encoder.dim, sizes, pooler)

    @property
    def views(self) -> Views:
        return self.encoder.make_views(self.augment, middle_clip=self.middle)

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        if self.store is not None:
            self.store.read_from(data, views)

    def on_weights_loaded(self) -> None:
        if self.copies_student:
            update_momentum(self.encoder, self.teacher.encoder, 0.0)

    def forward(self, batch: Batch) -> Loss:
        clip = batch["clips"][:, 0]
        grid = self.encoder.grid(*clip.shape[2:])
        visible, hidden = self.mask(batch, grid)
        targets = self.find_targets(clip, batch)
        tokens = self.encoder(clip, visible).tokens  # B K D
        losses = {}
        if self.local_branch is not None:
            pred = self.local_branch(tokens, visible, hidden, grid, self.draw_order(batch, grid))
            losses["local"] = measure_distance(pred, targets.tokens)
        if self.global_branch is not None:
            losses["global"] = measure_distance(self.global_branch(tokens), targets.pooled)
        total = torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()
        return Loss(total, {name: loss.detach() for name, loss in losses.items()})

    def find_targets(self, clip: Clip, batch: Batch) -> Targets:
        if self.store is None:
            targets = self.teacher(clip)
        else:
            targets = self.store.find(batch, clip, self.teacher)
        return normalise_targets(targets) if self.target_norm else targets

    def draw_order(self, batch: Batch, grid: Grid) -> Order:
        """For each slot of the local decoder, the position whose token it holds."""
        if not self.shuffle:
            return None
        return draw_for_clips(batch, "shuffle", grid.n).argsort(dim=1, stable=True)

    @torch.no_grad()
    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """The first clip, what the student sees of it, and how near each predicted token is to the
        teacher's.

        White is a cosine of 1, black one of 0 or less.
        """
        if self.local_branch is None:
            return {}
        first = take_first_sample(batch)
        clip = first["clips"][:, 0]
        grid = self.encoder.grid(*clip.shape[2:])
        visible, hidden = self.mask(first, grid)
        tokens = self.encoder(clip, visible).tokens
        pred = self.local_branch(tokens, visible, hidden, grid, self.draw_order(first, grid))
        target = self.find_targets(clip, first).tokens
        near = F.cosine_similarity(raise_precision(pred), raise_precision(target), dim=-1)
        return {"tokens": draw_clips(self.stack_rows(clip, near, hidden, grid), self.views)}

    def stack_rows(
        self, clip: Clip, near: Float[Tensor, "1 N"], hidden: Dropped, grid: Grid
    ) -> Float[Tensor, "3 C T H W"]:
        """The rows of the picture, normalised as the encoder sees them."""
        is_hidden = torch.zeros_like(near).scatter(1, hidden, 1.0)
        mean, std = (
            clip.new_tensor(x).view(-1, 1, 1, 1) for x in (self.encoder.mean, self.encoder.std)
        )
        gray = (0.5 - mean) / std
        covered = self.spread(is_hidden, grid).to(clip)
        shown = (self.spread(near, grid).to(clip).clamp(0, 1) - mean) / std
        return torch.cat([clip, clip * (1 - covered) + gray * covered, shown])

    def spread(self, values: Float[Tensor, "1 N"], grid: Grid) -> Clip:
        """A value of each token over all pixels of the token."""
        assert self.encoder.tubelet is not None  # can_skip promises it
        p, q, r = self.encoder.tubelet
        cube = values.view(1, *grid)
        return repeat(cube, "1 t h w -> 1 C (t p) (h q) (w r)", C=3, p=p, q=q, r=r)


def start_from_teacher(student: Encoder, teacher: Encoder, path: str) -> None:
    """Load the teacher's weights. A UserError if the student is another net."""
    try:
        start_encoder(student, dict(teacher.state_dict()), path)
    except UserError as error:
        raise UserError(
            f"{error} A student of another kind than its teacher begins anew: give "
            "--objective.start new."
        ) from error
    student.licence = teacher.licence


def make_pooler(
    teacher_pooler: AttentionPooler | None, dim: int, heads: int | None
) -> AttentionPooler:
    """The student's pooler, which begins anew, because it sits on a decoder and not on an encoder.

    It is as large as the teacher's.
    """
    sizes: dict[str, Any] = {"dim": dim, "heads": HEADS}
    if teacher_pooler is not None:
        sizes = dict(teacher_pooler.sizes)
    return AttentionPooler(**sizes if heads is None else {**sizes, "heads": heads})


def measure_distance(pred: Tensor, target: Tensor) -> Float[Tensor, ""]:
    """1 less the mean cosine, in float32."""
    return 1 - F.cosine_similarity(raise_precision(pred), raise_precision(target), dim=-1).mean()
