import torch

from ssvid.data.augment import COLOUR_DRAWS, RECIPES, Augment, blur, colour
from ssvid.engine.to_device import choose_groups, to_device
from ssvid.randomness import draw, uniform
from ssvid.shapes import Batch, ClipSpec, Views
from tests.helpers import for_each

SPEC = ClipSpec(frames=4, stride=1, size=16)


def batch(n: int, views: int) -> Batch:
    pixels = (uniform(3, "noise", 0, torch.arange(n), views * 3 * 4 * 16 * 16) * 256).to(
        torch.uint8
    )
    clips = pixels.view(n, views, 3, 4, 16, 16)
    return {"clips": clips, "index": torch.arange(n), "epoch": torch.zeros(n).long(), "seed": 5}


def changed(some: Batch, views: Views) -> torch.Tensor:
    """B V: was any colour changed?"""
    plain = to_device(some, Views(clips=views.clips, augment="none"), torch.device("cpu"))["clips"]
    return (to_device(some, views, torch.device("cpu"))["clips"] - plain).abs().amax(
        (2, 3, 4, 5)
    ) > 1e-6


def test_clips_of_one_moment_share_their_colours():
    some = batch(24, 3)
    some["clips"][:, 2] = some["clips"][:, 1]
    views = Views(clips=(SPEC,) * 3, clip_groups=(0, 1, 1), augment="coclr")
    clips_out = to_device(some, views, torch.device("cpu"))["clips"]
    assert torch.equal(clips_out[:, 1], clips_out[:, 2])
    alone = to_device(some, Views(clips=(SPEC,) * 3, augment="coclr"), torch.device("cpu"))["clips"]
    assert not torch.equal(alone[:, 1], alone[:, 2])


def test_coclr_colours_one_side_of_a_moment_given_twice_and_few_of_the_others():
    n, how = 4000, RECIPES["coclr"]
    some: Batch = {"index": torch.arange(n), "epoch": torch.zeros(n).long(), "seed": 5}
    is_changed, alike = (
        choose_groups(some, how, 2),
        uniform(5, "alike", 0, torch.arange(n), 1)[:, 0] < how.alike,
    )
    assert 0.47 < alike.double().mean() < 0.53
    assert (
        bool((is_changed[alike].sum(1) == 1).all())
        and 0.45 < is_changed[alike][:, 0].double().mean() < 0.55
    )
    assert 0.27 < is_changed[~alike].double().mean() < 0.33


def test_what_is_not_chosen_keeps_its_colours():
    some, views = batch(64, 2), Views(clips=(SPEC, SPEC), augment="coclr")
    changes = changed(some, views)
    assert bool((changes <= choose_groups(some, RECIPES["coclr"], 2)).all())
    assert changes.any(0).all() and (~changes).any(0).all()


def test_none_may_be_chosen(monkeypatch):
    monkeypatch.setitem(RECIPES, "never", Augment(brightness=0.5, p_blur=1.0, p_colour=0.0))
    assert not changed(batch(3, 2), Views(clips=(SPEC, SPEC), augment="never")).any()


