"""encoder -> its text side: frozen functions of sentences and of pooled features.

Both functions lead into one space, in which clips and sentences are compared.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.errors import UserError
from ssvid.hub import split_modality, split_untrained
from ssvid.randomness import permutation
from ssvid.shapes import Pooled
from ssvid.text.joint import ClipVectors, JointSpace
from ssvid.text.joint_files import load_joint
from ssvid.weights.state_dict import hash_weights

SENTENCES_AT_ONCE, CLIPS_AT_ONCE, PAIRS_AT_ONCE = 256, 64, 16
WHO_HAS_TEXT = (
    "encoders that were trained with text have one: a run of mil_nce, clip or xclip, a published "
    "file of CLIP or X-CLIP, or an S3D of MIL-NCE with the list of its words (--words FILE)"
)


class Text:
    """What a task may use of a text side. It gives arrays and hides the network."""

    def __init__(self, joint: JointSpace) -> None:
        self._joint = joint

    @property
    def device(self) -> torch.device:
        return next(self._joint.parameters()).device

    @torch.inference_mode()
    def embed(self, sentences: Sequence[str]) -> Float[Tensor, "S E"]:
        """The vectors of sentences, on the CPU."""
        starts = range(0, len(sentences), SENTENCES_AT_ONCE)
        chunks = [self._joint.embed_texts(sentences[i : i + SENTENCES_AT_ONCE]) for i in starts]
        return torch.cat(chunks).float().cpu()

    def average(self, vectors: Float[Tensor, "P S E"]) -> Float[Tensor, "S E"]:
        """One vector for several wordings of each sentence."""
        return self._joint.average_texts(vectors)

    @torch.inference_mode()
    def read_pooled(self, pooled: Pooled) -> ClipVectors:
        """What is kept of clips whose features are stored, on the CPU.

        A UserError where the text side needs more than pooled features.
        """
        vectors = self._joint.read_pooled(pooled.float().to(self.device))
        return {name: x.cpu() for name, x in vectors.items()}

    @torch.inference_mode()
    def compare(
        self, clips: Mapping[str, Tensor], texts: Float[Tensor, "S E"]
    ) -> Float[Tensor, "B S"]:
        """The similarity of every clip with every sentence, on the CPU. See JointSpace."""
        count = len(next(iter(clips.values())))
        texts, rows = texts.to(self.device), []
        for start in range(0, count, CLIPS_AT_ONCE):
            some = {}
            for name, x in clips.items():
                some[name] = x[start : start + CLIPS_AT_ONCE].float().to(self.device)
            rows.append(self._joint.compare(some, texts).cpu())
        return torch.cat(rows) if rows else texts.new_zeros(0, len(texts)).cpu()

    @property
    def can_match(self) -> bool:
        """Whether pairs can be matched, at the price of a pass for each."""
        return self._joint.can_match

    @torch.inference_mode()
    def match(self, clips: Mapping[str, Tensor], sentences: Sequence[str]) -> Float[Tensor, " P"]:
        """The score of clip i with sentence i, on the CPU. See JointSpace."""
        scores = []
        for start in range(0, len(sentences), PAIRS_AT_ONCE):
            some = {}
            for name, x in clips.items():
                some[name] = x[start : start + PAIRS_AT_ONCE].float().to(self.device)
            chunk = sentences[start : start + PAIRS_AT_ONCE]
            scores.append(self._joint.match(some, chunk).cpu())
        return torch.cat(scores)

    def unlearn(self, seed: int) -> "Text":
        """A copy whose weights are shuffled, so that it has learnt nothing."""
        joint = copy.deepcopy(self._joint)
        shuffle_weights(joint, seed)
        return Text(joint)

    @property
    def hash(self) -> str:
        return hash_joint(self._joint)


def open_text_side(encoder: str, words: str | None) -> JointSpace:
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


def hash_joint(joint: JointSpace) -> str:
    """Hash of all that determines the vectors of clips and sentences, the word list included."""
    arguments = dict(joint.tower.kwargs)
    for path in ("words", "folder", "vocabulary"):  # where files lie does not change a vector
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
