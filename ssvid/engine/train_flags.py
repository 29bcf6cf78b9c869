"""The flags that all commands that train share. They are declared and checked here.

jsonargparse makes them flags of `ssvid.pretrain` and `ssvid.finetune`, which pass their keywords to
these classes. The comment of a field is its help text.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from ssvid.encoder import Encoder
from ssvid.engine import optim
from ssvid.errors import UserError, check_positive, check_range
from ssvid.shapes import Views

NO_SPACING = {"fps": None, "stride": None, "whole": False}
POSITIVE = (
    *("steps", "epochs", "batch_size", "accumulate", "threads", "log_every", "keep_checkpoints"),
    *("picture_every", "checkpoint_every", "clip_grad", "probe_every", "lr_batch", "timeout_s"),
    *("test_clips", "test_crops", "layer_decay"),
)
NOT_NEGATIVE = ("lr", "min_lr", "weight_decay", "workers", "head_scale")
FRACTIONS = ("warmup", "max_bad", "head_warmup", "layer_decay", "encoder_rate")


@dataclass(frozen=True)
class ClipChange:
    """The user's changes to the clip that the objective and the encoder ask for."""

    frames: int | None = None  # frames of a clip
    fps: float | None = None  # frames per second
    stride: int | None = None  # distance in frames of the file, instead of fps
    whole: bool | None = None  # spread the frames evenly over the whole video
    size: int | None = None  # height and width in pixels
    modality: Literal["rgb", "flow"] | None = None  # flow: compute it with ssvid.data.flow

    def views(self, views: Views) -> Views:
        """The views with the change. Every clip keeps its modality: the user's is the encoder's."""
        change = self.settings()
        change.pop("modality", None)
        return replace(views, clips=tuple(replace(spec, **change) for spec in views.clips))

    def apply_to(self, net: Encoder) -> None:
        """Change the clip of the encoder in place.

        A UserError if the encoder makes no token of it, or takes another number of frames alone.
        """
        if net.fixed_frames and self.frames not in (None, net.spec.frames):
            raise UserError(
                f"--clip.frames {self.frames}: this {net.name} takes clips of {net.spec.frames} "
                "frames alone: leave the flag out, or train an encoder of other frames."
            )
        net.spec = spec = replace(net.spec, **self.settings())
        if not net.grid(spec.frames, spec.size, spec.size).n:
            raise UserError(
                f"{net.name} makes no token of a clip of {spec.frames} frames, {spec.size} pixels: "
                "give it more with --clip.frames, --clip.size."
            )

    def settings(self) -> dict[str, Any]:
        """The changed fields of a ClipSpec. One way to space the frames replaces the others."""
        spacings = [self.fps is not None, self.stride is not None, bool(self.whole)]
        if sum(spacings) > 1:
            flags = "--clip.fps, --clip.stride and --clip.whole"
            raise UserError(f"{flags} exclude each other: give one.")
        change = {name: value for name, value in vars(self).items() if value is not None}
        return {**NO_SPACING, **change} if any(spacings) else change


UNCHANGED = ClipChange()


@dataclass(frozen=True, kw_only=True)
class TrainFlags:
    """The shared flags with the defaults of pretraining."""

    # values for the flags that are left out: laptop (two CPU cores) or one_gpu (of 24 GB)
    preset: Literal["laptop", "one_gpu"] | None = None
    steps: int | None = None  # steps of the optimiser; give steps or epochs
    epochs: float | None = None  # passes over the clips, instead of steps
    batch_size: int = 256  # videos in a step, over all processes
    accumulate: int = 1  # micro-batches that a step is split into
    optimizer: optim.Name = "adamw"  # adam: weight decay in the gradient, as DPC and CoCLR have it
    lr: float = 1.5e-4  # peak learning rate for a batch of lr_batch clips
    lr_batch: int | None = 256  # lr is multiplied by batch_size / lr_batch; null: it is not
    min_lr: float = 1e-5  # learning rate at the end, scaled like lr
    warmup: float = 0.05  # fraction of the steps in which the learning rate rises from 0
    lr_decay: optim.Decay = "cosine"  # how the learning rate falls after the warm-up
    # fractions of the steps at which the learning rate falls to a tenth, instead of lr_decay
    lr_milestones: tuple[float, ...] = ()
    weight_decay: float = 0.05  # weight decay of matrices and kernels
    betas: tuple[float, float] = (0.9, 0.95)  # of adam and adamw; the first is sgd's momentum
    clip_grad: float | None = None  # largest gradient norm
    clip: ClipChange = UNCHANGED  # changes to the clip of the objective and the encoder
    # what to do with videos shorter than a clip: repeat their last frame, leave them out, or stop
    short_videos: Literal["pad", "drop", "error"] = "pad"
    seed: int = 0  # seed of the weights, data, masks and all other random choices
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 on a GPU
    drop_tokens: float = 0.0  # fraction of a clip's tokens that are hidden from encoders
    dense_last: float = 0.0  # fraction of the steps, at the end, in which no token is hidden
    # compute transformer blocks again in the backward pass: less memory, more time
    recompute: bool = False
    compile: bool = False  # run the training step through torch.compile
    sync_bn: bool = True  # batch norm over all processes; DPC was published with false
    devices: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU where there is one
    timeout_s: float = 600.0  # seconds that a process waits for the others
    threads: int | None = None  # threads of torch; null: torch chooses
    workers: int = 2  # processes that load clips
    decoder: str = "pyav"  # library that decodes videos: pyav or torchcodec
    max_bad: float = 0.01  # fraction of the files that may be damaged
    log_every: int = 10  # steps between two lines of metrics
    picture_every: int = 200  # steps between pictures and collapse monitors
    checkpoint_every: int = 200  # steps between checkpoints
    keep_checkpoints: int = 2  # number of the newest checkpoints that stay on disk


@dataclass(frozen=True, kw_only=True)
class FinetuneFlags(TrainFlags):
    """The shared flags with the defaults of fine-tuning."""

    batch_size: int = 64  # videos in a step, over all processes
    lr: float = 5e-4  # peak learning rate of the head for a batch of lr_batch videos
    min_lr: float = 1e-6  # learning rate at the end, scaled like lr
    warmup: float = 0.07  # fraction of the steps in which the learning rate rises from 0
    betas: tuple[float, float] = (0.9, 0.999)  # of adam and adamw; the first is sgd's momentum
    # what to do with training videos shorter than a clip; the test repeats their last frame
    short_videos: Literal["pad", "drop", "error"] = "pad"


def check_numbers(config: dict[str, Any]) -> None:
    """Raise a UserError for numbers that no run can have. It is called before anything is built."""
    check_positive(**{name: config[name] for name in POSITIVE if name in config})
    check_range(0, math.inf, **{name: config[name] for name in NOT_NEGATIVE if name in config})
    check_range(0, 1, **{name: config[name] for name in FRACTIONS if name in config})


def count_steps(steps: int | None, epochs: float | None, rows: int, batch_size: int) -> int:
    """The number of steps of a run over `rows` clips. A UserError if neither or both are set."""
    if steps is not None and epochs is None:
        return steps
    if epochs is not None and steps is None:
        return max(1, round(epochs * rows / batch_size))
    raise UserError("Say how long to train: --steps N or --epochs N, one of the two.")
