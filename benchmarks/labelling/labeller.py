"""clips + labels -> how alike each pair is, by an encoder and its text side.

This is the only file of the command that runs networks. `ssvid search` opens and runs them here
too.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from benchmarks.features.text_side import Text, hash_joint, open_text_side
from benchmarks.labelling.labels import check_known_words, embed_labels
from ssvid.encoder import Encoder
from ssvid.engine.train_flags import ClipChange
from ssvid.errors import UserError
from ssvid.hub import FILE_ENDINGS, open_encoder, split_modality, split_untrained
from ssvid.nn.batchnorm import lacks_statistics
from ssvid.text.joint import ClipVectors, JointSpace
from ssvid.weights.encoders import hash_encoder

# With video-specific prompts every pair of a clip and a label passes a transformer.
LABELS_AT_ONCE = 512
WHICH_WEIGHTS = (
    "Sentences need trained weights of video and text, and none come with this program: get "
    "ViT-B-32.pt, ViT-B-16.pt or ViT-L-14.pt of CLIP (OpenAI, MIT licence, listed in "
    "github.com/openai/CLIP) or a file of X-CLIP (Microsoft, MIT licence, "
    "github.com/microsoft/VideoX), each with CLIP's vocabulary bpe_simple_vocab_16e6.txt.gz, and "
    "give --encoder FILE --words VOCABULARY; or give --encoder RUN of the objective clip or xclip."
)

Logits = Float[Tensor, "n S"]


class Labeller:
    """An encoder, its text side and the labels. Sentences are embedded when they are first needed.

    `factor`: what a similarity was multiplied with in training. A logit is this product.
    """

    def __init__(
        self,
        net: Encoder,
        joint: JointSpace,
        labels: Sequence[str],
        templates: Sequence[str],
        batch_size: int,
    ) -> None:
        self.net, self.joint, self.batch_size = net, joint, batch_size
        self.labels, self.templates = tuple(labels), tuple(templates)
        self.factor = compute_factor(joint)

    @cached_property
    def texts(self) -> Float[Tensor, "S E"]:
        return embed_labels(self.labels, self.templates, Text(self.joint))

    @cached_property
    def hash(self) -> str:
        """Of all that determines a logit, but for the clips."""
        return f"{hash_encoder(self.net)} {hash_joint(self.joint)}"

    @torch.inference_mode()
    def compare(self, clips: UInt8[Tensor, "n C T s s"]) -> Logits:
        """The logit of every clip with every label, float32 on the CPU.

        Raises a UserError where one is no number.
        """
        device = next(self.net.parameters()).device
        texts, rows = self.texts.to(device), []
        for some in clips.split(self.batch_size):
            vectors = read_vectors(self.net, self.joint, some.to(device))
            columns = []
            for part in texts.split(LABELS_AT_ONCE):
                columns.append(self.joint.compare(vectors, part).float().cpu())
            rows.append(torch.cat(columns, 1))
        logits = torch.cat(rows)
        if not logits.isfinite().all():
            raise UserError(
                f"The similarities of {self.net.name} hold NaN or infinity: the weights are "
                "damaged, or their training diverged."
            )
        return logits


def read_vectors(net: Encoder, joint: JointSpace, clips: UInt8[Tensor, "n C T s s"]) -> ClipVectors:
    """What the text side keeps of each clip. The clips lie on the device of the networks."""
    return joint.read_clips(net(net.normalise(clips), layers=joint.layers or None))


def compute_factor(joint: JointSpace) -> float:
    """What a similarity was multiplied with in training; 1 where it was with nothing."""
    scale = dict(joint.named_parameters()).get("scale")  # its logarithm
    return 1.0 if scale is None else float(scale.detach().double().exp())


def open_labeller(
    encoder: str | None,
    words: str | None,
    clip: ClipChange,
    labels: Sequence[str],
    templates: Sequence[str],
    batch_size: int,
    device: torch.device,
) -> Labeller:
    """The networks of --encoder, on the device. Raises as `open_networks` does."""
    net, joint = open_networks(encoder, words, clip, device)
    check_known_words(labels, joint.tower)
    return Labeller(net, joint, labels, templates, batch_size)


def open_networks(
    encoder: str | None, words: str | None, clip: ClipChange, device: torch.device
) -> tuple[Encoder, JointSpace]:
    """An encoder and its text side.

    Raises a UserError where there are no weights, where they have no text side, or where the
    encoder cannot be asked about single videos.
    """
    if encoder is None or is_bare_name(encoder):
        raise UserError(WHICH_WEIGHTS)
    net = open_encoder(encoder)
    joint = open_text_side(encoder, words)
    clip.apply_to(net)
    if net.spec.modality != "rgb":
        raise UserError(
            f"--encoder {encoder} sees {net.spec.modality}, and this command reads pictures: take "
            "an encoder of rgb."
        )
    if lacks_statistics(net):
        raise UserError(
            f"--encoder {encoder} has batch norm without running statistics, so what it says of a "
            "video would depend on the videos beside it: take one that has them."
        )
    return net.to(device), joint.to(device)


def is_bare_name(encoder: str) -> bool:
    """Whether it names an architecture and no file, so that its weights would be random."""
    name = split_modality(split_untrained(encoder)[0])[0]
    return not Path(name).expanduser().exists() and not ("/" in name or name.endswith(FILE_ENDINGS))
