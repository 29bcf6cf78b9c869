"""`mae` beyond the contract: what it hides stays hidden, and its numbers by hand."""

import pytest
import torch
import torch.nn.functional as F

from objectives.mae import MAE
from objectives.turbo import PartialMAE
from ssvid import create_encoder
from ssvid.errors import UserError
from ssvid.nn.pixels import spread_frames
from tests.helpers import facts, for_each
from tests.objectives.test_contract import batch_for

KWARGS = {"dim": 24, "depth": 2, "heads": 2, "patch": 8, "frames": 4, "size": 16}
SEPARABLE = {"dec_cls": True, "dec_positions": "separable", "dec_bias": "qkv", "bridge_bias": True}
OF_INPUT = {"mask": "random", "norm": "patch", "target": "input", "target_frames": 2, "repeat": 2}
FORMS = {
    "videomae": ({}, {"norm": "channel"}),
    "raw": ({}, {"norm": "none", "mask": "random"}),
    "frame": ({}, {"mask": "frame", "mask_ratio": 0.5}),
    "mae_st": ({"positions": "separable", "cls": True, "bias": "qkv"}, SEPARABLE | OF_INPUT),
    "joint": ({"positions": "joint", "cls": True}, {"dec_positions": "joint", "dec_cls": True}),
}


def build(form: str) -> MAE:
    torch.manual_seed(0)
    encoder, mae = FORMS[form]
    small = {"mask_ratio": 0.5, "dec_dim": 16, "dec_depth": 1, "dec_heads": 2}
    return MAE(create_encoder("vit", **{**KWARGS, **encoder}), **{**small, **mae})


def predict(
    mae: MAE, clip: torch.Tensor, visible: torch.Tensor, drop: torch.Tensor
) -> torch.Tensor:
    seen, _, grid, *_ = mae.encoder(clip, visible)
    return mae.pixels(seen, visible, drop, grid)


@for_each("mask, ratio", [("tube", 1.0), ("random", 0.95), ("frame", 0.2), ("tube", -1.0)])
def test_a_mask_that_hides_all_or_nothing_is_refused(mask: str, ratio: float):
    with pytest.raises(UserError, match=facts("mask_ratio", str(ratio))):
        MAE(create_encoder("vit", **KWARGS), mask=mask, mask_ratio=ratio)


@for_each("flag, length, near", [("frames", 5, ("4", "6")), ("size", 19, ("16", "24"))])
def test_frames_and_pixels_that_fill_no_token_are_refused(
    flag: str, length: int, near: tuple[str, str]
):
    with pytest.raises(UserError, match=facts(f"--clip.{flag}", str(length), "mae", *near)):
        MAE(create_encoder("vit", **{**KWARGS, flag: length}), mask_ratio=0.5)


@pytest.fixture(params=FORMS)
def mae(request: pytest.FixtureRequest) -> MAE:
    return build(request.param)


def test_hidden_pixels_do_not_reach_the_prediction(mae: MAE):
    batch = batch_for(mae)
    clip = batch["clips"][:, 0]
    grid = mae.encoder.grid(*clip.shape[2:])
    visible, drop = (
        index[:2] for index in mae.mask({**batch, "clips": batch["clips"][:, :1]}, grid)
    )
    assert torch.equal(
        torch.cat([visible, drop], 1).sort(1).values, torch.arange(grid.n).expand(2, -1)
    )
    hidden = torch.zeros(2, grid.n, dtype=torch.bool).scatter(1, drop, True).view(2, 1, *grid)
    t, h, w = mae.encoder.tubelet
    pixels = hidden.repeat_interleave(t, 2).repeat_interleave(h, 3).repeat_interleave(w, 4)
    pred = predict(mae, clip, visible, drop)
    assert torch.equal(predict(mae, clip + 10 * pixels, visible, drop), pred)
    assert not torch.allclose(predict(mae, clip + 10 * ~pixels, visible, drop), pred)


def test_every_parameter_is_trained_and_another_seed_hides_other_tokens(mae: MAE):
    loss = mae(batch_for(mae)).total
    loss.backward()
    assert [n for n, p in mae.named_parameters() if p.grad is None] == []
    assert any("k_bias" in n for n, _ in mae.named_parameters()) == (
        mae.encoder.kwargs.get("bias") == "qkv"
    )
    assert not torch.equal(mae(batch_for(mae, seed=1)).total, loss)


def test_loss_is_the_mean_squared_error_of_the_hidden_pixels():
    mae = build("raw")
    batch = batch_for(mae)
    clip = batch["clips"][:, 0]
    visible, drop = mae.mask(batch, mae.encoder.grid(4, 16, 16))
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (mae.encoder.mean, mae.encoder.std))
    unit = clip * std + mean
    patches = F.unfold(unit.permute(0, 2, 1, 3, 4).flatten(0, 1), 8, stride=8)  # (B T) (C q r) hw
    patches = (
        patches.view(2, 2, 2, 3, 64, 4).permute(0, 1, 5, 2, 4, 3).reshape(2, 8, -1)
    )  # B (t hw) (p qr C)
    hidden = torch.stack([patches[b, drop[b]] for b in range(2)])
    by_hand = (predict(mae, clip, visible, drop) - hidden).square().mean()
    torch.testing.assert_close(mae(batch).total, by_hand)


def test_a_target_channel_is_whitened_by_itself_and_a_patch_as_a_whole():
    clip = batch_for(build("videomae"))["clips"][:, 0]
    index = torch.arange(8).expand(2, -1)
    by_channel = build("videomae").pixels.targets(clip, index).unflatten(2, (-1, 3))
    torch.testing.assert_close(by_channel.mean(2), torch.zeros(2, 8, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(by_channel.std(2), torch.ones(2, 8, 3), atol=1e-3, rtol=0)
    whole = build("mae_st").pixels.targets(clip, index)
    torch.testing.assert_close(whole.std(2), torch.ones(2, 8), atol=1e-3, rtol=0)
    assert whole.unflatten(2, (-1, 3)).mean(2).abs().max() > 1e-2


def test_last_target_frame_is_the_clips_last():
    assert spread_frames(16, 8).tolist() == [0, 2, 4, 6, 8, 10, 12, 15]


@for_each("entry, name, net", [(MAE, "mae", "r3d_18"), (PartialMAE, "partial_mae", "s3d")])
def test_an_encoder_that_cannot_skip_is_refused(entry: type[MAE | PartialMAE], name: str, net: str):
    with pytest.raises(UserError, match=facts(name, "can_skip", net, "vit_small")):
        entry(create_encoder(net))


def test_target_frames_must_fit_the_slots():
    with pytest.raises(UserError, match=facts("target_frames", "3")):
        MAE(create_encoder("vit", **KWARGS), target_frames=3)


def test_picture_shows_the_clip_itself_in_its_first_row():
    mae = build("raw")
    batch = batch_for(mae)
    batch["clips"] = torch.zeros_like(batch["clips"])  # the mean colour
    picture = mae.visualize(batch)["reconstruction"]
    assert picture.shape == (3, 4 * 16, 4 * 16)
    mean = (torch.tensor(mae.encoder.mean) * 255).byte().float()
    torch.testing.assert_close(picture[:, :16].float().mean((1, 2)), mean, atol=1.0, rtol=0)
