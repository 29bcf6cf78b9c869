"""Attentive probe: a grid of (rate, weight decay) heads on the tokens of frozen clips, trained in one pass.

Each batch of tokens is read once for all heads. `videoglue` and `blocks4` are the published protocols, `house` the
first one's head with settings for small sets; docs/benchmarks.md says where ours differ. The heads begin alike and see
the same batches and dropout, so that one alone is the same as among others (attentive_math.py: their algebra).
"""

import math
from collections.abc import Iterator
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.probes.attentive_math import Form, Params, logits, start
from benchmarks.probes.base import (
    Probe,
    ProbeResult,
    Setting,
    accuracy,
    check,
    metric,
    on_val,
    result,
)
from ssvid.errors import UserError
from ssvid.randomness import permutation, uniform
from ssvid.registry import probes
from ssvid.shapes import Frozen, Labels, Tokens


class Protocol(TypedDict):
    depth: int  # 1: a cross-attention; n: behind n - 1 blocks of self-attention
    complete: bool  # the cross-attention has a residual and an MLP
    heads: int  # of attention
    width: int | None  # of attention, inside; None: that of the tokens
    eps: float  # of layer norms
    dropout: float  # of the pooled vector
    smoothing: float  # of labels
    rates: tuple[float, ...]
    weight_decays: tuple[float, ...]  # decoupled, as in AdamW
    decay_all: bool  # False: biases and layer norms do not decay
    adam_eps: float
    clip: float  # norm of a head's gradient at most; 0: as it is
    warmup: float  # share of the steps
    epochs: int
    min_steps: int  # a few hundred clips see more epochs
    batch: int  # clips


VIDEOGLUE: Protocol = {
    "depth": 1,
    "complete": False,
    "heads": 12,
    "width": 768,
    "eps": 1e-6,
    "dropout": 0.5,
    "smoothing": 0.1,
    "rates": (4e-5, 1e-4, 5e-4, 2.5e-3),  # the published start and the ends of the published search
    "weight_decays": (1e-5,),
    "decay_all": False,
    "adam_eps": 1e-7,
    "clip": 1.0,
    "warmup": 0.05,
    "epochs": 50,
    "min_steps": 1,
    "batch": 256,
}
BLOCKS4: Protocol = {
    "depth": 4,
    "complete": True,
    "heads": 16,
    "width": None,
    "eps": 1e-5,
    "dropout": 0.0,
    "smoothing": 0.0,
    "rates": (5e-3, 3e-3, 1e-3, 3e-4, 1e-4),
    "weight_decays": (0.01, 0.1, 0.4, 0.8),
    "decay_all": True,
    "adam_eps": 1e-8,
    "clip": 0.0,
    "warmup": 0.0,
    "epochs": 20,
    "min_steps": 1,
    "batch": 256,
}
HOUSE: Protocol = {
    **VIDEOGLUE,
    "heads": 4,
    "width": None,
    "dropout": 0.1,
    "smoothing": 0.0,
    "rates": (1e-4, 3e-4, 1e-3, 3e-3),
    "weight_decays": (1e-2,),
    "epochs": 20,
    "min_steps": 200,
    "batch": 64,
}
PRESETS = {"videoglue": VIDEOGLUE, "blocks4": BLOCKS4, "house": HOUSE}


