"""A grid of 4 attentive heads against one: ViT-B tokens of 16 frames, VideoGLUE's head and batch, a step of each."""

import torch

from benchmarks.probes.attentive import Attentive
from benchmarks.speed.pairs import Case
from ssvid.shapes import Tokens

CLIPS, TOKENS, WIDTH, CLASSES = 256, 8 * 14 * 14, 768, 400


def attentive(clips: int = CLIPS, tokens: int = TOKENS) -> Case:
    """One step of an epoch of `clips` clips, both with the start of the heads and the optimiser. 0.6 GB of float16."""
    x = torch.empty(clips, tokens, WIDTH, dtype=torch.float16)
    x.normal_(generator=torch.Generator().manual_seed(0))
    y = torch.arange(clips) % CLASSES
    return Case(
        ours=lambda: trained(x, y, (4e-5, 1e-4, 5e-4, 2.5e-3)),
        theirs=lambda: trained(x, y, (1e-4,)),
        unit="CPU-seconds of a step and of making the heads; ours trains 4 heads, theirs is ours with 1",
    )


def trained(x: Tokens, y: torch.Tensor, rates: tuple[float, ...]) -> None:
    probe = Attentive(preset="videoglue", rates=rates, epochs=1)
    probe.fit(x, y, probe.form(x, CLASSES), 0)
