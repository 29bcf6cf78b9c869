"""What an encoder saw of a clip -> the pixels that it did not see. The decoder of masked autoencoders."""

import math
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.errors import UserError, positive
from ssvid.nn.masks import take
from ssvid.nn.patches import patches
from ssvid.nn.position import Kind, Positions
from ssvid.nn.precise import full
from ssvid.nn.transformer import EPS, Bias, Block, init_transformer
from ssvid.shapes import Clip, Dropped, Grid, Index, Tokens

Pixel = Float[Tensor, "B M P"]  # of tokens, as they are predicted: frame, row, column, channel
Raw = Float[Tensor, "B M C n"]  # the same by channel


class Pixels(nn.Module):
    """The defaults are VideoMAE's (Tong et al. 2022, arXiv:2203.12602); mae_st's (arXiv:2205.09113) beside them."""

    cls: nn.Parameter | None
    mean: Tensor
    std: Tensor
    eps: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        norm: Literal["channel", "patch", "none"] = "channel",  # of the target; mae_st: patch
        target: Literal[
            "unit", "input"
        ] = "unit",  # pixels in [0, 1], or as the encoder sees them (mae_st)
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
        positive(dec_depth=dec_depth)
        assert encoder.tubelet is not None  # can_skip promises it
        spec, (tubelet, *sides) = encoder.spec, encoder.tubelet
        self.norm, self.target_frames = norm, target_frames
        for name in ("mean", "std"):  # buffers, so that no step copies them to the device
            self.register_buffer(
                name, torch.tensor(getattr(encoder, name)).view(3, 1), persistent=False
            )
        # Whitening a channel by itself undoes any scale and shift of it, but for that of eps: then there is no need to
        # go back to [0, 1] first.
        self.unit = target == "unit" and norm != "channel"
        self.register_buffer(
            "eps", EPS / self.std if target == "unit" else torch.full((3, 1), EPS), persistent=False
        )
        self.cell = (
            self.frames_per_slot(spec.frames, tubelet),
            sides[0],
            sides[1],
        )  # what one token predicts
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

    def frames_per_slot(self, frames: int, tubelet: int) -> int:
        """Frames that one token predicts."""
        slots = frames // tubelet
        wanted = self.target_frames or slots * tubelet
        if wanted % slots:
            raise UserError(
                f"target_frames {wanted} does not divide into the {slots} time slots of a clip."
            )
        return wanted // slots

    def forward(self, seen: Tokens, visible: Index, hidden: Dropped, grid: Grid) -> Pixel:
        """Of the tokens at `hidden`, in its order, from those `seen` at `keep` alone. Others appear nowhere."""
        x = self.tokens(seen, visible, hidden, grid)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.out(
            self.last(self.blocks[-1](x, last=hidden.shape[1]))
        )  # B M P: nobody reads the seen ones

    def tokens(
        self, seen: Tokens, visible: Index, hidden: Dropped, grid: Grid
    ) -> Float[Tensor, "B Z d"]:
        """Z = (1 +) K + M: the decoder's input, a class token first where there is one."""
        where = self.positions(grid, seen)  # N d
        parts = [self.bridge(seen) + where[visible], self.mask_token + where[hidden]]
        if self.cls is not None:
            cls = self.cls if self.positions.cls is None else self.cls + self.positions.cls[0, 0]
            parts.insert(0, repeat(cls, "d -> B 1 d", B=len(seen)))
        return torch.cat(parts, dim=1)

    def loss(self, clip: Clip, pred: Pixel, hidden: Dropped) -> Float[Tensor, ""]:
        """Mean squared error. The difference alone is kept for backward, where mse_loss would keep both sides."""
        return full(pred - self.targets(clip, hidden)).square().mean()

    @torch.no_grad()
    def targets(self, clip: Clip, index: Dropped) -> Pixel:
        """Pixels of the tokens at `index`, normalised as the method says."""
        return rearrange(self.whiten(self.pixels(clip, index))[0], "B M C n -> B M (n C)")

    def pixels(self, clip: Clip, index: Dropped | None = None) -> Raw:
        """Before they are whitened: in [0, 1] where `self.unit`, else as the encoder sees them."""
        if self.target_frames is not None:
            clip = clip[:, :, spread(clip.shape[2], self.target_frames).to(clip.device)]
        x = patches(clip, self.cell, index).flatten(3)
        return torch.addcmul(self.mean, x, self.std) if self.unit else x

    def whiten(self, x: Raw) -> tuple[Raw, Tensor, Tensor]:
        """Normalised, with the mean and scale that undo it."""
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
        """The first clip in four rows, as it is; as the encoder saw it; with what is predicted; and how far off that
        is, of what was predicted. Gray is what was neither seen nor predicted."""
        raw = self.pixels(clip[:1])  # 1 N C n
        _, mean, scale = self.whiten(self.pixels(clip[:1], hidden[:1]))
        guess = rearrange(pred[:1].to(raw), "B M (n C) -> B M C n", C=3) * scale + mean
        if not self.unit:
            raw, guess = (torch.addcmul(self.mean, x, self.std) for x in (raw, guess))
        guess, true = guess.clamp(0, 1), take(raw.flatten(2), hidden[:1])
        gray = torch.full_like(take(raw.flatten(2), unseen[:1]), 0.5)
        seen = put(raw.flatten(2), unseen[:1], gray)
        wrong = put(torch.zeros_like(seen), hidden[:1], (guess.flatten(2) - true).abs())
        rows = torch.cat([raw.flatten(2), seen, put(seen, hidden[:1], guess.flatten(2)), wrong])
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


def put(tokens: Tokens, index: Dropped, values: Float[Tensor, "B M D"]) -> Tokens:
    return tokens.scatter(1, index[..., None].expand_as(values), values)


def spread(frames: int, wanted: int) -> Int[Tensor, " T"]:
    """mae_st's target frames: the last is always frame T - 1, so the steps are not all equal."""
    return torch.linspace(0, frames - 1, wanted).long()
