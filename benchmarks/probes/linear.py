"""Linear probe: every (rate, weight decay) head of a pooling, trained in one batched pass.

- Features are standardised by train statistics and divided by sqrt(D). A clip then has a length of
  about 1, so one grid of rates serves every width. Features of more than `WHOLE` numbers, which may
  be float16 and memory-mapped, are standardised while they are read, so memory does not grow with
  them.
- The optimiser is SGD with damped momentum (so `rate` is the effective step), decoupled weight
  decay and a cosine rate to zero. The heads are one matrix D x (R Q). Their gradient is written
  out, because autograd only adds memory traffic; a test checks that the two are equal.
- At fp32 the two matrix products of a step are 80 % of its cost and run at the peak of the CPU, so
  only fewer heads can save time. At each of `rungs` the half of the heads that is worse on val
  stops (successive halving, arXiv:1502.07943).
- val chooses among pooling, rate and weight decay; test is read once.
- Where a clip may have several classes, each class is a logistic regression of its own.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
from ssvid.errors import check_positive
from ssvid.randomness import permutation
from ssvid.registry import probes
from ssvid.shapes import Frozen, Labels

CHUNK = 4096  # rows scored at once
WHOLE = 2**26  # numbers that are kept standardised in memory: 256 MB
SMALL = 3e7  # FLOPs of a step; below that one thread is enough


@dataclass
class Heads:
    """R heads of the grid, with the velocities of their momentum (which include the rate).

    D is the last axis in memory: the products of a step then cost 2 % (13 heads) to 8 % (one head)
    less.
    """

    weight: Float[Tensor, "R Q D"]
    bias: Float[Tensor, "R Q"]
    momentum_w: Float[Tensor, "R Q D"]
    momentum_b: Float[Tensor, "R Q"]
    rate: Float[Tensor, " R"]
    decay: Float[Tensor, " R"]
    grid_index: Int[Tensor, " R"]

    def select(self, indices: Int[Tensor, " K"]) -> "Heads":
        """Copies of some of the heads."""
        return Heads(*[tensor[indices] for tensor in list_tensors(self)])


@probes.register("linear")
class Linear(Probe):
    multi_label = True

    def __init__(
        self,
        *,
        # for clips of length 1
        rates: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
        weight_decays: tuple[float, ...] = (0.0, 1e-3),  # of the loss CE + decay / 2 |W|^2
        epochs: int = 20,  # passes over the train clips
        min_steps: int = 400,  # a small train split gets more epochs instead
        batch: int = 256,  # clips
        momentum: float = 0.9,  # of SGD
        # shares of the steps at which the worse half of the heads stops; () trains all to the end
        rungs: tuple[float, ...] = (0.25, 0.5),
    ) -> None:
        check_positive(
            epochs=epochs, min_steps=min_steps, batch=batch, rates=min(rates, default=0.0)
        )
        self.grid = list(product(rates, weight_decays))  # R
        self.epochs, self.min_steps, self.batch, self.momentum = epochs, min_steps, batch, momentum
        self.rungs = tuple(rungs)

    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        classes = check_splits(train, val, test, multi_label=True)
        grid: list[Setting] = []
        best: tuple[Setting, Standardizer, Tensor, Tensor] | None = None
        for pooling, feats in train.feats.items():
            standardizer = Standardizer(feats)
            x, x_val = standardizer.wrap(feats), standardizer.wrap(val.feats[pooling])
            heads, setting_scores = self.fit(x, train.labels, x_val, val.labels, classes, seed)
            settings: list[Setting] = []
            for (rate, decay), score in zip(self.grid, setting_scores, strict=True):
                setting = {"pooling": pooling, "dim": feats.shape[1], "rate": rate}
                settings.append({**setting, "weight_decay": decay, **score})
            grid += settings
            ranked = []
            for head, index in enumerate(heads.grid_index.tolist()):
                ranked.append((rank_setting(settings[index]), head, index))
            top, head, index = max(ranked)
            if best is None or top > rank_setting(best[0]):
                # w is taken through the layout D R Q, whose strides fix the rounding of scores.
                w = heads.weight.movedim(-1, 0)[:, head].clone()
                best = settings[index], standardizer, w, heads.bias[head].clone()
        assert best is not None, "there are no features to probe"
        chosen, standardizer, w, bias = best
        logits = standardizer.wrap(test.feats[chosen["pooling"]]) @ w + bias
        return make_result(logits, test.labels, chosen, grid)

    def fit(
        self,
        x: "Float[Tensor, 'S D'] | Rows",
        y: Labels,
        x_val: "Float[Tensor, 'V D'] | Rows",
        y_val: Labels,
        classes: int,
        seed: int,
    ) -> tuple[Heads, list[Setting]]:
        """Train a head for every setting of the grid, by successive halving.

        At each of `rungs` the half of the heads that is worse on val stops. Returns the heads that
        ran to the end, and of every setting its metric on val where it stopped and the share of the
        steps for which it was trained.
        """
        per_epoch = math.ceil(len(x) / self.batch)
        steps = per_epoch * max(self.epochs, math.ceil(self.min_steps / per_epoch))
        setting_scores: list[Setting] = [{} for _ in self.grid]
        heads, first = self.create_heads(x, classes), 0
        for share in (*self.rungs, 1.0):
            last = round(share * steps)
            train = partial(self.train_until, x, y, seed, first, last, steps)
            heads = run_in_threads(heads, x.shape[1] * self.batch, train)
            on_val, losses = evaluate(heads, x_val, y_val)  # of each head that is still trained
            for index, metric in zip(heads.grid_index.tolist(), on_val.tolist(), strict=True):
                setting_scores[index] = {f"val/{metric_name(y)}": metric, "trained": share}
            if share < 1:
                heads, first = heads.select(select_best_half(on_val, losses)), last
        return heads, setting_scores

    def train_until(
        self,
        x: "Tensor | Rows",
        y: Tensor,
        seed: int,
        first: int,
        last: int,
        steps: int,
        heads: Heads,
    ) -> None:
        """Train these heads in place, from step `first` up to step `last` (exclusive) of `steps`.

        With one head a third of the time of a step was not spent in its products. Therefore rates
        come from a table and batches go into one buffer.
        """
        per_epoch, order = math.ceil(len(x) / self.batch), None
        cosine = [0.5 + 0.5 * math.cos(math.pi * step / steps) for step in range(first, last)]
        rates = heads.rate[:, None] * heads.rate.new_tensor(cosine)[:, None, None]  # steps R 1
        # The decay is implicit, so it is stable at any rate.
        shrinks = 1 / (1 + rates * heads.decay[:, None])[..., None]
        scales = rates * (self.momentum - 1)
        buffer = heads.weight.new_empty(self.batch, heads.weight.shape[-1])
        for step, scale, shrink in zip(range(first, last), scales, shrinks, strict=True):
            epoch, i = divmod(step, per_epoch)
            if order is None or i == 0:
                order = permutation(seed, epoch, len(x)).to(y.device)
            rows = order[i * self.batch : (i + 1) * self.batch]
            batch = take_rows(x, rows, buffer[: len(rows)])
            self.update(heads, batch, y.index_select(0, rows), scale, shrink)

    def create_heads(self, x: "Tensor | Rows", classes: int) -> Heads:
        """A head of zeros for each setting of the grid."""
        template = x[:0]
        rate, decay = (template.new_tensor(column) for column in zip(*self.grid, strict=True))
        weight = template.new_zeros(len(rate), classes, x.shape[1])
        bias = template.new_zeros(len(rate), classes)
        grid_index = torch.arange(len(rate), device=template.device)
        return Heads(weight, bias, weight.clone(), bias.clone(), rate, decay, grid_index)

    def update(
        self,
        heads: Heads,
        x: Float[Tensor, "B D"],
        y: Labels,
        scale: Float[Tensor, "R 1"],
        shrink: Float[Tensor, "R 1 1"],
    ) -> None:
        """Make one step of every head, in place."""
        gradient = compute_gradient(compute_logits(heads, x), y).mul_(scale)  # B R Q
        momentum_w = heads.momentum_w.view(-1, x.shape[1])
        momentum_w.addmm_(gradient.flatten(1).T, x, beta=self.momentum)
        heads.momentum_b.mul_(self.momentum).add_(gradient.sum(0))
        torch.addcmul(heads.momentum_w, heads.weight, shrink, out=heads.weight)
        heads.bias += heads.momentum_b


def run_in_threads(heads: Heads, size: int, work: Callable[[Heads], None]) -> Heads:
    """The heads after `work`, which changes them in place. On a CPU each thread has its own heads.

    `size`: numbers of a batch of features. torch would share every product between its threads,
    which then wait for each other, spinning, several times a step: on a busy machine that took
    several times the CPU.
    """
    threads = torch.get_num_threads()
    is_large = 4 * size * heads.bias.numel() > SMALL and heads.weight.device.type == "cpu"
    count = min(threads, len(heads.grid_index)) * is_large or 1
    indices = heads.grid_index.new_tensor(range(len(heads.grid_index)))
    shards = [heads.select(chunk) for chunk in indices.tensor_split(count)]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(len(shards)) as pool:
            list(pool.map(work, shards))
    finally:
        torch.set_num_threads(threads)
    return Heads(*map(torch.cat, zip(*map(list_tensors, shards), strict=True)))


def list_tensors(heads: Heads) -> list[Tensor]:
    return [getattr(heads, field.name) for field in fields(heads)]


def take_rows(
    x: "Tensor | Rows", rows: Int[Tensor, " B"], buffer: Float[Tensor, "B D"]
) -> Float[Tensor, "B D"]:
    """x[rows]. Where x is in memory it goes into the buffer: half the time of new memory."""
    return torch.index_select(x, 0, rows, out=buffer) if isinstance(x, Tensor) else x[rows]


def compute_logits(heads: Heads, x: Float[Tensor, "B D"]) -> Float[Tensor, "B R Q"]:
    flat = x @ heads.weight.flatten(0, 1).T
    return flat.view(-1, *heads.bias.shape).add_(heads.bias)


def compute_gradient(logits: Float[Tensor, "B R Q"], y: Labels) -> Float[Tensor, "B R Q"]:
    """d cross_entropy / d logits for each head, averaged over the batch: (softmax - onehot) / B.

    Where a clip may have several classes, the loss is the binary cross-entropy summed over the
    classes, and this is (sigmoid - y) / B.
    """
    if y.ndim == 2:
        return logits.sigmoid().sub_(y[:, None].float()).mul_(1 / len(y))
    gradient = logits.softmax(-1)
    label = y[:, None, None].expand(-1, gradient.shape[1], 1)
    minus_one = gradient.new_full((1,), -1).expand_as(label)
    return gradient.scatter_add_(-1, label, minus_one).mul_(1 / len(y))


def evaluate(heads: Heads, x: "Float[Tensor, 'S D'] | Rows", y: Labels) -> tuple[Tensor, Tensor]:
    """(metric, loss) of each head. A head that diverged has 0 and infinity."""
    if y.ndim == 2:
        return evaluate_multi_label(heads, x, y)
    correct = torch.zeros(len(heads.bias), dtype=torch.float64, device=y.device)
    loss = torch.zeros_like(correct)
    for x_chunk, y_chunk in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        logits = compute_logits(heads, x_chunk)  # S R Q
        correct += (logits.argmax(-1) == y_chunk[:, None]).double().sum(0)
        # A class that train lacks has no logit. Its clips count as wrong and add no loss.
        in_train = y_chunk < logits.shape[-1]
        if not in_train.all():
            logits, y_chunk = logits[in_train], y_chunk[in_train]
        label = repeat(y_chunk, "S -> S R 1", R=len(heads.bias))
        loss -= logits.log_softmax(-1).gather(-1, label)[..., 0].double().sum(0)
    finite = heads.weight.flatten(1).isfinite().all(1)
    accuracy = torch.where(finite, correct / len(y), 0.0)
    return accuracy, torch.where(finite & loss.isfinite(), loss, torch.inf)


def evaluate_multi_label(
    heads: Heads, x: "Float[Tensor, 'S D'] | Rows", y: Bool[Tensor, "S Q"]
) -> tuple[Tensor, Tensor]:
    """(mean average precision, loss) of each head.

    The heads are scored one after the other, because a ranking needs the scores of all clips.
    """
    values, losses = [], []
    weights = heads.weight.movedim(-1, 0)  # D R Q
    for r in range(len(heads.bias)):
        chunks = [torch.addmm(heads.bias[r], chunk, weights[:, r]) for chunk in x.split(CHUNK)]
        logits = torch.cat(chunks)
        value, loss = 0.0, math.inf
        if logits.isfinite().all():
            value = compute_metric(logits, y)
            loss = F.binary_cross_entropy_with_logits(logits, y.float()).item()
        values.append(value)
        losses.append(loss)
    return torch.tensor(values, dtype=torch.float64), torch.tensor(losses, dtype=torch.float64)


def select_best_half(score: Float[Tensor, " R"], loss: Float[Tensor, " R"]) -> Int[Tensor, " K"]:
    """Indices of the better half of the heads.

    They are ordered by score, and among equals by loss: scores on a small val split often tie.
    """
    order = sorted(range(len(score)), key=lambda i: (-score[i].item(), loss[i].item()))
    return torch.tensor(sorted(order[: math.ceil(len(order) / 2)]), device=score.device)


def rank_setting(setting: Setting) -> tuple[float | int, ...]:
    """Best on val. Among equals the simpler: narrower, more decay, smaller rate."""
    return read_val_score(setting), -setting["dim"], setting["weight_decay"], -setting["rate"]


class Standardizer:
    """Features -> the coordinates in which a head is trained, fixed by the train split alone.

    Where clips are few and features wide (S < D / 2), the coordinates are the span of the train
    clips. Gradient descent from zero never leaves that span, so the heads are the same (up to
    rounding) and 30 000 columns cost what a few hundred do.
    """

    def __init__(self, train: Float[Tensor, "S D"]) -> None:
        if train.numel() > WHOLE:
            self.std, self.mean = measure_in_chunks(train)
        else:
            self.std, self.mean = torch.std_mean(train.float(), dim=0, correction=0)
        self.std.clamp_(min=1e-6).mul_(math.sqrt(train.shape[1]))
        self.span: Tensor | None = None  # D S
        if len(train) < train.shape[1] // 2:
            self.span = torch.linalg.qr(self(train).T).Q

    def __call__(self, feats: Float[Tensor, "S D"]) -> Float[Tensor, "S K"]:
        x = (feats.float() - self.mean) / self.std
        return x if self.span is None else x @ self.span

    def wrap(self, feats: Float[Tensor, "S D"]) -> "Float[Tensor, 'S K'] | Rows":
        """Standardised features; where these would fill the memory, Rows."""
        if self.span is None and feats.numel() > WHOLE:
            return Rows(self, feats)
        return self(feats)


class Rows:
    """Features as they are stored, of which rows are standardised when they are read."""

    def __init__(self, standardizer: Standardizer, feats: Float[Tensor, "S D"]) -> None:
        self.standardizer, self.feats, self.shape = standardizer, feats, feats.shape

    def __len__(self) -> int:
        return len(self.feats)

    def __getitem__(self, rows: Int[Tensor, " B"] | slice) -> Float[Tensor, "B D"]:
        return self.standardizer(self.feats[rows])

    def split(self, size: int) -> Iterator[Float[Tensor, "B D"]]:
        return (self[start : start + size] for start in range(0, len(self), size))

    def __matmul__(self, w: Float[Tensor, "D Q"]) -> Float[Tensor, "S Q"]:
        return torch.cat([chunk @ w for chunk in self.split(CHUNK)])


def measure_in_chunks(x: Float[Tensor, "S D"]) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """(std, mean), computed chunk by chunk in double precision around the first chunk's mean."""
    near = x[:CHUNK].double().mean(0)
    first, second = torch.zeros_like(near), torch.zeros_like(near)
    for chunk in x.split(CHUNK):
        offset = chunk.double() - near
        first += offset.sum(0)
        second += offset.square().sum(0)
    offset = first / len(x)
    return (second / len(x) - offset.square()).clamp(min=0).sqrt().float(), (near + offset).float()