@probes.register("attentive")
class Attentive(Probe):
    reads = "tokens"
    multi_label = True

    def __init__(
        self,
        *,
        preset: str = "house",  # videoglue | blocks4 | house
        depth: int | None = None,  # null, here and below: the preset's
        heads: int | None = None,  # of attention; they divide the width
        width: int | None = None,  # of attention, inside
        dropout: float | None = None,  # of the pooled vector
        smoothing: float | None = None,  # of labels
        rates: tuple[float, ...] | None = None,  # of AdamW, at the top of the cosine
        weight_decays: tuple[float, ...] | None = None,  # decoupled, as in AdamW
        clip: float | None = None,  # norm of a head's gradient at most; 0: as it is
        warmup: float | None = None,  # share of the steps
        epochs: int | None = None,  # passes over the train clips
        min_steps: int | None = None,  # a few hundred clips see more epochs
        batch: int | None = None,  # clips
        device: str = "cpu",  # where heads are trained; batches are moved there
    ) -> None:
        given = {
            name: value for name, value in locals().items() if name in Protocol.__annotations__
        }
        if preset not in PRESETS:
            raise UserError(
                f"There is no preset {preset!r} of the attentive probe; there are {', '.join(PRESETS)}."
            )
        known: Any = PRESETS[preset] | {
            name: value for name, value in given.items() if value is not None
        }
        self.preset, self.device = preset, device
        self.protocol: Protocol = known
        if not self.protocol["rates"] or not self.protocol["weight_decays"]:
            raise UserError("The attentive probe needs at least one rate and one weight decay.")
        self.grid = [(rate, decay) for rate in known["rates"] for decay in known["weight_decays"]]

    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        classes, grid = check(train, val, test, multi_label=True), []
        best: tuple[Setting, Form, Params] | None = None
        for name, feats in train.feats.items():
            form, on = self.form(as_tokens(feats), classes), f"val/{metric(train.labels)}"
            stacks = self.fit(as_tokens(feats), train.labels, form, seed)
            score = self.judge(stacks, form, as_tokens(val.feats[name]), val.labels)
            settings: list[Setting] = [
                {"pooling": name, "dim": form.dim, "rate": rate, "weight_decay": decay, on: value}
                for (rate, decay), value in zip(self.grid, score, strict=True)
            ]
            grid += settings
            number = max(range(len(settings)), key=lambda i: rank(settings[i]))
            if best is None or rank(settings[number]) > rank(best[0]):
                best = settings[number], form, singled(stacks, number)
        if best is None:
            raise UserError("There are no features to probe.")
        chosen, form, head = best
        seen = [
            (scores[0], weight[0])
            for scores, weight in self.scores(head, form, test.feats[chosen["pooling"]])
        ]
        scores, attention = (torch.cat(column) for column in zip(*seen, strict=True))
        return result(scores, test.labels, chosen, grid)._replace(attention=attention)

    def form(self, x: Tokens, classes: int) -> Form:
        how = self.protocol
        width = how["width"] or x.shape[2]
        if how["complete"] and width != x.shape[2]:
            raise UserError(
                f"A head with a residual is as wide as its tokens ({x.shape[2]}), not {width}."
            )
        if width % how["heads"]:
            raise UserError(
                f"{how['heads']} heads of attention do not divide a width of {width}: give --heads, --width."
            )
        return Form(
            x.shape[2], classes, how["heads"], width, how["depth"], how["complete"], how["eps"]
        )

    def fit(self, x: Tokens, y: Labels, form: Form, seed: int) -> list[Params]:
        """Every head of the grid, in stacks that share products.

        Behind blocks a head has tokens of its own, and products of heads side by side cost what they cost one after
        the other (measured: 4 heads take 4 times one), so these are stacks of one: only the reading is shared.
        """
        how, R = self.protocol, len(self.grid)
        stacks = (
            [self.made(form, seed, R)]
            if form.depth == 1
            else [self.made(form, seed, 1) for _ in range(R)]
        )
        optimizer = self.optimizer(stacks)
        per_epoch = math.ceil(len(x) / how["batch"])
        steps = per_epoch * max(how["epochs"], math.ceil(how["min_steps"] / per_epoch))
        for step in range(steps):
            epoch, i = divmod(step, per_epoch)
            if i == 0:
                order = permutation(seed, epoch, len(x))
            rows = order[i * how["batch"] : (i + 1) * how["batch"]]
            self.gradients(stacks, x, y, rows, form, seed, epoch)
            for stack in stacks:
                clip_each(stack, how["clip"])
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(step, steps, how["warmup"])
                for view, whole, r in group["of"]:
                    view.grad = whole.grad[r]
            optimizer.step()
        return stacks

    def made(self, form: Form, seed: int, heads: int) -> Params:
        return {
            name: value.to(self.device).requires_grad_()
            for name, value in start(form, heads, seed).items()
        }

    def optimizer(self, stacks: list[Params]) -> torch.optim.AdamW:
        """torch's own AdamW: each head has groups of its own, of views of the stacked parameters."""
        groups = []
        places = [(stack, r) for stack in stacks for r in range(len(stack["token"]))]
        for (rate, decay), (stack, r) in zip(self.grid, places, strict=True):
            for shrinks in (True, False):
                of = [
                    (whole[r].detach(), whole, r)
                    for n, whole in stack.items()
                    if self.decays(n) == shrinks
                ]
                params = [view for view, _, _ in of]
                if params:
                    groups.append(
                        {"params": params, "of": of, "peak": rate, "weight_decay": decay * shrinks}
                    )
        return torch.optim.AdamW(groups, lr=0.0, eps=self.protocol["adam_eps"], fused=True)

    def decays(self, name: str) -> bool:
        last = name.split(".")[-1]
        return self.protocol["decay_all"] or not (last in ("gain", "shift") or last[0] == "b")

    def gradients(
        self,
        stacks: list[Params],
        x: Tokens,
        y: Tensor,
        rows: Int[Tensor, " C"],
        form: Form,
        seed: int,
        epoch: int,
    ) -> None:
        """Those of a batch, into every parameter: each head has the mean over the batch of its own loss."""
        how = self.protocol
        for stack in stacks:
            for parameter in stack.values():
                parameter.grad = None
        for some in rows.split(max(1, form.at_once // x.shape[1])):
            labels = y[some].to(self.device)
            mask = dropped(seed, epoch, some, form.dim, how["dropout"], labels.device)
            for stack in stacks:
                scores, _ = logits(stack, x, some, form, mask)
                loss = cost(scores, labels, how["smoothing"])
                (loss / len(rows)).backward()

    def scores(self, stack: Params, form: Form, feats: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(R C Q, attention R C N) of a few clips at a time."""
        x = as_tokens(feats)
        with torch.no_grad():
            for some in torch.arange(len(x)).split(
                max(1, min(self.protocol["batch"], form.at_once // x.shape[1]))
            ):
                found, weight = logits(stack, x, some, form)
                yield found.cpu(), weight.cpu()

    def judge(self, stacks: list[Params], form: Form, x: Tokens, y: Labels) -> list[float]:
        """Accuracy of each head; one that diverged has 0."""
        score: list[float] = []
        for stack in stacks:
            found = torch.cat([found for found, _ in self.scores(stack, form, x)], 1)  # R S Q
            score += [
                accuracy(of_head, y) if of_head.isfinite().all() else 0.0 for of_head in found
            ]
        return score


def cost(scores: Float[Tensor, "R B Q"], labels: Labels, smoothing: float) -> Tensor:
    """Summed over heads and clips: cross-entropy, or of several classes a clip the sum of their binary ones."""
    if labels.ndim == 2:
        wanted = labels.float() * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(scores, wanted.expand_as(scores), reduction="sum")
    flat, label = rearrange(scores, "R B Q -> (R B) Q"), repeat(labels, "B -> (R B)", R=len(scores))
    return F.cross_entropy(flat, label, label_smoothing=smoothing, reduction="sum")


def as_tokens(feats: Float[Tensor, " S *D"]) -> Tokens:
    """A pooled vector is the one token of its clip."""
    if feats.ndim not in (2, 3):
        raise UserError(
            f"The attentive probe reads tokens S N D or pooled vectors S D, not {tuple(feats.shape)}."
        )
    return feats if feats.ndim == 3 else feats[:, None]


def schedule(step: int, steps: int, warmup: float) -> float:
    """A cosine to zero over all steps; the warm-up rises in a line to where it then is."""
    first = round(warmup * steps)
    rise = min(1.0, step / first) if first else 1.0
    return (0.5 + 0.5 * math.cos(math.pi * max(step, first) / steps)) * rise


def clip_each(stack: Params, most: float) -> None:
    """The gradient of every head to a norm of `most` at most."""
    grads = [p.grad for p in stack.values() if p.grad is not None]
    if most:
        norms = torch.stack(
            [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads]
        )  # makes no squares: R
        scale = (most / torch.linalg.vector_norm(norms, dim=0)).clamp(max=1)
        for g in grads:
            g.mul_(scale.view(-1, *(1,) * (g.ndim - 1)))


def dropped(
    seed: int, epoch: int, rows: Int[Tensor, " C"], dim: int, share: float, device: torch.device
) -> Tensor | None:
    """What the pooled vectors of these clips are multiplied by: a clip's own draw in each epoch, for all heads."""
    if not share:
        return None
    keep = uniform(seed, "dropout", epoch, rows, dim) >= share
    return (keep.float() / (1 - share)).to(device)


def singled(stacks: list[Params], number: int) -> Params:
    """One head of the grid, alone in its stack."""
    places = [(stack, r) for stack in stacks for r in range(len(stack["token"]))]
    stack, r = places[number]
    return {name: value[r : r + 1].detach().clone() for name, value in stack.items()}


def rank(setting: Setting) -> tuple[float | int, ...]:
    """Best on val; among equals the simpler: narrower, more decay, smaller steps."""
    return on_val(setting), -setting["dim"], setting["weight_decay"], -setting["rate"]
