"""Labelled batch -> Loss: an encoder with a head, as `ssvid.finetune` trains it.

It is in the core and not among the objectives, because it needs labels and cannot pretrain.
"""

from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.encoder import Encoder
from ssvid.engine.mix import Mix, make_smooth_targets
from ssvid.errors import UserError, check_positive, check_range
from ssvid.nn.adapters import list_adapter_names
from ssvid.nn.heads import classifier
from ssvid.nn.prism import AttentionPooler
from ssvid.objective import Objective
from ssvid.shapes import Batch, Clip, Loss, Views


class Classify(Objective):
    """Cross-entropy with soft targets on the encoder's pooled features, after its final norm.

    With a `pooler` the head reads what one learnt query gathers from the tokens instead.
    Batch norm uses the batch and updates its running statistics, also during the head's warm-up.
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
        layer_decay: float = 1.0,
        encoder_rate: float = 1.0,
        new_rate: float = 1.0,
        pooler: dict[str, Any] | None = None,  # arguments of an AttentionPooler; None: no pooler
    ) -> None:
        super().__init__()
        check_positive(repeat=repeat)
        check_range(0, 1, smoothing=smoothing, dropout=dropout)
        if new_rate != 1 and not encoder.new_parts:
            raise UserError(
                f"--new_rate {new_rate:g}: {encoder.name} has no new parts; those of X-CLIP have."
            )
        self.encoder, self.classes, self.mix = encoder, classes, mix
        self.smoothing, self.augment, self.repeat = smoothing, augment, repeat
        self.layer_decay, self.encoder_rate, self.new_rate = layer_decay, encoder_rate, new_rate
        self.dropout = nn.Dropout(dropout)
        self.pooler: AttentionPooler | None = None
        width = encoder.dim
        if pooler is not None:
            self.pooler = AttentionPooler(**pooler)
            width = self.pooler.proj.out_features
            for name, parameter in encoder.named_parameters():
                if name.startswith(encoder.pooled_parts):
                    parameter.requires_grad = False  # processes wait for every gradient
        self.head = classifier(width, classes, head_scale)

    @property
    def views(self) -> Views:
        return self.encoder.make_views(self.augment, self.repeat)

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def forward(self, batch: Batch) -> Loss:
        clips = rearrange(batch["clips"], "B V C T H W -> (B V) C T H W")
        labels = batch["label"].to(clips.device).repeat_interleave(self.repeat)
        targets = make_smooth_targets(labels, self.classes, self.smoothing)
        clips, targets = self.mix(clips, targets, batch, self.repeat)
        logits = self.logits(clips)
        loss = -(targets * logits.log_softmax(-1)).sum(-1).mean()
        # A mixed clip counts for the class with the larger weight.
        top1 = (logits.argmax(-1) == targets.argmax(-1)).double().mean()
        return Loss(loss, {"train_top1": top1.detach()})

    def logits(self, clips: Clip) -> Float[Tensor, "B Q"]:
        features = self.encoder(clips)
        pooled = features.pooled
        if self.pooler is not None:
            pooled = self.pooler(features.tokens)[:, 0]
        return self.head(self.dropout(pooled)).float()

    def compute_rate_factors(self) -> dict[str, float]:
        """Parameter -> factor of its learning rate.

        It is 1 for the head and its pooler, and each layer has `layer_decay` times the factor of
        the layer above. The factors of the encoder's layers are also multiplied by `encoder_rate`,
        and those of its new parts by `new_rate`. Adapters have the factor `encoder_rate` in every
        layer.
        """
        factors = {}
        for name, layers in self.encoder.count_layers_above().items():
            factor = self.layer_decay**layers * self.encoder_rate
            is_new = name.startswith(self.encoder.new_parts)
            factors[f"encoder.{name}"] = factor * (self.new_rate if is_new else 1.0)
        for name in list_adapter_names(self.encoder):
            factors[f"encoder.{name}"] = self.encoder_rate
        return factors
