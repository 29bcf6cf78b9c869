"""Small runs of litevl_retrieval and litevl_qa, for the commands ask and explain."""

from pathlib import Path

import torch

from objectives.litevl.questions import LiteVLQuestions
from objectives.litevl.retrieval import LiteVLRetrieval
from ssvid import create_encoder
from ssvid.encoder import Encoder
from ssvid.text.joint_files import save_joint
from ssvid.weights.encoders import save_encoder

TEXT = {"width": 24, "layers": 3, "heads": 2, "length": 12, "dropout": 0.0}
PICTURE = {"dim": 24, "depth": 2, "heads": 2, "patch": 8}


def create_net(**kwargs: object) -> Encoder:
    torch.manual_seed(0)
    return create_encoder(
        "litevl", image="blip_vit", image_kwargs=PICTURE, frames=4, size=16, **kwargs
    )


def wake(net: torch.nn.Module) -> None:
    """Weights with which every part has a say."""
    torch.manual_seed(1)
    for parameter in net.parameters():
        if parameter.ndim:
            torch.nn.init.normal_(parameter, std=0.25)


def create_retrieval(**kwargs: object) -> LiteVLRetrieval:
    objective = LiteVLRetrieval(create_net(**kwargs), dim=8, queue=8, options=TEXT)
    wake(objective)
    return objective.eval()


def create_questions(**kwargs: object) -> LiteVLQuestions:
    objective = LiteVLQuestions(create_net(**kwargs), options=TEXT)
    wake(objective)
    return objective.eval()


def save_retrieval(folder: Path) -> Path:
    objective = create_retrieval()
    save_encoder(objective.encoder, folder, "encoder", {})
    save_joint(objective.joint_space(), folder)
    return folder


def save_questions(folder: Path) -> Path:
    objective = create_questions()
    save_encoder(objective.encoder, folder, "encoder", {})
    objective.save_assets(folder)
    return folder
