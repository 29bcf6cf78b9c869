"""Clip -> Features: nets of pytorchvideo, headless, with their own normalisation and clip."""

import warnings

from torch import nn

from ssvid.encoders.convnet import ConvNet, halved
from ssvid.registry import encoders
from ssvid.shapes import ClipSpec

KINETICS = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)


@encoders.register("x3d_s")
def x3d_s(*, frames: int = 13, stride: int = 6, size: int = 160) -> ConvNet:
    """X3D-S (arXiv:2004.04730): 432 channels at T x H/32 x W/32, the map that its head pools."""
    with warnings.catch_warnings():  # its import warns of torch.jit.script, which we cannot mend
        warnings.simplefilter("ignore", FutureWarning)
        from pytorchvideo.models import hub  # here: it is slow to import, and most runs want another net
    *blocks, head = hub.x3d_s(pretrained=False).blocks
    body = nn.Sequential(*blocks, head.pool.pre_conv, head.pool.pre_norm, head.pool.pre_act)
    spec = ClipSpec(frames=frames, stride=stride, size=size)
    return ConvNet(body, 432, spec, *KINETICS, lambda T, H, W: (T, halved(H, 5), halved(W, 5)))
