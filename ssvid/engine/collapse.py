"""features, losses -> is the run still alive? Collapse monitors, and the watch for NaN."""

import torch
from torch import Tensor

from ssvid.encoder import evaluating
from ssvid.errors import RunError
from ssvid.objective import Objective
from ssvid.shapes import Batch, Pooled

MONITORED = 64  # clips: whole ones, where the objective may see a tenth of each


def effective_rank(features: Pooled) -> float:
    """exp of the entropy of the singular values (RankMe, arXiv:2210.02885); 1 when all clips look alike."""
    spectrum = torch.linalg.svdvals((features - features.mean(0)).float())
    p = spectrum / spectrum.sum().clamp_min(1e-12)
    return float(torch.exp(-(p * p.clamp_min(1e-12).log()).sum()))


def std_of_units(features: Pooled) -> Tensor:
    """Mean over the widths of the standard deviation of unit features: 0 where all clips look alike.

    About 1/sqrt(width) where they are spread (SimSiam, arXiv:2011.10566). lightly has the same; its
    import in the middle of a run would bring torch's compiler, with processes of its own, along.
    """
    return torch.nn.functional.normalize(features, dim=1).std(dim=0).mean()


@torch.no_grad()
def monitors(objective: Objective, batch: Batch) -> dict[str, float]:
    """Effective rank and feature std of every exported encoder on the first view, without touching the run's state."""
    values = {}
    for name, encoder in objective.exported_encoders().items():
        with evaluating(encoder):
            pooled = encoder(batch["clips"][:MONITORED, 0]).pooled.float()
        if len(pooled) > 1:
            values[f"{name}/effective_rank"] = effective_rank(pooled)
            values[f"{name}/feature_std"] = float(std_of_units(pooled))
    return values


class Watch:
    """Losses and gradient norms kept on the device until `check`, so that no step waits for one."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str, Tensor, list[str]]] = []

    def add(self, step: int, what: str, value: Tensor, ids: list[str]) -> None:
        self.seen.append((step, what, value.detach(), ids))

    def check(self, last_good: str) -> None:
        """Raise at the first value that is NaN or Inf; forget the rest."""
        if not self.seen:
            return
        finite = torch.stack([value for _, _, value, _ in self.seen]).isfinite().tolist()
        for (step, what, value, ids), good in zip(self.seen, finite, strict=True):
            if not good:
                raise RunError(
                    f"The {what} was {float(value)} at step {step}, on the samples {', '.join(ids)}. Stopped; "
                    f"the last good checkpoint is {last_good}. Try a lower --lr, --clip_grad 1 or --precision fp32."
                )
        self.seen.clear()
