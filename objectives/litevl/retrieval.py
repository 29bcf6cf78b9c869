"""LiteVL's retrieval (Chen et al. 2022, arXiv:2210.11929), which is BLIP's (arXiv:2201.12086) with
an encoder of clips: contrast clips and sentences, and say whether a sentence matches a clip.

The second task is given hard pairs: those that the first finds alike. With `blip_vit` on single
frames, and without text-dependent pooling, it is BLIP's own fine-tuning.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from objectives.litevl.contrast import Keys, contrast_softly, list_keys
from objectives.litevl.hard_negatives import Choice, choose_negatives
from objectives.litevl.pictures import draw_pictures
from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.errors import check_positive, check_range
from ssvid.nn.bert import Shared
from ssvid.nn.ema import update_momentum
from ssvid.nn.gather import Gathered, gather_rows
from ssvid.nn.moco import make_momentum_copy, update_momentum_copies
from ssvid.nn.precise import raise_precision
from ssvid.nn.queue import Queue, gather_all
from ssvid.nn.sources import check_pairs, number_names
from ssvid.nn.text_pooling import TextPooling, Variant
from ssvid.objective import SMALL_BATCH, Objective
from ssvid.randomness import draw
from ssvid.registry import objectives
from ssvid.shapes import Batch, Caption, Features, Loss, Views
from ssvid.text.blip import BlipText
from ssvid.text.grad_cam import Explanation, explain_match
from ssvid.text.joint_files import choose_text_side, require_blip_text
from ssvid.text.matching import FrameTokens, GuideSpace, MatchingSpace, join_frame_tokens

COOLEST, WARMEST = 0.001, 0.5  # between which the temperature stays, as published


class Candidates(NamedTuple):
    """Clips and sentences of one process or of all, from which hard pairs are made."""

    ids: Int[Tensor, "B W"]
    video: Float[Tensor, "B E"]
    texts: Float[Tensor, "B E"]
    guides: Float[Tensor, "B G"]  # see MatchingSpace.guide
    tokens: FrameTokens
    first: int  # index of the process's first clip


@objectives.register("litevl_retrieval")
class LiteVLRetrieval(Objective):
    """A clip encoder, BLIP's text side, and momentum copies of both with queues of their vectors.

    The paper's text was not to be had. Its abstract tells of contrast and matching; that momentum
    copies and soft targets stay, as in BLIP, is inferred (`alpha` 0 leaves them out).
    """

    tiny_kwargs = {
        "dim": 8,
        "queue": 8,
        "options": {"width": 16, "layers": 1, "heads": 2, "length": 8, "dropout": 0.0},
    }
    default_flags = {
        "encoder": {"name": "litevl_tiny", "frames": 8, "size": 32},
        "clip": {},
        **SMALL_BATCH,
    }
    small_settings = {
        "dim": 64,
        "queue": 256,
        "options": {"width": 96, "layers": 3, "heads": 3, "length": 24},
    }

    def __init__(
        self,
        encoder: Encoder,
        *,
        dim: int = 256,  # of the space that clips and sentences share
        words: str | None = None,  # a vocab.txt of BERT; null: the small one of this project
        text: str | None = None,  # a run or a file of BLIP whose text side and heads to load
        options: dict[str, Any] | None = None,  # of a new text side: width, layers, heads, length
        # what the matching sees beside the clip's tokens: see ssvid.nn.text_pooling
        text_pooling: Variant = "both",
        guide_space: GuideSpace = "shared",  # where it compares patches and sentences; inferred
        pooling_temperature: float = 1.0,  # inferred
        pooling_weights: Literal["sum", "mean"] = "sum",  # inferred
        temperature: float = 0.07,  # a learnt divisor; a loaded text side has its own
        alpha: float = 0.4,  # the momentum nets' share in the targets
        # fraction of the training in which alpha rises from 0; published: the first of 6 epochs
        ramp: float = 1 / 6,
        momentum: float = 0.995,  # of the momentum nets: how much of them stays in a step
        queue: int = 57600,  # earlier vectors, a multiple of the batch
        # whose clips and sentences are negatives: those of all processes, or of the process
        negatives: Literal["all", "process"] = "all",
        hard: Choice = "drawn",  # hard negatives: drawn by their likeness, or the most alike
        # other clips with the same sentence: negatives, as published, or positives
        equal_sentences: Literal["negatives", "positives"] = "negatives",
        augment: str = "resized_flip",  # a recipe of ssvid.data.augment; not stated
    ) -> None:
        super().__init__()
        check_positive(dim=dim, temperature=temperature, queue=queue)
        check_range(0, 1, alpha=alpha, ramp=ramp, momentum=momentum)
        self.encoder, self.augment = encoder, augment
        self.alpha, self.ramp, self.momentum = alpha, ramp, momentum
        self.across, self.hard = negatives == "all", hard
        self.guide_space = guide_space
        self.shares_sentences = equal_sentences == "positives"
        self.pooling = TextPooling(
            variant=text_pooling, temperature=pooling_temperature, weights=pooling_weights
        )
        sizes = {"dim": dim, "context_dim": encoder.dim}
        side = choose_text_side("blip_text", words, text, options or {}, **sizes)
        self.tower: BlipText = require_blip_text(side.tower, encoder.dim, text)
        start = torch.tensor(temperature)
        if side.matching is None:
            self.head = nn.Linear(encoder.dim, self.tower.dim)
            self.matcher = nn.Linear(self.tower.width, 2)
        else:
            self.head, self.matcher = side.matching.head, side.matching.matcher
            start = side.matching.temperature.detach()
        self.temperature = nn.Parameter(start.clone())
        self.key_encoder = make_momentum_copy(encoder)
        self.key_tower = make_momentum_copy(self.tower)
        self.key_head = make_momentum_copy(self.head)
        self.video_queue = Queue(queue, self.tower.dim, ("names",))
        self.text_queue = Queue(queue, self.tower.dim)
        self.progress: Tensor
        self.register_buffer("progress", torch.zeros(()))  # of the training, 0 to 1
        # Keys of the current step. `after_step` moves them into the queues.
        self.pending_keys: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def views(self) -> Views:
        return self.encoder.make_views(self.augment, text=Caption())

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def joint_space(self) -> MatchingSpace:
        return MatchingSpace(
            self.tower,
            self.head,
            self.matcher,
            temperature=self.temperature,
            pooling=self.pooling,
            has_cls=self.encoder.has_cls,
            guide_space=self.guide_space,
        )

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        """Raise a UserError if a clip would have no negatives, or itself as a negative."""
        check_pairs(data, "litevl_retrieval", batch_size)
        # A clip's own earlier vectors are its positives, so the queue may hold a video twice.
        self.video_queue.check_step(batch_size)

    def forward(self, batch: Batch) -> Loss:
        space, clips = self.joint_space(), batch["clips"][:, 0]
        features = self.encoder(clips)
        sentences = [bag[0] for bag in batch["sentences"]]
        ids = self.tower.tokens(sentences).to(clips.device)
        video = F.normalize(raise_precision(self.head(features.pooled)), dim=1)  # b E
        texts = F.normalize(raise_precision(self.tower.embed(ids)), dim=1)  # b E
        names = self.number_clips(batch, sentences)
        contrast = self.contrast(clips, ids, names, video, texts)
        matching, accuracy = self.match(
            space, batch, names, ids, video, texts, join_frame_tokens(features)
        )
        parts = {"contrast": contrast.detach(), "matching": matching.detach()}
        parts |= {"matched": accuracy, "temperature": self.temperature.detach()}
        return Loss(contrast + matching, parts)

    def number_clips(self, batch: Batch, sentences: list[str]) -> Int[Tensor, " b"]:
        """The same number for clips that belong to one another's sentences."""
        device = batch["clips"].device
        if self.shares_sentences:
            return number_names(sentences, device)
        return batch["index"].to(device)

    def contrast(
        self,
        clips: Tensor,
        ids: Int[Tensor, "b W"],
        names: Int[Tensor, " b"],
        video: Float[Tensor, "b E"],
        texts: Float[Tensor, "b E"],
    ) -> Float[Tensor, ""]:
        """The mean of clips over sentences and of sentences over clips."""
        with torch.no_grad():
            pooled = self.key_encoder(clips).pooled
            key_video = F.normalize(raise_precision(self.key_head(pooled)), dim=1)
            key_texts = F.normalize(raise_precision(self.key_tower.embed(ids)), dim=1)
        keys = list_keys(
            key_video, key_texts, names, self.video_queue, self.text_queue, self.across
        )
        self.keep_for_queue(key_video, key_texts, names)
        with torch.autocast(clips.device.type, enabled=False):
            return self.sum_contrasts(keys, names, (video, texts), (key_video, key_texts)) / 2

    def sum_contrasts(
        self,
        keys: Keys,
        names: Int[Tensor, " b"],
        queries: tuple[Tensor, Tensor],
        momentum_queries: tuple[Tensor, Tensor],
    ) -> Float[Tensor, ""]:
        positives = names[:, None] == keys.names
        rise = (self.progress / self.ramp).clamp(max=1) if self.ramp else 1.0
        alpha = self.alpha * rise
        total = self.temperature.new_zeros(())
        others = keys.texts, keys.video
        for query, key, other in zip(queries, momentum_queries, others, strict=True):
            total = total + contrast_softly(query, key, other, positives, self.temperature, alpha)
        return total

    def match(
        self,
        space: MatchingSpace,
        batch: Batch,
        names: Int[Tensor, " b"],
        ids: Int[Tensor, "b W"],
        video: Float[Tensor, "b E"],
        texts: Float[Tensor, "b E"],
        tokens: FrameTokens,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss of yes and no for own and for hard pairs, and the share of right answers."""
        guides = space.guide(ids, texts)
        everyone = self.gather_candidates(ids, video, texts, guides, tokens)
        all_names = gather_all(names) if self.across else names
        belongs = names[:, None] == all_names
        uniforms = draw(batch, "hard negatives", 2)
        scale = 1 / self.temperature.detach()
        likeness = scale * video.detach() @ everyone.texts.T.detach()
        negative_texts = choose_negatives(likeness, belongs, uniforms[:, 0], self.hard)
        likeness = scale * texts.detach() @ everyone.video.T.detach()
        negative_clips = choose_negatives(likeness, belongs, uniforms[:, 1], self.hard)
        rows = everyone.first + torch.arange(len(ids), device=ids.device)
        logits = space.judge(
            torch.cat([everyone.ids[rows], everyone.ids[negative_texts.row], everyone.ids[rows]]),
            torch.cat([guides, everyone.guides[negative_texts.row], guides]),
            everyone.tokens,
            torch.cat([rows, rows, negative_clips.row]),
            Shared(slice(everyone.first, everyone.first + len(rows)), times=2),
        )
        yes = torch.ones_like(rows)
        answers = torch.cat([yes, 0 * yes, 0 * yes])
        counts = torch.cat([yes.bool(), negative_texts.exists, negative_clips.exists])
        return judge_answers(logits, answers, counts)

    def gather_candidates(
        self,
        ids: Int[Tensor, "b W"],
        video: Float[Tensor, "b E"],
        texts: Float[Tensor, "b E"],
        guides: Float[Tensor, "b G"],
        tokens: FrameTokens,
    ) -> Candidates:
        """Clips and sentences from which hard pairs are made, with gradient."""
        if not self.across:
            return Candidates(ids, video, texts, guides, tokens, 0)
        gathered: Gathered = gather_rows(tokens.flatten(1))
        all_ids = ids
        if len(gathered.rows) > len(ids):  # of several processes: the same width everywhere
            all_ids = gather_all(F.pad(ids, (0, self.tower.length - ids.shape[1])))
        all_tokens = gathered.rows.view(-1, *tokens.shape[1:])
        with torch.no_grad():
            all_video, all_texts = gather_all(video), gather_all(texts)
        all_guides = gather_rows(guides).rows
        return Candidates(all_ids, all_video, all_texts, all_guides, all_tokens, gathered.first)

    def keep_for_queue(self, video: Tensor, texts: Tensor, names: Tensor) -> None:
        """Keep the keys of a micro-batch until the end of the step."""
        if self.training and torch.is_grad_enabled():
            self.pending_keys.append((video, texts, names))

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Fill the queues, move the momentum nets, and hold the temperature in its range.

        The published code moves the momentum nets before it runs them in the next step: that is the
        same, for it begins with equal nets.
        """
        for video, texts, names in self.pending_keys:
            self.video_queue.push(video, names=names)
            self.text_queue.push(texts)
        self.pending_keys.clear()
        self.move_momentum_nets()
        self.temperature.clamp_(COOLEST, WARMEST)
        self.progress.fill_(progress)

    def move_momentum_nets(self) -> None:
        update_momentum_copies(
            (self.encoder, self.tower, self.head),
            (self.key_encoder, self.key_tower, self.key_head),
            self.momentum,
        )

    def on_weights_loaded(self) -> None:
        update_momentum(self.encoder, self.key_encoder, 0.0)

    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """grad_cam: the frames of the first clip, and below them what makes its sentence match it,
        red most (Grad-CAM of the text encoder that looks at the clip, two thirds of the way up).
        scales: how strongly each block of the encoder attends over time, the mean over the last
        batch; 1 is where training begins.
        """
        sentence, space = batch["sentences"][0][0], self.joint_space()
        layers = self.tower.bert.layers

        def explain(features: Features) -> Explanation | None:
            # After a single layer the first token alone counts, so words have no map.
            return explain_match(space, features, sentence) if len(layers) > 1 else None

        return draw_pictures(self.encoder, batch["clips"][:1, 0], explain)


def judge_answers(
    logits: Float[Tensor, "P 2"], answers: Int[Tensor, " P"], counts: Bool[Tensor, " P"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The mean loss and the share of right answers. `counts`: pairs that there are."""
    losses = F.cross_entropy(raise_precision(logits), answers, reduction="none")
    share = counts / counts.sum()
    right = (logits.argmax(1) == answers).to(share)
    return (losses * share).sum(), (right * share).sum().detach()
