"""frames -> clip: how a clip is cropped and how its colours are changed.

Geometry runs in the loader's workers on uint8 frames; colours run on the device, for whole batches.
Every random choice is a uniform that the caller passes, so a crop depends on (seed, epoch, index)
alone, and rgb and flow of a clip can share it.
"""

import difflib
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ssvid.errors import UserError
from ssvid.log import log_once

TRIES = 10  # boxes that a resized crop draws before it gives up, as torchvision does
GEOMETRY_DRAWS = 3 + 2 * TRIES  # uniforms that `crop_frames` uses for a clip
COLOUR_DRAWS = 7  # uniforms that `colour` uses for a clip, or for a frame
CHANCES = [0, 5]  # those which decide whether it is jittered, and whether it is gray
SCALES = (1.0, 0.875, 0.75, 0.66)  # fractions of the short side
# y and x in quarters of the free space: corners, centre, middles of the edges, quarter points.
OFFSETS = (
    *((0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (4, 2), (0, 2)),
    *((1, 1), (1, 3), (3, 1), (3, 3)),
)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """A recipe of augmentation. The default crops the centre and changes no colour."""

    crop: str = "centre"  # centre | whole | random | multiscale | corners | resized
    short: float = 8 / 7  # random: the short side before the crop, in clip sizes
    area: tuple[float, float] = (0.5, 1.0)  # resized: fraction of the picture
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # resized: width / height, log-uniform
    flip: float = 0.0  # probability
    interpolation: str = "bilinear"  # bilinear | bicubic | nearest
    antialias: bool = True
    brightness: float = 0.0  # x: the factor is drawn from 1 - x to 1 + x
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0  # x: drawn from -x to x, in turns of the colour circle
    # Probability of brightness, contrast, saturation and hue together, in this order.
    p_jitter: float = 0.8
    p_gray: float = 0.0
    # luma | channel: a random one of the three replaces all (DPC) | channels: one for each frame
    gray: str = "luma"
    p_blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)  # of the blur, in pixels of the clip
    per: str = "clip"  # clip | frame: what shares one draw of the colours
    # "clip": whether a frame is jittered, and whether it is gray, is drawn for the clip, even where
    # `per` draws the strengths for each frame. "": as `per`.
    chance_per: str = ""
    p_colour: float = 1.0  # probability that a clip is jittered, grayed or blurred at all
    # Probability that both clips of a video show the same moment. Then one of the two, chosen at
    # random, has its colours changed and the other has not.
    alike: float = 0.0

    @property
    def colours(self) -> bool:
        """Whether the recipe changes colours."""
        jitter = max(self.brightness, self.contrast, self.saturation, self.hue)
        return max(jitter, self.p_gray, self.p_blur) > 0


DPC = Augment(  # for UCF101; the colours differ from frame to frame on purpose
    crop="random",
    short=240 / 224,
    flip=0.5,
    interpolation="nearest",
    brightness=0.5,
    contrast=0.5,
    saturation=0.5,
    hue=0.25,
    p_jitter=1.0,
    p_gray=0.5,
    gray="channel",
    per="frame",
)
# The rgb and the flow of a moment share all draws. Where flow is mirrored, its vectors keep their
# sign.
COCLR = Augment(
    crop="resized",
    area=(0.2, 1.0),
    flip=0.5,
    interpolation="bicubic",
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    p_gray=0.2,
    gray="channels",
    p_blur=0.5,
    p_colour=0.3,
    alike=0.5,
)
# The jitter's strengths differ from frame to frame. The facts do not say whether its probability
# is that of a clip or of a frame, nor in which order its parts are applied: ours draws for a clip.
# Published frames are first resized to a short side of 256/224 clip sizes; ours are cropped before
# they are resized.
XCLIP = Augment(
    crop="corners",
    flip=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    p_gray=0.2,
    per="frame",
    chance_per="clip",
)
RECIPES = {
    "none": Augment(),  # the short side is resized, the centre is cropped
    # The frame is squeezed to a square, so that boxes keep their relative place in it.
    "whole": Augment(crop="whole"),
    "multiscale": Augment(crop="multiscale"),  # VideoMAE
    "resized_flip": Augment(crop="resized", flip=0.5),  # mae_st
    "crop_flip": Augment(crop="random", flip=0.5),
    "resized_flip_colour": Augment(  # the jitter of MoCo v2, one draw for a clip
        crop="resized",
        area=(0.2, 1.0),
        flip=0.5,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        p_gray=0.2,
    ),
    "crop_flip_colour": Augment(
        crop="random", flip=0.5, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25, p_gray=0.2
    ),
    "coclr": COCLR,
    "coclr_tuning": replace(COCLR, p_jitter=0.3, p_gray=0.0, p_blur=0.0, p_colour=1.0, alike=0.0),
    "dpc": DPC,
    "memdpc": replace(DPC, crop="resized", p_gray=0.25),
    "xclip": XCLIP,
}


