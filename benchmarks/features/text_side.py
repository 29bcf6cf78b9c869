"""encoder -> its text side, as frozen functions of sentences and of pooled features into the space that they share."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.errors import UserError
from ssvid.hub import split_modality
from ssvid.randomness import permutation
from ssvid.shapes import Pooled
from ssvid.text.joint import Joint, load_joint
from ssvid.weights.state_dict import weights_hash

AT_ONCE = 256  # sentences
HAVE = (
    "those have that were trained with text: a run of mil_nce, or a published S3D of MIL-NCE with the list of its "
    "words (--words FILE)"
)


class Text:
    """What a task may ask of a text side: arrays, never a net."""

    def __init__(self, joint: Joint) -> None:
        self._joint = joint
        self.cosine = joint.cosine  # similarity is of vectors of length 1; else the plain product

    @torch.inference_mode()
    def embed(self, sentences: Sequence[str]) -> Float[Tensor, "S E"]:
        parts = [
            self._joint.texts(sentences[i : i + AT_ONCE]) for i in range(0, len(sentences), AT_ONCE)
        ]
        return torch.cat(parts).float().cpu()

    @torch.inference_mode()
    def videos(self, pooled: Pooled) -> Float[Tensor, "B E"]:
        return self._joint.videos(pooled.float().to(next(self._joint.parameters()).device)).cpu()

    def one(self, averages: Float[Tensor, "S E"]) -> Float[Tensor, "S E"]:
        """As they are compared: of vectors of length 1 the average is not of length 1."""
        return F.normalize(averages, dim=-1) if self.cosine else averages

    def unlearnt(self, seed: int) -> "Text":
        joint = copy.deepcopy(self._joint)
        unlearnt(joint, seed)
        return Text(joint)

    @property
    def hash(self) -> str:
        return joint_hash(self._joint)


def text_side(given: str, words: str | None) -> Joint:
    """Of the encoder that a user named."""
    path = Path(split_modality(given)[0])
    if not path.exists():
        raise UserError(
            f"{given} is the name of an untrained encoder and has no text side: {HAVE}."
        )
    if path.is_dir() and not (path / "text.json").exists():
        raise UserError(f"{given} has no text side (text.json): {HAVE}.")
    return load_joint(path, words).eval()


def joint_hash(joint: Joint) -> str:
    """Of all that determines vectors of clips and of sentences, the list of words included."""
    how = {
        key: value for key, value in joint.tower.kwargs.items() if key not in ("words", "folder")
    }  # paths
    return weights_hash(
        joint, (joint.tower.name, sorted(how.items()), joint.cosine, joint.tower.words)
    )


def unlearnt(net: nn.Module, seed: int) -> None:
    """In place: the entries of each tensor in an order of chance. Their size stays, nothing that was learnt does."""
    for number, tensor in enumerate(net.state_dict().values()):
        if tensor.is_floating_point() and tensor.numel() > 1:
            order = permutation(seed, number, tensor.numel()).to(tensor.device)
            tensor.copy_(tensor.flatten()[order].view_as(tensor))
