"""The engine's loop against a bare one, on an objective that does nothing: what a step costs beside the method."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.speed.pairs import Case
from ssvid.data.quarantine import Quarantine
from ssvid.encoder import Encoder
from ssvid.engine import optim
from ssvid.engine.checkpoint import RunFolder
from ssvid.engine.distributed import World
from ssvid.engine.loop import Settings, Trained, train
from ssvid.objective import Objective
from ssvid.shapes import Batch, ClipSpec, Loss, Views

STEPS = 300
VIEWS = Views(clips=(ClipSpec(frames=2, stride=1, size=8),), augment="none")


class Nothing(Objective):
    """One number, pulled to zero."""

    views = VIEWS

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.ones(1))

    def forward(self, batch: Batch) -> Loss:
        loss = self.number.square().sum()
        return Loss(loss, {"square": loss.detach()})

    def exported(self) -> dict[str, Encoder]:
        return {}


class Same:
    """One batch again and again, so that no file is read."""

    def __iter__(self) -> Iterator[Batch]:
        clips = torch.zeros(8, 1, 3, 2, 8, 8, dtype=torch.uint8)
        rows = torch.arange(8)
        while True:
            yield {
                "clips": clips,
                "index": rows,
                "epoch": rows,
                "video_id": [""] * 8,
                "seed": 0,
                "bad": [],
                "padded": 0,
                "dropped": 0,
            }


def overhead() -> Case:
    def ours() -> None:
        with tempfile.TemporaryDirectory() as name:
            folder, nothing = RunFolder(name), Nothing()
            folder.checkpoints.mkdir()
            trained = Trained(nothing, optim.make("adamw", nothing, 0.0, (0.9, 0.95)), World(0, 1, torch.device("cpu")))
            settings = Settings(steps=STEPS, batch_size=8, lr=1e-3, checkpoint_every=STEPS, picture_every=STEPS)
            train(trained, Same(), VIEWS, settings, folder, Quarantine(Path(name), 8), {})

    def theirs() -> None:
        nothing, batches = Nothing(), iter(Same())
        optimizer = torch.optim.AdamW(nothing.parameters(), fused=True)
        for _ in range(STEPS):
            batch = next(batches)
            batch["clips"] = normalised(batch["clips"])
            loss = nothing(batch).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return Case(
        ours, theirs, unit=f"CPU-seconds of {STEPS} steps; (ours - theirs) / {STEPS} is the overhead", memory=False
    )


def normalised(clips: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(-1, 1, 1, 1) for v in (VIEWS.mean, VIEWS.std))
    return (clips.float() / 255 - mean) / std
