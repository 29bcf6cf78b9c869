"""VideoMAE and mae_st: our `mae` on the official weights, arrays and settings of a case."""

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from objectives.mae import MAE
from ssvid.encoders.vit import ViT
from ssvid.nn.masks import random_mask, tube_mask
from ssvid.nn.pixels import Pixels, spread_frames
from ssvid.nn.transformer import EPS
from ssvid.shapes import Grid
from ssvid.weights.mae_st import LAYOUTS as MAE_STS
from ssvid.weights.videomae import LAYOUTS as VIDEOMAES
from tests.reference.cases import Case, assert_close

VIDEOMAE, MAE_ST = VIDEOMAES[0], MAE_STS[0]  # as they are pretrained
UNCHECKED = {"video_u8": "the input"}
UNCHECKED_META = {
    **dict.fromkeys(
        ("model", "config", "num_frames", "mask_ratio", "batch", "seed"),
        "settings, used to build ours",
    ),
    "finetune_missing_keys": "of the official loader, which ours does not imitate",
    "finetune_unexpected_keys": "likewise",
}


def recognises(case: Case) -> bool:
    return is_videomae(case) or is_mae_st(case)


def is_videomae(case: Case) -> bool:
    return {"encoder.patch_embed.proj.weight", "encoder_to_decoder.weight"} <= case.weights.keys()


def is_mae_st(case: Case) -> bool:
    return {"patch_embed.proj.weight", "decoder_pred.weight"} <= case.weights.keys()


def check(case: Case) -> None:
    ours, meta = (of_videomae if is_videomae(case) else of_mae_st)(case)
    unknown = case.arrays.keys() - ours.keys() - UNCHECKED.keys()
    unknown |= case.meta.keys() - meta.keys() - UNCHECKED_META.keys()
    assert not unknown, f"published, but nobody compares: {unknown}"
    for name, theirs in case.arrays.items():
        if name not in UNCHECKED:
            assert_close(name, ours[name], theirs, kind(name, theirs))
    for name, value in case.meta.items():
        if name in UNCHECKED_META:
            continue
        if not isinstance(value, dict):
            exact = not isinstance(value, float)
            assert_close(
                name, torch.tensor(meta[name]), torch.tensor(value), "exact" if exact else "loss"
            )
            continue
        assert meta[name].keys() == value.keys()
        for key, norm in value.items():
            assert (meta[name][key] is None) == (norm is None), f"gradient of {key}"
            if norm is not None:
                assert_close(
                    f"gradient of {key}",
                    torch.tensor(meta[name][key]),
                    torch.tensor(norm),
                    "gradient",
                )


def kind(name: str, theirs: Tensor) -> str:
    if not theirs.is_floating_point():
        return "exact"
    return "loss" if name.startswith("loss") else "tokens"


def of_videomae(case: Case) -> tuple[dict[str, Tensor], dict[str, Any]]:
    c, meta = case.meta["config"], case.meta
    encoder = ViT(
        dim=c["encoder_embed_dim"],
        depth=c["encoder_depth"],
        heads=c["encoder_num_heads"],
        patch=c["patch_size"],
        tubelet=c["tubelet_size"],
        mlp_ratio=float(c["mlp_ratio"]),
        bias="qv" if c["qkv_bias"] else "none",
        layer_scale=float(c["init_values"] or 0),
        frames=meta["num_frames"],
        size=c["img_size"],
    )
    mae = MAE(
        encoder,
        mask_ratio=meta["mask_ratio"],
        dec_dim=c["decoder_embed_dim"],
        dec_depth=c["decoder_depth"],
        dec_heads=c["decoder_num_heads"],
        dec_mlp_ratio=float(c["mlp_ratio"]),
        dec_bias="qv" if c["qkv_bias"] else "none",
        dec_layer_scale=float(c["init_values"] or 0),
    )
    mae.load_state_dict(VIDEOMAE.to_ours(case.weights))
    clip = encoder.normalise(case.arrays["video_u8"])
    mask = case.arrays["mask"]
    index = torch.arange(mask.shape[1]).expand_as(mask)
    visible, drop = index[~mask].view(len(mask), -1), index[mask].view(len(mask), -1)
    grid = encoder.grid(*clip.shape[2:])
    tubes_visible, _ = tube_mask(torch.rand(1, grid.h * grid.w), grid, meta["mask_ratio"])
    dense = encoder(clip, layers=(encoder.depth,))
    first = dense.layers[0].mean(1)
    arrays = {
        "mask": tubes(mask, grid),
        "encoder_visible": encoder(clip, visible).tokens,
        "encoder_unmasked": dense.tokens,
        "decoder_pred": predict(mae, clip, visible, drop),
        "ft_meanpool_fcnorm": F.layer_norm(
            first, first.shape[-1:], eps=EPS
        ),  # a fresh fc_norm; encoder.norm is unused
    }
    numbers = {
        "grid": list(grid),
        "visible_per_clip": tubes_visible.shape[1],
        "masked_per_clip": grid.n - tubes_visible.shape[1],
        "layer_norm_eps": encoder.norm.eps,
        "pred_abs_mean": float(arrays["decoder_pred"].detach().abs().mean()),
    }
    return finish(case, mae, {}, clip, visible, drop, drop, VIDEOMAE.to_ours, arrays, numbers)


def tubes(mask: Tensor, grid: Grid) -> Tensor:
    """The mask of its first slot, in every slot: equal to the mask if it is one of tubes."""
    return mask.view(len(mask), grid.t, -1)[:, :1].expand(-1, grid.t, -1).flatten(1)


