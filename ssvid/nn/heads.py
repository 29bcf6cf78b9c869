"""Features -> scores of classes: the linear head of fine-tuning and of labelled pretraining."""

from torch import nn


def classifier(dim: int, classes: int, scale: float = 0.001) -> nn.Linear:
    """Its first weights are small (VideoMAE's fine-tuning), so that all classes begin alike."""
    head = nn.Linear(dim, classes)
    nn.init.trunc_normal_(head.weight, std=0.02 * scale, a=-2 * scale, b=2 * scale)
    nn.init.zeros_(head.bias)
    return head
