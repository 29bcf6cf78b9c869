"""Clip -> Features: the nets of pytorchvideo without their heads.

Each has its own normalisation and clip. Frames and stride are those of its model zoo
(docs/source/model_zoo.md, "frame length x sample rate"). Sizes are those that the nets were trained
at and that their heads are built for (the zoo measured its scores at 256, those of X3D at 182 and
256).
"""

import warnings
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from ssvid.encoders.convnet import ConvNet, halve
from ssvid.encoders.mvit import DEPTHS, MViT, flatten_map, prepend_class_token
from ssvid.errors import check_positive
from ssvid.nn.position import Positions
from ssvid.registry import encoders
from ssvid.shapes import Clip, ClipSpec, Grid

# Mean and std of all its Kinetics weights, from its torch.hub pages.
KINETICS = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)


@encoders.register("slow_r50")
def slow_r50(
    *,
    width: int = 64,  # channels of the stem
    frames: int = 8,  # of a clip
    stride: int = 8,  # of the file's frames
    size: int = 224,  # pixels of a side
) -> ConvNet:
    """The slow half of SlowFast (arXiv:1812.03982): 32 x width channels at T x H/32 x W/32."""
    return _resnet("slow_r50", width, _spec(frames, stride, size), lambda T: T)


@encoders.register("c2d_r50")
def c2d_r50(
    *,
    width: int = 64,  # channels of the stem
    frames: int = 8,  # of a clip
    stride: int = 8,  # of the file's frames
    size: int = 224,  # pixels of a side
) -> ConvNet:
    """2-D convolutions and a pool over pairs of frames (arXiv:1711.07971).

    32 x width channels at T/2 x H/32 x W/32.
    """
    return _resnet("c2d_r50", width, _spec(frames, stride, size), lambda T: T // 2)


@encoders.register("i3d_r50")
def i3d_r50(
    *,
    width: int = 64,  # channels of the stem
    frames: int = 8,  # of a clip
    stride: int = 8,  # of the file's frames
    size: int = 224,  # pixels of a side
) -> ConvNet:
    """Inflated ResNet (arXiv:1705.07750): 32 x width channels at T/2 x H/32 x W/32.

    An odd last frame is left out.
    """
    return _resnet("i3d_r50", width, _spec(frames, stride, size), lambda T: T // 2)


@encoders.register("r2plus1d_r50")
def r2plus1d_r50(
    *,
    width: int = 64,  # channels of the stem
    frames: int = 16,  # of a clip
    stride: int = 4,  # of the file's frames
    size: int = 224,  # pixels of a side
) -> ConvNet:
    """R(2+1)D (arXiv:1711.11248) of bottlenecks: 32 x width channels at T/4 x H/32 x W/32."""
    return _resnet("r2plus1d_r50", width, _spec(frames, stride, size), lambda T: halve(T, 2))


@encoders.register("csn_r101")
def csn_r101(
    *,
    width: int = 64,  # channels of the stem
    frames: int = 32,  # of a clip
    stride: int = 2,  # of the file's frames
    size: int = 224,  # pixels of a side
) -> ConvNet:
    """ir-CSN (arXiv:1904.02811): 32 x width channels at T/8 x H/32 x W/32.

    Every 3x3x3 convolution is depthwise.
    """
    return _resnet("csn_r101", width, _spec(frames, stride, size), lambda T: halve(T, 3))


@encoders.register("x3d_xs")
def x3d_xs(
    *,
    width: float = 2.0,  # the paper's factor of channels
    depth: float = 2.2,  # the paper's factor of layers
    frames: int = 4,  # of a clip
    stride: int = 12,  # of the file's frames
    size: int = 160,  # pixels of a side
) -> ConvNet:
    """X3D-XS: the net of X3D-S and X3D-M, on shorter clips."""
    return _x3d(width, depth, _spec(frames, stride, size))


@encoders.register("x3d_s")
def x3d_s(
    *,
    width: float = 2.0,  # the paper's factor of channels
    depth: float = 2.2,  # the paper's factor of layers
    frames: int = 13,  # of a clip
    stride: int = 6,  # of the file's frames
    size: int = 160,  # pixels of a side
) -> ConvNet:
    """X3D-S (arXiv:2004.04730): 432 channels at T x H/32 x W/32, the map that its head pools."""
    return _x3d(width, depth, _spec(frames, stride, size))


@encoders.register("x3d_m")
def x3d_m(
    *,
    width: float = 2.0,  # the paper's factor of channels
    depth: float = 2.2,  # the paper's factor of layers
    frames: int = 16,  # of a clip
    stride: int = 5,  # of the file's frames
    size: int = 224,  # pixels of a side
) -> ConvNet:
    """X3D-M: the net of X3D-XS and X3D-S, on longer and larger clips."""
    return _x3d(width, depth, _spec(frames, stride, size))


@encoders.register("mvit_base_16x4")
def mvit_base_16x4(
    *,
    width: int = 96,  # of the first stage; each later one doubles it
    depths: tuple[int, int, int, int] = DEPTHS,  # blocks of each stage
    frames: int = 16,  # of a clip
    stride: int = 4,  # of the file's frames
    size: int = 224,  # pixels of a side
) -> MViT:
    """MViT-B (arXiv:2104.11227): 8 x width channels at T/2 x H/32 x W/32."""
    check_positive(width=width, depths=min(depths))
    spec = _spec(frames, stride, size)
    starts = list(accumulate(depths))[:-1]  # first blocks of the stages but the first
    device = torch.get_default_device()
    # The library reads numbers from tensors while it builds, and meta tensors have none.
    with torch.device("cpu"):
        net = _hub(
            "mvit_base_16x4",
            # As many positions as its patch convolution has outputs, which rounds up.
            spatial_size=4 * halve(size, 2),
            temporal_size=2 * halve(frames, 1),
            depth=sum(depths),
            patch_embed_dim=width,
            embed_dim_mul=[[start, 2.0] for start in starts],
            atten_head_mul=[[start, 2.0] for start in starts],
            pool_q_stride_size=[[start, 1, 2, 2] for start in starts],
        ).to(device)
    return MViT(net, Stem(net), net.norm_embed, depths, spec, KINETICS)


class Stem(nn.Module):
    """Patches, class token and positions.

    Positions are interpolated to other grids, which the library refuses.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        old = net.cls_positional_encoding
        self.patch = net.patch_embed.patch_model
        self.cls, self.cls_position = old.cls_token, old.pos_embed_class
        self.positions = Positions("separable", self.cls.shape[-1], Grid(*old.patch_embed_shape))
        self.positions.space, self.positions.time = old.pos_embed_spatial, old.pos_embed_temporal

    def forward(self, clip: Clip) -> tuple[Tensor, Grid]:
        x, grid = flatten_map(self.patch(clip))
        return prepend_class_token(self.cls + self.cls_position, x + self.positions(grid, x)), grid


def _spec(frames: int, stride: int, size: int) -> ClipSpec:
    return ClipSpec(frames=frames, stride=stride, size=size)


def _resnet(name: str, width: int, spec: ClipSpec, time: Callable[[int], int]) -> ConvNet:
    """`width`: channels of the stem, which the published nets have 64 of.

    `time`: the frames of a clip -> those of its map.
    """
    check_positive(width=width)
    net = _hub(name, stem_dim_out=width)
    *blocks, head = net.blocks
    return ConvNet(
        net,
        nn.Sequential(*blocks),
        head.proj.in_features,
        spec,
        KINETICS,
        lambda T, H, W: (time(T), halve(H, 5), halve(W, 5)),
        tiny_kwargs={"width": 8, "frames": 8, "size": 48},
    )


def _x3d(width: float, depth: float, spec: ClipSpec) -> ConvNet:
    """`width`, `depth`: the paper's factors."""
    check_positive(width=width, depth=depth)
    # x3d_xs and x3d_m differ from x3d_s only in the pool of the head.
    net = _hub("x3d_s", width_factor=width, depth_factor=depth)
    *blocks, head = net.blocks
    return ConvNet(
        net,
        nn.Sequential(*blocks, head.pool.pre_conv, head.pool.pre_norm, head.pool.pre_act),
        head.pool.pre_conv.out_channels,
        spec,
        KINETICS,
        lambda T, H, W: (T, halve(H, 5), halve(W, 5)),
        tiny_kwargs={"width": 1.0, "depth": 1.0, "frames": 4, "size": 48},
    )


def _hub(name: str, **kwargs: Any) -> Any:
    # The library is imported here, because that is slow and most runs use another net. Its import
    # warns of torch.jit.script, which we cannot mend.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from pytorchvideo.models import hub

    return getattr(hub, name)(pretrained=False, **kwargs)
