"""batch -> Loss: what every objective is. An interface without state; files in `objectives/` are the leaves."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ssvid.encoder import Encoder, list_encoders
from ssvid.errors import UserError
from ssvid.shapes import Batch, Loss, Views

if TYPE_CHECKING:  # a manifest's module opens files; an objective needs its type alone
    from ssvid.data.manifest import Manifest
    from ssvid.text.joint import Joint


class Objective(nn.Module, ABC):
    """Owns its encoder(s), heads, queues and teachers. `__init__(encoder, *, hyper-parameters)`."""

    pooled_only: bool = False  # uses `Features.pooled` alone, so tokens may be dropped at the input
    encoder: Encoder
    on_features: bool = False  # learns from stored features: is built without an encoder
    tiny: dict[str, Any] = {}  # hyper-parameters of a small one, for contract tests

    @property
    @abstractmethod
    def views(self) -> Views:
        """Which clips to load, known once the objective is built."""

    @abstractmethod
    def forward(self, batch: Batch) -> Loss:
        """Mutates nothing but batch-norm statistics: it runs several times under gradient accumulation."""

    @abstractmethod
    def exported(self) -> dict[str, Encoder]:
        """The encoders worth keeping, by name. May be empty."""

    def joint(self) -> "Joint | None":
        """What puts features of an exported encoder and sentences into one space, where it learns that."""
        return None

    def suits(self, data: "Manifest", views: Views, batch_size: int) -> None:
        """Refuse, before any work, clips that it cannot learn from. `views`: its own, as the user changed them."""

    def keep(self, folder: Path) -> None:
        """Put beside its weights what else it was built from, such as a list of words, so that a run is whole."""

    def warmed(self) -> None:
        """Its exported encoders were given weights from outside: teachers begin anew as their copies."""

    def after_step(self, progress: float) -> None:
        """Once per optimiser step (teachers, queues); `progress` runs from 0 to 1."""

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Name -> uint8 picture `3 H W` of what the objective sees and makes; this text is the caption in its page."""
        return {}


def require(objective: str, encoder: Encoder, **capabilities: bool) -> Encoder:
    """The encoder, or a refusal that names what it lacks and who has it."""
    for name, value in capabilities.items():
        if getattr(encoder, name) != value:
            able = ", ".join(list_encoders(**{name: value}))
            raise UserError(
                f"{objective} needs an encoder with {name}; {encoder.name} has not. These have: {able}."
            )
    return encoder
