"""Linear probe: every (rate, weight decay) head of a pooling in one batched pass, val picks, test is read once.

Features are standardised by train statistics and divided by sqrt(D), so a clip has length about 1 and one grid of
rates serves every width. The heads are one matrix D x (R Q); the gradient is written out, as autograd only adds traffic
(a test holds the two equal). Optimiser: SGD with damped momentum (so `rate` is the effective step), decoupled weight
decay, cosine rate to zero. At fp32 the two products of a step are 80 % of the cost and run at the peak of the CPU, so
the one thing left to save is heads: the worse half on val leaves the race at each of `rungs` (successive halving,
arXiv:1502.07943). Where a clip may hold several classes, each of them is a logistic regression of its own. Features of
more than `WHOLE` numbers, which may be float16 and memory-mapped, are standardised as they are read: then memory does
not grow with them.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
from ssvid.errors import positive
from ssvid.randomness import permutation
from ssvid.registry import probes
from ssvid.shapes import Frozen, Labels

CHUNK = 4096  # rows scored at once
WHOLE = 2**26  # numbers that are kept standardised in memory: 256 MB
SMALL = 3e7  # FLOPs of a step, under which one thread is enough


@dataclass
class Heads:
    """R heads one after the other, with the velocities of their momentum (rate inside).

    D is the last axis in memory: the products of a step then cost 2 % (13 heads) to 8 % (one head) less.
    """

    rows: Float[Tensor, "R Q D"]
    b: Float[Tensor, "R Q"]
    drows: Float[Tensor, "R Q D"]
    db: Float[Tensor, "R Q"]
    rate: Float[Tensor, " R"]
    decay: Float[Tensor, " R"]
    number: Int[Tensor, " R"]  # place in the grid

    @property
    def w(self) -> Float[Tensor, "D R Q"]:
        return self.rows.movedim(-1, 0)

    def only(self, keep: Int[Tensor, " K"]) -> "Heads":
        return Heads(*(getattr(self, field.name)[keep] for field in fields(self)))


@probes.register("linear")
class Linear(Probe):
    multi_label = True

    def __init__(
        self,
        *,
        rates: tuple[float, ...] = (
            1.0,
            3.0,
            10.0,
            30.0,
            100.0,
            300.0,
            1000.0,
        ),  # of clips of length 1
        weight_decays: tuple[float, ...] = (0.0, 1e-3),  # of the loss CE + decay / 2 |W|^2
        epochs: int = 20,  # passes over the train clips
        min_steps: int = 400,  # a few hundred clips see more epochs
        batch: int = 256,  # clips
        momentum: float = 0.9,  # of SGD
        rungs: tuple[float, ...] = (
            0.25,
            0.5,
        ),  # of the steps, where half of the heads leave; () keeps all to the end
    ) -> None:
        positive(epochs=epochs, min_steps=min_steps, batch=batch, rates=min(rates, default=0.0))
        self.grid = [(rate, decay) for rate in rates for decay in weight_decays]  # R
        self.epochs, self.min_steps, self.batch, self.momentum = epochs, min_steps, batch, momentum
        self.rungs = tuple(rungs)

    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        classes, grid = check(train, val, test, multi_label=True), []
        best: tuple[Setting, Basis, Tensor, Tensor] | None = None
        for pooling, feats in train.feats.items():
            basis = Basis(feats)
            x, x_val = basis.rows(feats), basis.rows(val.feats[pooling])
            heads, scores = self.fit(x, train.labels, x_val, val.labels, classes, seed)
            settings = [
                {"pooling": pooling, "dim": feats.shape[1], "rate": rate, "weight_decay": decay}
                | score
                for (rate, decay), score in zip(self.grid, scores, strict=True)
            ]
            grid += settings
            top, place, number = max(
                (rank(settings[n]), place, n) for place, n in enumerate(heads.number.tolist())
            )
            if best is None or top > rank(best[0]):
                best = settings[number], basis, heads.w[:, place].clone(), heads.b[place].clone()
        assert best is not None, "there are no features to probe"
        chosen, basis, w, b = best
        return result(basis.rows(test.feats[chosen["pooling"]]) @ w + b, test.labels, chosen, grid)

    def fit(
        self,
        x: "Float[Tensor, 'S D'] | Rows",
        y: Labels,
        x_val: "Float[Tensor, 'V D'] | Rows",
        y_val: Labels,
        classes: int,
        seed: int,
    ) -> tuple[Heads, list[Setting]]:
        """The heads that ran to the end, and for each of the grid its score on val and the share of steps it had."""
        per_epoch = math.ceil(len(x) / self.batch)
        steps = per_epoch * max(self.epochs, math.ceil(self.min_steps / per_epoch))
        ends = [*(share for share in self.rungs), 1.0]
        scores: list[Setting] = [{} for _ in self.grid]
        heads, first = self.start(x, classes), 0
        for share in ends:
            last = round(share * steps)
            heads = in_threads(
                heads, x.shape[1] * self.batch, partial(self.leg, x, y, seed, first, last, steps)
            )
            score, loss = judge(heads, x_val, y_val)
            for number, value in zip(heads.number.tolist(), score.tolist(), strict=True):
                scores[number] = {f"val/{metric(y)}": value, "trained": share}  # share of the steps
            if share < 1:
                heads, first = heads.only(best_half(score, loss)), last
        return heads, scores

    def leg(
        self,
        x: "Tensor | Rows",
        y: Tensor,
        seed: int,
        first: int,
        last: int,
        steps: int,
        heads: Heads,
    ) -> None:
        """Steps first to last - 1 of these heads, in place.

        With one head a third of a step was not its products: so rates come from a table, batches into one buffer.
        """
        per_epoch, order = math.ceil(len(x) / self.batch), None
        cosine = [0.5 + 0.5 * math.cos(math.pi * step / steps) for step in range(first, last)]
        rates = heads.rate[:, None] * heads.rate.new_tensor(cosine)[:, None, None]  # steps R 1
        shrinks = 1 / (1 + rates * heads.decay[:, None])[..., None]  # implicit: stable at any rate
        scales = rates * (self.momentum - 1)
        buffer = heads.rows.new_empty(self.batch, heads.rows.shape[-1])
        for step, scale, shrink in zip(range(first, last), scales, shrinks, strict=True):
            epoch, i = divmod(step, per_epoch)
            if order is None or i == 0:
                order = permutation(seed, epoch, len(x)).to(y.device)
            now = order[i * self.batch : (i + 1) * self.batch]
            self.update(
                heads, taken(x, now, buffer[: len(now)]), y.index_select(0, now), scale, shrink
            )

    def start(self, x: "Tensor | Rows", classes: int) -> Heads:
        like = x[:0]
        rate, decay = (like.new_tensor(column) for column in zip(*self.grid, strict=True))
        w, b = like.new_zeros(len(rate), classes, x.shape[1]), like.new_zeros(len(rate), classes)
        return Heads(
            w, b, w.clone(), b.clone(), rate, decay, torch.arange(len(rate), device=like.device)
        )

    def update(
        self,
        heads: Heads,
        x: Float[Tensor, "B D"],
        y: Labels,
        scale: Float[Tensor, "R 1"],
        shrink: Float[Tensor, "R 1 1"],
    ) -> None:
        """One step of every head, in place."""
        g = gradient(logits(heads, x), y).mul_(scale)  # B R Q
        heads.drows.view(-1, x.shape[1]).addmm_(g.flatten(1).T, x, beta=self.momentum)
        heads.db.mul_(self.momentum).add_(g.sum(0))
        torch.addcmul(heads.drows, heads.rows, shrink, out=heads.rows)
        heads.b += heads.db


def in_threads(heads: Heads, size: int, work: Callable[[Heads], None]) -> Heads:
    """The heads after `work` in place. On a CPU each thread has some heads of its own.

    torch would share every product between its threads, and they wait for each other, spinning, several times a step:
    on a busy machine that took several times the CPU.
    """
    threads = torch.get_num_threads()
    busy = 4 * size * heads.b.numel() > SMALL and heads.w.device.type == "cpu"
    parts = heads.number.new_tensor(range(len(heads.number))).tensor_split(
        min(threads, len(heads.number)) * busy or 1
    )
    shards = [heads.only(part) for part in parts]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(len(shards)) as pool:
            list(pool.map(work, shards))
    finally:
        torch.set_num_threads(threads)
    return Heads(
        *(torch.cat([getattr(shard, field.name) for shard in shards]) for field in fields(heads))
    )


def taken(
    x: "Tensor | Rows", rows: Int[Tensor, " B"], buffer: Float[Tensor, "B D"]
) -> Float[Tensor, "B D"]:
    """x[rows], in the buffer where x is in memory: half the time of new memory for each batch."""
    return torch.index_select(x, 0, rows, out=buffer) if isinstance(x, Tensor) else x[rows]


def logits(heads: Heads, x: Float[Tensor, "B D"]) -> Float[Tensor, "B R Q"]:
    flat = x @ heads.rows.flatten(0, 1).T
    return flat.view(-1, *heads.b.shape).add_(heads.b)


def gradient(scores: Float[Tensor, "B R Q"], y: Labels) -> Float[Tensor, "B R Q"]:
    """d cross_entropy / d scores for each head, averaged over the batch: (softmax - onehot) / B.

    Of several classes a clip: binary cross-entropy, summed over the classes, (sigmoid - y) / B.
    """
    if y.ndim == 2:
        return scores.sigmoid().sub_(y[:, None].float()).mul_(1 / len(y))
    g = scores.softmax(-1)
    label = y[:, None, None].expand(-1, g.shape[1], 1)
    return g.scatter_add_(-1, label, g.new_full((1,), -1).expand_as(label)).mul_(1 / len(y))


def judge(heads: Heads, x: "Float[Tensor, 'S D'] | Rows", y: Labels) -> tuple[Tensor, Tensor]:
    """(accuracy, loss) of each head; one that diverged has 0 and infinity."""
    if y.ndim == 2:
        return judge_several(heads, x, y)
    right = torch.zeros(len(heads.b), dtype=torch.float64, device=y.device)
    loss = torch.zeros_like(right)
    for xs, ys in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        scores = logits(heads, xs)  # S R Q
        right += (scores.argmax(-1) == ys[:, None]).double().sum(0)
        known = (
            ys < scores.shape[-1]
        )  # a class that train lacks has no score: wrong, and no part of the loss
        if not known.all():
            scores, ys = scores[known], ys[known]
        label = repeat(ys, "S -> S R 1", R=len(heads.b))
        loss -= scores.log_softmax(-1).gather(-1, label)[..., 0].double().sum(0)
    good = heads.rows.flatten(1).isfinite().all(1)
    return torch.where(good, right / len(y), 0.0), torch.where(
        good & loss.isfinite(), loss, torch.inf
    )


def judge_several(
    heads: Heads, x: "Float[Tensor, 'S D'] | Rows", y: Bool[Tensor, "S Q"]
) -> tuple[Tensor, Tensor]:
    """(mean average precision, loss) of each head; one at a time, for a ranking wants the scores of all clips."""
    score, loss = [], []
    for r in range(len(heads.b)):
        scores = torch.cat(
            [torch.addmm(heads.b[r], part, heads.w[:, r]) for part in x.split(CHUNK)]
        )
        good = bool(scores.isfinite().all())
        score.append(accuracy(scores, y) if good else 0.0)
        loss.append(
            F.binary_cross_entropy_with_logits(scores, y.float()).item() if good else math.inf
        )
    return torch.tensor(score, dtype=torch.float64), torch.tensor(loss, dtype=torch.float64)


def best_half(score: Float[Tensor, " R"], loss: Float[Tensor, " R"]) -> Int[Tensor, " K"]:
    """Places of the better half: by accuracy, among equals by loss (accuracies on a small val tie often)."""
    order = sorted(range(len(score)), key=lambda i: (-score[i].item(), loss[i].item()))
    return torch.tensor(sorted(order[: math.ceil(len(order) / 2)]), device=score.device)


def rank(setting: Setting) -> tuple[float | int, ...]:
    """Best on val; among equals the simpler: narrower, more decay, smaller steps."""
    return on_val(setting), -setting["dim"], setting["weight_decay"], -setting["rate"]


class Basis:
    """Features -> the coordinates a head is trained in, fixed by the train split alone.

    Where clips are few and features wide (S < D / 2), these are the span of the train clips: gradient descent from
    zero never leaves it, so the heads are the same (up to rounding) and 30 000 columns cost what a few hundred do.
    """

    def __init__(self, train: Float[Tensor, "S D"]) -> None:
        self.std, self.mean = moments(train) if train.numel() > WHOLE else std_mean(train.float())
        self.std.clamp_(min=1e-6).mul_(math.sqrt(train.shape[1]))
        self.span: Tensor | None = None  # D S
        if len(train) < train.shape[1] // 2:
            self.span = torch.linalg.qr(self(train).T).Q

    def __call__(self, feats: Float[Tensor, "S D"]) -> Float[Tensor, "S K"]:
        x = (feats.float() - self.mean) / self.std
        return x if self.span is None else x @ self.span

    def rows(self, feats: Float[Tensor, "S D"]) -> "Float[Tensor, 'S K'] | Rows":
        return Rows(self, feats) if self.span is None and feats.numel() > WHOLE else self(feats)


class Rows:
    """Features as they are stored; the rows that are asked for come in the coordinates of the basis."""

    def __init__(self, basis: Basis, feats: Float[Tensor, "S D"]) -> None:
        self.basis, self.feats, self.shape = basis, feats, feats.shape

    def __len__(self) -> int:
        return len(self.feats)

    def __getitem__(self, rows: Int[Tensor, " B"] | slice) -> Float[Tensor, "B D"]:
        return self.basis(self.feats[rows])

    def split(self, size: int) -> Iterator[Float[Tensor, "B D"]]:
        return (self[start : start + size] for start in range(0, len(self), size))

    def __matmul__(self, w: Float[Tensor, "D Q"]) -> Float[Tensor, "S Q"]:
        return torch.cat([part @ w for part in self.split(CHUNK)])


def std_mean(x: Float[Tensor, "S D"]) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    std, mean = torch.std_mean(x, dim=0, correction=0)
    return std, mean


def moments(x: Float[Tensor, "S D"]) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """(std, mean) from parts, in double precision and around the mean of the first part."""
    near = x[:CHUNK].double().mean(0)
    first, second = torch.zeros_like(near), torch.zeros_like(near)
    for part in x.split(CHUNK):
        off = part.double() - near
        first += off.sum(0)
        second += off.square().sum(0)
    off = first / len(x)
    return (second / len(x) - off.square()).clamp(min=0).sqrt().float(), (near + off).float()
