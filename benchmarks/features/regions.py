"""Features of whole clips + boxes -> one vector for each box: the tokens under it, averaged.

The tokens under a box are averaged by RoIAlign.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from benchmarks.features.pooling import SLOTS, name_layers
from ssvid.shapes import Features, Grid

SIDE = 32  # pixels along a box that is cut from the frames, for the control on pixels


class Regions:
    """Boxes (time s, x0, y0, x1, y1) of videos. Boxes of one video and time share a clip.

    A shared clip is encoded once. S boxes in all, B boxes of a batch, U distinct clips of a batch.
    """

    def __init__(self, rows: Sequence[int], boxes: Sequence[tuple[float, ...]]) -> None:
        first_box: dict[tuple[int, float], int] = {}
        leads = []
        for i, (row, box) in enumerate(zip(rows, boxes, strict=True)):
            leads.append(first_box.setdefault((row, box[0]), i))
        self.lead = torch.tensor(leads)  # S: of each box the first box of its clip
        self.corners = torch.tensor([box[1:5] for box in boxes])  # S 4

    def find_shared_clips(
        self, index: Int[Tensor, " B"]
    ) -> tuple[Int[Tensor, " U"], Int[Tensor, " U"], Int[Tensor, " B"]]:
        """(first_row, lead, clip_of_box) of the distinct clips in a batch of boxes `index`.

        `first_row`: of each clip the first row of the batch that has it. `lead`: its first box
        of all. `clip_of_box`: of each box of the batch the number of its clip.
        """
        lead, clip_of_box = self.lead[index].unique(return_inverse=True)
        first_row = torch.full((len(lead),), len(index)).scatter_reduce(
            0, clip_of_box, torch.arange(len(index)), "amin"
        )
        return first_row, lead, clip_of_box

    def pool(
        self,
        features: Features,
        layers: tuple[int, ...],
        index: Int[Tensor, " B"],
        clip_of_box: Int[Tensor, " B"],
    ) -> dict[str, Float[Tensor, "B D"]]:
        """`box@last` and `slots@last`, and the same of each layer.

        `box` is averaged over time too. `slots` holds up to 8 slots of time side by side.
        """
        pooled = {}
        for layer, tokens in name_layers(features, layers).items():
            slots = self.pool_under_boxes(tokens, features.grid, index, clip_of_box)  # B t D
            pooled[f"box@{layer}"] = slots.mean(1)
            if slots.shape[1] > 1:
                pooled[f"slots@{layer}"] = slots.flatten(1)
        return pooled

    def pool_under_boxes(
        self, tokens: Tensor, grid: Grid, index: Tensor, clip_of_box: Tensor
    ) -> Float[Tensor, "B t D"]:
        maps = rearrange(tokens, "U (t h w) D -> U D t h w", t=grid.t, h=grid.h, w=grid.w)
        t = min(grid.t, SLOTS)
        maps = F.adaptive_avg_pool3d(maps, (t, grid.h, grid.w))
        maps = rearrange(maps, "U D t h w -> U (D t) h w")
        averages = self.align_boxes(maps, index, clip_of_box, 1)  # B (D t) 1 1
        return rearrange(averages, "B (D t) 1 1 -> B t D", t=t)

    def cut_boxes(
        self, clips: Tensor, index: Int[Tensor, " B"], clip_of_box: Int[Tensor, " B"]
    ) -> UInt8[Tensor, "B C T s s"]:
        """The box cut out of every frame of its clip, as SIDE x SIDE pixels."""
        maps = rearrange(clips.float(), "U C T H W -> U (C T) H W")
        cuts = self.align_boxes(maps, index, clip_of_box, SIDE).round().to(torch.uint8)
        return rearrange(cuts, "B (C T) h w -> B C T h w", C=clips.shape[1])

    def align_boxes(
        self, maps: Float[Tensor, "U K h w"], index: Tensor, clip_of_box: Tensor, side: int
    ) -> Tensor:
        """RoIAlign with as many samples in a bin as it covers cells, so a bin is an average."""
        from torchvision.ops import roi_align  # its import takes CPU-seconds

        height, width = maps.shape[-2:]
        scale = maps.new_tensor([width, height, width, height])
        corners = self.corners[index.cpu()].to(maps) * scale
        boxes = torch.cat([clip_of_box[:, None].to(maps), corners], dim=1)
        return roi_align(maps, boxes, (side, side), aligned=True)
