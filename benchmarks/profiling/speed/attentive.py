"""A grid of 4 attentive heads against one head: a pair of functions to compare.

ViT-B tokens of 16 frames, VideoGLUE's head and batch, a few steps.
"""

import torch

from benchmarks.probes.attentive import Attentive
from benchmarks.profiling.speed.pairs import Case
from ssvid.shapes import Tokens

CLIPS, TOKENS, WIDTH, CLASSES = 256, 8 * 14 * 14, 768, 400
STEPS = 2  # a run has hundreds of steps, and builds its heads once


def attentive(clips: int = CLIPS, tokens: int = TOKENS) -> Case:
    """Epochs of one step of `clips` clips, 0.6 GB of float16.

    Both sides include building the heads and the optimiser.
    """
    x = torch.empty(clips, tokens, WIDTH, dtype=torch.float16)
    x.normal_(generator=torch.Generator().manual_seed(0))
    y = torch.arange(clips) % CLASSES
    return Case(
        ours=lambda: train_heads(x, y, (4e-5, 1e-4, 5e-4, 2.5e-3)),
        theirs=lambda: train_heads(x, y, (1e-4,)),
        unit=f"CPU-seconds of {STEPS} steps and of making the heads; "
        "ours trains 4 heads, theirs is ours with 1",
        pairs=5,
    )


def train_heads(x: Tokens, y: torch.Tensor, rates: tuple[float, ...]) -> None:
    probe = Attentive(preset="videoglue", rates=rates, epochs=STEPS)
    probe.fit((x,), y, probe.build_form((x,), CLASSES), 0)
