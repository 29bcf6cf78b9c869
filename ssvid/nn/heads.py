"""Features -> logits of classes: the linear head of fine-tuning and of labelled pretraining."""

from torch import nn


def classifier(dim: int, classes: int, scale: float = 0.001) -> nn.Linear:
    """A linear classifier. Its first weights are small, so that all classes start nearly equal.

    The start is that of VideoMAE's fine-tuning.
    """
    head = nn.Linear(dim, classes)
    nn.init.trunc_normal_(head.weight, std=0.02 * scale, a=-2 * scale, b=2 * scale)
    nn.init.zeros_(head.bias)
    return head
