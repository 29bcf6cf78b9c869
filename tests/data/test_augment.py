from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from ssvid.data import augment
from ssvid.data.augment import (
    GEOMETRY_DRAWS,
    OFFSETS,
    RECIPES,
    Augment,
    colour,
    crop_frames,
    cut_squares,
    get_recipe,
    name_without_flip,
    warn_of_flip,
)
from ssvid.errors import UserError
from ssvid.randomness import uniform
from tests.helpers import facts, for_each, tells


def draws(index: int) -> torch.Tensor:
    return uniform(0, "crop", 0, index, GEOMETRY_DRAWS)[0]


def noise(*shape: int) -> torch.Tensor:
    return (uniform(1, "noise", 0, 0, int(np.prod(shape)))[0] * 256).to(torch.uint8).view(shape)


@for_each("name", RECIPES)
@for_each("height, width", [(48, 64), (64, 48), (20, 90)])
def test_every_recipe_gives_a_clip_and_cuts_all_frames_alike(name, height, width):
    frames = noise(1, 3, height, width).expand(5, -1, -1, -1).contiguous()
    for i in range(8):
        clip = crop_frames(frames, RECIPES[name], 32, draws(i))
        assert clip.shape == (3, 5, 32, 32) and clip.dtype == torch.uint8 and clip.is_contiguous()
        assert (clip == clip[:, :1]).all()
        assert torch.equal(clip, crop_frames(frames, RECIPES[name], 32, draws(i)))


def test_multiscale_is_videomaes():
    """Sides by scale, snapped within 3 pixels, one step apart at most; 13 equally likely places."""
    height, width, size = 240, 320, 209  # int(240 * .875) = 210 snaps to 209
    boxes = [
        augment._multiscale(height, width, size, RECIPES["multiscale"], draws(i)[1:].tolist())
        for i in range(6000)
    ]
    sides = [240, 209, 180, 158]
    allowed = {*zip(sides, sides, strict=True)}
    allowed |= {*zip(sides[1:], sides, strict=False), *zip(sides, sides[1:], strict=False)}
    counts = Counter((h, w) for _, _, h, w in boxes)
    assert counts.keys() == allowed
    assert sum(counts.values()) == 6000 and len(allowed) == 10 and min(counts.values()) > 450
    dy, dx = (240 - 180) // 4, (320 - 158) // 4
    places = {(y, x) for y, x, h, w in boxes if (h, w) == (180, 158)}
    assert (
        places == {(y * dy, x * dx) for y, x in OFFSETS} and len(OFFSETS) == len(set(OFFSETS)) == 13
    )
    assert RECIPES["multiscale"].flip == 0


def test_the_box_of_xclip_lies_in_a_corner_or_in_the_centre():
    """Sides by scale, never snapped, one step apart at most; five equally likely places."""
    height, width, size = 240, 320, 209
    boxes = []
    for i in range(6000):
        u = draws(i)[1:].tolist()
        boxes.append(augment._corners(height, width, size, RECIPES["xclip"], u))
    sides = [240, 210, 180, 158]
    allowed = set()
    for i, j in np.ndindex(4, 4):
        if abs(i - j) <= 1:
            allowed.add((sides[i], sides[j]))
    pairs = Counter((h, w) for _, _, h, w in boxes)
    assert pairs.keys() == allowed and min(pairs.values()) > 500 and max(pairs.values()) < 700
    places = Counter((y, x) for y, x, h, w in boxes if (h, w) == (180, 158))
    dy, dx = (240 - 180) // 4, (320 - 158) // 4
    five = {(0, 0), (0, 4 * dx), (4 * dy, 0), (4 * dy, 4 * dx), (2 * dy, 2 * dx)}
    assert places.keys() == five
    assert min(places.values()) > 0.7 * sum(places.values()) / 5
    assert RECIPES["xclip"].flip == 0.5 and RECIPES["xclip_no_flip"].flip == 0


def test_resize_is_pillows_bilinear():
    frames = noise(2, 3, 60, 80)
    clip = crop_frames(frames, Augment(crop="random", short=1.0), 32, torch.zeros(GEOMETRY_DRAWS))
    for t in range(2):
        cut = Image.fromarray(frames[t].permute(1, 2, 0).numpy()[:60, :60])
        want = torch.from_numpy(np.array(cut.resize((32, 32), Image.BILINEAR)))
        assert (clip[:, t].permute(1, 2, 0).int() - want.int()).abs().max() <= 1


def test_resized_draws_area_and_log_aspect():
    how, boxes = RECIPES["resized_flip"], []
    for i in range(3000):
        top, left, h, w = augment._resized(240, 320, 112, how, draws(i)[1:].tolist())
        assert 0 <= top <= 240 - h and 0 <= left <= 320 - w
        boxes.append((h * w / (240 * 320), np.log(w / h)))
    area, aspect = np.array(boxes).T
    assert 0.49 < area.min() < 0.51 and area.max() > 0.95 and 0.62 < area.mean() < 0.75
    assert np.log(0.74) < aspect.min() < np.log(0.77) and np.log(1.30) < aspect.max() < np.log(
        1.345
    )


