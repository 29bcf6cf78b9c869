"""TAN (Han et al. 2022, arXiv:2204.02968): which seconds of a long video is each sentence of its narration about?

Two branches see stored features of a window, one vector a second. The dual one looks at the video alone, the joint one
at video and sentences together; in both a sentence should be near the seconds in which it is said. Narrations are
late, early or about nothing seen: in co-training (`cotrain`) the two branches of a slow teacher, where they agree,
overrule the times, and a head learns which sentences can be aligned at all.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from objectives.tan import pseudo_labels
from objectives.tan.aligner import ROWS, STAGE, Aligner, Seen, everywhere, units
from objectives.tan.picture import picture
from ssvid.data.manifest import Manifest
from ssvid.data.store import Origin, find_origin
from ssvid.encoder import Encoder, evaluating
from ssvid.engine.warm_start import objective_state
from ssvid.errors import UserError, positive, within
from ssvid.files import write_json_whole
from ssvid.log import log
from ssvid.nn.ema import freeze
from ssvid.nn.moco import slow
from ssvid.nn.queue import everyone
from ssvid.nn.timeline import ALIGNER_CARD, Aligned
from ssvid.objective import Objective
from ssvid.randomness import uniform
from ssvid.registry import objectives
from ssvid.shapes import Batch, Loss, Views, Window
from ssvid.text.joint import chosen_tower
from ssvid.text.words import TAN as AS_PUBLISHED
from ssvid.weights.state_dict import fit

NONE = -6e4  # in place of the similarity of what is no positive


class Said(NamedTuple):
    """What is known of the windows and their sentences."""

    own: Bool[Tensor, "B T N"]  # the seconds in which each is said
    span_fractions: Float[Tensor, "B N 2"]  # in shares of the whole video
    text_padding_mask: Bool[Tensor, "B N"]
    video_padding_mask: Bool[Tensor, "B T"]


class Logits(NamedTuple):
    """Cosines over the temperature: all seconds R of all windows, one window after the other, by spoken sentences."""

    dual: Float[Tensor, "E R S"]
    joint: Float[Tensor, "L R S"]


class Taught(NamedTuple):
    """The teacher's, last stage, of each window with its own sentences."""

    joint: Float[Tensor, "B T N"]
    dual: Float[Tensor, "B T N"]


