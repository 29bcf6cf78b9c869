"""Flags of a command that trains -> the settings of the training loop."""

from dataclasses import dataclass
from typing import Any

import torch

from ssvid.data.parts import Mixture
from ssvid.engine import optim
from ssvid.engine.train_flags import TrainFlags


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the loop, for any objective. Most are flags of the same name."""

    steps: int
    batch_size: int  # over all processes
    accumulate: int = 1  # micro-batches of a step
    lr: float  # for `batch_size`, already scaled
    min_lr: float = 0.0
    warmup: int = 0  # steps
    lr_decay: optim.Decay = "cosine"
    # steps at which the rate falls to a tenth, instead of lr_decay
    lr_milestones: tuple[int, ...] = ()
    freeze_steps: int = 0  # first steps in which frozen groups of the optimiser do not learn
    clip_grad: float | None = None  # largest gradient norm
    bf16: bool = False
    compile: bool = False
    log_every: int = 10  # steps
    picture_every: int = 200  # steps; the collapse monitors run at these steps too
    checkpoint_every: int = 200  # steps
    keep_checkpoints: int = 2
    stop_on_collapse: float | None = None  # lowest effective rank of an exported encoder's features
    probe_every: int | None = None  # steps
    seed: int = 0
    mixture: Mixture | None = None  # of the clips; its parts are logged apart

    @classmethod
    def from_flags(
        cls, flags: TrainFlags, steps: int, device: torch.device, **options: Any
    ) -> "Settings":
        """The settings of a run of `steps` steps. `options`: settings that only one command has."""
        scale = flags.batch_size / flags.lr_batch if flags.lr_batch else 1.0
        automatic = flags.precision == "auto" and device.type == "cuda"
        return cls(
            steps=steps,
            batch_size=flags.batch_size,
            accumulate=flags.accumulate,
            lr=flags.lr * scale,
            min_lr=flags.min_lr * scale,
            warmup=int(flags.warmup * steps),
            lr_decay=flags.lr_decay,
            lr_milestones=optim.milestone_steps(flags.lr_milestones, steps),
            clip_grad=flags.clip_grad,
            bf16=flags.precision == "bf16" or automatic,
            compile=flags.compile,
            log_every=flags.log_every,
            picture_every=flags.picture_every,
            checkpoint_every=flags.checkpoint_every,
            keep_checkpoints=flags.keep_checkpoints,
            seed=flags.seed,
            **options,
        )

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return optim.rate(
            step,
            self.steps,
            peak=self.lr,
            warmup=self.warmup,
            last=self.min_lr,
            milestones=self.lr_milestones,
            decay=self.lr_decay,
        )
