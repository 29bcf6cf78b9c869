"""The engine's loop against a bare one: what a step costs beside the method.

The objective does nothing.
"""

import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.profiling.speed.pairs import Case
from ssvid.data.quarantine import Quarantine
from ssvid.encoder import Encoder
from ssvid.engine import optim
from ssvid.engine.checkpoint import RunFolder
from ssvid.engine.distributed import World
from ssvid.engine.loop import Trained, train
from ssvid.engine.settings import Settings
from ssvid.objective import Objective
from ssvid.shapes import Batch, ClipSpec, Loss, Views

STEPS = 300
VIEWS = Views(clips=(ClipSpec(frames=2, stride=1, size=8),), augment="none")


class Nothing(Objective):
    """An objective that moves one number to zero. A step sleeps for `seconds`."""

    def __init__(self, views: Views = VIEWS, seconds: float = 0.0) -> None:
        super().__init__()
        self.takes, self.seconds = views, seconds
        self.number = nn.Parameter(torch.ones(1))

    @property
    def views(self) -> Views:
        return self.takes

    def forward(self, batch: Batch) -> Loss:
        time.sleep(self.seconds)
        loss = self.number.square().sum()
        return Loss(loss, {"square": loss.detach()})

    def exported_encoders(self) -> dict[str, Encoder]:
        return {}


class Same:
    """A loader that repeats one batch, so that no file is read."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __iter__(self) -> Iterator[Batch]:
        clips = torch.zeros(self.shape, dtype=torch.uint8)
        rows = torch.arange(len(clips))
        while True:
            yield {
                "clips": clips,
                "index": rows,
                "epoch": rows,
                "video_id": [""] * 8,
                "seed": 0,
                "bad_files": [],
                "padded": 0,
                "dropped": 0,
            }


def run(
    nothing: Nothing, batches: Iterable[Batch], steps: int, log_every: int = 10
) -> dict[str, float]:
    """Runs the engine's loop in a temporary folder. Returns the last numbers of its log."""
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(name)
        folder.checkpoints.mkdir()
        trained = Trained(
            nothing,
            optim.make("adamw", nothing, 0.0, (0.9, 0.95), {}),
            World(0, 1, torch.device("cpu")),
        )
        settings = Settings(
            steps=steps,
            batch_size=8,
            lr=1e-3,
            log_every=log_every,
            checkpoint_every=steps,
            picture_every=steps,
        )
        return train(
            trained, batches, nothing.views, settings, folder, Quarantine(Path(name), 8), {}
        )


def overhead() -> Case:
    batches = Same(8, 1, 3, 2, 8, 8)

    def ours() -> None:
        run(Nothing(), batches, STEPS)

    def theirs() -> None:
        nothing, feed = Nothing(), iter(batches)
        optimizer = torch.optim.AdamW(nothing.parameters(), fused=True)
        for _ in range(STEPS):
            batch = next(feed)
            batch["clips"] = normalise(batch["clips"])
            loss = nothing(batch).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return Case(
        ours, theirs, f"CPU-seconds of {STEPS} steps; (ours - theirs) / {STEPS} is the overhead"
    )


def normalise(clips: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(-1, 1, 1, 1) for v in (VIEWS.mean, VIEWS.std))
    return (clips.float() / 255 - mean) / std
