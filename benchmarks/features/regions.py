"""Features of whole clips + boxes -> one row for each box: the tokens under it, averaged (RoIAlign)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torchvision.ops import roi_align

from benchmarks.features.pooling import SLOTS
from ssvid.shapes import Features, Grid

SIDE = 32  # pixels of a box cut from the frames, for the pixel floor


class Regions:
    """Boxes (time s, x0, y0, x1, y1) of videos; those of one video and time share a clip, which is encoded once."""

    def __init__(self, rows: Sequence[int], at: Sequence[tuple[float, ...]]) -> None:
        first: dict[tuple[int, float], int] = {}
        clips = [(row, box[0]) for row, box in zip(rows, at, strict=True)]
        self.lead = torch.tensor(
            [first.setdefault(clip, i) for i, clip in enumerate(clips)]
        )  # S, its clip's first box
        self.box = torch.tensor([box[1:5] for box in at])  # S 4

    def shared(
        self, index: Int[Tensor, " B"]
    ) -> tuple[Int[Tensor, " U"], Int[Tensor, " U"], Int[Tensor, " B"]]:
        """Of the distinct clips of a batch: their places in it and their first boxes; of each box its clip."""
        lead, which = self.lead[index].unique(return_inverse=True)
        place = torch.full((len(lead),), len(index)).scatter_reduce(
            0, which, torch.arange(len(index)), "amin"
        )
        return place, lead, which

    def pool(
        self,
        features: Features,
        layers: tuple[int, ...],
        index: Int[Tensor, " B"],
        which: Int[Tensor, " B"],
    ) -> dict[str, Float[Tensor, "B D"]]:
        """`box@last`: averaged over time too; `slots@last`: up to 8 slots of time side by side; and of each layer."""
        sources = {"last": features.tokens} | dict(
            zip(map(str, layers), features.layers, strict=True)
        )
        out = {}
        for layer, tokens in sources.items():
            slots = self.under(tokens, features.grid, index, which)  # B t D
            out[f"box@{layer}"] = slots.mean(1)
            if slots.shape[1] > 1:
                out[f"slots@{layer}"] = slots.flatten(1)
        return out

    def under(
        self, tokens: Tensor, grid: Grid, index: Tensor, which: Tensor
    ) -> Float[Tensor, "B t D"]:
        maps = rearrange(tokens, "U (t h w) D -> U D t h w", t=grid.t, h=grid.h, w=grid.w)
        t = min(grid.t, SLOTS)
        maps = rearrange(
            F.adaptive_avg_pool3d(maps, (t, grid.h, grid.w)), "U D t h w -> U (D t) h w"
        )
        found = self.align(maps, index, which, 1)  # B (D t) 1 1
        return rearrange(found, "B (D t) 1 1 -> B t D", t=t)

    def cut(
        self, clips: Tensor, index: Int[Tensor, " B"], which: Int[Tensor, " B"]
    ) -> UInt8[Tensor, "B C T s s"]:
        """The box out of every frame."""
        maps = rearrange(clips.float(), "U C T H W -> U (C T) H W")
        found = self.align(maps, index, which, SIDE).round().to(torch.uint8)
        return rearrange(found, "B (C T) h w -> B C T h w", C=clips.shape[1])

    def align(
        self, maps: Float[Tensor, "U K h w"], index: Tensor, which: Tensor, side: int
    ) -> Tensor:
        """As many samples in a bin as it covers cells, so that the bin's value is its average."""
        height, width = maps.shape[-2:]
        corners = self.box[index.cpu()].to(maps) * maps.new_tensor([width, height, width, height])
        boxes = torch.cat([which[:, None].to(maps), corners], dim=1)
        return roi_align(maps, boxes, (side, side), aligned=True)
