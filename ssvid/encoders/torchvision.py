"""Clip -> Features: nets of torchvision.models.video, headless, with their own normalisation and clip."""

from torch import nn
from torchvision.models import video

from ssvid.encoders.convnet import ConvNet, halved
from ssvid.registry import encoders
from ssvid.shapes import ClipSpec

KINETICS = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # mean, std of its Kinetics-400 weights


@encoders.register("r3d_18")
def r3d_18(*, frames: int = 16, stride: int = 2, size: int = 112) -> ConvNet:
    """R3D-18 (arXiv:1711.11248): 512 channels at T/8 x H/16 x W/16."""
    net = video.r3d_18(weights=None)
    body = nn.Sequential(net.stem, net.layer1, net.layer2, net.layer3, net.layer4)
    spec = ClipSpec(frames=frames, stride=stride, size=size)
    return ConvNet(body, 512, spec, *KINETICS, lambda T, H, W: (halved(T, 3), halved(H, 4), halved(W, 4)))
