"""InfoNCE on video, and UberNCE: MoCo (arXiv:1911.05722) as CoCLR's first stage has it (Han et al. 2020,
arXiv:2010.09709). Two clips of a video are told from the clips of other videos, whose keys wait in a queue.

`positives: label` is UberNCE: every queued clip of the query's class is a positive too.
"""

import torch
from jaxtyping import Bool
from torch import Tensor

from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.engine.warm_start import load_earlier_run
from ssvid.errors import UserError, positive, within
from ssvid.nn import moco
from ssvid.nn.ema import update_momentum
from ssvid.nn.queue import Queue
from ssvid.nn.sources import enough
from ssvid.objective import Objective
from ssvid.registry import objectives
from ssvid.shapes import Batch, Loss, Views

POSITIVES = ("own", "label")


@objectives.register("infonce")
class InfoNCE(Objective):
    pooled_only = True
    tiny_kwargs = {"dim": 8, "queue": 4}

    def __init__(
        self,
        encoder: Encoder,
        *,
        positives: str = "own",  # own: the other clip of the same video; label: all of its class too (UberNCE)
        init: str
        | None = None,  # a run of infonce, or a published file: encoder and head to begin with
        dim: int = 128,  # of the space in which clips are compared
        temperature: float = 0.07,  # of the softmax over keys
        momentum: float = 0.999,  # of the encoder of keys
        queue: int = 2048,  # keys; 16384 on Kinetics; a multiple of the batch
        shuffle_bn: bool = True,  # with several processes and batch norm of each
        augment: str = "coclr",  # a recipe of ssvid.data.augment
    ) -> None:
        super().__init__()
        if positives not in POSITIVES:
            raise UserError(
                f"infonce: there is no positives {positives!r}: take {' or '.join(POSITIVES)}."
            )
        positive(dim=dim, queue=queue, temperature=temperature)
        within(0, 1, momentum=momentum)
        self.encoder, self.positives, self.augment = encoder, positives, augment
        self.temperature, self.momentum, self.shuffle_bn = temperature, momentum, shuffle_bn
        self.head = moco.projection(encoder.dim, dim)
        if init is not None:
            load_earlier_run(init, "--objective.init").load_into(self.encoder, self.head)
        self.key_encoder, self.key_head = moco.slow(encoder), moco.slow(self.head)
        self.queue = Queue(queue, dim, ("label",) if positives == "label" else ())
        self.waiting: list[
            tuple[Tensor, dict[str, Tensor]]
        ] = []  # of this step, queued when it is done

    @property
    def views(self) -> Views:
        spec = self.encoder.spec
        return Views(
            clips=(spec, spec), augment=self.augment, mean=self.encoder.mean, std=self.encoder.std
        )

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        enough(data, "infonce", batch_size, self.queue)
        if self.positives == "own":
            return
        if unlabelled := sum(row.label is None for row in data.rows):
            raise UserError(
                f"infonce with positives label (UberNCE) learns from labels, and {unlabelled} of {len(data)} videos "
                "have none: take --data with labels, or --objective.positives own."
            )

    def forward(self, batch: Batch) -> Loss:
        clips = moco.several("infonce", batch["clips"])  # B 2 C T H W
        query = moco.units(self.encoder, self.head, clips[:, 0])
        step = int(self.queue.pushed)
        key = moco.keys(
            self.key_encoder, self.key_head, clips[:, 1], batch["seed"], step, self.shuffle_bn
        )
        logits, right = (
            moco.logits(query, key, self.queue, self.temperature),
            self.right(batch),
        )  # B 1+K
        share = logits.log_softmax(1)
        loss = -(torch.where(right, share, 0.0).sum(1) / right.sum(1)).mean()
        self.wait(key, batch)
        return Loss(loss, {"nce": loss.detach(), **moco.tops(logits.detach(), right)})

    def right(self, batch: Batch) -> Bool[Tensor, "B n"]:
        """Which of its own key (first) and the queued ones are positives of each query."""
        own = torch.ones(len(batch["clips"]), 1, dtype=torch.bool, device=batch["clips"].device)
        if self.positives == "own":
            return torch.cat([own, own.new_zeros(len(own), len(self.queue.keys))], 1)
        label = batch["label"].to(own.device)
        if (label < 0).any():
            raise UserError(
                "infonce with positives label learns from labels, and the data has clips without one."
            )
        return torch.cat([own, label[:, None] == self.queue.get_buffer("label")], 1)

    def wait(self, key: Tensor, batch: Batch) -> None:
        if self.training and torch.is_grad_enabled():
            columns = {"label": batch["label"].to(key.device)} if self.positives == "label" else {}
            self.waiting.append((key, columns))

    def after_step(self, progress: float) -> None:
        """The keys of this step, all micro-batches, are queued: the loss has seen those of earlier steps alone."""
        for key, columns in self.waiting:
            self.queue.push(key, **columns)
        self.waiting.clear()
        moco.follow((self.encoder, self.head), (self.key_encoder, self.key_head), self.momentum)

    def on_weights_loaded(self) -> None:
        update_momentum(self.encoder, self.key_encoder, 0.0)