def name_without_flip(name: str) -> str:
    """The same recipe without its flip: `crop_flip` -> `crop`, `dpc` -> `dpc_no_flip`."""
    return name.replace("_flip", "") if "_flip" in name else f"{name}_no_flip"


for recipe_name, flipping in list(RECIPES.items()):
    if flipping.flip:
        RECIPES[name_without_flip(recipe_name)] = replace(flipping, flip=0.0)

# Words of class names, one of which is enough.
SIDES = frozenset(
    (
        *("left", "right", "leftward", "rightward", "leftwards", "rightwards"),
        *("clockwise", "anticlockwise", "counterclockwise"),
    )
)
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # PushingLeft and pushing_left have two words


def warn_of_flip(augment: str, classes: Sequence[str], flag: str) -> None:
    """Warn once if a recipe mirrors clips whose classes name sides, or both up and down.

    `flag`: the one that names the recipe. Words alone tell it, so it is a warning and no refusal.
    """
    if not get_recipe(augment).flip:
        return
    words_of_class = {name: set(map(str.lower, WORD.findall(name))) for name in classes}
    vocabulary = set().union(*words_of_class.values())
    words = SIDES | ({"up", "down"} if vocabulary >= {"up", "down"} else set())
    named = next((name for name in classes if words_of_class[name] & words), None)
    if named is not None:
        log_once(
            f"{flag} {augment} mirrors half of the clips: left and right change places, up and "
            f"down do not. The class {named!r} names a direction, so if a mirrored clip would have "
            f"another class, give {flag} {name_without_flip(augment)}.",
            logging.WARNING,
        )


def get_recipe(name: str) -> Augment:
    """The recipe of this name. A UserError names similar ones if there is none."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES) or sorted(RECIPES)
        raise UserError(f"There is no augmentation recipe {name!r}; near: {', '.join(near)}.")
    return RECIPES[name]


def crop_frames(
    frames: UInt8[Tensor, "T C H W"], recipe: Augment, size: int, u: Float[Tensor, " n"]
) -> UInt8[Tensor, "C T s s"]:
    """Crop and resize a clip, every frame in the same way.

    `size`: pixels of a side of the clip. `u`: GEOMETRY_DRAWS uniforms; the recipe `none` uses none.
    """
    # torchvision takes CPU-seconds to import, and errors and --help do not need it.
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    mode, height, width = InterpolationMode(recipe.interpolation), *frames.shape[-2:]
    if recipe.crop == "centre":
        resized = F.resize(frames, [size], mode, antialias=recipe.antialias)
        clip = F.center_crop(resized, [size, size])
    elif recipe.crop == "whole":
        clip = F.resize(frames, [size, size], mode, antialias=recipe.antialias)
    else:
        top, left, h, w = BOXES[recipe.crop](height, width, size, recipe, u[1:].tolist())
        clip = F.resized_crop(
            frames, top, left, h, w, [size, size], mode, antialias=recipe.antialias
        )
    if recipe.flip and float(u[0]) < recipe.flip:
        clip = clip.flip(-1)
    return clip.transpose(0, 1).contiguous()


def cut_squares(
    frames: UInt8[Tensor, "T C H W"], size: int, n: int
) -> list[UInt8[Tensor, "C T s s"]]:
    """n squares spread evenly along the long side of frames whose short side is resized to `size`.

    A single square is the centre.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    frames = F.resize(frames, [size], InterpolationMode.BILINEAR, antialias=True)
    room_y, room_x = (side - size for side in frames.shape[-2:])
    cuts = []
    for i in range(n):
        u = i / (n - 1) if n > 1 else 0.5
        cut = F.crop(frames, round(u * room_y), round(u * room_x), size, size)
        cuts.append(cut.transpose(0, 1).contiguous())
    return cuts


