"""labelled batch -> Loss: an encoder with a linear head, trained as a whole. What `ssvid.finetune` trains.

It is in the core, not among the objectives, because it needs labels: no paper's idea, and nothing to pretrain with.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.engine.mix import Mix
from ssvid.errors import positive, within
from ssvid.nn.heads import classifier
from ssvid.objective import Objective
from ssvid.shapes import Batch, Clip, Loss, Views


class Classify(Objective):
    """Cross-entropy with soft targets on the encoder's pooled features, which are after its own final norm.

    Batch norm runs as in any training: on the batch, its running statistics moving, during the head's warm-up too.
    """

    pooled_only = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        classes: int,
        mix: Mix,
        smoothing: float = 0.1,
        dropout: float = 0.0,
        head_scale: float = 0.001,
        augment: str = "resized_flip",
        repeat: int = 1,
    ) -> None:
        super().__init__()
        positive(repeat=repeat)
        within(0, 1, smoothing=smoothing, dropout=dropout)
        self.encoder, self.classes, self.mix = encoder, classes, mix
        self.smoothing, self.augment, self.repeat = smoothing, augment, repeat
        self.dropout = nn.Dropout(dropout)
        self.head = classifier(encoder.dim, classes, head_scale)

    @property
    def views(self) -> Views:
        clips = (self.encoder.spec,) * self.repeat
        return Views(
            clips=clips, augment=self.augment, mean=self.encoder.mean, std=self.encoder.std
        )

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def forward(self, batch: Batch) -> Loss:
        clips = rearrange(batch["clips"], "B V C T H W -> (B V) C T H W")
        labels = batch["label"].to(clips.device).repeat_interleave(self.repeat)
        clips, targets = self.mix(
            clips, smooth(labels, self.classes, self.smoothing), batch, self.repeat
        )
        logits = self.logits(clips)
        loss = -(targets * logits.log_softmax(-1)).sum(-1).mean()
        right = (
            (logits.argmax(-1) == targets.argmax(-1)).double().mean()
        )  # by the larger part, where mixed
        return Loss(loss, {"train_top1": right.detach()})

    def logits(self, clips: Clip) -> Float[Tensor, "B Q"]:
        return self.head(self.dropout(self.encoder(clips).pooled)).float()

    def rates(self, decay: float, encoder: float = 1.0) -> dict[str, float]:
        """Parameter -> its share of the learning rate: the head 1, each layer below `decay` times the one above.

        `encoder`: of all of its layers, beside that.
        """
        above = {f"encoder.{name}": n for name, n in self.encoder.count_layers_above().items()}
        shares = {name: decay ** above.get(name, 0) for name, _ in self.named_parameters()}
        return {name: share * (encoder if name in above else 1.0) for name, share in shares.items()}


def smooth(labels: Int[Tensor, " B"], classes: int, smoothing: float) -> Float[Tensor, "B Q"]:
    """One-hot, with `smoothing` of the whole spread over all classes."""
    return F.one_hot(labels, classes) * (1 - smoothing) + torch.full(
        (), smoothing / classes, device=labels.device
    )
