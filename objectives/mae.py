"""Masked autoencoders: hide most tokens of a clip and predict their pixels from the visible ones.

VideoMAE (Tong et al. 2022, arXiv:2203.12602) is the default. mae_st (Feichtenhofer et al. 2022,
arXiv:2205.09113) has other masks, targets and positions; the comments of the arguments give its
settings.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ssvid.encoder import Encoder
from ssvid.errors import check_positive
from ssvid.nn.masks import Kind, Mask
from ssvid.nn.patches import check_divisible
from ssvid.nn.pixels import SMALL_DECODER, Pixels
from ssvid.objective import Objective, require
from ssvid.registry import objectives
from ssvid.shapes import Batch, Loss, Views, take_first_sample


@objectives.register("mae")
class MAE(Objective):
    """Mean squared error of the hidden tokens' pixels."""

    tiny_kwargs = {"mask_ratio": 0.5, "dec_dim": 16, "dec_depth": 1, "dec_heads": 2}
    preset_flags = {
        # A decoder of one block takes half the time of a step; fewer hidden tokens learn sooner.
        "laptop": {
            "objective": {"mask": "random", "mask_ratio": 0.75, **SMALL_DECODER},
            "encoder": {"name": "vit", "positions": "sincos3d"},
            "lr": 3e-3,
            "steps": 300,
        },
        "one_gpu": {"encoder": {"name": "vit_base"}},  # 16 frames of 224 pixels
    }

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask: Kind = "tube",  # how tokens are hidden; mae_st: random
        mask_ratio: float = 0.9,  # fraction of tokens that are hidden; VideoMAE on UCF101: 0.75
        augment: str = "multiscale",  # a recipe of ssvid.data.augment; mae_st: resized_flip
        repeat: int = 1,  # clips of each video in a batch; mae_st: 4
        **decoder: Any,
    ) -> None:
        super().__init__()
        check_positive(repeat=repeat)
        self.encoder = require("mae", encoder, can_skip=True)
        check_divisible("mae", encoder, encoder.spec.frames, encoder.spec.size)
        self.augment, self.repeat = augment, repeat
        self.mask = Mask("mae", "mask_ratio", mask, mask_ratio, encoder.spec_grid())
        self.pixels = Pixels(encoder, **decoder)

    @property
    def views(self) -> Views:
        return self.encoder.make_views(self.augment, self.repeat)

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def forward(self, batch: Batch) -> Loss:
        clip = rearrange(batch["clips"], "B V C T H W -> (B V) C T H W")
        visible, hidden = self.mask(batch, self.encoder.grid(*clip.shape[2:]))
        tokens, _, grid, *_ = self.encoder(clip, visible)  # B K D
        pred = self.pixels(tokens, visible, hidden, grid)  # B M P
        loss = self.pixels.loss(clip, pred, hidden)
        return Loss(loss, {"mse": loss.detach()})

    @torch.no_grad()
    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """The first clip in four rows: the clip, what the encoder sees, the prediction, and its
        error.

        If the targets are normalised, a predicted token gets its true mean and contrast.
        """
        first = take_first_sample(batch)
        clip = first["clips"][:, 0]
        visible, hidden = self.mask(first, self.encoder.grid(*clip.shape[2:]))
        tokens, _, grid, *_ = self.encoder(clip, visible)
        pred = self.pixels(tokens, visible, hidden, grid)
        return {"reconstruction": self.pixels.draw(clip, pred, hidden, hidden, grid)}
