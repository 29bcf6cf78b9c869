"""objective, share of tokens -> its encoders see the others alone: `--drop_tokens`, `--dense_last`, `--recompute`.

Turbo training (Han, Xie, Zisserman 2022, arXiv:2210.04889) of whatever reads pooled features alone. The only file that
gives an encoder a `keep` that its objective did not ask for. In eval mode an encoder always sees all tokens.
"""

import math
from fractions import Fraction
from typing import Any, cast

from torch import Tensor, nn

from ssvid import registry
from ssvid.encoder import Encoder
from ssvid.errors import UserError, within
from ssvid.nn import shuffle
from ssvid.nn.patches import divides
from ssvid.objective import Objective, require
from ssvid.randomness import uniform
from ssvid.shapes import Batch, Clip, Grid, Index, Views

FLAGS = "drop_tokens", "dense_last", "recompute"
NAMES = "clip", "visible", "layers"  # of what an encoder is called with, in order


class Turbo:
    """Made once, of the built objective: each of its encoders that can skip loses random tokens of every clip.

    They are drawn for (seed, number of the encoder's call in this forward, epoch, index). Of several clips of a sample
    in one call, which stand side by side, each loses its own.
    """

    def __init__(
        self,
        objective: Objective,
        views: Views,
        drop_tokens: float,
        dense_last: float = 0.0,
        steps: int = 0,
    ) -> None:
        """`views`: the clips as the user changed them; `dense_last`: the share of `steps` that see all tokens again."""
        self.share = exactly("drop_tokens", drop_tokens)
        last = exactly("dense_last", dense_last)
        if self.share == 1:
            raise UserError(
                f"--drop_tokens {drop_tokens}: it must be less than 1, or no token is left."
            )
        if last and not self.share:
            raise UserError(
                f"--dense_last {dense_last}: without --drop_tokens every step is dense already."
            )
        self.dense_from = steps - math.ceil(last * steps) if last else math.inf
        self.calls = 0
        self.whose: tuple[int, Tensor, Tensor] | None = (
            None  # seed, epoch, index of the samples of this forward
        )
        self.dense, self.said = not self.share, ""
        self.seen, self.of = (
            1 - self.share
        ).as_integer_ratio()  # integers, which a compiled graph can count with
        if self.share:
            self.install(objective, views, f"--drop_tokens {drop_tokens}")

    def install(self, objective: Objective, views: Views, flag: str) -> None:
        check_objective(objective, views, flag)
        spec = objective.encoder.spec if not views.clips else views.clips[0]
        n = objective.encoder.grid(spec.frames, spec.size, spec.size).n
        tail = (
            "" if self.dense_from == math.inf else f", all of them from step {self.dense_from} on"
        )
        self.said = f" encoders see {self.kept(n)} of {n} tokens of a clip{tail};"
        for net in objective.modules():
            if (
                isinstance(net, Encoder) and net.can_skip
            ):  # CoCLR's sampler need not: it never trains
                net.register_forward_pre_hook(self.hold_back, with_kwargs=True)

    def kept(self, n: int) -> int:
        """ceil((1 - share) n), without the noise of floats: 0.7 of 10 drops 7."""
        return -(-n * self.seen // self.of)

    def begin(self, batch: Batch, step: int) -> None:
        """Before each forward: of which samples the clips are."""
        self.calls, self.dense = 0, not self.share or step >= self.dense_from
        self.whose = (batch["seed"], batch["epoch"], batch["index"])

    def hold_back(
        self, net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]] | None:
        """What torch calls before an encoder's forward."""
        given = {**dict(zip(NAMES, args, strict=False)), **kwargs}
        if self.dense or not net.training or given.get("visible") is not None:
            return None
        clip = given["clip"]
        return (), {
            **given,
            "visible": self.choose_visible(clip, cast(Encoder, net).grid(*clip.shape[2:])),
        }

    def choose_visible(self, clip: Clip, grid: Grid) -> Index:
        assert self.whose is not None, "Turbo.begin(batch, step) comes before the forward"
        seed, epoch, index = self.whose
        views = len(clip) // len(index)
        assert views * len(index) == len(clip), (
            "an encoder was given clips of other samples than the batch's"
        )
        u = uniform(seed, f"turbo/{self.calls}", epoch, index, views * grid.n).view(
            len(clip), grid.n
        )
        self.calls += 1
        return u.argsort(dim=1, stable=True)[:, : self.kept(grid.n)]


def exactly(flag: str, share: float) -> Fraction:
    within(0, 1, **{flag: share})
    return Fraction(str(share))


def check_objective(objective: Objective, views: Views, flag: str) -> None:
    """Refuse what cannot do with a part of the tokens, before any work."""
    if not objective.pooled_only:
        raise UserError(
            f"{flag}: {name_of(objective)} is not pooled_only, it needs tokens or hides some itself. "
            f"These can do with fewer: {', '.join(pooled())}, and ssvid.finetune."
        )
    for net in (objective.encoder, *objective.exported_encoders().values()):
        require("--drop_tokens", net, can_skip=True)
    for spec in views.clips or (objective.encoder.spec,):
        divides("--drop_tokens", objective.encoder, spec.frames, spec.size)
    if any(shuffle.wanted(net) for net in objective.modules() if isinstance(net, Encoder)):
        raise UserError(
            f"{flag}: in several processes with batch norm of each, clips may be exchanged for it and would lose the "
            "tokens of others: give --sync_bn true."
        )


def name_of(objective: Objective) -> str:
    names = (name for name, entry in registry.objectives.table.items() if entry is type(objective))
    return next(names, type(objective).__name__)


def pooled() -> list[str]:
    names = registry.objectives.names()
    return [name for name in names if cast(type[Objective], registry.objectives[name]).pooled_only]


def told(config: dict[str, Any]) -> dict[str, Any]:
    """What a run is known by. Where these flags are off they are no part of it: runs made before them are the same."""
    return {key: value for key, value in config.items() if key not in FLAGS or value}
