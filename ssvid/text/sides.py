"""Which of the two sides of an image-text or video-text net learn."""

from typing import Literal

from torch import nn

Sides = Literal["both", "video", "text"]


def freeze(side: nn.Module | nn.Parameter) -> None:
    side.requires_grad_(False)


def is_frozen(side: nn.Module) -> bool:
    return not any(weight.requires_grad for weight in side.parameters())
