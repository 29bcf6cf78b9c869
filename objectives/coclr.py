"""CoCLR (Han et al. 2020, arXiv:2010.09709): rgb and flow teach each other.

It is InfoNCE with more positives: the nearest keys in a second queue, which holds features of the
*other* stream. `--objective.init A --objective.sampler B`: A is a net of the stream that is
trained, B one of the other stream. The encoder's clip (`--clip.modality flow`) says which stream is
trained, so the published option `reverse` is not needed.
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
from ssvid.errors import UserError, check_positive, check_range
from ssvid.hub import create_encoder
from ssvid.log import log
from ssvid.nn import moco
from ssvid.nn.ema import freeze, update_momentum
from ssvid.nn.queue import Queue
from ssvid.nn.sources import check_negatives, number_sources
from ssvid.objective import Objective
from ssvid.randomness import uniform
from ssvid.registry import objectives
from ssvid.shapes import Batch, Loss, Views

OTHER = {"rgb": "flow", "flow": "rgb"}
SHOWN = 6  # clips in a picture, and frames of each


@objectives.register("coclr")
class CoCLR(Objective):
    """InfoNCE whose positives are mined with a frozen encoder of the other stream (the sampler).

    Keys of the current step are pending until `after_step`; they are not in the state dict.
    """

    pooled_only = True
    tiny_kwargs = {"sampler": "random", "dim": 8, "queue": 4, "topk": 2}
    # Without the net of the other stream it runs as the control, and check_data warns of it.
    default_flags = {**moco.DEFAULT_FLAGS, "objective": {"sampler": "random"}}
    preset_flags = moco.PRESET_FLAGS

    def __init__(
        self,
        encoder: Encoder,
        *,
        # a run or published file of the other stream; random: an untrained net, as a control
        sampler: str | None = None,
        init: str | None = None,  # a run or published file of this stream; null: from scratch
        topk: int = 5,  # positives that are mined for each query
        # probability that, in a step, a query's own key is no positive if it has another one
        self_drop: float = 0.9,
        dim: int = 128,  # width of the projection
        temperature: float = 0.07,  # of the softmax over keys
        momentum: float = 0.999,  # of the momentum encoder
        queue: int = 2048,  # number of keys, a multiple of the batch; 16384 on Kinetics
        shuffle_bn: bool = True,  # exchange clips between processes that have their own batch norm
        augment: str = "coclr",  # a recipe of ssvid.data.augment
    ) -> None:
        super().__init__()
        check_positive(dim=dim, queue=queue, temperature=temperature, topk=topk)
        check_range(0, 1, momentum=momentum, self_drop=self_drop)
        if topk > queue:
            raise UserError(f"--objective.topk {topk} is more than the {queue} keys of the queue.")
        self.encoder, self.augment, self.topk, self.self_drop = encoder, augment, topk, self_drop
        self.temperature, self.momentum, self.shuffle_bn = temperature, momentum, shuffle_bn
        self.head = moco.make_projection(encoder.dim, dim)
        if init is not None:
            load_earlier_run(init, "--objective.init").load_into(self.encoder, self.head)
        self.key_encoder, self.key_head = (
            moco.make_momentum_copy(encoder),
            moco.make_momentum_copy(self.head),
        )
        self.has_random_sampler = sampler == "random"
        self.sampler, self.sampler_head = other_stream(encoder, sampler, dim)
        self.queue, self.second = Queue(queue, dim, ("source",)), Queue(queue, dim)
        # Keys of the current step, features of the other stream, ids of the source videos.
        self.pending_keys: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def views(self) -> Views:
        """The query clip, and from another time the key clip and the same clip for the sampler."""
        spec = self.encoder.spec
        clips = (spec, spec, replace(spec, modality=OTHER[spec.modality]))
        mean, std = self.encoder.mean, self.encoder.std
        return Views(clips=clips, clip_groups=(0, 1, 1), augment=self.augment, mean=mean, std=std)

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        check_negatives(data, "coclr", batch_size, self.queue)
        if self.has_random_sampler:
            log.warning(
                "coclr mines positives with an untrained net, which is a control and no method: "
                "give --objective.sampler, a run of infonce or coclr with --clip.modality "
                f"{OTHER[self.encoder.spec.modality]}."
            )

    def forward(self, batch: Batch) -> Loss:
        clips, step = (
            moco.require_two_clips("coclr", batch["clips"]),
            int(self.queue.pushed),
        )  # B 3 C T H W
        query = moco.embed_clips(self.encoder, self.head, clips[:, 0])
        key = moco.embed_keys(
            self.key_encoder, self.key_head, clips[:, 1], batch["seed"], step, self.shuffle_bn
        )
        second = self.embed_second_stream(clips[:, 2])
        source = number_sources(batch["video_id"], clips.device)
        positives = self.find_positives(source, second)  # B 1+K
        logits = moco.compute_logits(query, key, self.queue, self.temperature)
        used_positives = positives
        if self.drops_own_key(batch["seed"], step):
            used_positives = self.without_own_key(positives)
        loss = nce(logits, used_positives)
        if self.training and torch.is_grad_enabled():
            self.pending_keys.append((key, second, source))
        parts = {
            "nce": loss.detach(),
            "positives": positives.sum(1).double().mean(),
            **moco.measure_topk(logits.detach(), positives),
        }
        return Loss(loss, parts, skip=not self.queue.full)

    @torch.no_grad()
    def embed_second_stream(self, clips: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B d"]:
        """Unit vectors of the other stream's clips by the sampler."""
        with evaluating(self.sampler):
            return moco.embed_clips(self.sampler, self.sampler_head, clips)

    def find_positives(
        self, source: Int[Tensor, " B"], second: Float[Tensor, "B d"]
    ) -> Bool[Tensor, "B n"]:
        """The positives of each query: its own key (first), keys of its source video and mined
        keys.

        Once the queue is full, the `topk` keys of other videos are mined whose features of the
        other stream are nearest.
        """
        positives = source[:, None] == self.queue.get_buffer("source")  # B K
        if self.queue.full:
            similarity = (second @ self.second.keys.T).masked_fill(positives, -torch.inf)
            mined = similarity.topk(self.topk, dim=1).indices
            positives = positives.scatter(1, mined, True)
        return torch.cat([positives.new_ones(len(positives), 1), positives], 1)

    def drops_own_key(self, seed: int, step: int) -> bool:
        """Whether this step counts no query's own key as a positive. All processes agree."""
        return float(uniform(seed, "own key", 0, step, 1)) < self.self_drop

    def without_own_key(self, positives: Bool[Tensor, "B n"]) -> Bool[Tensor, "B n"]:
        """The positives without the own key, which stays for a query that has no other positive."""
        mined = positives[:, 1:]
        return torch.cat([~mined.any(1, keepdim=True), mined], 1)

    @torch.no_grad()
    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """Clips of this batch and, below each, the clip of another video that is nearest to it.

        The sampler decides what is near. On the left is the trained stream, on the right the other.
        In training the sampler searches the queue and not the batch.
        """
        clips, source = batch["clips"], number_sources(batch["video_id"], batch["clips"].device)
        second = self.embed_second_stream(clips[:, 2])
        similarity = (second @ second.T).masked_fill(source[:, None] == source, -torch.inf)
        if not similarity.isfinite().any(1).all():
            return {}  # all clips are of one video
        step = max(1, clips.shape[3] // SHOWN)
        streams = torch.cat([clips[:, 1, :, ::step], clips[:, 2, :, ::step]], 2)  # B C T H W
        pairs = torch.cat([streams, streams[similarity.argmax(1)]], 3)[:SHOWN]  # B C T 2H W
        white = (1 - max(self.encoder.mean)) / min(self.encoder.std)
        return {"mined": draw_clips(F.pad(pairs, (0, 0, 0, 4), value=white), self.views)}

    def after_step(self, progress: float) -> None:
        """Queue the keys of all micro-batches, and move the momentum encoder.

        It also happens in the first steps, which the optimiser skips until the queue is full.
        """
        for key, second, source in self.pending_keys:
            self.queue.push(key, source=source)
            self.second.push(second)
        self.pending_keys.clear()
        moco.update_momentum_copies(
            (self.encoder, self.head), (self.key_encoder, self.key_head), self.momentum
        )

    def on_weights_loaded(self) -> None:
        update_momentum(self.encoder, self.key_encoder, 0.0)


def nce(logits: Float[Tensor, "B n"], positives: Bool[Tensor, "B n"]) -> Float[Tensor, ""]:
    """-log of the summed probability of all positives, as in MIL-NCE.

    UberNCE takes the mean of their log probabilities instead.
    """
    return -logits.log_softmax(1).masked_fill(~positives, -torch.inf).logsumexp(1).mean()


def other_stream(encoder: Encoder, path: str | None, dim: int) -> tuple[Encoder, torch.nn.Module]:
    """The frozen sampler of the other modality, with its head. A UserError if it does not fit."""
    modality = OTHER[encoder.spec.modality]
    if path is None:
        raise UserError(
            "coclr mines positives with the net of the other stream: give --objective.sampler, a "
            f"run of infonce or coclr with --clip.modality {modality} (and --objective.init, one "
            f"with {encoder.spec.modality})."
        )
    if path == "random":
        run, net = None, create_encoder(encoder.name, **encoder.kwargs)
    else:
        run = load_earlier_run(path, "--objective.sampler")
        net = run.encoder
        if run.modality not in (None, modality):
            raise UserError(
                f"--objective.sampler {path} sees {run.modality} as the encoder that it is to "
                f"help: give a run with --clip.modality {modality}, or train this one with "
                f"--clip.modality {modality}."
            )
        if (net.mean, net.std) != (encoder.mean, encoder.std):
            raise UserError(
                f"--objective.sampler {path} normalises its clips in another way than the encoder."
            )
    head = moco.make_projection(net.dim, dim)
    if run is not None:
        run.load_module(head, "head")
    freeze(net)
    freeze(head)
    return net, head
