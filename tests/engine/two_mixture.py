"""Steps of video_text on a mixture in float64, as one process or as several: run by
test_mixture_runs.py.
"""

import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from objectives.video_text import VideoText
from ssvid import create_encoder
from ssvid.data.datasets.mixture import mixture
from ssvid.data.loader import train_loader
from ssvid.data.parts import Order
from ssvid.data.training import training
from ssvid.encoders.videoprism import VideoPrism
from ssvid.engine.distributed import join
from ssvid.engine.to_device import to_device
from tests.engine.pairs import leave
from tests.engine.two import WORDS

STEPS = 6


def train(order: Order, folder: str) -> dict[str, torch.Tensor]:
    """Losses and gradients of every step, and the weights that they lead to."""
    world = join("cpu", timeout_s=60.0)
    parts = {"films": {"name": "csv", "root": f"{folder}/films.csv", "weight": 2}}
    parts["pictures"] = {"name": "images", "root": f"{folder}/pictures.csv"}
    if order == "alternate":
        parts["pictures"]["clip"] = {"frames": 1}
    rows = mixture(parts=parts, order=order).split("train")
    torch.manual_seed(0)
    encoder = create_encoder("videoprism", **VideoPrism.tiny_kwargs)
    sizes = {"heads": 2, "hidden": 16, "auxiliary": 1, "chunk": 1}
    objective = VideoText(encoder, tower="words", options=WORDS, **sizes)
    objective.check_data(rows, objective.views, 4)
    objective = objective.double()
    module = DistributedDataParallel(objective) if world.size > 1 else objective
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.01)
    clips = training(rows, objective.views, seed=0)
    ranks = {"rank": world.rank, "world": world.size}
    losses, numbers = [], {}
    for step, raw in enumerate(train_loader(clips, batch_size=4, steps=STEPS, workers=0, **ranks)):
        batch = to_device(raw, objective.views, world.device)
        batch["clips"] = batch["clips"].double()
        loss = module(batch).total
        loss.backward()
        for name, weight in objective.named_parameters():
            if weight.grad is not None:
                numbers[f"grad/{step}/{name}"] = weight.grad.clone()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    total = torch.stack(losses)
    if world.size > 1:
        torch.distributed.all_reduce(total)
    for name, weight in objective.named_parameters():
        numbers[f"weight/{name}"] = weight.detach().clone()
    return {"losses": total / world.size, **numbers}


def write_corpora(folder: Path) -> None:
    """Six films and five pictures with captions."""
    from PIL import Image

    from tests.helpers import squares, write_video

    lines = {"films": ["path,split,caption"], "pictures": ["path,split,caption"]}
    for i in range(6):
        write_video(folder / f"{i}.mp4", squares(i))
        lines["films"].append(f"{i}.mp4,train,film {i} of squares")
    for i in range(5):
        Image.fromarray(squares(40 + i)[0]).save(folder / f"{i}.png")
        lines["pictures"].append(f"{i}.png,train,picture {i}")
    for name, rows in lines.items():
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    leave(train, sys.argv[1:])
