"""Encoded visible tokens of a clip -> the pixels of its hidden tokens.

This is the decoder of masked autoencoders.
"""

import math
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.errors import UserError, check_positive
from ssvid.nn.masks import take
from ssvid.nn.patches import patches
from ssvid.nn.position import Kind, Positions
from ssvid.nn.precise import raise_precision
from ssvid.nn.transformer import EPS, Bias, Block, init_transformer
from ssvid.shapes import Clip, Dropped, Grid, Index, Tokens

Pixel = Float[Tensor, "B M P"]  # pixels of tokens as predicted: frame, row, column, channel
Raw = Float[Tensor, "B M C n"]  # the same by channel

# Of the preset laptop: dec_positions are those of its encoder.
SMALL_DECODER = {"dec_dim": 64, "dec_depth": 1, "dec_heads": 2, "dec_positions": "sincos3d"}


class Pixels(nn.Module):
    """The decoder and its targets.

    The defaults are those of VideoMAE (Tong et al. 2022, arXiv:2203.12602). The comments beside
    them give those of mae_st (arXiv:2205.09113).
    """

    cls: nn.Parameter | None
    mean: Tensor
    std: Tensor
    eps: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        norm: Literal["channel", "patch", "none"] = "channel",  # of the target; mae_st: patch
        # unit: pixels in [0, 1]; input: pixels as the encoder sees them (mae_st)
        target: Literal["unit", "input"] = "unit",
        target_frames: int | None = None,  # of the clip, spread evenly; None: all. mae_st: 8
        dec_dim: int = 192,  # of a decoder token; VideoMAE-B: 384
        dec_depth: int = 4,  # 12 for VideoMAE L and H; 4 in mae_st's recipes
        dec_heads: int = 3,  # of its attention; VideoMAE-B: 6
        dec_mlp_ratio: float = 4.0,  # hidden width of its MLPs, as a multiple of dec_dim
        dec_bias: Bias = "qv",  # mae_st: qkv
        dec_layer_scale: float = 0.0,  # first scale of its residual branches; 0: none
        dec_positions: Kind = "sincos",  # mae_st: separable
        dec_cls: bool = False,  # mae_st: True
        bridge_bias: bool = False,  # of encoder -> decoder; mae_st: True
    ) -> None:
        super().__init__()
        check_positive(dec_depth=dec_depth)
        assert encoder.tubelet is not None  # can_skip promises it
        spec, (tubelet, *sides) = encoder.spec, encoder.tubelet
        self.norm, self.target_frames = norm, target_frames
        for name in ("mean", "std"):  # buffers, so that no step copies them to the device
            values = torch.tensor(getattr(encoder, name)).view(3, 1)
            self.register_buffer(name, values, persistent=False)
        # Normalising each channel by itself undoes any scale and shift, except that of eps. Then
        # pixels need not go back to [0, 1] first.
        self.unit = target == "unit" and norm != "channel"
        eps = EPS / self.std if target == "unit" else torch.full((3, 1), EPS)
        self.register_buffer("eps", eps, persistent=False)
        # Frames, rows and columns that one token predicts.
        self.cell = (self.count_frames(spec.frames, tubelet), sides[0], sides[1])
        self.bridge = nn.Linear(encoder.dim, dec_dim, bias=bridge_bias)
        self.mask_token = nn.Parameter(torch.empty(dec_dim))
        self.positions = Positions(
            dec_positions, dec_dim, encoder.grid(spec.frames, spec.size, spec.size), dec_cls
        )
        self.register_parameter("cls", nn.Parameter(torch.zeros(dec_dim)) if dec_cls else None)
        self.blocks = nn.ModuleList(
            Block(
                dec_dim,
                dec_heads,
                mlp_ratio=dec_mlp_ratio,
                bias=dec_bias,
                layer_scale=dec_layer_scale,
            )
            for _ in range(dec_depth)
        )
        self.last = nn.LayerNorm(dec_dim, eps=EPS)
        self.out = nn.Linear(dec_dim, 3 * math.prod(self.cell))
        self.blocks.apply(init_transformer)
        init_transformer(self.out)  # the bridge keeps torch's default, as published
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def count_frames(self, frames: int, tubelet: int) -> int:
        """Frames that one token predicts. UserError if target_frames does not divide."""
        slots = frames // tubelet
        total = self.target_frames or slots * tubelet
        if total % slots:
            raise UserError(
                f"target_frames {total} does not divide into the {slots} time slots of a clip."
            )
        return total // slots

    def forward(self, encoded: Tokens, visible: Index, hidden: Dropped, grid: Grid) -> Pixel:
        """Predict the pixels of the tokens at `hidden`, in its order.

        `encoded`: the output of the encoder for the tokens at `visible`. No other token is used.
        """
        x = self.tokens(encoded, visible, hidden, grid)
        for block in self.blocks[:-1]:
            x = block(x)
        # The last block computes the hidden tokens only, because nothing reads the visible ones.
        x = self.blocks[-1](x, last=hidden.shape[1])
        return self.out(self.last(x))  # B M P

    def tokens(
        self, encoded: Tokens, visible: Index, hidden: Dropped, grid: Grid
    ) -> Float[Tensor, "B Z d"]:
        """The input of the decoder, Z = (1 +) K + M tokens: class token, visible, hidden."""
        positions = self.positions(grid, encoded)  # N d
        x = [self.bridge(encoded) + positions[visible], self.mask_token + positions[hidden]]
        if self.cls is not None:
            cls = self.cls if self.positions.cls is None else self.cls + self.positions.cls[0, 0]
            x.insert(0, repeat(cls, "d -> B 1 d", B=len(encoded)))
        return torch.cat(x, dim=1)

    def loss(self, clip: Clip, pred: Pixel, hidden: Dropped) -> Float[Tensor, ""]:
        """Mean squared error.

        Backward stores the difference only, where mse_loss would store both sides.
        """
        return raise_precision(pred - self.targets(clip, hidden)).square().mean()

    @torch.no_grad()
    def targets(self, clip: Clip, index: Dropped) -> Pixel:
        """The pixels of the tokens at `index`, normalised as `norm` says."""
        return rearrange(self.whiten(self.pixels(clip, index))[0], "B M C n -> B M (n C)")

    def pixels(self, clip: Clip, index: Dropped | None = None) -> Raw:
        """Pixels before normalisation: in [0, 1] if `self.unit`, else as the encoder sees them."""
        if self.target_frames is not None:
            clip = clip[:, :, spread_frames(clip.shape[2], self.target_frames).to(clip.device)]
        x = patches(clip, self.cell, index).flatten(3)
        return torch.addcmul(self.mean, x, self.std) if self.unit else x

    def whiten(self, x: Raw) -> tuple[Raw, Tensor, Tensor]:
        """The normalised pixels, and the mean and scale that undo it."""
        if self.norm == "none":
            return x, x.new_zeros(()), x.new_ones(())
        if self.norm == "patch":  # mae_st: over all values of a token, eps inside the root
            var, mean = torch.var_mean(x, dim=(2, 3), keepdim=True)
            scale = (var + EPS).sqrt()
        else:  # VideoMAE: each colour channel by itself, eps outside the root
            var, mean = torch.var_mean(x, dim=3, keepdim=True)
            scale = var.sqrt() + self.eps
        return (x - mean) / scale, mean, scale

    @torch.no_grad()
    def draw(
        self, clip: Clip, pred: Pixel, hidden: Dropped, unseen: Int[Tensor, "B U"], grid: Grid
    ) -> UInt8[Tensor, "3 h w"]:
        """A picture of the first clip in four rows.

        The rows are: the clip; what the encoder saw; the same with predicted pixels; and the error
        of the predicted pixels. Tokens that were neither visible nor predicted are gray.
        """
        raw = self.pixels(clip[:1])  # 1 N C n
        _, mean, scale = self.whiten(self.pixels(clip[:1], hidden[:1]))
        shown = rearrange(pred[:1].to(raw), "B M (n C) -> B M C n", C=3) * scale + mean
        if not self.unit:
            raw, shown = (torch.addcmul(self.mean, x, self.std) for x in (raw, shown))
        shown, target = shown.clamp(0, 1), take(raw.flatten(2), hidden[:1])
        gray = torch.full_like(take(raw.flatten(2), unseen[:1]), 0.5)
        visible = replace_tokens(raw.flatten(2), unseen[:1], gray)
        difference = (shown.flatten(2) - target).abs()
        error = replace_tokens(torch.zeros_like(visible), hidden[:1], difference)
        predicted = replace_tokens(visible, hidden[:1], shown.flatten(2))
        rows = torch.cat([raw.flatten(2), visible, predicted, error])
        p, q, r = self.cell
        film = rearrange(
            rows,
            "R (t h w) (C p q r) -> C (R h q) (t p w r)",
            h=grid.h,
            w=grid.w,
            p=p,
            q=q,
            r=r,
            C=3,
        )
        return (film.clamp(0, 1) * 255).byte()


def replace_tokens(tokens: Tokens, index: Dropped, values: Float[Tensor, "B M D"]) -> Tokens:
    """A copy of the tokens B N D with `values` at `index`."""
    return tokens.scatter(1, index[..., None].expand_as(values), values)


def spread_frames(frames: int, count: int) -> Int[Tensor, " T"]:
    """The target frames of mae_st: the last is always frame T - 1, so steps differ."""
    return torch.linspace(0, frames - 1, count).long()
