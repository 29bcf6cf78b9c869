"""Clip -> Features: VideoPrism (Zhao et al. 2024, arXiv:2402.13217).

A vision transformer sees each frame by itself. A second one then sees each position of the frames
over time; nothing is pooled between them (ViViT's second model without its pooling).
"""

from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.encoders.clip import CLIP_MEAN, CLIP_STD
from ssvid.encoders.picture_start import LEFT_OUT, is_picture_net, start_from_pictures
from ssvid.errors import UserError, check_positive
from ssvid.log import log
from ssvid.nn.capped import CAP, Run, split_runs
from ssvid.nn.grouping import Grouping, group_space, group_time
from ssvid.nn.linear import map_linear
from ssvid.nn.patches import patches
from ssvid.nn.position import resize_grid, resize_rows
from ssvid.nn.prism import OffsetNorm, PrismBlock, init_lecun
from ssvid.registry import encoders
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index, Tokens

ROWS = 512  # tokens that go through the blocks at a time, on a CPU without gradients


@encoders.register("videoprism")
class VideoPrism(Encoder):
    """Space, then time. The defaults are those of the published base model.

    Pixels are numbers from 0 to 1. `tokens` are taken after the last norm, and `pooled` is their
    mean. A probe of this encoder should attend to its tokens (`attentive_advice`). The tables of
    positions are resized for other sizes and lengths.
    """

    can_skip = True
    has_layers = True
    takes_adapters = True
    tubelet: tuple[int, int, int]
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    attentive_advice = (
        "The mean of VideoPrism's tokens misleads: on Diving48 a linear probe of it has 4.5 where "
        "the attentive probe has 64.3 (a third party's check of the released base model). Quote "
        "the attentive probe."
    )
    new_parts = ("time.", "norm_time.", "time_positions")
    tiny_kwargs = {"dim": 24, "heads": 2, "hidden": 32, "space_depth": 1, "time_depth": 1}
    tiny_kwargs |= {"patch": 8, "frames": 4, "size": 16}

    def __init__(
        self,
        *,
        dim: int = 768,  # of a token
        heads: int = 12,  # of attention; they divide dim
        hidden: int = 3072,  # width of the MLPs
        space_depth: int = 12,  # blocks over the tokens of a frame
        time_depth: int = 4,  # blocks over the tokens of a position
        patch: int = 18,  # pixels
        cap: float = CAP,  # of the logits of attention
        frames: int = 16,  # of a clip, spread over the whole video
        size: int = 288,  # pixels of a side
        table_frames: int | None = None,  # rows of the table of times; null: frames
        table_side: int | None = None,  # of the square table of places; null: size / patch
        # the time of a clip of one frame, in training: crop (the table's first row, as the paper
        # trained on pictures) or resize (the whole table shrunk to a row, as always in inference)
        picture_time: Literal["crop", "resize"] = "crop",
    ) -> None:
        super().__init__()
        check_positive(dim=dim, patch=patch, space_depth=space_depth, time_depth=time_depth)
        check_positive(cap=cap, hidden=hidden, table_frames=table_frames, table_side=table_side)
        if size < patch:
            raise UserError(f"A frame of {size} pixels holds no patch of {patch}.")
        self.dim, self.depth, self.tubelet = dim, space_depth + time_depth, (1, patch, patch)
        self.spec = ClipSpec(frames=frames, whole=True, size=size)
        self.block_dims = (dim,) * self.depth
        side = table_side or size // patch
        self.table_grid = Grid(table_frames or frames, side, side)
        self.crops_pictures = picture_time == "crop"
        self.patch = nn.Conv3d(3, dim, self.tubelet, stride=self.tubelet)
        self.space_positions = nn.Parameter(torch.empty(side * side, dim))
        self.time_positions = nn.Parameter(torch.empty(self.table_grid.t, dim))
        self.space = make_blocks(space_depth, dim, heads, hidden, cap)
        self.norm_space = OffsetNorm(dim)
        self.time = make_blocks(time_depth, dim, heads, hidden, cap)
        self.norm_time = OffsetNorm(dim)
        init_lecun(self.patch.weight, 3 * patch * patch)
        nn.init.zeros_(self.patch.bias)  # type: ignore[arg-type]
        init_lecun(self.space_positions, side * side)
        init_lecun(self.time_positions, self.table_grid.t)

    def grid(self, T: int, H: int, W: int) -> Grid:
        return Grid(T, H // self.tubelet[1], W // self.tubelet[2])

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        return self._encode(clip, visible, layers, None)

    def encode_padded(self, clip: Clip, padding: Bool[Tensor, "B N"]) -> Features:
        """All tokens, of which nobody attends to padding.

        Tokens that are no padding see what they see where the padding is left out by `visible`.
        """
        return self._encode(clip, None, None, padding)

    def _encode(
        self,
        clip: Clip,
        visible: Index | None,
        layers: tuple[int, ...] | None,
        padding: Bool[Tensor, "B N"] | None,
    ) -> Features:
        B, grid = len(clip), self.grid(*clip.shape[2:])
        where = visible if visible is not None else torch.arange(grid.n, device=clip.device)[None]
        pixels = patches(clip, self.tubelet, visible).flatten(2)
        x = map_linear(pixels, self.patch.weight.flatten(1), self.patch.bias)  # B K D
        places = resize_grid(self.space_positions, self.table_grid, grid)
        times = self._find_times(grid.t)
        maps: dict[int, Tokens] = {}
        wanted = layers or ()
        x = x + places[where % len(places)].to(x.dtype)
        space = group_space(B, grid, visible)
        x = self._run_blocks(self.space, x, space, padding, wanted, maps, 0)
        x = self.norm_space(x) + times[where // len(places)].to(x.dtype)
        time = group_time(B, grid, visible, clip.device)
        x = self._run_blocks(self.time, x, time, padding, wanted, maps, len(self.space))
        tokens = self.norm_time(x)
        return Features(tokens, tokens.mean(1), grid, tuple(maps[number] for number in wanted))

    def _find_times(self, frames: int) -> Float[Tensor, "T D"]:
        """The positions of the frames in time: the table, resized or cropped (`picture_time`)."""
        if frames == 1 and self.training and self.crops_pictures:
            return self.time_positions[:1]
        return resize_rows(self.time_positions, frames)

    def _run_blocks(
        self,
        blocks: nn.ModuleList,
        x: Tokens,
        grouping: Grouping,
        padding: Bool[Tensor, "B N"] | None,
        wanted: tuple[int, ...],
        maps: dict[int, Tokens],
        below: int,
    ) -> Tokens:
        """The tokens after the blocks. Those of `wanted` layers go into `maps`.

        `below`: the number of layers below the first block.
        """
        rows = grouping.arrange(x.flatten(0, 1))
        if padding is not None:
            padding = grouping.arrange(padding.flatten())
        parts: list[tuple[slice, list[Run]]] = [(slice(None), grouping.runs)]
        if x.device.type == "cpu" and not torch.is_grad_enabled():
            # Groups do not see each other, so few of them at a time need little memory.
            parts = [(some, [run]) for some, run in split_runs(grouping.runs, ROWS)]
        outputs: dict[int, list[Tensor]] = {}
        for some, runs in parts:
            hidden, y = (None if padding is None else padding[some]), rows[some]
            mask = (
                None if hidden is None else ~rearrange(hidden, "(G M) -> G 1 M", G=runs[0].groups)
            )
            for number, block in enumerate(blocks, below + 1):
                y = self.adapt(number - 1, block(y, runs, mask, hidden))
                if number in wanted or number == below + len(blocks):
                    outputs.setdefault(number, []).append(y)
        restored = {n: grouping.restore(torch.cat(ys)).view(x.shape) for n, ys in outputs.items()}
        maps.update({number: y for number, y in restored.items() if number in wanted})
        return restored[below + len(blocks)]

    def rename_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The names stay. The weights of CLIP's picture net become those of the blocks over space.

        The blocks over time are then new. Biases of a file that does not show its number of heads
        get a row for each of ours.
        """
        if is_picture_net(state):
            log.info(f"{', '.join(LEFT_OUT)} of the picture net are left out: we have no such part")
            return start_from_pictures(
                state,
                heads=self.space[0].attn.heads,  # type: ignore[union-attr, arg-type]
                depth=len(self.space),
                patch=self.tubelet[1],
                grid=self.table_grid,
                mean=CLIP_MEAN,
                std=CLIP_STD,
            )
        shapes = {key: x.shape for key, x in self.state_dict().items()}
        renamed = dict(state)
        for key, x in state.items():
            if key.endswith("qkv_bias") and key in shapes and x.numel() == shapes[key].numel():
                renamed[key] = x.view(shapes[key])
        return renamed

    def count_layers_above(self) -> dict[str, int]:
        """As elsewhere, and the table of times belongs to the first block over time."""
        above = super().count_layers_above()
        above["time_positions"] = len(self.time)
        return above


def make_blocks(depth: int, dim: int, heads: int, hidden: int, cap: float) -> nn.ModuleList:
    return nn.ModuleList(PrismBlock(dim, heads, hidden, cap=cap) for _ in range(depth))


@encoders.register("videoprism_tiny")
def videoprism_tiny(
    *,
    dim: int = 128,
    heads: int = 4,
    hidden: int = 512,
    space_depth: int = 4,
    time_depth: int = 2,
    patch: int = 8,
    frames: int = 8,  # of a clip, spread over the whole video
    size: int = 64,  # pixels of a side
    **kwargs: Any,
) -> VideoPrism:
    """Two cores can train it."""
    sizes: dict[str, Any] = {"dim": dim, "heads": heads, "hidden": hidden, "patch": patch}
    depths: dict[str, Any] = {"space_depth": space_depth, "time_depth": time_depth}
    return VideoPrism(**sizes, **depths, frames=frames, size=size, **kwargs)


@encoders.register("videoprism_b")
def videoprism_b(
    *,
    dim: int = 768,
    heads: int = 12,
    hidden: int = 3072,
    space_depth: int = 12,
    time_depth: int = 4,
    **kwargs: Any,
) -> VideoPrism:
    sizes: dict[str, Any] = {"dim": dim, "heads": heads, "hidden": hidden}
    return VideoPrism(**sizes, space_depth=space_depth, time_depth=time_depth, **kwargs)


@encoders.register("videoprism_l")
def videoprism_l(
    *,
    dim: int = 1024,
    heads: int = 16,
    hidden: int = 4096,
    space_depth: int = 24,
    time_depth: int = 4,
    frames: int = 8,  # of a clip, spread over the whole video
    **kwargs: Any,
) -> VideoPrism:
    sizes: dict[str, Any] = {"dim": dim, "heads": heads, "hidden": hidden, "frames": frames}
    return VideoPrism(**sizes, space_depth=space_depth, time_depth=time_depth, **kwargs)


@encoders.register("videoprism_g")
def videoprism_g(
    *,
    dim: int = 1408,
    heads: int = 16,
    hidden: int = 6144,
    space_depth: int = 40,
    time_depth: int = 4,
    frames: int = 8,  # of a clip, spread over the whole video
    **kwargs: Any,
) -> VideoPrism:
    sizes: dict[str, Any] = {"dim": dim, "heads": heads, "hidden": hidden, "frames": frames}
    return VideoPrism(**sizes, space_depth=space_depth, time_depth=time_depth, **kwargs)
