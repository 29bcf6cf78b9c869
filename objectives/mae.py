"""Masked autoencoders: hide most of a clip, predict its pixels from the rest.

VideoMAE (Tong et al. 2022, arXiv:2203.12602) is the default form; mae_st (Feichtenhofer et al. 2022, arXiv:2205.09113)
is the same with other masks, targets and positions: see recipes/mae_st_*.yaml.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.errors import UserError, positive
from ssvid.nn.masks import frame_mask, random_mask, take, tube_mask
from ssvid.nn.position import Kind, Positions
from ssvid.nn.transformer import EPS, Bias, Block, init_transformer
from ssvid.objective import Objective, require
from ssvid.randomness import draw
from ssvid.registry import objectives
from ssvid.shapes import Batch, Clip, Dropped, Grid, Index, Loss, Tokens, Views


@objectives.register("mae")
class MAE(Objective):
    tiny = {"mask_ratio": 0.5, "dec_dim": 16, "dec_depth": 1, "dec_heads": 2}
    dec_cls: nn.Parameter | None

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask: Literal["tube", "random", "frame"] = "tube",  # mae_st: random
        mask_ratio: float = 0.9,  # of tokens; 0.75 on UCF101 (VideoMAE)
        norm: Literal["channel", "patch", "none"] = "channel",  # of the target; mae_st: patch
        target: Literal["unit", "input"] = "unit",  # pixels in [0, 1], or as the encoder sees them (mae_st)
        target_frames: int | None = None,  # of the clip, spread evenly; None: all. mae_st: 8
        dec_dim: int = 192,
        dec_depth: int = 4,  # 12 for VideoMAE L and H; 4 in mae_st's recipes
        dec_heads: int = 3,
        dec_mlp_ratio: float = 4.0,
        dec_bias: Bias = "qv",  # mae_st: qkv
        dec_layer_scale: float = 0.0,
        dec_positions: Kind = "sincos",  # mae_st: separable
        dec_cls: bool = False,  # mae_st: True
        bridge_bias: bool = False,  # of encoder -> decoder; mae_st: True
        augment: str = "multiscale",  # mae_st: resized_flip
        repeat: int = 1,  # clips of each video in a batch; mae_st: 4
    ) -> None:
        super().__init__()
        positive(repeat=repeat, dec_depth=dec_depth)
        self.encoder = require("mae", encoder, can_skip=True)
        self.mask, self.mask_ratio = mask, mask_ratio
        self.norm, self.target_space, self.target_frames = norm, target, target_frames
        self.augment, self.repeat = augment, repeat
        spec, tubelet = encoder.spec, encoder.tubelet
        assert tubelet is not None  # can_skip promises it
        grid = encoder.grid(spec.frames, spec.size, spec.size)
        self.check_mask(grid)
        self.depth_of_target = self.frames_per_slot(spec.frames, tubelet[0])
        self.bridge = nn.Linear(encoder.dim, dec_dim, bias=bridge_bias)
        self.mask_token = nn.Parameter(torch.empty(dec_dim))
        self.dec_positions = Positions(dec_positions, dec_dim, grid, dec_cls)
        self.register_parameter("dec_cls", nn.Parameter(torch.zeros(dec_dim)) if dec_cls else None)
        self.decoder = nn.ModuleList(
            Block(dec_dim, dec_heads, mlp_ratio=dec_mlp_ratio, bias=dec_bias, layer_scale=dec_layer_scale)
            for _ in range(dec_depth)
        )
        self.dec_norm = nn.LayerNorm(dec_dim, eps=EPS)
        self.to_pixels = nn.Linear(dec_dim, 3 * self.depth_of_target * math.prod(tubelet[1:]))
        self.decoder.apply(init_transformer)
        init_transformer(self.to_pixels)  # the bridge keeps torch's default, as published
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    @property
    def views(self) -> Views:
        clips = (self.encoder.spec,) * self.repeat
        return Views(clips=clips, augment=self.augment, mean=self.encoder.mean, std=self.encoder.std)

    def exported(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def forward(self, batch: Batch) -> Loss:
        clip = rearrange(batch["clips"], "B V C T H W -> (B V) C T H W")
        grid = self.encoder.grid(*clip.shape[2:])
        keep, drop = self.masks(batch, grid)
        pred = self.predict(clip, keep, drop)  # B M P
        loss = F.mse_loss(pred, self.targets(clip, drop))
        return Loss(loss, {"mse": loss.detach()})

    def masks(self, batch: Batch, grid: Grid) -> tuple[Index, Dropped]:
        drawn = self.drawn(grid)
        views = batch["clips"].shape[1]
        u = rearrange(draw(batch, "mask", views * drawn), "B (V n) -> (B V) n", V=views)
        if self.mask == "random":
            return random_mask(u, self.mask_ratio)
        return {"tube": tube_mask, "frame": frame_mask}[self.mask](u, grid, self.mask_ratio)

    def drawn(self, grid: Grid) -> int:
        """Things that are kept or dropped each by itself."""
        return {"tube": grid.h * grid.w, "random": grid.n, "frame": grid.t}[self.mask]

    def predict(self, clip: Clip, keep: Index, drop: Dropped) -> Tensor:
        """The dropped tokens' pixels, B M P in the order of `drop`, from the kept ones alone."""
        return self.to_pixels(self.dec_norm(self.decode(clip, keep, drop)[:, -drop.shape[1] :]))

    def decode(self, clip: Clip, keep: Index, drop: Dropped) -> Tokens:
        """B K+M d: the kept tokens, then the dropped ones."""
        seen, _, grid, _ = self.encoder(clip, keep)  # B K D
        where = self.dec_positions(grid).to(seen)  # N d
        x = torch.cat([self.bridge(seen) + where[keep], self.mask_token + where[drop]], dim=1)  # B K+M d
        tokens = x.shape[1]
        if self.dec_cls is not None:
            cls = self.dec_cls if self.dec_positions.cls is None else self.dec_cls + self.dec_positions.cls[0, 0]
            x = torch.cat([repeat(cls, "d -> B 1 d", B=len(x)), x], dim=1)
        for block in self.decoder:
            x = block(x)
        return x[:, -tokens:]

    @torch.no_grad()
    def targets(self, clip: Clip, index: Index) -> Tensor:
        """Pixels of the tokens at `index`, B M (frame row column channel), normalised as the method says."""
        x, _, _ = self.whiten(take(self.patches(clip), index))
        return x

    def patches(self, clip: Clip) -> Tokens:
        if self.target_space == "unit":
            mean, std = (clip.new_tensor(v).view(-1, 1, 1, 1) for v in (self.encoder.mean, self.encoder.std))
            clip = clip * std + mean
        if self.target_frames is not None:
            clip = clip[:, :, self.target_index(clip.shape[2]).to(clip.device)]
        p = self.depth_of_target
        t, h, w = self.encoder.grid(*clip.shape[2:])._replace(t=clip.shape[2] // p)
        _, q, r = self.encoder.tubelet or (1, 1, 1)
        clip = clip[:, :, : t * p, : h * q, : w * r]  # a rest that fills no token is left out
        return rearrange(clip, "B C (t p) (h q) (w r) -> B (t h w) (p q r C)", t=t, q=q, r=r)

    def target_index(self, frames: int) -> Tensor:
        """mae_st's target frames: the last is always frame T - 1, so the steps are not all equal."""
        return torch.linspace(0, frames - 1, self.target_frames or frames).long()

    def whiten(self, x: Tokens) -> tuple[Tokens, Tensor, Tensor]:
        """Normalised targets with the mean and scale that undo it."""
        if self.norm == "none":
            return x, x.new_zeros(()), x.new_ones(())
        if self.norm == "patch":  # mae_st: over the whole vector, eps inside the root
            var, mean = torch.var_mean(x, dim=-1, keepdim=True)
            scale = (var + 1e-6).sqrt()
        else:  # VideoMAE: each colour channel by itself, eps outside the root
            x = rearrange(x, "B M (p C) -> B M p C", C=3)
            var, mean = torch.var_mean(x, dim=2, keepdim=True)
            scale = var.sqrt() + 1e-6
        return ((x - mean) / scale).flatten(2), mean, scale

    def check_mask(self, grid: Grid) -> None:
        """Something to see and something to predict, in the encoder's own clip."""
        n = self.drawn(grid)
        kept = int(n * (1 - self.mask_ratio)) if self.mask == "random" else n - int(n * self.mask_ratio)
        if not 0 < kept < n:
            raise UserError(f"mae: mask_ratio {self.mask_ratio} keeps {kept} of {n}: some must be seen, some hidden.")

    def frames_per_slot(self, frames: int, tubelet: int) -> int:
        """Frames that one token predicts."""
        slots = frames // tubelet
        wanted = self.target_frames or slots * tubelet
        if wanted % slots:
            raise UserError(f"mae: target_frames {wanted} does not divide into the {slots} time slots of a clip.")
        return wanted // slots

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The first clip in three rows: as it is, as the encoder sees it, as it is predicted."""
        first: Batch = {
            "clips": batch["clips"][:1, :1],
            "index": batch["index"][:1],
            "epoch": batch["epoch"][:1],
            "seed": batch["seed"],
        }
        clip = first["clips"][:, 0]
        grid = self.encoder.grid(*clip.shape[2:])
        keep, drop = self.masks(first, grid)
        pixels = self.patches(clip)  # 1 N P
        _, mean, scale = self.whiten(take(pixels, drop))
        pred = self.predict(clip, keep, drop).float()
        if self.norm == "channel":
            pred = rearrange(pred, "B M (p C) -> B M p C", C=3)
        pred = (pred * scale + mean).flatten(2)
        where = drop[..., None].expand_as(pred)
        rows = [pixels, pixels.scatter(1, where, torch.full_like(pred, 0.5)), pixels.scatter(1, where, pred)]
        return {"reconstruction": self.strip(torch.cat(rows), grid)}

    def strip(self, rows: Tokens, grid: Grid) -> Tensor:
        """3 (rows h) (frames w) uint8."""
        _, q, r = self.encoder.tubelet or (1, 1, 1)
        if self.target_space == "input":
            std = rows.new_tensor(self.encoder.std).repeat(rows.shape[-1] // 3)
            rows = rows * std + rows.new_tensor(self.encoder.mean).repeat(rows.shape[-1] // 3)
        film = rearrange(rows, "R (t h w) (p q r C) -> C (R h q) (t p w r)", t=grid.t, h=grid.h, q=q, r=r, C=3)
        return (film.clamp(0, 1) * 255).byte()
