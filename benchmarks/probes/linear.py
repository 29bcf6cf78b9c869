"""Linear probe: every (rate, weight decay) head of a pooling in one batched pass, val picks, test is read once.

Features are standardised by train statistics and divided by sqrt(D), so a clip has length about 1 and one grid of
rates serves every width. The heads are one matrix D x (R Q); the gradient is written out, as autograd only adds traffic
(a test holds the two equal). Optimiser: SGD with damped momentum (so `rate` is the effective step), decoupled weight
decay, cosine rate to zero. At fp32 the two products of a step are 80 % of the cost and run at the peak of the CPU, so
the one thing left to save is heads: the worse half on val leaves the race at each of `rungs` (successive halving,
arXiv:1502.07943). Features of more than `WHOLE` numbers, which may be float16 and memory-mapped, are standardised as
they are read: then memory does not grow with them.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.probe import Probe, ProbeResult, Setting, check, result
from ssvid.randomness import permutation
from ssvid.registry import probes
from ssvid.shapes import Frozen

CHUNK = 4096  # rows scored at once
WHOLE = 2**26  # numbers that are kept standardised in memory: 256 MB
SMALL = 3e7  # FLOPs of a step, under which one thread is enough


@dataclass
class Heads:
    """R heads side by side, with the velocities of their momentum (rate inside)."""

    w: Float[Tensor, "D R Q"]
    b: Float[Tensor, "R Q"]
    dw: Float[Tensor, "D R Q"]
    db: Float[Tensor, "R Q"]
    rate: Float[Tensor, "R"]
    decay: Float[Tensor, "R"]
    number: Int[Tensor, "R"]  # place in the grid

    def only(self, keep: Int[Tensor, "K"]) -> "Heads":
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return Heads(**{k: v.index_select(1 if v.ndim == 3 else 0, keep) for k, v in parts.items()})


@probes.register("linear")
class Linear(Probe):
    def __init__(
        self,
        *,
        rates: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),  # of clips of length 1
        weight_decays: tuple[float, ...] = (0.0, 1e-3),  # of the loss CE + decay / 2 |W|^2
        epochs: int = 20,
        min_steps: int = 400,  # a few hundred clips see more epochs
        batch: int = 256,  # clips
        momentum: float = 0.9,
        rungs: tuple[float, ...] = (0.25, 0.5),  # of the steps, where half of the heads leave; () keeps all to the end
    ) -> None:
        self.grid = [(rate, decay) for rate in rates for decay in weight_decays]  # R
        self.epochs, self.min_steps, self.batch, self.momentum = epochs, min_steps, batch, momentum
        self.rungs = tuple(rungs)

    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        classes, grid = check(train, val, test), []
        best: tuple[Setting, Basis, Tensor, Tensor] | None = None
        for pooling, feats in train.feats.items():
            basis = Basis(feats)
            x, x_val = basis.rows(feats), basis.rows(val.feats[pooling])
            heads, scores = self.fit(x, train.labels, x_val, val.labels, classes, seed)
            settings = [
                {"pooling": pooling, "dim": feats.shape[1], "rate": rate, "weight_decay": decay} | score
                for (rate, decay), score in zip(self.grid, scores, strict=True)
            ]
            grid += settings
            top, place, number = max((rank(settings[n]), place, n) for place, n in enumerate(heads.number.tolist()))
            if best is None or top > rank(best[0]):
                best = settings[number], basis, heads.w[:, place].clone(), heads.b[place].clone()
        assert best is not None, "there are no features to probe"
        chosen, basis, w, b = best
        return result(basis.rows(test.feats[chosen["pooling"]]) @ w + b, test.labels, chosen, grid)

    def fit(
        self,
        x: "Float[Tensor, 'S D'] | Rows",
        y: Int[Tensor, "S"],
        x_val: "Float[Tensor, 'V D'] | Rows",
        y_val: Int[Tensor, "V"],
        classes: int,
        seed: int,
    ) -> tuple[Heads, list[Setting]]:
        """The heads that ran to the end, and for each of the grid its top1 on val and the share of steps it had."""
        per_epoch = math.ceil(len(x) / self.batch)
        steps = per_epoch * max(self.epochs, math.ceil(self.min_steps / per_epoch))
        ends = [*(share for share in self.rungs), 1.0]
        scores: list[Setting] = [{} for _ in self.grid]
        heads, first = self.start(x, classes), 0
        for share in ends:
            last = round(share * steps)
            heads = in_threads(heads, x.shape[1] * self.batch, partial(self.leg, x, y, seed, first, last, steps))
            top1, loss = judge(heads, x_val, y_val)
            for number, value in zip(heads.number.tolist(), top1.tolist(), strict=True):
                scores[number] = {"val/top1": value, "trained": share}  # share of the steps
            if share < 1:
                heads, first = heads.only(best_half(top1, loss)), last
        return heads, scores

    def leg(self, x: "Tensor | Rows", y: Tensor, seed: int, first: int, last: int, steps: int, heads: Heads) -> None:
        """Steps first to last - 1 of these heads, in place."""
        per_epoch, order = math.ceil(len(x) / self.batch), None
        for step in range(first, last):
            epoch, i = divmod(step, per_epoch)
            if order is None or i == 0:
                order = permutation(seed, epoch, len(x)).to(y.device)
            now = order[i * self.batch : (i + 1) * self.batch]
            self.update(heads, x[now], y[now], 0.5 + 0.5 * math.cos(math.pi * step / steps))

    def start(self, x: "Tensor | Rows", classes: int) -> Heads:
        like = x[:0]
        rate, decay = (like.new_tensor(column) for column in zip(*self.grid, strict=True))
        w, b = like.new_zeros(x.shape[1], len(rate), classes), like.new_zeros(len(rate), classes)
        return Heads(w, b, w.clone(), b.clone(), rate, decay, torch.arange(len(rate), device=like.device))

    def update(self, heads: Heads, x: Float[Tensor, "B D"], y: Int[Tensor, "B"], cosine: float) -> None:
        """One step of every head, in place."""
        step = heads.rate * cosine
        g = gradient(logits(heads, x), y)  # B R Q
        g *= (self.momentum - 1) * step[:, None]
        heads.dw.flatten(1).addmm_(x.T, g.flatten(1), beta=self.momentum)
        heads.db.mul_(self.momentum).add_(g.sum(0))
        shrink = 1 / (1 + step * heads.decay)  # implicit: stable at any rate
        torch.addcmul(heads.dw, heads.w, repeat(shrink, "R -> R Q", Q=heads.b.shape[1]), out=heads.w)
        heads.b += heads.db


def in_threads(heads: Heads, size: int, work: Callable[[Heads], None]) -> Heads:
    """The heads after `work` in place. On a CPU each thread has some heads of its own.

    torch would share every product between its threads, and they wait for each other, spinning, several times a step:
    on a busy machine that took several times the CPU.
    """
    threads = torch.get_num_threads()
    busy = 4 * size * heads.b.numel() > SMALL and heads.w.device.type == "cpu"
    parts = heads.number.new_tensor(range(len(heads.number))).tensor_split(min(threads, len(heads.number)) * busy or 1)
    shards = [heads.only(part) for part in parts]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(len(shards)) as pool:
            list(pool.map(work, shards))
    finally:
        torch.set_num_threads(threads)
    joined = {f.name: [getattr(shard, f.name) for shard in shards] for f in fields(heads)}
    return Heads(**{k: torch.cat(v, dim=1 if v[0].ndim == 3 else 0) for k, v in joined.items()})


def logits(heads: Heads, x: Float[Tensor, "B D"]) -> Float[Tensor, "B R Q"]:
    flat = torch.addmm(heads.b.flatten(), x, heads.w.flatten(1))
    return rearrange(flat, "B (R Q) -> B R Q", R=len(heads.b))


def gradient(scores: Float[Tensor, "B R Q"], y: Int[Tensor, "B"]) -> Float[Tensor, "B R Q"]:
    """d cross_entropy / d scores for each head, averaged over the batch: (softmax - onehot) / B."""
    g = scores.softmax(-1)
    g[torch.arange(len(y), device=y.device), :, y] -= 1
    return g.div_(len(y))


def judge(heads: Heads, x: "Float[Tensor, 'S D'] | Rows", y: Int[Tensor, "S"]) -> tuple[Tensor, Tensor]:
    """(accuracy, loss) of each head; one that diverged has 0 and infinity."""
    right = torch.zeros(len(heads.b), dtype=torch.float64, device=y.device)
    loss = torch.zeros_like(right)
    for xs, ys in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        scores = logits(heads, xs)  # S R Q
        right += (scores.argmax(-1) == ys[:, None]).double().sum(0)
        known = ys < scores.shape[-1]  # a class that train lacks has no score: wrong, and no part of the loss
        label = repeat(ys[known], "S -> S R 1", R=len(heads.b))
        loss -= scores[known].log_softmax(-1).gather(-1, label)[..., 0].double().sum(0)
    good = heads.w.isfinite().all(0).all(-1)
    return torch.where(good, right / len(y), 0.0), torch.where(good & loss.isfinite(), loss, torch.inf)


def best_half(top1: Float[Tensor, "R"], loss: Float[Tensor, "R"]) -> Int[Tensor, "K"]:
    """Places of the better half: by accuracy, among equals by loss (accuracies on a small val tie often)."""
    order = sorted(range(len(top1)), key=lambda i: (-top1[i].item(), loss[i].item()))
    return torch.tensor(sorted(order[: math.ceil(len(order) / 2)]), device=top1.device)


def rank(setting: Setting) -> tuple[float | int, ...]:
    """Best on val; among equals the simpler: narrower, more decay, smaller steps."""
    return setting["val/top1"], -setting["dim"], setting["weight_decay"], -setting["rate"]


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

    def __getitem__(self, rows: Int[Tensor, "B"] | slice) -> Float[Tensor, "B D"]:
        return self.basis(self.feats[rows])

    def split(self, size: int) -> Iterator[Float[Tensor, "B D"]]:
        return (self[start : start + size] for start in range(0, len(self), size))

    def __matmul__(self, w: Float[Tensor, "D Q"]) -> Float[Tensor, "S Q"]:
        return torch.cat([part @ w for part in self.split(CHUNK)])


def std_mean(x: Float[Tensor, "S D"]) -> tuple[Float[Tensor, "D"], Float[Tensor, "D"]]:
    std, mean = torch.std_mean(x, dim=0, correction=0)
    return std, mean


def moments(x: Float[Tensor, "S D"]) -> tuple[Float[Tensor, "D"], Float[Tensor, "D"]]:
    """(std, mean) from parts, in double precision and around the mean of the first part."""
    near = x[:CHUNK].double().mean(0)
    first, second = torch.zeros_like(near), torch.zeros_like(near)
    for part in x.split(CHUNK):
        off = part.double() - near
        first += off.sum(0)
        second += off.square().sum(0)
    off = first / len(x)
    return (second / len(x) - off.square()).clamp(min=0).sqrt().float(), (near + off).float()