def test_resized_gives_up_on_the_centre():
    how = replace(RECIPES["resized_flip"], area=(0.9, 1.0))
    assert augment._resized(20, 400, 16, how, draws(0).tolist()) == (0, 186, 20, 27)


def test_flip_happens_at_its_rate_and_mirrors():
    frames = noise(1, 3, 32, 32)
    plain, how = crop_frames(frames, RECIPES["none"], 32, torch.zeros(0)), Augment(flip=0.5)
    flipped = [
        bool((crop_frames(frames, how, 32, draws(i)) == plain.flip(-1)).all()) for i in range(200)
    ]
    assert 70 < sum(flipped) < 130


def test_each_recipe_that_flips_has_a_form_that_does_not():
    for name, recipe in RECIPES.items():
        if recipe.flip:
            assert RECIPES[name_without_flip(name)] == replace(recipe, flip=0.0)
    assert {"resized", "crop", "crop_colour", "coclr_no_flip", "dpc_no_flip"} <= RECIPES.keys()


@for_each(
    "augment, classes, word",
    [
        ("resized_flip", ("PushingLeft", "wave"), "PushingLeft"),
        ("crop_flip", ("turn_right", "wave"), "turn_right"),
        ("dpc", ("wave", "spin CLOCKWISE"), "spin CLOCKWISE"),
        ("coclr", ("moving something down", "moving something up"), "moving something down"),
        ("crop_flip", ("moving something up", "wave"), None),  # mirrored, up stays up
        ("resized_flip", ("brightness", "Upright", "leftover"), None),  # whole words alone
        ("resized", ("left", "right"), None),
        ("multiscale", ("left", "right"), None),
        ("crop_flip", (), None),
    ],
)
def test_classes_with_sides_are_told_of_a_flip(augment, classes, word, capsys):
    capsys.readouterr()
    warn_of_flip(augment, classes, "--augment")
    line = capsys.readouterr().err
    assert bool(line) == (word is not None)
    assert not word or tells(line, word, f"--augment {name_without_flip(augment)}")


def test_unknown_recipe_names_the_near_ones():
    with pytest.raises(UserError, match=facts("multiscale")):
        get_recipe("multi_scale")


def one_by_one(clips, how, u):
    """Each frame by torchvision, with the draws laid out in words."""
    out = clips.clone()
    for b, v in np.ndindex(*clips.shape[:2]):
        for t in range(clips.shape[3]):
            draw_of_frame = (u[b, v, t] if how.per == "frame" else u[b, v]).tolist()
            image = clips[b, v, :, t]
            if draw_of_frame[0] < how.p_jitter:
                image = F.adjust_brightness(image, 1 + how.brightness * (2 * draw_of_frame[1] - 1))
                image = F.adjust_contrast(image, 1 + how.contrast * (2 * draw_of_frame[2] - 1))
                image = F.adjust_saturation(image, 1 + how.saturation * (2 * draw_of_frame[3] - 1))
                image = F.adjust_hue(image, how.hue * (2 * draw_of_frame[4] - 1))
            if draw_of_frame[5] < how.p_gray:
                image = F.rgb_to_grayscale(image, num_output_channels=3)
            out[b, v, :, t] = image
    return out


@for_each("per", ["clip", "frame"])
@for_each("only", ["brightness", "contrast", "saturation", "hue", "p_gray", "all"])
def test_colour_is_torchvisions_for_each_sample(per, only):
    full = {"brightness": 0.4, "contrast": 0.6, "saturation": 0.9, "hue": 0.3, "p_gray": 0.3}
    chosen = full if only == "all" else {only: full[only]}
    how = Augment(**chosen, p_jitter=0.7, per=per)
    clips = noise(4, 2, 3, 3, 10, 12).float() / 255
    clips[0, 0, :, 0] = 0.5  # gray: no hue
    u = uniform(3, "colour", 0, 0, 4 * 2 * 3 * 6)[0].view(4, 2, 3, 6)
    u = u if per == "frame" else u[:, :, 0]
    assert (colour(clips, how, u) - one_by_one(clips, how, u)).abs().max() < 2e-5
    assert (colour(clips, how, u) != clips).any()


def test_colour_leaves_clips_alone_where_nothing_is_asked():
    clips = torch.rand(2, 1, 3, 2, 4, 4)
    assert colour(clips, RECIPES["multiscale"], torch.zeros(2, 1, 6)) is clips
    how = replace(RECIPES["resized_flip_colour"], p_jitter=0.0, p_gray=0.0)
    assert torch.equal(colour(clips, how, torch.full((2, 1, 6), 0.5)), clips)


def test_three_crops_lie_along_the_long_side():
    frames = torch.arange(48, dtype=torch.uint8).expand(2, 3, 16, 48)
    left, middle, right = cut_squares(frames, 16, 3)
    assert left[0, 0, 0].tolist() == list(range(16)) and right[0, 0, 0].tolist() == list(
        range(32, 48)
    )
    assert torch.equal(middle, crop_frames(frames, get_recipe("none"), 16, torch.zeros(0)))
    assert torch.equal(cut_squares(frames, 16, 1)[0], middle)
    tall = cut_squares(frames.transpose(2, 3), 16, 2)
    assert torch.equal(tall[1], right.transpose(2, 3))