Box = tuple[int, int, int, int]  # top, left, height, width


def _random(height: int, width: int, size: int, recipe: Augment, u: list[float]) -> Box:
    """A random crop of `size` from a picture whose short side is `short * size`.

    The box is in pixels of the picture before it is resized.
    """
    side = max(1, round(min(height, width) / recipe.short))
    return int(u[0] * (height - side + 1)), int(u[1] * (width - side + 1)), side, side


def _multiscale(height: int, width: int, size: int, recipe: Augment, u: list[float]) -> Box:
    """VideoMAE's crop (kinetics.py, GroupMultiScaleCrop).

    Height and width are two scales of the short side that are at most one step apart. The box lies
    at one of 13 offsets.
    """
    sides = _scale_sides(height, width)
    sides = [size if abs(side - size) < 3 else side for side in sides]
    return _choose_box(height, width, sides, OFFSETS, u)


def _corners(height: int, width: int, size: int, recipe: Augment, u: list[float]) -> Box:
    """X-CLIP's crop (MultiScaleCrop of arXiv:2208.02816): it lies in a corner or in the centre.

    No side is changed to that of the clip where it is near it.
    """
    return _choose_box(height, width, _scale_sides(height, width), OFFSETS[:5], u)


def _scale_sides(height: int, width: int) -> list[int]:
    return [int(min(height, width) * scale) for scale in SCALES]


