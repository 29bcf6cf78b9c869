"""Features and losses -> whether a run is healthy: collapse monitors and the check for NaN."""

import torch
from torch import Tensor

from ssvid.encoder import evaluating
from ssvid.errors import RunError
from ssvid.objective import Objective
from ssvid.shapes import Batch, Pooled

MONITORED_CLIPS = 64  # whole clips, even if the objective sees only some tokens of each


def effective_rank(features: Pooled) -> float:
    """RankMe (arXiv:2210.02885): exp of the entropy of the singular values; 1 after a collapse."""
    spectrum = torch.linalg.svdvals((features - features.mean(0)).float())
    p = spectrum / spectrum.sum().clamp_min(1e-12)
    return float(torch.exp(-(p * p.clamp_min(1e-12).log()).sum()))


def std_of_units(features: Pooled) -> Tensor:
    """Standard deviation of unit features, averaged over their dimensions (SimSiam,
    arXiv:2011.10566).

    It is 0 after a collapse and about 1/sqrt(width) for spread features. lightly has the same
    function; importing it in the middle of a run would also import torch's compiler.
    """
    return torch.nn.functional.normalize(features, dim=1).std(dim=0).mean()


@torch.no_grad()
def monitor_features(objective: Objective, batch: Batch) -> dict[str, float]:
    """Effective rank and feature std of every exported encoder on the first view.

    The state of the run stays as it is.
    """
    values = {}
    for name, encoder in objective.exported_encoders().items():
        with evaluating(encoder):
            pooled = encoder(batch["clips"][:MONITORED_CLIPS, 0]).pooled.float()
        if len(pooled) > 1:
            values[f"{name}/effective_rank"] = effective_rank(pooled)
            values[f"{name}/feature_std"] = float(std_of_units(pooled))
    return values


class FiniteCheck:
    """Losses and gradient norms of the last steps. They stay on the device until `check`."""

    def __init__(self) -> None:
        self.values: list[tuple[int, str, Tensor, list[str]]] = []

    def add(self, step: int, name: str, value: Tensor, ids: list[str]) -> None:
        self.values.append((step, name, value.detach(), ids))

    def check(self, last_good: str) -> None:
        """Raise a RunError for the first value that is NaN or infinite, and forget the others."""
        if not self.values:
            return
        finite = torch.stack([value for _, _, value, _ in self.values]).isfinite().tolist()
        for (step, name, value, ids), is_finite in zip(self.values, finite, strict=True):
            if not is_finite:
                raise RunError(
                    f"The {name} was {float(value)} at step {step}, on the samples "
                    f"{', '.join(ids)}. Stopped; the last good checkpoint is {last_good}. Try a "
                    "lower --lr, --clip_grad 1 or --precision fp32."
                )
        self.values.clear()
