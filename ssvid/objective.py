"""batch -> Loss: the interface of all objectives, which are the files in `objectives/`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ssvid.encoder import Encoder, list_encoders
from ssvid.errors import UserError
from ssvid.old_names import refuse_old_names
from ssvid.shapes import Batch, Loss, Views

if TYPE_CHECKING:  # a manifest's module opens files; an objective needs its type alone
    from ssvid.data.manifest import Manifest
    from ssvid.text.joint import JointSpace


# Hooks of an earlier version -> their names now. They are refused for one version.
OLD_HOOKS = {
    "suits": "check_data",
    "keep": "save_assets",
    "warmed": "on_weights_loaded",
    "pictures": "visualize",
    "exported": "exported_encoders",
    "joint": "joint_space",
    "on_features": "reads_features",
    "tiny": "tiny_kwargs",
}
# What --encoder left out means for an objective that declares nothing else.
SMALL_VIT = {"name": "vit", "dim": 192, "depth": 6, "heads": 3, "patch": 8}
SMALL_VIT |= {"frames": 8, "size": 64}
SMALL_BATCH: dict[str, Any] = {"batch_size": 32, "lr_batch": None}  # the rate is as it is given


class Objective(nn.Module, ABC):
    """A pretraining method with its encoders, heads, queues and teachers.

    A subclass is built as `NAME(encoder, *, hyper-parameters)`.
    """

    encoder: Encoder
    pooled_only: bool = False  # reads only `Features.pooled`, so that tokens may be dropped
    reads_features: bool = False  # learns from stored features and is built without an encoder
    brings_encoder: bool = False  # opens a trained encoder itself and is built without one
    tiny_kwargs: dict[str, Any] = {}  # hyper-parameters of a small one, for the contract tests
    # Flags of ssvid.pretrain that suit it better than the command's defaults. The encoder, its clip
    # and the batch are those where --encoder is left out: small, so that a first try needs no GPU.
    default_flags: dict[str, Any] = {"encoder": SMALL_VIT, "clip": {"fps": 8}, **SMALL_BATCH}
    # Hyper-parameters that go with that encoder, and not with one that the user or a preset names.
    small_settings: dict[str, Any] = {}
    # Preset (laptop, one_gpu) -> flags that suit it better than those of the preset's file.
    preset_flags: dict[str, dict[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_old_names(cls, OLD_HOOKS)

    @property
    @abstractmethod
    def views(self) -> Views:
        """The clips that the loader draws from each video. Known once the objective is built."""

    @abstractmethod
    def forward(self, batch: Batch) -> Loss:
        """The loss of a micro-batch.

        It changes nothing but statistics of batch norm, because it runs several times in a step
        where gradients are accumulated.
        """

    @abstractmethod
    def exported_encoders(self) -> dict[str, Encoder]:
        """The encoders that a run saves, by name. May be empty."""

    def joint_space(self) -> "JointSpace | None":
        """The space in which an exported encoder's clips are compared with sentences."""
        return None

    def check_data(self, data: "Manifest", views: Views, batch_size: int) -> None:
        """Raise a UserError if this objective cannot learn from the training clips.

        It is called before any work. `views` are its own, as the user's flags changed them.
        """

    def set_classes(self, names: Sequence[str]) -> None:
        """Take the names of the data's classes, for an objective that learns them as words.

        It is called once, before weights are loaded and before the optimiser is built, so it may
        make parameters.
        """

    def compute_rate_factors(self) -> dict[str, float]:
        """Parameter -> factor of its learning rate; 1 for those that are left out."""
        return {}

    def save_assets(self, folder: Path) -> None:
        """Write files that it was built from, such as a word list, beside the run's weights."""

    def on_weights_loaded(self) -> None:
        """Called after an exported encoder was loaded from a file. Teachers copy it again."""

    def after_step(self, progress: float) -> None:
        """Called after every optimiser step, to update teachers and queues. `progress`: 0 to 1."""

    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """Name -> uint8 picture `3 H W` of what the objective sees and predicts.

        The docstring of a subclass's method is the caption on the run's page.
        """
        return {}


def require(objective: str, encoder: Encoder, **capabilities: bool) -> Encoder:
    """Return the encoder if it has the capabilities.

    Otherwise a UserError names the missing capability and the encoders that have it.
    """
    for name, value in capabilities.items():
        if getattr(encoder, name) != value:
            able = ", ".join(list_encoders(**{name: value}))
            raise UserError(
                f"{objective} needs an encoder with {name}; {encoder.name} has not. These have: "
                f"{able}."
            )
    return encoder