def _choose_box(
    height: int, width: int, sides: list[int], offsets: Sequence[tuple[int, int]], u: list[float]
) -> Box:
    """A box whose height and width are two of the sides, at most one step apart."""
    pairs = []
    for i, h in enumerate(sides):
        pairs += [(h, w) for w in sides[max(0, i - 1) : i + 2]]
    h, w = pairs[int(u[0] * len(pairs))]
    y, x = offsets[int(u[1] * len(offsets))]
    return y * ((height - h) // 4), x * ((width - w) // 4), h, w


def _resized(height: int, width: int, size: int, recipe: Augment, u: list[float]) -> Box:
    """RandomResizedCrop of torchvision: the first of TRIES boxes that fits.

    If none fits, it is the largest box at the centre.
    """
    low, high = (math.log(aspect) for aspect in recipe.aspect)
    for i in range(TRIES):
        area = height * width * (recipe.area[0] + u[2 + 2 * i] * (recipe.area[1] - recipe.area[0]))
        aspect = math.exp(low + u[3 + 2 * i] * (high - low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(u[0] * (height - h + 1)), int(u[1] * (width - w + 1)), h, w
    aspect = min(max(width / height, recipe.aspect[0]), recipe.aspect[1])
    h, w = min(height, round(width / aspect)), min(width, round(height * aspect))
    return (height - h) // 2, (width - w) // 2, h, w


BOXES = {"random": _random, "multiscale": _multiscale, "corners": _corners, "resized": _resized}


def colour(
    clips: Float[Tensor, "B V C T H W"], recipe: Augment, u: Float[Tensor, "..."]
) -> Float[Tensor, "B V C T H W"]:
    """Change the colours of clips in [0, 1], a whole batch at once.

    `u`: uniforms `B V n`, or `B V T n` with one draw for each frame.
    """
    if not recipe.colours:
        return clips
    u = u.to(clips.device, clips.dtype)
    u = u[:, :, None] if u.ndim == 3 else u  # B V (1 or T) n
    u = u[:, :, None, ..., None, None, :]  # B V 1 T 1 1 n
    jitter, spread = u[..., 0] < recipe.p_jitter, 2 * u - 1
    out = clips
    if recipe.brightness:
        out = (out * _factor(recipe.brightness, spread[..., 1])).clamp(0, 1)
    if recipe.contrast:
        mean = _gray(out).mean((-2, -1), keepdim=True)
        out = _blend(out, mean, _factor(recipe.contrast, spread[..., 2]))
    if recipe.saturation:
        out = _blend(out, _gray(out), _factor(recipe.saturation, spread[..., 3]))
    if recipe.hue:
        out = _turn_hue(out, recipe.hue * spread[..., 4])
    out = torch.where(jitter, out, clips)
    if not recipe.p_gray:
        return out
    gray = _gray(out) if recipe.gray == "luma" else _take_channel(out, u[..., 6])
    return torch.where(u[..., 5] < recipe.p_gray, gray, out)


def blur(
    clips: Float[Tensor, "B V C T H W"], recipe: Augment, u: Float[Tensor, "B V 2"]
) -> Float[Tensor, "B V C T H W"]:
    """Blur each frame of about `p_blur` of the clips; all frames of a clip share one sigma.

    `u`: two uniforms for each clip. The first selects clips, the second gives sigma.
    """
    flat, u = clips.flatten(0, 1), u.flatten(0, 1)  # K C T H W
    rows = (u[:, 0] < recipe.p_blur).nonzero()[:, 0]
    if not len(rows):
        return clips
    low, high = recipe.sigma
    sigma = low + u[rows, 1] * (high - low)
    reach = math.ceil(3 * high)
    taps = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-(taps**2) / (2 * sigma[:, None] ** 2)).to(clips)  # K k
    kernel = (kernel / kernel.sum(1, keepdim=True))[:, None, None]
    rows = rows.to(clips.device)
    x = rearrange(flat[rows], "K C T H W -> (C T) K H W")
    x = nn.functional.pad(x, (reach,) * 4, mode="replicate")
    x = nn.functional.conv2d(x, kernel, groups=len(rows))
    x = nn.functional.conv2d(x, kernel.mT, groups=len(rows))
    blurred = rearrange(x, "(C T) K H W -> K C T H W", C=clips.shape[2])
    return flat.index_copy(0, rows, blurred).view_as(clips)


def _factor(strength: float, spread: Tensor) -> Tensor:
    return (1 + strength * spread).clamp(min=0)


def _blend(clips: Tensor, target: Tensor, factor: Tensor) -> Tensor:
    return (clips * factor + target * (1 - factor)).clamp(0, 1)


def _gray(clips: Tensor) -> Tensor:
    red, green, blue = clips.split(1, dim=-4)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _take_channel(clips: Tensor, u: Tensor) -> Tensor:
    """One of the three colours, chosen by the uniform."""
    return torch.take_along_dim(clips, (3 * u).long(), dim=-4)


def _turn_hue(clips: Tensor, turns: Tensor) -> Tensor:
    """Shift the hue: RGB -> HSV -> RGB (Foley & van Dam, as in torchvision)."""
    value, least = clips.amax(-4, keepdim=True), clips.amin(-4, keepdim=True)
    red, green, blue = clips.split(1, dim=-4)
    chroma = value - least
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = (hue / 6 + turns) % 1  # B V 1 T H W
    channel = torch.tensor([5.0, 3.0, 1.0], device=clips.device, dtype=clips.dtype).view(3, 1, 1, 1)
    k = (channel + hue * 6) % 6
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)
