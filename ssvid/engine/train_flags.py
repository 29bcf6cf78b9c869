"""The flags that every command that trains has: declared, defaulted and checked once.

jsonargparse makes them flags of `ssvid.pretrain` and `ssvid.finetune`, which hand their keywords
on to these classes. The comment beside a field is its help.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from ssvid.encoder import Encoder
from ssvid.engine import optim
from ssvid.errors import UserError, positive, within
from ssvid.shapes import Views

SPACED_OTHERWISE = {"fps": None, "stride": None, "whole": False}
POSITIVE = (
    *("steps", "epochs", "batch_size", "accumulate", "threads", "log_every", "keep_checkpoints"),
    *("picture_every", "checkpoint_every", "clip_grad", "probe_every", "lr_batch", "timeout_s"),
    *("test_clips", "test_crops", "layer_decay"),
)
NOT_NEGATIVE = ("lr", "min_lr", "weight_decay", "workers", "head_scale")
SHARES = ("warmup", "max_bad", "head_warmup", "layer_decay", "encoder_rate")


@dataclass(frozen=True)
class ClipChange:
    """What the user changes of the clips that objective and encoder ask for."""

    frames: int | None = None  # of a clip
    fps: float | None = None  # frames a second
    stride: int | None = None  # of the file's frames, instead of fps
    whole: bool | None = None  # frames spread evenly over the whole video, not fps or stride
    size: int | None = None  # pixels of a side
    modality: Literal["rgb", "flow"] | None = None  # flow: see ssvid.data.preprocess.flow

    def views(self, views: Views) -> Views:
        """Of two streams each keeps its modality: the user's is that of the encoder."""
        change = {key: value for key, value in self.given().items() if key != "modality"}
        return replace(views, clips=tuple(replace(spec, **change) for spec in views.clips))

    def onto(self, net: Encoder) -> None:
        """The encoder's own clip changed in place."""
        net.spec = spec = replace(net.spec, **self.given())
        if not net.grid(spec.frames, spec.size, spec.size).n:
            raise UserError(
                f"{net.name} makes no token of a clip of {spec.frames} frames, {spec.size} pixels: "
                "give it more with --clip.frames, --clip.size."
            )

    def given(self) -> dict[str, Any]:
        """One way to space the frames undoes the others."""
        spaced = {
            "fps": self.fps is not None,
            "stride": self.stride is not None,
            "whole": bool(self.whole),
        }
        if sum(spaced.values()) > 1:
            flags = "--clip.fps, --clip.stride and --clip.whole"
            raise UserError(f"{flags} exclude each other: give one.")
        change = {k: v for k, v in vars(self).items() if v is not None}
        return {**(SPACED_OTHERWISE if any(spaced.values()) else {}), **change}


UNCHANGED = ClipChange()


@dataclass(frozen=True, kw_only=True)
class TrainFlags:
    """Defaults are those of pretraining."""

    steps: int | None = None  # of the optimiser; give steps or epochs
    epochs: float | None = None  # instead of steps
    batch_size: int = 256  # over all processes
    accumulate: int = 1  # micro-batches of a step
    optimizer: optim.Name = "adamw"  # adam: weight decay in the gradient, as DPC and CoCLR have it
    lr: float = 1.5e-4  # highest learning rate, for lr_batch clips
    lr_batch: int | None = 256  # the rate grows with batch_size / lr_batch; null: as it is
    min_lr: float = 1e-5  # last learning rate, scaled like lr
    warmup: float = 0.05  # share of the steps
    # fractions of the steps at which the rate falls to a tenth; without them it follows a cosine
    lr_milestones: tuple[float, ...] = ()
    weight_decay: float = 0.05  # of matrices and kernels
    betas: tuple[float, float] = (0.9, 0.95)  # of adam and adamw; sgd: the first is its momentum
    clip_grad: float | None = None  # largest gradient norm
    clip: ClipChange = UNCHANGED  # the user's clip, over that of objective and encoder
    short_videos: Literal["pad", "drop", "error"] = (
        "pad"  # what to do with videos shorter than a clip
    )
    seed: int = 0  # of weights, data, masks and choices
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 on a GPU
    drop_tokens: float = 0.0  # share of a clip's tokens that encoders do not see; 0: none
    dense_last: float = 0.0  # share of the steps, the last ones, in which they see all
    recompute: bool = False  # compute transformer blocks again for backward: less memory, more time
    compile: bool = False  # run the training step through torch.compile
    sync_bn: bool = True  # batch norm over all processes; false: each its own, as DPC was published
    devices: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU where there is one
    timeout_s: float = 600.0  # how long a process waits for the others
    threads: int | None = None  # of torch; null: torch's own choice
    workers: int = 2  # loader processes
    decoder: str = "pyav"  # pyav or torchcodec
    max_bad: float = 0.01  # share of files that may be damaged
    log_every: int = 10  # steps
    picture_every: int = 200  # steps
    checkpoint_every: int = 200  # steps
    keep_checkpoints: int = 2  # number of checkpoints that stay on disk, the newest ones


@dataclass(frozen=True, kw_only=True)
class FinetuneFlags(TrainFlags):
    """The same with the defaults of fine-tuning."""

    batch_size: int = 64  # videos, over all processes
    lr: float = 5e-4  # of the head, for lr_batch videos
    min_lr: float = 1e-6  # scaled like lr
    warmup: float = 0.07  # share of the steps
    betas: tuple[float, float] = (0.9, 0.999)  # of adam and adamw; sgd: the first is its momentum
    short_videos: Literal["pad", "drop", "error"] = "pad"  # in training; the test pads


def check_numbers(config: dict[str, Any]) -> None:
    """Refuse numbers that no run can have, before anything is built."""
    positive(**{name: config[name] for name in POSITIVE if name in config})
    within(0, math.inf, **{name: config[name] for name in NOT_NEGATIVE if name in config})
    within(0, 1, **{name: config[name] for name in SHARES if name in config})


def steps_of(steps: int | None, epochs: float | None, rows: int, batch_size: int) -> int:
    if steps is not None and epochs is None:
        return steps
    if epochs is not None and steps is None:
        return max(1, round(epochs * rows / batch_size))
    raise UserError("Say how long to train: --steps N or --epochs N, one of the two.")