def of_mae_st(case: Case) -> tuple[dict[str, Tensor], dict[str, Any]]:
    c, meta = case.meta["config"], case.meta
    bias = "none" if c["no_qkv_bias"] else "qkv"
    positions = "separable" if c["sep_pos_embed"] else "joint"
    encoder = ViT(
        dim=c["embed_dim"],
        depth=c["depth"],
        heads=c["num_heads"],
        patch=c["patch_size"],
        tubelet=c["t_patch_size"],
        mlp_ratio=float(c["mlp_ratio"]),
        bias=bias,
        positions=positions,
        cls=c["cls_embed"],
        frames=c["num_frames"],
        size=c["img_size"],
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
    )
    mae = MAE(
        encoder,
        mask="random",
        mask_ratio=meta["mask_ratio"],
        norm="patch",
        target="input",
        target_frames=c["pred_t_dim"],
        dec_dim=c["decoder_embed_dim"],
        dec_depth=c["decoder_depth"],
        dec_heads=c["decoder_num_heads"],
        dec_mlp_ratio=float(c["mlp_ratio"]),
        dec_bias=bias,
        dec_positions=positions,
        dec_cls=c["cls_embed"],
        bridge_bias=True,
    )
    mae.load_state_dict(MAE_ST.to_ours(case.weights))
    clip = encoder.normalise(case.arrays["video_u8"])
    visible, drop = random_mask(case.arrays["noise"], meta["mask_ratio"])
    restore = torch.cat([visible, drop], dim=1).argsort(dim=1)  # B N
    pixels = everywhere(mae, clip, visible, drop)  # in shuffled order
    last = encoder(clip, layers=(encoder.depth,)).layers[0]
    # The official fine-tuning model always leaves out its first token, which is a patch where there
    # is no class token.
    pooled = last.mean(1) if c["cls_embed"] else last[:, 1:].mean(1)
    mask = torch.ones(restore.shape, dtype=torch.bool).scatter(1, visible, False)
    arrays = {
        "noise": case.arrays["noise"],
        "mask": mask,
        "ids_keep": visible,
        "ids_restore": restore,
        "encoder_visible": encoder(clip, visible).tokens,
        "decoder_pred": pixels.gather(1, restore[..., None].expand_as(pixels)),
        "target_frame_index": spread_frames(clip.shape[2], c["pred_t_dim"]),
        "ft_meanpool_norm": encoder.norm(pooled),
    }
    numbers = {
        "grid": list(encoder.grid(*clip.shape[2:])),
        "visible_per_clip": visible.shape[1],
        "layer_norm_eps": encoder.norm.eps,
        "t_pred_patch_size": mae.pixels.cell[0],
        "target_frame_index": arrays["target_frame_index"].tolist(),
    }
    everything = torch.arange(restore.shape[1]).expand_as(restore)
    options = {"target": "input", "target_frames": c["pred_t_dim"]}
    return finish(
        case, mae, options, clip, visible, drop, everything, MAE_ST.to_ours, arrays, numbers
    )


def finish(case, mae, options, clip, visible, drop, listed, to_ours, arrays, numbers):  # noqa: ANN001, ANN201
    """Targets, both losses, and the gradients where the official names put them."""
    leaves = {k: v.clone().requires_grad_() for k, v in case.weights.items()}
    for norm in ("norm", "raw"):
        raw = Pixels(mae.encoder, norm="none", **options) if norm == "raw" else mae.pixels
        for name in case.arrays:
            if shown := re.fullmatch(rf"target_{norm}_first(\d+)", name):
                arrays[name] = raw.targets(clip, listed[:, : int(shown[1])])
        pred = functional_call(
            _Predict(mae),
            {f"mae.{k}": v for k, v in to_ours(leaves).items()},
            (clip, visible, drop),
        )
        loss = F.mse_loss(pred, raw.targets(clip, drop))
        arrays[f"loss_{norm}"] = loss.detach().double()
        numbers[f"loss_{norm}_pix"] = float(loss.detach())
        if norm == "norm":
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    norms = {
        k: None if g is None else float(g.norm()) for k, g in zip(leaves, gradients, strict=True)
    }
    numbers["grad_l2_norm_of_norm_pix_loss"] = norms
    return {k: v.detach() for k, v in arrays.items()}, numbers


def predict(mae: MAE, clip: Tensor, visible: Tensor, drop: Tensor) -> Tensor:
    """Of the hidden tokens, as training has it."""
    seen, _, grid, *_ = mae.encoder(clip, visible)
    return mae.pixels(seen, visible, drop, grid)


def everywhere(mae: MAE, clip: Tensor, visible: Tensor, drop: Tensor) -> Tensor:
    """Of all tokens, the seen ones first, as mae_st gives it; training leaves those out."""
    seen, _, grid, *_ = mae.encoder(clip, visible)
    x = mae.pixels.tokens(seen, visible, drop, grid)
    for block in mae.pixels.blocks:
        x = block(x)
    pred = mae.pixels.out(mae.pixels.last(x))[:, -grid.n :]
    hidden = predict(mae, clip, visible, drop)
    assert_close(
        "the hidden part of it", hidden.detach(), pred[:, visible.shape[1] :].detach(), "tokens"
    )
    return pred


class _Predict(torch.nn.Module):
    """It as a forward, which functional_call wants."""

    def __init__(self, mae: MAE) -> None:
        super().__init__()
        self.mae = mae

    def forward(self, clip: Tensor, visible: Tensor, drop: Tensor) -> Tensor:
        return predict(self.mae, clip, visible, drop)
