"""MemDPC (Han et al. 2020, arXiv:2008.01065): predict the next blocks, and the first ones, out of a learnt memory.

As DPC, but a prediction is a mixture of memory slots, mixed by what the ConvGRU has gathered: many futures are likely,
and the memory holds what they are made of. The slots are parameters, trained with the rest; nothing is ever written.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.errors import positive
from ssvid.nn.blocks import (
    block_maps,
    block_views,
    check_blocks,
    contrast,
    long_enough,
    roll_out,
    rows,
)
from ssvid.nn.convgru import ConvGRU, orthogonal
from ssvid.objective import Objective
from ssvid.registry import objectives
from ssvid.shapes import Batch, Clip, Loss, Views

GAIN = 0.1  # of the orthogonal start, published


@objectives.register("memdpc")
class MemDPC(Objective):
    tiny_kwargs = {"blocks": 4, "predicted": 2, "slots": 6, "dropout": 0.0}

    def __init__(
        self,
        encoder: Encoder,
        *,
        blocks: int = 8,  # of the encoder's frames each, one after the other
        predicted: int = 3,  # of the blocks: the last ones from the first, and the first ones from the last
        slots: int = 1024,  # of the memory
        backward: bool = True,  # False: forwards alone
        dropout: float = 0.1,  # of the GRUs' states
        negatives: str = "all",  # all | process: published, each device only has its own clips
        augment: str = "crop_flip_colour",  # a recipe of ssvid.data.augment
    ) -> None:
        super().__init__()
        check_blocks("memdpc", blocks, predicted, negatives)
        positive(slots=slots)
        self.encoder, self.blocks, self.predicted = encoder, blocks, predicted
        self.negatives, self.augment = negatives, augment
        dim = encoder.dim
        self.memory = nn.Parameter(torch.randn(slots, dim))
        self.gru = ConvGRU(dim, dim, dropout=dropout, gain=GAIN)
        self.gru_back = ConvGRU(dim, dim, dropout=dropout, gain=GAIN) if backward else None
        self.predict = nn.Sequential(
            orthogonal(nn.Conv2d(dim, dim, 1), GAIN),
            nn.ReLU(),
            orthogonal(nn.Conv2d(dim, slots, 1), GAIN),
        )

    @property
    def views(self) -> Views:
        return block_views(self.encoder, self.blocks, self.augment)

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        long_enough(data, views)

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def forward(self, batch: Batch) -> Loss:
        z = self.maps(batch["clips"][:, 0])  # B N D h w
        loss, top = self.one_way(self.gru, z)
        parts = {"forward": loss.detach(), **top}
        if self.gru_back is not None:  # the order of blocks is turned, not that of frames in them
            back, top_back = self.one_way(self.gru_back, z.flip(1))
            loss = loss + back
            parts |= {
                "backward": back.detach(),
                **{f"{name}_backward": value for name, value in top_back.items()},
            }
        return Loss(loss, parts)

    def maps(self, clip: Clip) -> Float[Tensor, "B N D h w"]:
        return block_maps("memdpc", self.encoder, clip, self.blocks)

    def one_way(
        self, gru: ConvGRU, z: Float[Tensor, "B N D h w"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        pred = roll_out(gru, z[:, : -self.predicted], self.predicted, self.read)
        return contrast(rows(pred), rows(z[:, -self.predicted :]), self.negatives)

    def read(self, state: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        """The slots, mixed at each place by its own weights; these sum to 1."""
        return torch.einsum("bkhw,kd->bdhw", self.address(state), self.memory)

    def address(self, state: Float[Tensor, "B D h w"]) -> Float[Tensor, "B K h w"]:
        return self.predict(state).softmax(1)

    @torch.no_grad()
    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """How much each slot is read by the first prediction of each clip, most read first: clips down, slots across.

        White is the largest share. A memory that few slots of serve has a narrow bright edge on the left.
        """
        z = self.maps(batch["clips"][:, 0])
        _, state = self.gru(z[:, : -self.predicted].relu())
        share = self.address(state[-1]).mean((-2, -1))  # B K
        share = share[:, share.mean(0).argsort(descending=True)]
        grey = (255 * share / share.max()).byte()
        side = max(1, 512 // grey.shape[1]), max(4, 64 // len(grey))
        wide = (
            rearrange(grey, "B K -> 1 B K")
            .repeat_interleave(side[1], 1)
            .repeat_interleave(side[0], 2)
        )
        return {"memory": wide.expand(3, -1, -1)}
