"""What quiet and loud columns cost the linear probe: `python -m tests.benchmarks.probes.columns`.

It prints the numbers of docs/protocols/probes.md: 64 columns of signal, six classes, 200 clips in
each split, and columns beside them that tell nothing.
"""

import torch
from torch import Tensor

from ssvid.registry import probes
from ssvid.shapes import Frozen

CLIPS, SIGNAL, CLASSES = 600, 64, 6
SEEDS = (10, 11, 12)


def draw_signal(seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLIPS) % CLASSES
    labels = labels[torch.randperm(CLIPS, generator=draw)]
    centres = 0.35 * torch.randn(CLASSES, SIGNAL, generator=draw)
    return centres[labels] + torch.randn(CLIPS, SIGNAL, generator=draw), labels, draw


def score_linear(features: Tensor, labels: Tensor) -> float:
    splits = []
    for rows in torch.arange(CLIPS).chunk(3):
        splits.append(Frozen({"mean@last": features[rows]}, labels[rows], [""] * len(rows)))
    result = probes["linear"]().run(*splits, 0)
    return float(result.metrics["test/top1"])


def main() -> None:
    """(number, std) of the columns that tell nothing -> top-1 of the linear probe."""
    for number, std in ((0, 1.0), (500, 0.01), (2000, 0.01), (5000, 0.01), (64, 50.0)):
        total = 0.0
        for seed in SEEDS:
            signal, labels, draw = draw_signal(seed)
            noise = std * torch.randn(CLIPS, number, generator=draw)
            total += score_linear(torch.cat([signal, noise], 1), labels)
        print(f"{number} columns of std {std}: {100 * total / len(SEEDS):.1f}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
