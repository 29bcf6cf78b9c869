"""InfoNCE on video, and UberNCE (Han et al. 2020, arXiv:2010.09709), the first stage of CoCLR.

It is MoCo (arXiv:1911.05722): two clips of a video are a positive pair, and the clips of other
videos are negatives, whose keys are in a queue. With `positives: label` it is UberNCE: every queued
clip of the query's class is a positive too.
"""

import torch
from jaxtyping import Bool
from torch import Tensor

from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.engine.warm_start import load_earlier_run
from ssvid.errors import UserError, check_positive, check_range
from ssvid.nn import moco
from ssvid.nn.ema import update_momentum
from ssvid.nn.queue import Queue
from ssvid.nn.sources import check_negatives
from ssvid.objective import Objective
from ssvid.registry import objectives
from ssvid.shapes import Batch, Loss, Views

POSITIVES = ("own", "label")


@objectives.register("infonce")
class InfoNCE(Objective):
    """MoCo with one momentum encoder and a queue of keys.

    Keys of the current step are pending until `after_step`; they are not in the state dict.
    """

    pooled_only = True
    tiny_kwargs = {"dim": 8, "queue": 4}
    default_flags = moco.DEFAULT_FLAGS
    preset_flags = moco.PRESET_FLAGS

    def __init__(
        self,
        encoder: Encoder,
        *,
        # own: the other clip of the video; label: also the queued clips of its class (UberNCE)
        positives: str = "own",
        # a run of infonce or a published file, whose encoder and head to start from
        init: str | None = None,
        dim: int = 128,  # width of the projection
        temperature: float = 0.07,  # of the softmax over keys
        momentum: float = 0.999,  # of the momentum encoder
        queue: int = 2048,  # number of keys, a multiple of the batch; 16384 on Kinetics
        shuffle_bn: bool = True,  # exchange clips between processes that have their own batch norm
        augment: str = "coclr",  # a recipe of ssvid.data.augment
    ) -> None:
        super().__init__()
        if positives not in POSITIVES:
            raise UserError(
                f"infonce: there is no positives {positives!r}: take {' or '.join(POSITIVES)}."
            )
        check_positive(dim=dim, queue=queue, temperature=temperature)
        check_range(0, 1, momentum=momentum)
        self.encoder, self.positives, self.augment = encoder, positives, augment
        self.temperature, self.momentum, self.shuffle_bn = temperature, momentum, shuffle_bn
        self.head = moco.make_projection(encoder.dim, dim)
        if init is not None:
            load_earlier_run(init, "--objective.init").load_into(self.encoder, self.head)
        self.key_encoder, self.key_head = (
            moco.make_momentum_copy(encoder),
            moco.make_momentum_copy(self.head),
        )
        self.queue = Queue(queue, dim, ("label",) if positives == "label" else ())
        # Keys of the current step with their labels. `after_step` moves them into the queue.
        self.pending_keys: list[tuple[Tensor, dict[str, Tensor]]] = []

    @property
    def views(self) -> Views:
        return self.encoder.make_views(self.augment, 2)

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        check_negatives(data, "infonce", batch_size, self.queue)
        if self.positives == "own":
            return
        if unlabelled := sum(row.label is None for row in data.rows):
            raise UserError(
                f"infonce with positives label (UberNCE) learns from labels, and {unlabelled} of "
                f"{len(data)} videos have none: take --data with labels, or "
                "--objective.positives own."
            )

    def forward(self, batch: Batch) -> Loss:
        clips = moco.require_two_clips("infonce", batch["clips"])  # B 2 C T H W
        query = moco.embed_clips(self.encoder, self.head, clips[:, 0])
        step = int(self.queue.pushed)
        key = moco.embed_keys(
            self.key_encoder, self.key_head, clips[:, 1], batch["seed"], step, self.shuffle_bn
        )
        logits = moco.compute_logits(query, key, self.queue, self.temperature)  # B 1+K
        positives = self.find_positives(batch)  # B 1+K
        log_prob = logits.log_softmax(1)
        loss = -(torch.where(positives, log_prob, 0.0).sum(1) / positives.sum(1)).mean()
        self.keep_for_queue(key, batch)
        return Loss(loss, {"nce": loss.detach(), **moco.measure_topk(logits.detach(), positives)})

    def find_positives(self, batch: Batch) -> Bool[Tensor, "B n"]:
        """The positives of each query among its own key (first) and the queued keys."""
        own_key = torch.ones(len(batch["clips"]), 1, dtype=torch.bool, device=batch["clips"].device)
        if self.positives == "own":
            return torch.cat([own_key, own_key.new_zeros(len(own_key), len(self.queue.keys))], 1)
        label = batch["label"].to(own_key.device)
        if (label < 0).any():
            raise UserError(
                "infonce with positives label learns from labels, and the data has clips without "
                "one."
            )
        return torch.cat([own_key, label[:, None] == self.queue.get_buffer("label")], 1)

    def keep_for_queue(self, key: Tensor, batch: Batch) -> None:
        """Keep the keys of a micro-batch until the end of the step.

        They are not in the queue yet, so no clip of this step is a negative of another one.
        """
        if not self.training or not torch.is_grad_enabled():
            return
        labels: dict[str, Tensor] = {}
        if self.positives == "label":
            labels["label"] = batch["label"].to(key.device)
        self.pending_keys.append((key, labels))

    def after_step(self, progress: float) -> None:
        """Move the keys of all micro-batches into the queue, and update the momentum encoder.

        The queue changes only here, so the negatives of a step come only from earlier steps.
        """
        for key, labels in self.pending_keys:
            self.queue.push(key, **labels)
        self.pending_keys.clear()
        moco.update_momentum_copies(
            (self.encoder, self.head), (self.key_encoder, self.key_head), self.momentum
        )

    def on_weights_loaded(self) -> None:
        update_momentum(self.encoder, self.key_encoder, 0.0)
