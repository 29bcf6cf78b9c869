"""Attentive probe: a grid of (rate, weight decay) heads on the tokens of frozen clips.

All heads are trained in one pass, so each batch of tokens is read once. `videoglue` and `blocks4`
are the published protocols; `house` is the head of the first with settings for small sets.
docs/protocols/attentive.md says where ours differ. The heads start equal and see the same batches
and dropout, so a head gives the same numbers alone as among others. Their algebra is in
attentive_math.py.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.probes.attentive_math import Form, Params, Source, compute_logits, initialise
from benchmarks.probes.attentive_presets import PRESETS, Protocol
from benchmarks.probes.base import (
    Probe,
    ProbeResult,
    Setting,
    check_splits,
    compute_metric,
    make_result,
    metric_name,
    read_val_score,
)
from ssvid.errors import UserError
from ssvid.progress import progress_bar
from ssvid.randomness import permutation, uniform
from ssvid.registry import probes
from ssvid.shapes import Frozen, Labels, Tokens

JOINT = " + "  # between the names of layers that a head reads together


@probes.register("attentive")
class Attentive(Probe):
    reads = "tokens"
    multi_label = True
    layers = "best"

    def __init__(
        self,
        *,
        preset: str = "house",  # videoglue | blocks4 | house
        # best: a head reads one layer, and val chooses which; together (MLAP): a head has a query
        # for each layer, and the sum of what they find is classified
        layers: Literal["best", "together"] = "best",
        depth: int | None = None,  # null, here and below: as the preset has it
        complete: bool | None = None,  # the cross-attention has a residual and an MLP
        heads: int | None = None,  # of attention; they divide the width
        width: int | None = None,  # of attention, inside
        dropout: float | None = None,  # of the pooled vector
        smoothing: float | None = None,  # of labels
        rates: tuple[float, ...] | None = None,  # of AdamW, at the top of the cosine
        weight_decays: tuple[float, ...] | None = None,  # decoupled, as in AdamW
        clip: float | None = None,  # largest norm of a head's gradient; 0: no limit
        warmup: float | None = None,  # share of the steps
        epochs: int | None = None,  # passes over the train clips
        min_steps: int | None = None,  # a small train split gets more epochs instead
        batch: int | None = None,  # clips
        device: str = "cpu",  # where heads are trained; batches are moved there
    ) -> None:
        arguments = dict(locals())
        if preset not in PRESETS:
            raise UserError(
                f"There is no preset {preset!r} of the attentive probe; there are "
                f"{', '.join(PRESETS)}."
            )
        protocol: Any = dict(PRESETS[preset])
        for name in Protocol.__annotations__:
            if arguments.get(name) is not None:
                protocol[name] = arguments[name]
        self.preset, self.device = preset, device
        self.protocol: Protocol = protocol
        if layers == "together":  # results without it keep their hash
            self.layers = layers
            if protocol["depth"] > 1 or protocol["complete"]:
                raise UserError(
                    "An attentive probe whose layers are read together has a depth of 1 and is not "
                    "complete: give --depth 1 --complete false, or take the preset videoglue."
                )
        if not self.protocol["rates"] or not self.protocol["weight_decays"]:
            raise UserError("The attentive probe needs at least one rate and one weight decay.")
        self.grid = list(product(self.protocol["rates"], self.protocol["weight_decays"]))

    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        classes = check_splits(train, val, test, multi_label=True)
        grid: list[Setting] = []
        metric = f"val/{metric_name(train.labels)}"
        best: tuple[Setting, Form, Params] | None = None
        for name in self.list_sources(train):
            x = read_source(train, name)
            form = self.build_form(x, classes)
            stacks = self.fit(x, train.labels, form, seed)
            scores = self.evaluate(stacks, form, read_source(val, name), val.labels)
            settings: list[Setting] = []
            for (rate, decay), score in zip(self.grid, scores, strict=True):
                setting = {"pooling": name, "dim": form.dim, "rate": rate, "weight_decay": decay}
                settings.append({**setting, metric: score})
            grid += settings
            index = max(range(len(settings)), key=lambda i: rank_setting(settings[i]))
            if best is None or rank_setting(settings[index]) > rank_setting(best[0]):
                best = settings[index], form, select_head(stacks, index)
        if best is None:
            raise UserError("There are no features to probe.")
        chosen, form, head = best
        return self.score_test(head, form, test, chosen)._replace(grid=grid)

    def refit(self, train: Frozen, test: Frozen, chosen: Setting, seed: int) -> ProbeResult:
        classes = check_splits(train, None, test, multi_label=True)
        x = read_source(train, chosen["pooling"])
        form, setting = self.build_form(x, classes), (chosen["rate"], chosen["weight_decay"])
        stacks = self.fit(x, train.labels, form, seed, [setting])
        return self.score_test(select_head(stacks, 0), form, test, chosen)

    def score_test(self, head: Params, form: Form, test: Frozen, chosen: Setting) -> ProbeResult:
        logits, attention = [], []
        for chunk_logits, chunk_attention in self.score_clips(
            head, form, read_source(test, chosen["pooling"])
        ):
            logits.append(chunk_logits[0])
            attention.append(chunk_attention[0])
        result = make_result(torch.cat(logits), test.labels, chosen, [chosen])
        return result._replace(attention=torch.cat(attention))

    def list_sources(self, train: Frozen) -> list[str]:
        """What a head reads, by name: a layer, or all layers joined by JOINT."""
        names = list(train.feats)
        return [JOINT.join(names)] if self.layers == "together" else names

    def build_form(self, x: Source, classes: int) -> Form:
        """The architecture of a head on these layers. Raises a UserError for a bad width."""
        protocol, dim = self.protocol, x[0].shape[2]
        width = protocol["width"] or dim
        if any(tokens.shape[1:] != x[0].shape[1:] for tokens in x):
            shapes = ", ".join(str(tuple(tokens.shape[1:])) for tokens in x)
            raise UserError(
                "Layers that are read together have as many tokens of one width; there are "
                f"{shapes}: read the layers one by one (layers: best)."
            )
        if protocol["complete"] and width != dim:
            raise UserError(
                f"A head with a residual is as wide as its tokens ({dim}), not {width}."
            )
        if width % protocol["heads"]:
            raise UserError(
                f"{protocol['heads']} heads of attention do not divide a width of {width}: give "
                "--heads, --width."
            )
        return Form(
            dim=dim,
            classes=classes,
            heads=protocol["heads"],
            width=width,
            depth=protocol["depth"],
            complete=protocol["complete"],
            eps=protocol["eps"],
            sources=len(x),
        )

    def fit(
        self,
        x: Source,
        y: Labels,
        form: Form,
        seed: int,
        grid: list[tuple[float, float]] | None = None,
    ) -> list[Params]:
        """Every head of the grid, in stacks that share products. None: the probe's own grid.

        Behind blocks a head has tokens of its own. Products of heads side by side then cost what
        they cost one after the other (measured: 4 heads take 4 times as long as one), so each
        stack has one head, and the heads share only the reading.
        """
        grid = self.grid if grid is None else grid
        protocol, R = self.protocol, len(grid)
        if form.depth == 1:
            stacks = [self.create_heads(form, seed, R)]
        else:
            stacks = [self.create_heads(form, seed, 1) for _ in range(R)]
        optimizer = self.create_optimizer(stacks, grid)
        per_epoch = math.ceil(len(y) / protocol["batch"])
        epochs = max(protocol["epochs"], math.ceil(protocol["min_steps"] / per_epoch))
        steps = per_epoch * epochs
        bar: dict[str, Any] = {"desc": "attentive probe", "leave": False}
        for step in progress_bar(steps, "step", iterable=range(steps), **bar):
            epoch, i = divmod(step, per_epoch)
            if i == 0:
                order = permutation(seed, epoch, len(y))
            rows = order[i * protocol["batch"] : (i + 1) * protocol["batch"]]
            self.compute_gradients(stacks, x, y, rows, form, seed, epoch)
            for stack in stacks:
                clip_gradients(stack, protocol["clip"])
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule_rate(step, steps, protocol["warmup"])
                for view, whole, r in group["views"]:
                    view.grad = whole.grad[r]
            optimizer.step()
        return stacks

    def create_heads(self, form: Form, seed: int, heads: int) -> Params:
        params = initialise(form, heads, seed)
        return {name: value.to(self.device).requires_grad_() for name, value in params.items()}

    def create_optimizer(
        self, stacks: list[Params], grid: list[tuple[float, float]]
    ) -> torch.optim.AdamW:
        """torch's own AdamW. Each head has its own groups, of views of the stacked parameters."""
        groups = []
        for (rate, decay), (stack, r) in zip(grid, list_heads(stacks), strict=True):
            for decays in (True, False):
                views = []
                for name, whole in stack.items():
                    if self.has_decay(name) == decays:
                        views.append((whole[r].detach(), whole, r))
                if views:
                    group: dict[str, Any] = {"params": [view for view, _, _ in views]}
                    group |= {"views": views, "peak": rate, "weight_decay": decay * decays}
                    groups.append(group)
        return torch.optim.AdamW(groups, lr=0.0, eps=self.protocol["adam_eps"], fused=True)

    def has_decay(self, name: str) -> bool:
        """Whether weight decay applies to this parameter."""
        last = name.split(".")[-1]
        return self.protocol["decay_all"] or not (last in ("gain", "shift") or last[0] == "b")

    def compute_gradients(
        self,
        stacks: list[Params],
        x: Source,
        y: Tensor,
        rows: Int[Tensor, " C"],
        form: Form,
        seed: int,
        epoch: int,
    ) -> None:
        """Put the gradients of a batch into every parameter.

        Each head gets the mean of its own loss over the batch.
        """
        protocol = self.protocol
        for stack in stacks:
            for parameter in stack.values():
                parameter.grad = None
        for chunk in rows.split(max(1, form.tokens_at_once // x[0].shape[1])):
            labels = y[chunk].to(self.device)
            mask = draw_dropout_mask(
                seed, epoch, chunk, form.dim, protocol["dropout"], labels.device
            )
            for stack in stacks:
                logits, _ = compute_logits(stack, x, chunk, form, mask)
                loss = sum_loss(logits, labels, protocol["smoothing"])
                (loss / len(rows)).backward()

    def score_clips(self, stack: Params, form: Form, x: Source) -> Iterator[tuple[Tensor, Tensor]]:
        """(logits R C Q, attention R C N) of a few clips at a time, on the CPU."""
        size = max(1, min(self.protocol["batch"], form.tokens_at_once // x[0].shape[1]))
        with torch.no_grad():
            for chunk in torch.arange(len(x[0])).split(size):
                logits, attention = compute_logits(stack, x, chunk, form)
                yield logits.cpu(), attention.cpu()

    def evaluate(self, stacks: list[Params], form: Form, x: Source, y: Labels) -> list[float]:
        """The metric of each head. A head that diverged has 0."""
        values: list[float] = []
        for stack in stacks:
            chunks = [logits for logits, _ in self.score_clips(stack, form, x)]
            heads = torch.cat(chunks, 1)  # R S Q
            values += [compute_metric(x, y) if x.isfinite().all() else 0.0 for x in heads]
        return values


def sum_loss(logits: Float[Tensor, "R B Q"], labels: Labels, smoothing: float) -> Tensor:
    """The loss summed over heads and clips.

    It is the cross-entropy; where a clip may have several classes, it is the sum of their binary
    cross-entropies.
    """
    if labels.ndim == 2:
        target = labels.float() * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="sum")
    flat, label = rearrange(logits, "R B Q -> (R B) Q"), repeat(labels, "B -> (R B)", R=len(logits))
    return F.cross_entropy(flat, label, label_smoothing=smoothing, reduction="sum")


def read_source(split: Frozen, name: str) -> Source:
    """The tokens of a layer, or of several that are joined by JOINT in the name."""
    return tuple(as_tokens(split.feats[layer]) for layer in name.split(JOINT))


def as_tokens(feats: Float[Tensor, " S *D"]) -> Tokens:
    """A pooled vector becomes the only token of its clip. Raises a UserError for other shapes."""
    if feats.ndim not in (2, 3):
        raise UserError(
            "The attentive probe reads tokens S N D or pooled vectors S D, not "
            f"{tuple(feats.shape)}."
        )
    return feats if feats.ndim == 3 else feats[:, None]


def schedule_rate(step: int, steps: int, warmup: float) -> float:
    """The factor of the rate: a cosine to zero over all steps, behind a linear warm-up.

    The warm-up ends at the value that the cosine has there.
    """
    first = round(warmup * steps)
    rise = min(1.0, step / first) if first else 1.0
    return (0.5 + 0.5 * math.cos(math.pi * max(step, first) / steps)) * rise


def clip_gradients(stack: Params, max_norm: float) -> None:
    """Scale the gradient of every head to a norm of `max_norm` at most; 0 is no limit."""
    grads = [p.grad for p in stack.values() if p.grad is not None]
    if not max_norm:
        return
    # vector_norm makes no copy for the squares.
    norms = [torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in grads]  # R each
    total = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    scale = (max_norm / total).clamp(max=1)
    for grad in grads:
        grad.mul_(scale.view(-1, *(1,) * (grad.ndim - 1)))


def draw_dropout_mask(
    seed: int, epoch: int, rows: Int[Tensor, " C"], dim: int, ratio: float, device: torch.device
) -> Tensor | None:
    """The factors C D of the pooled vectors, drawn per clip and epoch and shared by all heads."""
    if not ratio:
        return None
    visible = uniform(seed, "dropout", epoch, rows, dim) >= ratio
    return (visible.float() / (1 - ratio)).to(device)


def list_heads(stacks: list[Params]) -> list[tuple[Params, int]]:
    """(stack, index in it) of each head, in the order of the grid."""
    heads = []
    for stack in stacks:
        heads += [(stack, r) for r in range(len(stack["token"]))]
    return heads


def select_head(stacks: list[Params], index: int) -> Params:
    """One head of the grid, alone in its stack."""
    stack, r = list_heads(stacks)[index]
    return {name: value[r : r + 1].detach().clone() for name, value in stack.items()}


def rank_setting(setting: Setting) -> tuple[float | int, ...]:
    """Best on val. Among equals the simpler: narrower, more decay, smaller rate."""
    return read_val_score(setting), -setting["dim"], setting["weight_decay"], -setting["rate"]
