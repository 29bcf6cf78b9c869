"""MemDPC (Han et al. 2020, arXiv:2008.01065): DPC whose predictions come from a learnt memory.

A prediction is a weighted sum of memory slots, and the state of the ConvGRU gives the weights: many
futures are possible, and the memory holds their components. The slots are parameters that are
trained with the net; nothing writes to them. The first blocks are predicted from the last ones too.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.errors import check_positive
from ssvid.nn.blocks import (
    DEFAULT_FLAGS,
    PRESET_FLAGS,
    check_blocks,
    check_length,
    contrast_rows,
    encode_blocks,
    flatten_maps,
    make_views,
    roll_out,
)
from ssvid.nn.convgru import ConvGRU, init_orthogonal
from ssvid.objective import Objective
from ssvid.registry import objectives
from ssvid.shapes import Batch, Clip, Loss, Views

GAIN = 0.1  # of the orthogonal initialisation, as published


@objectives.register("memdpc")
class MemDPC(Objective):
    """Memory-augmented dense predictive coding."""

    tiny_kwargs = {"blocks": 4, "predicted": 2, "slots": 6, "dropout": 0.0}
    default_flags = DEFAULT_FLAGS
    preset_flags = PRESET_FLAGS

    def __init__(
        self,
        encoder: Encoder,
        *,
        blocks: int = 8,  # consecutive blocks, each with as many frames as the encoder's clip
        predicted: int = 3,  # blocks that are predicted, at the end and at the beginning
        slots: int = 1024,  # number of memory slots
        backward: bool = True,  # also predict the first blocks from the last
        dropout: float = 0.1,  # dropout of the GRUs' states
        negatives: str = "all",  # clips of all processes, or only of the own process (published)
        augment: str = "crop_flip_colour",  # a recipe of ssvid.data.augment
    ) -> None:
        super().__init__()
        check_blocks("memdpc", blocks, predicted, negatives)
        check_positive(slots=slots)
        self.encoder, self.blocks, self.predicted = encoder, blocks, predicted
        self.negatives, self.augment = negatives, augment
        dim = encoder.dim
        self.memory = nn.Parameter(torch.randn(slots, dim))
        self.gru = ConvGRU(dim, dim, dropout=dropout, gain=GAIN)
        self.gru_back = ConvGRU(dim, dim, dropout=dropout, gain=GAIN) if backward else None
        self.predict = nn.Sequential(
            init_orthogonal(nn.Conv2d(dim, dim, 1), GAIN),
            nn.ReLU(),
            init_orthogonal(nn.Conv2d(dim, slots, 1), GAIN),
        )

    @property
    def views(self) -> Views:
        return make_views(self.encoder, self.blocks, self.augment)

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        check_length(data, views)

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def forward(self, batch: Batch) -> Loss:
        z = self.encode_maps(batch["clips"][:, 0])  # B N D h w
        loss, accuracy = self.predict_direction(self.gru, z)
        parts = {"forward": loss.detach(), **accuracy}
        if self.gru_back is not None:
            # The order of the blocks is reversed, and not that of the frames inside them.
            backward, accuracy = self.predict_direction(self.gru_back, z.flip(1))
            loss = loss + backward
            parts["backward"] = backward.detach()
            for name, value in accuracy.items():
                parts[f"{name}_backward"] = value
        return Loss(loss, parts)

    def encode_maps(self, clip: Clip) -> Float[Tensor, "B N D h w"]:
        """A feature map for each block."""
        return encode_blocks("memdpc", self.encoder, clip, self.blocks)

    def predict_direction(
        self, gru: ConvGRU, z: Float[Tensor, "B N D h w"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and accuracy of predicting the last blocks of z from the first."""
        pred = roll_out(gru, z[:, : -self.predicted], self.predicted, self.read)
        return contrast_rows(
            flatten_maps(pred), flatten_maps(z[:, -self.predicted :]), self.negatives
        )

    def read(self, state: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        """The weighted sum of the slots at each position. The weights sum to 1."""
        return torch.einsum("bkhw,kd->bdhw", self.address(state), self.memory)

    def address(self, state: Float[Tensor, "B D h w"]) -> Float[Tensor, "B K h w"]:
        """The weight of each slot at each position."""
        return self.predict(state).softmax(1)

    @torch.no_grad()
    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """How much the first prediction of each clip (rows) reads each slot (columns).

        The slots are sorted by how much they are read; white is the largest weight. A memory of
        which few slots are used has a narrow bright edge on the left.
        """
        z = self.encode_maps(batch["clips"][:, 0])
        _, state = self.gru(z[:, : -self.predicted].relu())
        weights = self.address(state[-1]).mean((-2, -1))  # B K
        weights = weights[:, weights.mean(0).argsort(descending=True)]
        grey = rearrange((255 * weights / weights.max()).byte(), "B K -> 1 B K")
        width, height = max(1, 512 // grey.shape[2]), max(4, 64 // grey.shape[1])
        picture = grey.repeat_interleave(height, 1).repeat_interleave(width, 2)
        return {"memory": picture.expand(3, -1, -1)}
