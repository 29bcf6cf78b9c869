"""TAN (Han et al. 2022, arXiv:2204.02968): which seconds of a long video does each sentence
describe?

Both branches see stored features of a window of the video, one vector per second. The dual branch
sees the video alone, the joint branch sees video and sentences together. In both, a sentence should
be similar to the seconds in which it is spoken. But narration is early, late or about nothing
visible. In co-training (`cotrain`), the two branches of a momentum teacher therefore replace the
narration's times where they agree, and a head learns which sentences can be aligned at all.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from objectives.tan import pseudo_labels
from objectives.tan.aligner import (
    ROWS,
    STAGE,
    Aligner,
    Branches,
    gather_processes,
    load_aligner,
    normalise,
)
from objectives.tan.losses import Logits, alignability_loss, own_window_logits, two_way_nce
from objectives.tan.picture import draw_similarities
from ssvid.commands import phrase_command
from ssvid.data.manifest import Manifest
from ssvid.data.store import Origin, find_origin
from ssvid.encoder import Encoder, evaluating
from ssvid.errors import UserError, check_positive, check_range
from ssvid.files import write_json_whole
from ssvid.log import log
from ssvid.nn.ema import freeze
from ssvid.nn.moco import make_momentum_copy
from ssvid.nn.queue import gather_all
from ssvid.nn.timeline import ALIGNER_CARD, Aligned
from ssvid.objective import Objective
from ssvid.randomness import uniform
from ssvid.registry import objectives
from ssvid.shapes import Batch, Loss, Views, Window
from ssvid.text.joint_files import choose_tower
from ssvid.text.words import TAN as AS_PUBLISHED


class Narration(NamedTuple):
    """The times of the sentences of each window, padded to the same number of sentences."""

    targets: Bool[Tensor, "B T N"]  # the seconds in which each sentence is spoken
    span_fractions: Float[Tensor, "B N 2"]  # start and end as fractions of the whole video
    text_padding_mask: Bool[Tensor, "B N"]
    video_padding_mask: Bool[Tensor, "B T"]


class TeacherLogits(NamedTuple):
    """The teacher's logits of the last stage, of each window with its own sentences."""

    joint: Float[Tensor, "B T N"]
    dual: Float[Tensor, "B T N"]


