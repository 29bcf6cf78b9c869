"""DPC (Han et al. 2019, arXiv:1909.04656): predict the features of a video's next blocks.

Each block of frames is encoded by itself. A ConvGRU aggregates the first blocks and predicts the
feature at each position of the next ones. InfoNCE compares the prediction with the true feature and
with all others, by a plain product without a temperature.

Letters of the shapes here: N blocks of a clip, P of them predicted, R rows. A row is one position
(h w) of one predicted block of one clip.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
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

KIND_COLOURS = (  # RGB of the kinds 0 to 3 that `classify_pairs` returns
    (38, 166, 91),  # green
    (214, 69, 65),  # red
    (244, 179, 80),  # yellow
    (205, 209, 214),  # grey
)
CELL_PIXELS = 4  # side of the square that shows one score


@objectives.register("dpc")
class DPC(Objective):
    """Dense predictive coding."""

    tiny_kwargs = {"blocks": 4, "predicted": 2, "dropout": 0.0}
    default_flags = DEFAULT_FLAGS
    preset_flags = PRESET_FLAGS

    def __init__(
        self,
        encoder: Encoder,
        *,
        blocks: int = 8,  # consecutive blocks, each with as many frames as the encoder's clip
        predicted: int = 3,  # number of last blocks, which are predicted from the blocks before
        dropout: float = 0.1,  # dropout of the GRU's state
        negatives: str = "all",  # clips of all processes, or only of the own process (published)
        augment: str = "crop_flip_colour",  # a recipe of ssvid.data.augment
    ) -> None:
        super().__init__()
        check_blocks("dpc", blocks, predicted, negatives)
        self.encoder, self.blocks, self.predicted = encoder, blocks, predicted
        self.negatives, self.augment = negatives, augment
        self.gru = ConvGRU(encoder.dim, encoder.dim, dropout=dropout)
        self.predict = nn.Sequential(
            init_orthogonal(nn.Conv2d(encoder.dim, encoder.dim, 1)),
            nn.ReLU(),
            init_orthogonal(nn.Conv2d(encoder.dim, encoder.dim, 1)),
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
        pred = self.roll_out(z[:, : -self.predicted])  # B P D h w
        # top1 and top5: the share of rows whose true feature is among the best 1 and 5.
        loss, accuracies = contrast_rows(
            flatten_maps(pred), flatten_maps(z[:, -self.predicted :]), self.negatives
        )
        return Loss(loss, {"nce": loss.detach(), **accuracies})

    def encode_maps(self, clip: Clip) -> Float[Tensor, "B N D h w"]:
        """A feature map for each block."""
        return encode_blocks("dpc", self.encoder, clip, self.blocks)

    def roll_out(self, past: Float[Tensor, "B N D h w"]) -> Float[Tensor, "B P D h w"]:
        """Predict the maps of the next blocks from those of the past blocks."""
        return roll_out(self.gru, past, self.predicted, self.predict)

    @torch.no_grad()
    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """Left: the scores of two clips, each row from its smallest (black) to its largest (white).

        Right: what each column is. Green is the true feature, red another time at the same
        position, yellow another position of the same clip, and grey another clip.
        """
        z = self.encode_maps(batch["clips"][:2, 0])
        true = z[:, -self.predicted :]
        scores = flatten_maps(self.roll_out(z[:, : -self.predicted])) @ flatten_maps(true).T
        low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
        score_picture = (
            (255 * (scores - low) / (high - low).clamp_min(1e-12)).byte().expand(3, -1, -1)
        )
        B, P, _, h, w = true.shape
        colours = torch.tensor(KIND_COLOURS, dtype=torch.uint8, device=z.device)
        kind_picture = colours[classify_pairs(B, P, h * w, z.device)].permute(2, 0, 1)  # 3 R R
        picture = torch.cat([score_picture, kind_picture], dim=2)  # 3 R 2R
        enlarged = picture.repeat_interleave(CELL_PIXELS, 1).repeat_interleave(CELL_PIXELS, 2)
        return {"scores": enlarged}


def classify_pairs(
    n_clips: int, n_steps: int, n_positions: int, device: torch.device
) -> Int[Tensor, "R R"]:
    """What each feature (columns) is to each prediction (rows).

    0: the true one; 1: another time at the same position; 2: another position of the same clip;
    3: another clip. `n_steps`: predicted blocks of a clip. `n_positions`: those of a block.
    """
    axes = [torch.arange(n, device=device) for n in (n_clips, n_steps, n_positions)]
    clip, step, position = torch.cartesian_prod(*axes).unbind(1)
    same_clip = clip[:, None] == clip
    same_step = step[:, None] == step
    same_position = position[:, None] == position
    in_clip = torch.where(same_position, torch.where(same_step, 0, 1), 2)
    return torch.where(same_clip, in_clip, 3)
