"""encoder -> its text side: frozen functions of sentences and of pooled features.

Both functions lead into one space, in which clips and sentences are compared.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.errors import UserError
from ssvid.hub import split_modality, split_untrained
from ssvid.randomness import permutation
from ssvid.shapes import Pooled
from ssvid.text.joint import Joint, load_joint
from ssvid.weights.state_dict import hash_weights

SENTENCES_AT_ONCE = 256
WHO_HAS_TEXT = (
    "encoders that were trained with text have one: a run of mil_nce, or a published S3D of "
    "MIL-NCE with the list of its words (--words FILE)"
)


class Text:
    """What a task may use of a text side. It gives arrays and hides the network."""

    def __init__(self, joint: Joint) -> None:
        self._joint = joint
        # True: vectors have length 1 and their product is a cosine. False: the plain product.
        self.cosine = joint.cosine

    @torch.inference_mode()
    def embed(self, sentences: Sequence[str]) -> Float[Tensor, "S E"]:
        """The vectors of sentences, on the CPU."""
        starts = range(0, len(sentences), SENTENCES_AT_ONCE)
        chunks = [self._joint.embed_texts(sentences[i : i + SENTENCES_AT_ONCE]) for i in starts]
        return torch.cat(chunks).float().cpu()

    @torch.inference_mode()
    def embed_videos(self, pooled: Pooled) -> Float[Tensor, "B E"]:
        """The vectors of clips, from their pooled features, on the CPU."""
        return self._joint.embed_videos(
            pooled.float().to(next(self._joint.parameters()).device)
        ).cpu()

    def normalise_averages(self, averages: Float[Tensor, "S E"]) -> Float[Tensor, "S E"]:
        """Averages of vectors, made ready for a comparison.

        The average of vectors of length 1 is shorter than 1, so it is normalised again.
        """
        return F.normalize(averages, dim=-1) if self.cosine else averages

    def unlearn(self, seed: int) -> "Text":
        """A copy whose weights are shuffled, so that it has learnt nothing."""
        joint = copy.deepcopy(self._joint)
        shuffle_weights(joint, seed)
        return Text(joint)

    @property
    def hash(self) -> str:
        return hash_joint(self._joint)


def open_text_side(encoder: str, words: str | None) -> Joint:
    """The text side of the encoder that the user named. `words`: the list of a published one.

    Raises a UserError where the encoder has no text side.
    """
    path, (_, draw) = Path(split_modality(encoder)[0]), split_untrained(encoder)
    if draw is not None or not path.exists():
        raise UserError(
            f"{encoder} names an untrained encoder and has no text side: {WHO_HAS_TEXT}."
        )
    if path.is_dir() and not (path / "text.json").exists():
        raise UserError(f"{encoder} has no text side (text.json): {WHO_HAS_TEXT}.")
    return load_joint(path, words).eval()


def hash_joint(joint: Joint) -> str:
    """Hash of all that determines the vectors of clips and sentences, the word list included."""
    arguments = dict(joint.tower.kwargs)
    for path in ("words", "folder"):  # where files lie does not change a vector
        arguments.pop(path, None)
    tower = joint.tower
    return hash_weights(joint, (tower.name, sorted(arguments.items()), joint.cosine, tower.words))


def shuffle_weights(net: nn.Module, seed: int) -> None:
    """Shuffle the entries of each tensor in place.

    Each tensor keeps its entries and so its scale, and loses all that was learnt.
    """
    for number, tensor in enumerate(net.state_dict().values()):
        if tensor.is_floating_point() and tensor.numel() > 1:
            order = permutation(seed, number, tensor.numel()).to(tensor.device)
            tensor.copy_(tensor.flatten()[order].view_as(tensor))