@for_each("per", ["clip", "frame"])
def test_gray_of_channels_takes_one_of_three_in_each_frame(monkeypatch, per):
    recipe = Augment(p_gray=1.0, gray="channels", p_jitter=0.0, per=per)
    monkeypatch.setitem(RECIPES, "gray", recipe)
    some = batch(16, 1)
    plain = to_device(some, Views(clips=(SPEC,), augment="none"), torch.device("cpu"))["clips"][
        :, 0
    ]
    clips_out = to_device(some, Views(clips=(SPEC,), augment="gray"), torch.device("cpu"))["clips"][
        :, 0
    ]
    mean, std = (
        torch.tensor(v).view(-1, 1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    clips_out, plain = clips_out * std + mean, plain * std + mean
    which = torch.stack(
        [(clips_out[:, 0] - plain[:, c]).abs().amax((-2, -1)) < 1e-5 for c in range(3)]
    )  # C B T
    assert bool((which.sum(0) == 1).all())
    assert bool(which.any(2).sum(0).max() > 1), "the channel is drawn for each frame"
    assert torch.allclose(clips_out[:, 0], clips_out[:, 1], atol=1e-5) and torch.allclose(
        clips_out[:, 0], clips_out[:, 2], atol=1e-5
    )


def test_blur_is_a_gaussian_of_the_drawn_width():
    clips = torch.zeros(2, 1, 3, 2, 25, 25)
    clips[..., 12, 12] = 1.0
    how = Augment(p_blur=0.5, sigma=(1.0, 2.0))
    clips_out = blur(clips, how, torch.tensor([[[0.4, 0.5]], [[0.6, 0.5]]]))
    assert torch.equal(clips_out[1], clips[1]), "the second draw asks for none"
    x = torch.arange(25) - 12.0
    line = torch.exp(-x.square() / (2 * 1.5**2))
    line = torch.where(x.abs() <= 6, line, torch.zeros(()))
    want = line[:, None] * line / line.sum() ** 2
    assert torch.allclose(clips_out[0], want.expand_as(clips_out[0]), atol=1e-6)


@for_each("name", ["resized_flip_colour", "dpc"])
def test_every_clip_is_coloured_where_nothing_else_is_said(name):
    some: Batch = {"index": torch.arange(9), "epoch": torch.zeros(9).long(), "seed": 5}
    assert bool(choose_groups(some, RECIPES[name], 3).all())


def see_colours(some: Batch, recipe: str) -> torch.Tensor:
    """The clips in [0, 1] after the colours of a recipe: B V C T H W."""
    views = Views(clips=(SPEC,), augment=recipe, mean=(0.0,) * 3, std=(1.0,) * 3)
    return to_device(some, views, torch.device("cpu"))["clips"]


def test_xclip_grays_and_jitters_whole_clips_and_each_frame_by_its_own_strengths():
    """A frame that is not jittered has its own colours, or their gray."""
    some = batch(1500, 1)
    some["clips"] = some["clips"][..., :2, :2]
    some["clips"][:, :, :, 1:] = some["clips"][:, :, :, :1]  # four equal frames
    before, after = some["clips"].float()[:, 0] / 255, see_colours(some, "xclip")[:, 0]
    spread = (after.amax(1) - after.amin(1)).amax((-2, -1))  # B T: of the three channels
    gray = spread < 1e-6
    assert torch.equal(gray.any(1), gray.all(1)), "the clip is gray, or no frame of it"
    assert 0.17 < gray[:, 0].double().mean() < 0.23
    jittered = (after - before).abs().amax((1, 3, 4)) > 1e-6  # B T
    plain = ~gray[:, 0]
    assert torch.equal(jittered[plain].any(1), jittered[plain].all(1))
    assert 0.77 < jittered[plain][:, 0].double().mean() < 0.83
    differ = (after[:, :, 1:] - after[:, :, :1]).abs().amax((1, 3, 4)) > 1e-6  # B T-1
    chosen = plain & jittered[:, 0]
    assert bool(differ[chosen].all()), "every frame has its own strengths"
    assert not bool(differ[plain & ~jittered[:, 0]].any())


@for_each("name, per", [("dpc", "frame"), ("crop_flip_colour", "clip")])
def test_other_recipes_share_their_draws_as_before(name, per):
    """Bit-equal to the colours by the plain draws of each frame, or of each clip."""
    some, frames = batch(12, 1), SPEC.frames
    n = frames if per == "frame" else 1
    u = draw(some, "colour", n * COLOUR_DRAWS).view(12, 1, n, COLOUR_DRAWS)
    u = u if per == "frame" else u[:, :, 0]
    assert torch.equal(
        see_colours(some, name), colour(some["clips"].float() / 255, RECIPES[name], u)
    )
