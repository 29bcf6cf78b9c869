"""CoCLR (Han et al. 2020, arXiv:2010.09709): rgb and flow teach each other. As InfoNCE, but what the *other* stream's
net finds near in its own queue counts as a positive too.

`--objective.init A --objective.sampler B`: A sees what is trained, B the other stream. Who is trained is told by the
encoder's own clip (`--clip.modality flow`), so the published `reverse` is not needed.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder, evaluating
from ssvid.engine.logs import draw_clips
from ssvid.engine.warm_start import load_earlier_run
from ssvid.errors import UserError, positive, within
from ssvid.hub import create_encoder
from ssvid.nn import moco
from ssvid.nn.ema import freeze, update_momentum
from ssvid.nn.queue import Queue
from ssvid.nn.sources import enough, source_ids
from ssvid.objective import Objective
from ssvid.randomness import uniform
from ssvid.registry import objectives
from ssvid.shapes import Batch, Loss, Views

OTHER = {"rgb": "flow", "flow": "rgb"}
SHOWN = 6  # clips, and frames of each, in a picture


@objectives.register("coclr")
class CoCLR(Objective):
    pooled_only = True
    tiny_kwargs = {"sampler": "random", "dim": 8, "queue": 4, "topk": 2}

    def __init__(
        self,
        encoder: Encoder,
        *,
        sampler: str
        | None = None,  # the other stream's run or published file; random: untrained, a control
        init: str | None = None,  # this stream's, to begin with; null: from scratch
        topk: int = 5,  # positives mined for each query
        self_drop: float = 0.9,  # probability of a step to count its own key no positive where there is another
        dim: int = 128,  # of the space in which clips are compared
        temperature: float = 0.07,  # of the softmax over keys
        momentum: float = 0.999,  # of the encoder of keys
        queue: int = 2048,  # keys; 16384 on Kinetics; a multiple of the batch
        shuffle_bn: bool = True,  # with several processes and batch norm of each
        augment: str = "coclr",  # a recipe of ssvid.data.augment
    ) -> None:
        super().__init__()
        positive(dim=dim, queue=queue, temperature=temperature, topk=topk)
        within(0, 1, momentum=momentum, self_drop=self_drop)
        if topk > queue:
            raise UserError(f"--objective.topk {topk} is more than the {queue} keys of the queue.")
        self.encoder, self.augment, self.topk, self.self_drop = encoder, augment, topk, self_drop
        self.temperature, self.momentum, self.shuffle_bn = temperature, momentum, shuffle_bn
        self.head = moco.projection(encoder.dim, dim)
        if init is not None:
            load_earlier_run(init, "--objective.init").load_into(self.encoder, self.head)
        self.key_encoder, self.key_head = moco.slow(encoder), moco.slow(self.head)
        self.sampler, self.sampler_head = other_stream(encoder, sampler, dim)
        self.queue, self.second = Queue(queue, dim, ("source",)), Queue(queue, dim)
        self.waiting: list[
            tuple[Tensor, Tensor, Tensor]
        ] = []  # of this step, queued when it is done

    @property
    def views(self) -> Views:
        """The query; and of another moment the key and what the sampler sees."""
        own = self.encoder.spec
        clips = (own, own, replace(own, modality=OTHER[own.modality]))
        mean, std = self.encoder.mean, self.encoder.std
        return Views(clips=clips, clip_groups=(0, 1, 1), augment=self.augment, mean=mean, std=std)

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        enough(data, "coclr", batch_size, self.queue)

    def forward(self, batch: Batch) -> Loss:
        clips, step = moco.several("coclr", batch["clips"]), int(self.queue.pushed)  # B 3 C T H W
        query = moco.units(self.encoder, self.head, clips[:, 0])
        key = moco.keys(
            self.key_encoder, self.key_head, clips[:, 1], batch["seed"], step, self.shuffle_bn
        )
        second = self.sampled(clips[:, 2])
        source = source_ids(batch["video_id"], clips.device)
        right = self.right(source, second)  # B 1+K
        logits = moco.logits(query, key, self.queue, self.temperature)
        counted = self.without_own(right) if self.drops_own(batch["seed"], step) else right
        loss = nce(logits, counted)
        if self.training and torch.is_grad_enabled():
            self.waiting.append((key, second, source))
        parts = {
            "nce": loss.detach(),
            "positives": right.sum(1).double().mean(),
            **moco.tops(logits.detach(), right),
        }
        return Loss(loss, parts, skip=not self.queue.full)

    @torch.no_grad()
    def sampled(self, clips: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B d"]:
        with evaluating(self.sampler):
            return moco.units(self.sampler, self.sampler_head, clips)

    def right(self, source: Int[Tensor, " B"], second: Float[Tensor, "B d"]) -> Bool[Tensor, "B n"]:
        """Its own key (first), keys of its source, and once the queue is full the nearest others by the sampler."""
        right = source[:, None] == self.queue.get_buffer("source")  # B K
        if self.queue.full:
            near = (
                (second @ self.second.keys.T)
                .masked_fill(right, -torch.inf)
                .topk(self.topk, dim=1)
                .indices
            )
            right = right.scatter(1, near, True)
        return torch.cat([right.new_ones(len(right), 1), right], 1)

    def drops_own(self, seed: int, step: int) -> bool:
        """Drawn once for a step, alike in all processes."""
        return float(uniform(seed, "own key", 0, step, 1)) < self.self_drop

    def without_own(self, right: Bool[Tensor, "B n"]) -> Bool[Tensor, "B n"]:
        """Not of a query that has no other."""
        return torch.cat([~right[:, 1:].any(1, keepdim=True), right[:, 1:]], 1)

    @torch.no_grad()
    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """Clips of this batch and, below each, the one of another video that the sampler finds nearest to it.

        Left the stream that is trained, right the other. Trained on, the sampler mines in the queue, not in the batch.
        """
        clips, source = batch["clips"], source_ids(batch["video_id"], batch["clips"].device)
        near = self.sampled(clips[:, 2])
        near = (near @ near.T).masked_fill(source[:, None] == source, -torch.inf)
        if not near.isfinite().any(1).all():
            return {}  # all of one video
        step = max(1, clips.shape[3] // SHOWN)
        seen = torch.cat([clips[:, 1, :, ::step], clips[:, 2, :, ::step]], 2)  # B C T H W
        pairs = torch.cat([seen, seen[near.argmax(1)]], 3)[:SHOWN]  # B C T 2H W
        white = (1 - max(self.encoder.mean)) / min(self.encoder.std)
        return {"mined": draw_clips(F.pad(pairs, (0, 0, 0, 4), value=white), self.views)}

    def after_step(self, progress: float) -> None:
        """Steps until the queue is full are skipped by the optimiser; the queue fills all the same."""
        for key, second, source in self.waiting:
            self.queue.push(key, source=source)
            self.second.push(second)
        self.waiting.clear()
        moco.follow((self.encoder, self.head), (self.key_encoder, self.key_head), self.momentum)

    def on_weights_loaded(self) -> None:
        update_momentum(self.encoder, self.key_encoder, 0.0)


def nce(logits: Float[Tensor, "B n"], right: Bool[Tensor, "B n"]) -> Float[Tensor, ""]:
    """-log of the summed shares of all positives, as MIL-NCE; UberNCE takes the mean of their logs."""
    return -logits.log_softmax(1).masked_fill(~right, -torch.inf).logsumexp(1).mean()


def other_stream(encoder: Encoder, path: str | None, dim: int) -> tuple[Encoder, torch.nn.Module]:
    """The frozen net that sees the other modality, with its head."""
    seen = OTHER[encoder.spec.modality]
    if path is None:
        raise UserError(
            f"coclr mines positives with the net of the other stream: give --objective.sampler, a run of infonce or "
            f"coclr with --clip.modality {seen} (and --objective.init, one with {encoder.spec.modality})."
        )
    if path == "random":
        net, found = create_encoder(encoder.name, **encoder.kwargs), None
    else:
        found = load_earlier_run(path, "--objective.sampler")
        net = found.encoder
        if found.modality not in (None, seen):
            raise UserError(
                f"--objective.sampler {path} sees {found.modality} as the encoder that it is to help: give a run "
                f"with --clip.modality {seen}, or train this one with --clip.modality {seen}."
            )
        if (net.mean, net.std) != (encoder.mean, encoder.std):
            raise UserError(
                f"--objective.sampler {path} wants its clips normalised otherwise than the encoder."
            )
    head = moco.projection(net.dim, dim)
    if found is not None:
        found.load_module(head, "head")
    for part in (net, head):
        freeze(part)
    return net, head
