"""Objective and a ratio -> its encoders see only some tokens: `--drop_tokens` and `--dense_last`.

This is Turbo training (Han, Xie, Zisserman 2022, arXiv:2210.04889) for every objective that reads
only pooled features. A hook gives each encoder a `visible` that the objective did not ask for. In
eval mode an encoder always sees all tokens.
"""

import math
from fractions import Fraction
from typing import Any, cast

from torch import Tensor, nn

from ssvid import registry
from ssvid.encoder import Encoder
from ssvid.errors import UserError, check_range
from ssvid.nn import shuffle
from ssvid.nn.patches import check_divisible
from ssvid.objective import Objective, require
from ssvid.randomness import uniform
from ssvid.shapes import Batch, Clip, Grid, Index, Views

FLAGS = "drop_tokens", "dense_last", "recompute"
ARGUMENTS = "clip", "visible", "layers"  # of Encoder.forward, in order


class Turbo:
    """Drops random tokens of every clip in all encoders of an objective that can skip tokens.

    The tokens are drawn from (seed, number of the encoder call in this forward, epoch, index). If a
    call has several clips of a sample, each clip loses tokens of its own.
    """

    def __init__(
        self,
        objective: Objective,
        views: Views,
        drop_tokens: float,
        dense_last: float = 0.0,
        steps: int = 0,
    ) -> None:
        """Install the hooks. A UserError if the objective or an encoder needs all tokens.

        `views`: the clips as the user changed them. `dense_last`: the fraction of `steps`, at the
        end, in which no token is dropped.
        """
        self.drop_ratio = read_ratio("drop_tokens", drop_tokens)
        last = read_ratio("dense_last", dense_last)
        if self.drop_ratio == 1:
            raise UserError(
                f"--drop_tokens {drop_tokens}: it must be less than 1, or no token is left."
            )
        if last and not self.drop_ratio:
            raise UserError(
                f"--dense_last {dense_last}: without --drop_tokens every step is dense already."
            )
        self.dense_from = steps - math.ceil(last * steps) if last else math.inf
        self.calls = 0  # of encoders, in this forward
        # Seed, epoch and index of the samples of this forward.
        self.coordinates: tuple[int, Tensor, Tensor] | None = None
        self.dense = not self.drop_ratio
        self.summary = ""  # for the line that announces a run
        # The visible fraction as integers, because a compiled graph can compute with them.
        self.numerator, self.denominator = (1 - self.drop_ratio).as_integer_ratio()
        if self.drop_ratio:
            self.install(objective, views, f"--drop_tokens {drop_tokens}")

    def install(self, objective: Objective, views: Views, flag: str) -> None:
        check_objective(objective, views, flag)
        spec = objective.encoder.spec if not views.clips else views.clips[0]
        n = objective.encoder.grid(spec.frames, spec.size, spec.size).n
        self.summary = f" encoders see {self.count_visible(n)} of {n} tokens of a clip;"
        if self.dense_from != math.inf:
            self.summary = f"{self.summary[:-1]}, all of them from step {self.dense_from} on;"
        for net in objective.modules():
            # CoCLR's sampler cannot skip tokens and need not: it never trains.
            if isinstance(net, Encoder) and net.can_skip:
                net.register_forward_pre_hook(self.hide_tokens, with_kwargs=True)

    def count_visible(self, n: int) -> int:
        """ceil((1 - ratio) n) in exact arithmetic: a ratio of 0.7 leaves 3 of 10 tokens."""
        return -(-n * self.numerator // self.denominator)

    def begin(self, batch: Batch, step: int) -> None:
        """Note the samples of the next forward. Call it before each forward."""
        self.calls, self.dense = 0, not self.drop_ratio or step >= self.dense_from
        self.coordinates = (batch["seed"], batch["epoch"], batch["index"])

    def hide_tokens(
        self, net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]] | None:
        """The hook that torch calls before the forward of an encoder. It adds `visible`."""
        arguments = {**dict(zip(ARGUMENTS, args, strict=False)), **kwargs}
        if self.dense or not net.training or arguments.get("visible") is not None:
            return None
        clip = arguments["clip"]
        visible = self.choose_visible(clip, cast(Encoder, net).grid(*clip.shape[2:]))
        return (), {**arguments, "visible": visible}

    def choose_visible(self, clip: Clip, grid: Grid) -> Index:
        """Draw the visible tokens of each clip of an encoder call."""
        assert self.coordinates is not None, "Turbo.begin(batch, step) comes before the forward"
        seed, epoch, index = self.coordinates
        views = len(clip) // len(index)
        assert views * len(index) == len(clip), "an encoder got clips that are not of this batch"
        u = uniform(seed, f"turbo/{self.calls}", epoch, index, views * grid.n)
        self.calls += 1
        order = u.view(len(clip), grid.n).argsort(dim=1, stable=True)
        return order[:, : self.count_visible(grid.n)]


def read_ratio(flag: str, ratio: float) -> Fraction:
    """A ratio as the user wrote it, without the rounding of floats. A UserError outside [0, 1]."""
    check_range(0, 1, **{flag: ratio})
    return Fraction(str(ratio))


def check_objective(objective: Objective, views: Views, flag: str) -> None:
    """Raise a UserError if the objective or its encoders need all tokens."""
    if not objective.pooled_only:
        raise UserError(
            f"{flag}: {get_name(objective)} is not pooled_only, it needs tokens or hides some "
            f"itself. These work with fewer: {', '.join(list_pooled_only())}, and ssvid.finetune."
        )
    for net in (objective.encoder, *objective.exported_encoders().values()):
        require("--drop_tokens", net, can_skip=True)
    for spec in views.clips or (objective.encoder.spec,):
        check_divisible("--drop_tokens", objective.encoder, spec.frames, spec.size)
    if any(shuffle.is_needed(net) for net in objective.modules() if isinstance(net, Encoder)):
        raise UserError(
            f"{flag}: processes with a batch norm of their own may exchange clips, which would "
            "then lose the tokens of other clips: give --sync_bn true."
        )


def get_name(objective: Objective) -> str:
    """The registered name of an objective, or the name of its class."""
    names = (name for name, entry in registry.objectives.table.items() if entry is type(objective))
    return next(names, type(objective).__name__)


def list_pooled_only() -> list[str]:
    """Names of the registered objectives that read only pooled features."""
    names = registry.objectives.names()
    return [name for name in names if cast(type[Objective], registry.objectives[name]).pooled_only]


def without_unset_flags(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without the flags of this file that are off.

    Runs are older than these flags. Without this, they would not match their own configuration.
    """
    return {key: value for key, value in config.items() if key not in FLAGS or value}