@objectives.register("tan")
class TAN(Objective):
    """Temporal alignment network."""

    reads_features = True
    tiny_kwargs = {
        "features": 8,
        "dim": 16,
        "heads": 2,
        "video_layers": 2,
        "joint_layers": 3,
        "seconds": 8,
        "options": {"buckets": 16, "width": 8, "hidden": 16, "length": 6, "dim": 8},
    }
    default_flags = {"batch_size": 16}  # memory grows with its square: 256 take 10 GB and more
    preset_flags = {
        "laptop": {"objective": {"dim": 128, "heads": 4, "video_layers": 2, "joint_layers": 3}},
        "one_gpu": {"batch_size": 128, "lr": 1e-4, "lr_batch": None, "weight_decay": 1e-5},
    }

    def __init__(
        self,
        encoder: Encoder | None = None,
        *,
        features: int = 1024,  # width of the stored features
        dim: int = 512,  # width of the transformers
        heads: int = 8,  # attention heads; they divide dim
        video_layers: int = 6,  # blocks of the video's transformer
        joint_layers: int = 6,  # blocks of the transformer over video and text
        seconds: int = 64,  # length of a window
        temperature: float = 0.07,  # of the softmax over seconds or sentences
        positions: Literal["learned", "sine"] = "learned",  # position embedding of seconds
        text_positions: bool = False,  # embed the order of sentences in the joint branch
        # positions start anywhere in the first half window of the table; never in co-training
        random_start: bool = True,
        tower: str = "words",  # the text tower: words | bert | clip
        # words: a word list or the dictionary of a published file; null: words are hashed
        words: str | None = None,
        # bert, clip: the folder of the model; words: a file of mil_nce whose tower to load
        text: str | None = None,
        # further arguments of the text tower: dim, hidden, buckets, ...
        options: dict[str, Any] | None = None,
        init: str | None = None,  # a run or published file to start from; null: from scratch
        # how the teacher changes the targets
        cotrain: Literal["none", "keep", "keep-joint", "i", "u"] = "none",
        momentum: float = 0.999,  # of the teacher
        # fraction of the sentences that are used; 0: all; null: 0.5 in co-training, else all
        threshold: float | None = None,
        alignability: bool = False,  # train the alignability head; always in co-training
        # fraction of either end of a video in which no sentence counts as alignable
        trim: float = 0.2,
        policy: Literal["nce", "bce"] = "nce",  # bce: train only the alignability head
    ) -> None:
        super().__init__()
        if encoder is not None:
            raise UserError(
                "tan learns from stored features, not from pixels: leave out --encoder; "
                f"`{phrase_command('extract')} --per_second` stores those of an encoder."
            )
        layers = {"video_layers": video_layers, "joint_layers": joint_layers}
        sizes = {"features": features, "dim": dim, "heads": heads, "seconds": seconds}
        check_positive(**sizes, **layers, temperature=temperature)
        check_range(0, 1, momentum=momentum, threshold=threshold)
        check_range(0, 0.5, trim=trim)
        if seconds + seconds // 2 > ROWS:
            raise UserError(
                f"--objective.seconds {seconds}: there are {ROWS} positions, and half a window "
                "more is used."
            )
        is_cotrained = cotrain != "none"
        self.seconds, self.temperature = seconds, temperature
        self.cotrain, self.momentum = cotrain, momentum
        self.threshold = threshold if threshold is not None else 0.5 * is_cotrained
        self.random_start = random_start and not is_cotrained
        self.trim, self.policy = trim, policy
        self.aligner = Aligner(
            choose_tower(tower, words, text, options or {}, reads=AS_PUBLISHED),
            features=features,
            dim=dim,
            heads=heads,
            learned=positions == "learned",
            text_positions=text_positions,
            alignability=alignability or is_cotrained or policy == "bce",
            **layers,
        )
        self.is_initialized, self.origin = init is not None, Origin(None, None)
        if init is not None:
            load_aligner(self.aligner, init)
        if policy == "bce":
            freeze(self.aligner)
            self.aligner.head.requires_grad_()  # type: ignore[union-attr]
        self.teacher = make_momentum_copy(self.aligner) if is_cotrained else None

    @property
    def views(self) -> Views:
        return Views(text=Window(seconds=self.seconds, can_encode=self.aligner.tower.can_encode))

    def exported_encoders(self) -> dict[str, Encoder]:
        return {}

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        if self.cotrain != "none" and not self.is_initialized:
            log.warning("--objective.cotrain without --objective.init: the teacher is untrained.")
        self.origin = find_origin(data)
        width = self.origin.width
        if width not in (None, self.aligner.video_in.in_features):
            raise UserError(
                f"The features of {data.title} are {width} wide: give --objective.features {width}."
            )

    def save_assets(self, folder: Path) -> None:
        """Write the words of its table and the encoder of its features, which `benchmarks.align`
        reads.
        """
        tower = self.aligner.tower
        card = {
            "tower": tower.name,
            "arguments": tower.write(folder, "text"),
            "features": self.origin.hash,
        }
        write_json_whole(folder / ALIGNER_CARD, card, end="\n", indent=1)

    def forward(self, batch: Batch) -> Loss:
        features = batch["features"]  # B T C
        sentences, starts = self.agree_on_sizes(batch)
        narration = pad_narration(batch, sentences)
        text = self.embed_sentences(batch["sentences"], sentences)  # B N W
        masks = narration.video_padding_mask, narration.text_padding_mask
        branches = self.aligner(features, masks[0], text, masks[1], starts)
        teacher = self.run_teacher(features, text, narration)
        # The sums over all windows are too large for the precision of bf16.
        with torch.autocast(features.device.type, enabled=False):
            head = None
            if self.aligner.head:
                head = self.aligner.predict_alignability(branches.joint_text[:, STAGE])
            branches = gather_processes(normalise(branches))
            narration, teacher = gather_processes(narration), gather_processes(teacher)
            head = gather_processes(head)
            logits = self.compute_logits(branches, narration.text_padding_mask)
            return self.loss(logits, narration, head, teacher)

    def agree_on_sizes(self, batch: Batch) -> tuple[int, tuple[int, int, int]]:
        """The largest number of sentences of a window, and the first positions, for all processes.

        The first window of the first process draws the positions.
        """
        sentences, device = max(map(len, batch["sentences"])), batch["features"].device
        is_random = self.random_start and self.training
        row = [sentences, 0, 0]
        if is_random:
            row = [sentences, int(batch["epoch"][0]), int(batch["index"][0])]
        rows = gather_all(torch.tensor([row], device=device)).tolist()
        sentences = max(row[0] for row in rows)
        if not is_random:
            return sentences, (0, 0, 0)
        halves = torch.tensor([self.seconds // 2, self.seconds // 2, sentences // 2])
        u = uniform(batch["seed"], "positions", rows[0][1], rows[0][2], 3)[0]
        dual, joint, text = (u * halves).long().tolist()
        return sentences, (dual, joint, text)

    def embed_sentences(self, sentences: list[list[str]], length: int) -> Float[Tensor, "B N W"]:
        """Vectors of the sentences. The last one of a window is repeated up to `length`.

        Each sentence passes the text tower once.
        """
        vectors = self.aligner.tower(list(chain.from_iterable(sentences)))
        rows, first = [], 0
        for window in sentences:
            rows.append([first + min(k, len(window) - 1) for k in range(length)])
            first += len(window)
        return vectors[torch.tensor(rows, device=vectors.device)]

    @torch.no_grad()
    def run_teacher(
        self, features: Tensor, text: Tensor, narration: Narration
    ) -> TeacherLogits | None:
        """The teacher's logits; None without co-training.

        They use the student's sentence vectors, as published: the teacher's own tower follows the
        student's and is never used.
        """
        if self.teacher is None:
            return None
        masks = narration.video_padding_mask, narration.text_padding_mask
        branches = normalise(self.teacher(features, masks[0], text, masks[1]))
        joint = branches.joint_video[:, -1] @ branches.joint_text[:, -1].mT
        dual = branches.video[:, -1] @ branches.text.mT
        return TeacherLogits(joint / self.temperature, dual / self.temperature)

    def compute_logits(self, branches: Branches, text_padding_mask: Bool[Tensor, "B N"]) -> Logits:
        """Each spoken sentence against the seconds of all windows.

        In the joint branch a sentence was read together with its own window.
        """
        spoken = ~text_padding_mask
        text = branches.text[spoken]  # S D
        joint_text = branches.joint_text.transpose(1, 2)[spoken].transpose(0, 1)  # L S D
        video = branches.video.transpose(0, 1).flatten(1, 2)  # E R D
        joint_video = branches.joint_video.transpose(0, 1).flatten(1, 2)  # L R D
        dual = video @ (text / self.temperature).T
        return Logits(dual, joint_video @ (joint_text / self.temperature).mT)

    def loss(
        self,
        logits: Logits,
        narration: Narration,
        head: Float[Tensor, "B N"] | None = None,
        teacher: TeacherLogits | None = None,
    ) -> Loss:
        """NCE in both branches, plus the loss of the alignability head if there is one."""
        targets, spoken = narration.targets, ~narration.text_padding_mask
        parts: dict[str, Tensor] = {}
        if teacher is not None and self.cotrain != "none":
            joint_pick = self.pick_windows(teacher.joint, narration)
            dual_pick = self.pick_windows(teacher.dual, narration)
            agreement = pseudo_labels.combine(
                joint_pick, dual_pick, targets, narration.text_padding_mask, self.cotrain
            )
            targets = agreement.targets
            parts["agreement"] = agreement.agree[spoken].double().mean()
            parts["sure"] = agreement.sure[spoken].double().mean()
        selected, alignable = spoken, None
        if self.threshold > 0 or head is not None:
            alignable = pseudo_labels.label_alignable(
                self.highest_similarity(logits.joint, spoken),
                self.highest_similarity(logits.dual, spoken),
                span_fractions=narration.span_fractions[spoken],
                threshold=self.threshold,
                trim=self.trim,
            )
            if self.threshold > 0:
                selected = spoken.masked_scatter(spoken, alignable.selected)
        dual = two_way_nce(logits.dual, targets, spoken, selected)
        joint = two_way_nce(logits.joint, targets, spoken, selected)
        total = nce = (dual + joint) / 2
        parts |= {"nce": nce.detach(), "dual": dual.detach(), "joint": joint.detach()}
        if head is not None and alignable is not None:
            bce, accuracy = alignability_loss(head[spoken], alignable)
            total = bce if self.policy == "bce" else nce + bce
            parts |= {"bce": bce.detach(), "alignable": accuracy}
        return Loss(total, parts)

    def pick_windows(
        self, logits: Float[Tensor, "B T N"], narration: Narration
    ) -> pseudo_labels.Pick:
        """The best seconds of each sentence by one branch of the teacher."""
        return pseudo_labels.pick(
            logits,
            narration.targets,
            narration.video_padding_mask,
            narration.text_padding_mask,
            self.temperature,
        )

    def highest_similarity(
        self, logits: Float[Tensor, "L R S"], spoken: Bool[Tensor, "B N"]
    ) -> Float[Tensor, " S"]:
        """Of each sentence: its largest logit in its own window, at the last stage."""
        return own_window_logits(logits[-1:].detach(), spoken)[:, 0].amax(1)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the teacher. Frozen parameters (the word table) are the same in both."""
        if self.teacher is None:
            return
        pairs = zip(self.aligner.parameters(), self.teacher.parameters(), strict=True)
        for p, p_teacher in pairs:
            if p.requires_grad:
                p_teacher.lerp_(p, 1 - self.momentum)

    @torch.no_grad()
    def similarities(
        self,
        features: Float[Tensor, "1 T C"],
        sentences: Sequence[str],
        # Number of positions that are stretched over T; None: a longer video than a window is.
        interpolate_from: int | None = None,
    ) -> Aligned:
        """The similarities of one window's seconds and some sentences, without padding.

        Raises a UserError for features of another width, and without seconds or sentences.
        """
        like, width = self.aligner.video_in.weight, self.aligner.video_in.in_features
        if features.shape[2] != width or not len(sentences) or not features.shape[1]:
            raise UserError(
                f"This aligner takes seconds of {width} features and some sentences, not "
                f"{tuple(features.shape[1:])} and {len(sentences)}."
            )
        if interpolate_from is None and features.shape[1] > self.seconds:
            interpolate_from = self.seconds
        with evaluating(self):
            text = self.embed_sentences([list(sentences)], len(sentences))
            no_video_padding = like.new_zeros(1, features.shape[1], dtype=torch.bool)
            no_text_padding = like.new_zeros(1, len(sentences), dtype=torch.bool)
            branches = self.aligner(
                features.to(like),
                no_video_padding,
                text,
                no_text_padding,
                interpolate_from=interpolate_from,
            )
            alignable = None
            if self.aligner.head:
                alignable = self.aligner.predict_alignability(branches.joint_text[0])
        branches = normalise(branches)
        joint = branches.joint_text[0] @ branches.joint_video[0].mT
        dual = branches.text @ branches.video[0].mT
        return Aligned(joint / self.temperature, dual / self.temperature, alignable)

    @torch.no_grad()
    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """Similarity of each second (columns) of the first window to each sentence (rows), joint
        branch.

        Bright is similar, and red the most similar second. Green frames show when the narration
        says the sentence.
        """
        batch = {**batch, "features": batch["features"][:1], "sentences": batch["sentences"][:1]}
        similarity = self.similarities(batch["features"], batch["sentences"][0]).joint[-1]
        narration = pad_narration(batch, len(similarity))
        return {"alignment": draw_similarities(similarity.float(), narration.targets[0].T)}


def pad_narration(batch: Batch, sentences: int) -> Narration:
    """The narration of a batch, padded to the number of sentences that all processes agreed on."""
    padding = sentences - batch["spans_s"].shape[1]
    text_padding_mask = F.pad(batch["text_padding_mask"], (0, padding), value=True)
    video_padding_mask = batch["video_padding_mask"]
    spans_s = F.pad(batch["spans_s"], (0, 0, 0, padding))
    span_fractions = F.pad(batch["span_fractions"], (0, 0, 0, padding))
    seconds = video_padding_mask.shape[1]
    targets = pseudo_labels.mark_spans(spans_s, text_padding_mask, seconds)
    return Narration(targets, span_fractions, text_padding_mask, video_padding_mask)