@objectives.register("tan")
class TAN(Objective):
    reads_features = True
    tiny_kwargs = {
        "features": 8,
        "dim": 16,
        "heads": 2,
        "video_layers": 2,
        "joint_layers": 3,
        "seconds": 8,
    } | {"options": {"buckets": 16, "width": 8, "hidden": 16, "length": 6, "dim": 8}}

    def __init__(
        self,
        encoder: Encoder | None = None,
        *,
        features: int = 1024,  # width of the stored ones
        dim: int = 512,  # of a token
        heads: int = 8,  # of attention; they divide dim
        video_layers: int = 6,  # blocks of the video's transformer
        joint_layers: int = 6,  # blocks of the transformer over video and text
        seconds: int = 64,  # of a window
        temperature: float = 0.07,  # of the softmax over seconds or sentences
        positions: Literal["learned", "sine"] = "learned",  # of seconds
        text_positions: bool = False,  # of sentences, by their order, in the joint branch
        random_start: bool = True,  # positions begin anywhere in the table's first half window; not in co-training
        tower: str = "words",  # words | bert | clip
        words: str
        | None = None,  # word list or published dictionary of the tower words; null: hashed
        text: str
        | None = None,  # bert, clip: the model's folder; words: a file of mil_nce to begin the tower with
        options: dict[str, Any] | None = None,  # more of the tower: dim, hidden, buckets, ...
        init: str | None = None,  # run or published file to begin with; null: from scratch
        cotrain: Literal[
            "none", "keep", "keep-joint", "i", "u"
        ] = "none",  # how the teacher changes the targets
        momentum: float = 0.999,  # of the teacher
        threshold: float
        | None = None,  # share of sentences learnt from; 0: all; null: 0.5 in co-training, else all
        alignability: bool = False,  # the head that tells which sentences can be aligned; always in co-training
        trim: float = 0.2,  # of either end of a video: the head is told that nothing there can be aligned
        policy: Literal["nce", "bce"] = "nce",  # bce: the head alone is trained
    ) -> None:
        super().__init__()
        if encoder is not None:
            raise UserError(
                "tan learns from stored features, not from pixels: leave out --encoder; "
                "`python -m ssvid.extract --per_second` stores those of an encoder."
            )
        layers = {"video_layers": video_layers, "joint_layers": joint_layers}
        positive(
            features=features,
            dim=dim,
            heads=heads,
            seconds=seconds,
            temperature=temperature,
            **layers,
        )
        within(0, 1, momentum=momentum, threshold=threshold)
        if seconds + seconds // 2 > ROWS:
            raise UserError(
                f"--objective.seconds {seconds}: positions end at {ROWS}, and half a window more is used."
            )
        within(0, 0.5, trim=trim)
        self.seconds, self.temperature, self.cotrain, self.momentum = (
            seconds,
            temperature,
            cotrain,
            momentum,
        )
        self.threshold = threshold if threshold is not None else 0.5 * (cotrain != "none")
        self.random_start, self.trim, self.policy = random_start and cotrain == "none", trim, policy
        self.aligner = Aligner(
            chosen_tower(tower, words, text, options or {}, reads=AS_PUBLISHED),
            features=features,
            dim=dim,
            heads=heads,
            learned=positions == "learned",
            text_positions=text_positions,
            alignability=alignability or cotrain != "none" or policy == "bce",
            **layers,
        )
        self.begun, self.origin = init is not None, Origin(None, None)
        if init is not None:
            begin(self.aligner, init)
        if policy == "bce":
            freeze(self.aligner)
            self.aligner.head.requires_grad_()  # type: ignore[union-attr]
        self.teacher = slow(self.aligner) if cotrain != "none" else None

    @property
    def views(self) -> Views:
        return Views(text=Window(seconds=self.seconds, can_encode=self.aligner.tower.can_encode))

    def exported_encoders(self) -> dict[str, Encoder]:
        return {}

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        if self.cotrain != "none" and not self.begun:
            log.warning("--objective.cotrain without --objective.init: the teacher knows nothing.")
        self.origin, wide = find_origin(data), self.aligner.video_in.in_features
        if self.origin.width not in (None, wide):
            found = self.origin.width
            raise UserError(
                f"The features of {data.root} are {found} wide: give --objective.features {found}."
            )

    def save_assets(self, folder: Path) -> None:
        """The words that its table is of, and whose features it learnt from: benchmarks/alignment reads both."""
        tower = self.aligner.tower
        told = {
            "tower": tower.name,
            "arguments": tower.write(folder, "text"),
            "features": self.origin.hash,
        }
        write_json_whole(folder / ALIGNER_CARD, told, end="\n", indent=1)

    def forward(self, batch: Batch) -> Loss:
        features, (most, starts) = batch["features"], self.shared(batch)
        said, text = sayings(batch, most), self.texts(batch["sentences"], most)
        seen = self.aligner(features, said.video_padding_mask, text, said.text_padding_mask, starts)
        taught = self.taught(features, text, said)
        with torch.autocast(
            features.device.type, enabled=False
        ):  # sharp exponents, and sums over all windows
            head = self.aligner.tell(seen.joint_text[:, STAGE]) if self.aligner.head else None
            seen, said, taught, head = (
                everywhere(units(seen)),
                everywhere(said),
                everywhere(taught),
                everywhere(head),
            )
            return self.loss(self.logits(seen, said.text_padding_mask), said, head, taught)

    def shared(self, batch: Batch) -> tuple[int, tuple[int, int, int]]:
        """Of all processes: the most sentences of a window, and where positions begin, drawn by the first window."""
        most, device = max(map(len, batch["sentences"])), batch["features"].device
        drawn = self.random_start and self.training
        own = [most, int(batch["epoch"][0]), int(batch["index"][0])] if drawn else [most, 0, 0]
        rows = everyone(torch.tensor([own], device=device)).tolist()
        most = max(row[0] for row in rows)
        if not drawn:
            return most, (0, 0, 0)
        halves = torch.tensor([self.seconds // 2, self.seconds // 2, most // 2])
        u = uniform(batch["seed"], "positions", rows[0][1], rows[0][2], 3)[0]
        dual, joint, text = (u * halves).long().tolist()
        return most, (dual, joint, text)

    def texts(self, sentences: list[list[str]], most: int) -> Float[Tensor, "B N W"]:
        """Each once through the tower; a window's last one is repeated."""
        flat = self.aligner.tower([sentence for window in sentences for sentence in window])
        rows, first = [], 0
        for window in sentences:
            rows += [[first + min(k, len(window) - 1) for k in range(most)]]
            first += len(window)
        return flat[torch.tensor(rows, device=flat.device)]

    @torch.no_grad()
    def taught(self, features: Tensor, text: Tensor, said: Said) -> Taught | None:
        """By the student's sentence vectors, as published: the teacher's own tower follows and is not used."""
        if self.teacher is None:
            return None
        seen = units(self.teacher(features, said.video_padding_mask, text, said.text_padding_mask))
        joint = seen.joint_video[:, -1] @ seen.joint_text[:, -1].mT
        return Taught(joint / self.temperature, seen.video[:, -1] @ seen.text.mT / self.temperature)

    def logits(self, seen: Seen, text_padding_mask: Bool[Tensor, "B N"]) -> Logits:
        """A window's sentences were read beside its own video; each is compared with the seconds of every window."""
        spoken = ~text_padding_mask
        text, joint_text = (
            seen.text[spoken],
            seen.joint_text.transpose(1, 2)[spoken].transpose(0, 1),
        )  # S D, L S D
        video, joint_video = (
            x.transpose(0, 1).flatten(1, 2) for x in (seen.video, seen.joint_video)
        )  # E R D, L R D
        dual = video @ (text / self.temperature).T
        return Logits(dual, joint_video @ (joint_text / self.temperature).mT)

    def loss(
        self,
        logits: Logits,
        said: Said,
        head: Float[Tensor, "B N"] | None = None,
        taught: Taught | None = None,
    ) -> Loss:
        target, spoken, parts = said.own, ~said.text_padding_mask, dict[str, Tensor]()
        if taught is not None:
            picked = (
                pseudo_labels.pick(
                    x, said.own, said.video_padding_mask, said.text_padding_mask, self.temperature
                )
                for x in taught
            )
            agreed = pseudo_labels.agree(*picked, said.own, said.text_padding_mask, self.cotrain)  # type: ignore[call-arg, arg-type]
            target = agreed.target
            parts |= {
                "agreement": agreed.agree[spoken].double().mean(),
                "sure": agreed.sure[spoken].double().mean(),
            }
        kept, chosen = spoken, None
        if self.threshold > 0 or head is not None:
            highest = {
                name: of_own(x[-1:].detach(), spoken)[:, 0].amax(1)
                for name, x in logits._asdict().items()
            }
            chosen = pseudo_labels.alignable(
                **highest,
                span_fractions=said.span_fractions[spoken],
                threshold=self.threshold,
                trim=self.trim,
            )
            kept = spoken.masked_scatter(spoken, chosen.kept) if self.threshold > 0 else spoken
        dual, joint = (branch(x, target, spoken, kept) for x in logits)
        total = nce = (dual + joint) / 2
        parts |= {"nce": nce.detach(), "dual": dual.detach(), "joint": joint.detach()}
        if head is not None and chosen is not None:
            bce, correct = told(head[spoken], chosen)
            total = bce if self.policy == "bce" else nce + bce
            parts |= {"bce": bce.detach(), "alignable": correct}
        return Loss(total, parts)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """What is frozen (the word table) is the same in both."""
        if self.teacher is not None:
            for p, follows in zip(
                self.aligner.parameters(), self.teacher.parameters(), strict=True
            ):
                if p.requires_grad:
                    follows.lerp_(p, 1 - self.momentum)

    @torch.no_grad()
    def similarities(
        self,
        features: Float[Tensor, "1 T C"],
        sentences: Sequence[str],
        interpolate_from: int
        | None = None,  # rows of the positions that are stretched over T; null: where T is longer
    ) -> Aligned:
        """Of one window and what may be said in it, without masks."""
        like, wide = self.aligner.video_in.weight, self.aligner.video_in.in_features
        if features.shape[2] != wide or not len(sentences) or not features.shape[1]:
            raise UserError(
                f"This aligner takes seconds of {wide} features and some sentences, not {tuple(features.shape[1:])} "
                f"and {len(sentences)}."
            )
        if interpolate_from is None and features.shape[1] > self.seconds:
            interpolate_from = self.seconds
        with evaluating(self):
            text = self.texts([list(sentences)], len(sentences))
            video_padding_mask, text_padding_mask = (
                torch.zeros(1, n, dtype=torch.bool, device=like.device)
                for n in (features.shape[1], len(sentences))
            )
            seen = self.aligner(
                features.to(like),
                video_padding_mask,
                text,
                text_padding_mask,
                interpolate_from=interpolate_from,
            )
            alignable = self.aligner.tell(seen.joint_text[0]) if self.aligner.head else None
        seen = units(seen)
        joint = seen.joint_text[0] @ seen.joint_video[0].mT
        return Aligned(
            joint / self.temperature, seen.text @ seen.video[0].mT / self.temperature, alignable
        )

    @torch.no_grad()
    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """How like each second of the first window (across) is to each of its sentences (down), by the joint branch.

        Bright is like, red the most like. Green frames: when the narration says it.
        """
        batch = {**batch, "features": batch["features"][:1], "sentences": batch["sentences"][:1]}
        found = self.similarities(batch["features"], batch["sentences"][0]).joint[-1]
        said = sayings(batch, len(found))
        return {"alignment": picture(found.float(), said.own[0].T)}


def sayings(batch: Batch, most: int) -> Said:
    """Padded to `most` sentences, as the rows of all processes are."""
    room, video_padding_mask = most - batch["spans_s"].shape[1], batch["video_padding_mask"]
    text_padding_mask = F.pad(batch["text_padding_mask"], (0, room), value=True)
    spans, where = (F.pad(batch[key], (0, 0, 0, room)) for key in ("spans_s", "span_fractions"))
    spoken = pseudo_labels.spoken(spans, text_padding_mask, video_padding_mask.shape[1])
    return Said(spoken, where, text_padding_mask, video_padding_mask)


def of_own(logits: Float[Tensor, "L R S"], spoken: Bool[Tensor, "B N"]) -> Float[Tensor, "S L T"]:
    """Of each sentence: with the seconds of its own window."""
    window, _ = spoken.nonzero(as_tuple=True)
    windows = logits.unflatten(1, (len(spoken), -1))  # L B T S
    return windows[:, window, :, torch.arange(len(window), device=window.device)]


def branch(
    logits: Float[Tensor, "L R S"],
    target: Bool[Tensor, "B T N"],
    spoken: Bool[Tensor, "B N"],
    kept: Bool[Tensor, "B N"],
) -> Float[Tensor, ""]:
    """MIL-NCE both ways: of each second among all sentences, of each sentence among all seconds.

    Seconds and sentences with nothing right are not asked (published: a sentence without a second ends the run once
    some are left out). What is right lies in a window's own block, so that only this is summed for the numerators.
    """
    B, T, N = target.shape
    own = logits.new_full((B, N, len(logits), T), NONE)
    own[spoken] = of_own(logits, spoken)
    own = own.masked_fill(~target.mT[:, :, None], NONE)
    seconds = logits.logsumexp(2) - own.logsumexp(1).transpose(0, 1).flatten(1)  # L R
    sentences = logits.logsumexp(1) - own.logsumexp(3)[spoken].T  # L S
    asked = (target & kept[:, None]).any(2).flatten(), (target.any(1) & kept)[spoken]
    return (mean(seconds, asked[0]) + mean(sentences, asked[1])) / 2


def mean(x: Float[Tensor, "L n"], which: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """0 of none."""
    return (x * which).sum() / (len(x) * which.sum()).clamp(min=1)


def told(head: Float[Tensor, " S"], chosen: pseudo_labels.Alignable) -> tuple[Tensor, Tensor]:
    """Both labels weigh alike. Where no label is positive there is no such weight: published nan or inf, here 0."""
    label, n = chosen.label.to(head), chosen.told.sum().clamp(min=1)
    share = label.sum() / n
    weight = torch.where(share > 0, 1 / share.clamp(min=1e-6) - 1, torch.zeros_like(share))
    each = F.binary_cross_entropy_with_logits(head, label, pos_weight=weight, reduction="none")
    correct = (((head.detach() > 0) == chosen.label) & chosen.told).sum() / n
    return (each * chosen.told).sum() / n * (share > 0), correct.detach()


def begin(aligner: Aligner, path: str) -> None:
    """With the student of an earlier run or of a published file. A head not there is new; one not wanted goes."""
    whole = objective_state(path, "--objective.init")
    state = {k.removeprefix("aligner."): x for k, x in whole.items() if k.startswith("aligner.")}
    if not state:
        raise UserError(
            f"--objective.init {path} holds no aligner: name a run of tan, or its file."
        )
    own = {k: x for k, x in aligner.state_dict().items() if k.startswith("head.")}
    rest = {k: x for k, x in state.items() if not k.startswith("head.")}
    fit(aligner, rest | {k: state.get(k, x) for k, x in own.items()}, path)
