"""DPC (Han et al. 2019, arXiv:1909.04656): tell the features of a video's next blocks apart from all others.

Blocks of frames are encoded each by itself, a ConvGRU gathers the first ones, and what it predicts at each place of
the next ones must be nearer (plain product, no temperature) to the true feature there than to any other.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
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

KINDS = (
    (38, 166, 91),
    (214, 69, 65),
    (244, 179, 80),
    (205, 209, 214),
)  # colours of the kinds below


@objectives.register("dpc")
class DPC(Objective):
    tiny_kwargs = {"blocks": 4, "predicted": 2, "dropout": 0.0}

    def __init__(
        self,
        encoder: Encoder,
        *,
        blocks: int = 8,  # of the encoder's frames each, one after the other
        predicted: int = 3,  # of the blocks, the last ones
        dropout: float = 0.1,  # of the GRU's state
        negatives: str = "all",  # all | process: published, each device only has its own clips
        augment: str = "crop_flip_colour",  # a recipe of ssvid.data.augment
    ) -> None:
        super().__init__()
        check_blocks("dpc", blocks, predicted, negatives)
        self.encoder, self.blocks, self.predicted = encoder, blocks, predicted
        self.negatives, self.augment = negatives, augment
        self.gru = ConvGRU(encoder.dim, encoder.dim, dropout=dropout)
        self.predict = nn.Sequential(
            orthogonal(nn.Conv2d(encoder.dim, encoder.dim, 1)),
            nn.ReLU(),
            orthogonal(nn.Conv2d(encoder.dim, encoder.dim, 1)),
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
        pred = self.roll_out(z[:, : -self.predicted])  # B P D h w
        loss, top = contrast(rows(pred), rows(z[:, -self.predicted :]), self.negatives)
        return Loss(loss, {"nce": loss.detach(), **top})

    def maps(self, clip: Clip) -> Float[Tensor, "B N D h w"]:
        return block_maps("dpc", self.encoder, clip, self.blocks)

    def roll_out(self, seen: Float[Tensor, "B N D h w"]) -> Float[Tensor, "B P D h w"]:
        return roll_out(self.gru, seen, self.predicted, self.predict)

    @torch.no_grad()
    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """The scores of two clips, each row from its smallest (black) to its largest (white), beside their kinds:
        green the true one, red another time at the same place, yellow another place of the clip, grey another clip.
        """
        z = self.maps(batch["clips"][:2, 0])
        true = z[:, -self.predicted :]
        scores = rows(self.roll_out(z[:, : -self.predicted])) @ rows(true).T
        low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
        grey = (255 * (scores - low) / (high - low).clamp_min(1e-12)).byte().expand(3, -1, -1)
        B, P, _, h, w = true.shape
        kinds = torch.tensor(KINDS, dtype=torch.uint8, device=z.device)[
            kind(B, P, h * w, z)
        ]  # R R 3
        both = torch.cat([grey, kinds.permute(2, 0, 1)], dim=2)
        return {"scores": both.repeat_interleave(4, 1).repeat_interleave(4, 2)}


def kind(clips: int, steps: int, places: int, like: Tensor) -> Int[Tensor, "R R"]:
    """0 the true one; 1 another time at the same place; 2 another place of the same clip; 3 another clip."""
    clip, step, place = torch.cartesian_prod(
        *(torch.arange(n, device=like.device) for n in (clips, steps, places))
    ).unbind(1)
    same = [part[:, None] == part for part in (clip, step, place)]
    inside = torch.where(same[2], torch.where(same[1], 0, 1), 2)
    return torch.where(same[0], inside, 3)
