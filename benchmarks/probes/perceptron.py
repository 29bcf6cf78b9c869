"""Small perceptron: one hidden layer on standardised features. All settings are trained together.

It is a part of the floor: a linear map cannot multiply two columns, such as the same place in two
frames, and this can. Settings start equal and see the same batches, so a setting gives the same
numbers alone as among others, up to rounding.
"""

import math
from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
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
from benchmarks.probes.standardizer import CHUNK, Rows, Standardizer
from ssvid.errors import check_positive
from ssvid.randomness import permutation
from ssvid.registry import probes
from ssvid.shapes import Frozen

BETAS, EPS = (0.9, 0.999), 1e-8  # of AdamW, as in torch
Layers = list[Tensor]  # w1, b1, w2, b2, each with an axis R of settings in front


@probes.register("perceptron")
class Perceptron(Probe):
    multi_label = True

    def __init__(
        self,
        *,
        hidden: int = 128,  # units of the hidden layer
        rates: tuple[float, ...] = (1e-3, 1e-2),  # of AdamW, at the top of the cosine
        weight_decays: tuple[float, ...] = (1e-2, 3.0),  # decoupled, as in AdamW
        epochs: int = 20,  # passes over the train clips
        min_steps: int = 100,  # a small train split gets more epochs instead
        batch: int = 128,  # clips
    ) -> None:
        smallest = min(rates, default=0.0)
        check_positive(
            hidden=hidden, epochs=epochs, min_steps=min_steps, batch=batch, rates=smallest
        )
        self.hidden, self.epochs, self.min_steps, self.batch = hidden, epochs, min_steps, batch
        self.grid = list(product(rates, weight_decays))

    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        classes = check_splits(train, val, test, multi_label=True)
        metric = f"val/{metric_name(train.labels)}"
        grid: list[Setting] = []
        best: tuple[Setting, Standardizer, Layers] | None = None
        for pooling, feats in train.feats.items():
            standardizer = Standardizer(feats)
            x, x_val = standardizer.wrap(feats), standardizer.wrap(val.feats[pooling])
            layers = self.fit(x, train.labels, classes, seed, self.grid)
            logits = score_clips(layers, x_val)
            for r, (rate, decay) in enumerate(self.grid):
                setting: Setting = {"pooling": pooling, "dim": feats.shape[1], "rate": rate}
                setting |= {"weight_decay": decay, metric: compute_metric(logits[r], val.labels)}
                grid.append(setting)
                if best is None or rank_setting(setting) > rank_setting(best[0]):
                    best = setting, standardizer, [layer[r : r + 1] for layer in layers]
        assert best is not None, "there are no features to probe"
        chosen, standardizer, layers = best
        scores = score_clips(layers, standardizer.wrap(test.feats[chosen["pooling"]]))[0]
        return make_result(scores, test.labels, chosen, grid)

    def refit(self, train: Frozen, test: Frozen, chosen: Setting, seed: int) -> ProbeResult:
        classes = check_splits(train, None, test, multi_label=True)
        feats = train.feats[chosen["pooling"]]
        standardizer = Standardizer(feats)
        setting = chosen["rate"], chosen["weight_decay"]
        layers = self.fit(standardizer.wrap(feats), train.labels, classes, seed, [setting])
        scores = score_clips(layers, standardizer.wrap(test.feats[chosen["pooling"]]))[0]
        return make_result(scores, test.labels, chosen, [chosen])

    def answer_draws(
        self,
        train: Frozen,
        test: Frozen,
        draws: Sequence[Int[Tensor, " n"]],
        chosen: Setting,
        seed: int,
    ) -> Int[Tensor, "D S"]:
        """The class of each test clip, by perceptrons that learn from a draw of train clips each.

        All draws are as large as each other. They are trained side by side, and features are
        standardised by all train clips, without their labels.
        """
        feats = train.feats[chosen["pooling"]]
        standardizer = Standardizer(feats)
        rows = torch.stack(list(draws))
        x, y = standardizer(feats)[rows], train.labels[rows]  # D n K, D n
        grid = [(chosen["rate"], chosen["weight_decay"])] * len(rows)
        layers = self.fit(x, y, int(train.labels.max()) + 1, seed, grid)
        return score_clips(layers, standardizer(test.feats[chosen["pooling"]])).argmax(-1)

    def fit(
        self,
        x: "Float[Tensor, '*R S K'] | Rows",
        y: Tensor,
        classes: int,
        seed: int,
        grid: list[tuple[float, float]],
    ) -> Layers:
        """Train every setting by AdamW. Clips and labels are shared, or each setting has its own.

        Gradient and step are written out on one matrix of all parameters: of networks this small
        autograd and an optimiser with groups take five times as long.
        """
        clips, dim = x.shape[-2:]
        start = self.initialise(dim, classes, seed)
        flat = torch.cat([layer.flatten() for layer in start]).repeat(len(grid), 1)  # R P
        layers = split_layers(flat, start)
        rate, decay = (flat.new_tensor(column)[:, None] for column in zip(*grid, strict=True))
        first, second = torch.zeros_like(flat), torch.zeros_like(flat)
        per_epoch = math.ceil(clips / self.batch)
        steps = per_epoch * max(self.epochs, math.ceil(self.min_steps / per_epoch))
        rows = torch.arange(clips)
        for step in range(steps):
            epoch, i = divmod(step, per_epoch)
            if per_epoch > 1 and i == 0:
                order = permutation(seed, epoch, clips)
            if per_epoch > 1:
                rows = order[i * self.batch : (i + 1) * self.batch]
            if isinstance(x, Tensor) and x.ndim == 3:
                batch, labels = x[:, rows], y[:, rows]
            else:
                batch, labels = x[rows], y[rows]
            gradient = compute_gradient(layers, batch, labels)
            first.lerp_(gradient, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            scale = rate * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            root = (second / (1 - BETAS[1] ** (step + 1))).sqrt_().add_(EPS)
            flat.mul_(1 - scale * decay)
            flat.sub_(first / root * (scale / (1 - BETAS[0] ** (step + 1))))
        return layers

    def initialise(self, dim: int, classes: int, seed: int) -> Layers:
        """Uniform weights in the bounds of nn.Linear, zero biases."""
        draw = torch.Generator().manual_seed(seed)
        layers: Layers = []
        for rows, columns in ((dim, self.hidden), (self.hidden, classes)):
            weight = torch.rand(rows, columns, generator=draw) * 2 - 1
            layers += [weight / math.sqrt(rows), torch.zeros(1, columns)]
        return layers


def split_layers(flat: Float[Tensor, "R P"], shapes: Layers) -> Layers:
    """Views of the parameters, in the shapes of one network."""
    parts = flat.split([layer.numel() for layer in shapes], 1)
    return [
        part.unflatten(1, tuple(layer.shape)) for part, layer in zip(parts, shapes, strict=True)
    ]


def compute_hidden(layers: Layers, x: Tensor) -> Float[Tensor, "R B H"]:
    """x has a mean square length of 1; times sqrt(K) its columns have a std of about 1."""
    return (x * math.sqrt(x.shape[-1]) @ layers[0] + layers[1]).relu_()


def compute_gradient(layers: Layers, x: Tensor, y: Tensor) -> Float[Tensor, "R P"]:
    """Of the loss averaged over clips: cross-entropy, or that of each class for tables of them."""
    hidden = compute_hidden(layers, x)
    logits = hidden @ layers[2] + layers[3]  # R B Q
    if y.dtype == torch.bool:
        slope = logits.sigmoid() - y.float()
    else:
        slope = logits.softmax(-1) - F.one_hot(y, logits.shape[-1])
    slope /= x.shape[-2]
    into_hidden = (slope @ layers[2].mT) * (hidden > 0)
    scaled = x.mT * math.sqrt(x.shape[-1])
    parts = [scaled @ into_hidden, into_hidden.sum(1), hidden.mT @ slope, slope.sum(1)]
    return torch.cat([part.flatten(1) for part in parts], 1)


def score_clips(layers: Layers, x: "Tensor | Rows") -> Float[Tensor, "R S Q"]:
    chunks = [compute_hidden(layers, chunk) @ layers[2] + layers[3] for chunk in x.split(CHUNK)]
    return torch.cat(chunks, 1)


def rank_setting(setting: Setting) -> tuple[float | int, ...]:
    """Best on val. Among equals the simpler: narrower, more decay, smaller rate."""
    return read_val_score(setting), -setting["dim"], setting["weight_decay"], -setting["rate"]
