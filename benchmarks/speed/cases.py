"""The cases: name -> a function that makes the pair. A new one is a function here and a line in CASES."""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.probes.linear import Linear
from benchmarks.speed.attentive import attentive
from benchmarks.speed.clips import clips, clips_original, film
from benchmarks.speed.dpc import dpc
from benchmarks.speed.loader import loader
from benchmarks.speed.mae import mae
from benchmarks.speed.overhead import overhead
from benchmarks.speed.pairs import Case
from ssvid.data.decode import read, stamps
from ssvid.shapes import Frozen


def probe() -> Case:
    """A grid of 13 heads against one plain PyTorch head: 10 000 x 768 features, 100 classes, 20 epochs of 256."""
    centres = torch.randn(100, 768, generator=torch.Generator().manual_seed(0)) * 0.35

    def split(rows: int, seed: int) -> Frozen:
        y = torch.arange(rows) % 100
        noise = torch.randn(rows, 768, generator=torch.Generator().manual_seed(seed))
        return Frozen({"mean@last": centres[y] + noise}, y, [""] * rows)

    train, val, test = split(10_000, 1), split(2_000, 2), split(2_000, 3)
    ours = Linear(rates=tuple(10 ** (i / 4) for i in range(13)), weight_decays=(0.0,))
    return Case(
        ours=lambda: ours.run(train, val, test, 0),
        theirs=lambda: plain_head(train.feats["mean@last"], train.labels, epochs=20, batch=256),
        unit="CPU-seconds; ours trains 13 heads, theirs 1",
    )


def plain_head(x: Tensor, y: Tensor, *, epochs: int, batch: int) -> None:
    head = nn.Linear(x.shape[1], 100)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * math.ceil(len(x) / batch))
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch):
            loss = F.cross_entropy(head(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def decode() -> Case:
    """16 frames, 4 apart, from the middle of a 10 s clip, against decoding the whole file to RGB."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "clip.mp4"
    film(path, gop=25)
    times = stamps(path)[100:164:4]

    def theirs() -> Tensor:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return torch.from_numpy(np.stack(frames[100:164:4]))

    return Case(ours=lambda: read(path, times), theirs=theirs, close=folder.cleanup)


CASES: dict[str, Callable[[], Case]] = {
    "probe": probe,
    "attentive": attentive,
    "overhead": overhead,
    "decode": decode,
    "clips": clips,
    "clips_original": clips_original,
    "loader": loader,
    "mae": mae,
    "dpc": dpc,
}
