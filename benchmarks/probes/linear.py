"""Linear probe: gradient descent and closed-form ridge on every pooling; val takes the better.

- Features are standardised by train statistics to a length of about 1, so one grid of rates serves
  every width (standardizer.py). Where a few directions hold more variance than all others
  together, a second version, whose dominant directions are shrunk, competes on val.
- Solver `sgd`: damped momentum (so `rate` is the effective step), decoupled weight decay and a
  cosine rate to zero. All heads of the grid are trained in one batched pass (heads.py). At fp32 the
  two matrix products of a step are 80 % of its cost and run at the peak of the CPU, so only fewer
  heads can save time. At each of `rungs` the half of the heads that is worse on val stops
  (successive halving, arXiv:1502.07943).
- Solver `ridge`: least squares with a penalty, in closed form (ridge.py).
- val chooses among solver, pooling, shrinking and the solver's settings; test is read once. A
  choice at the end of the rates or of the lambdas makes that grid grow (grids.py).
- Where a clip may have several classes, each class is a regression of its own.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
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
from benchmarks.probes.directions import count_dominant
from benchmarks.probes.grids import GROWTHS, describe_edge, find_next_value
from benchmarks.probes.heads import (
    Heads,
    compute_gradient,
    compute_logits,
    evaluate,
    run_in_threads,
    select_best_half,
    take_rows,
)
from benchmarks.probes.ridge import LIMIT, decompose, fit_logits, has_room
from benchmarks.probes.standardizer import FREE_STD, LEAST_STD, Rows, Standardizer
from ssvid.errors import check_positive
from ssvid.randomness import permutation
from ssvid.registry import probes
from ssvid.shapes import Frozen, Labels

LEFT_OUT = f"It was left out: clips and columns are both more than {LIMIT}, or lambdas is ()."
SOLVERS = {"sgd": "rate", "ridge": "lambda"}  # the setting whose grid grows


class Problem(NamedTuple):
    """One version of one pooling, in the coordinates in which heads are trained."""

    # Pooling, dim, shrunk and least_std: the entries of a setting that name the version.
    features: Setting
    standardizer: Standardizer
    x: "Tensor | Rows"
    y: Labels
    x_val: "Tensor | Rows"
    y_val: Labels
    classes: int
    seed: int


class Head(NamedTuple):
    """A trained head and its setting, with its score on val."""

    setting: Setting
    standardizer: Standardizer
    weight: Float[Tensor, "K Q"]
    bias: Float[Tensor, " Q"]

    def score(self, feats: Float[Tensor, "S D"]) -> Float[Tensor, "S Q"]:
        """Logits. Those of ridge are scaled as its setting says."""
        logits = self.standardizer.wrap(feats) @ self.weight + self.bias
        return logits * self.setting.get("scale", 1.0) + self.setting.get("offset", 0.0)


@probes.register("linear")
class Linear(Probe):
    multi_label = True

    def __init__(
        self,
        *,
        # for clips of length 1
        rates: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
        weight_decays: tuple[float, ...] = (0.0, 1e-3),  # of the loss CE + decay / 2 |W|^2
        # penalties of ridge, in mean eigenvalues; () leaves ridge out
        lambdas: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0),
        epochs: int = 20,  # passes over the train clips
        min_steps: int = 400,  # a small train split gets more epochs instead
        batch: int = 256,  # clips
        momentum: float = 0.9,  # of SGD
        # shares of the steps at which the worse half of the heads stops; () trains all to the end
        rungs: tuple[float, ...] = (0.25, 0.5),
    ) -> None:
        check_positive(
            epochs=epochs,
            min_steps=min_steps,
            batch=batch,
            rates=min(rates, default=0.0),
            lambdas=min(lambdas, default=1.0),
        )
        self.grid = list(product(rates, weight_decays))  # R
        self.lambdas, self.weight_decays = tuple(lambdas), tuple(weight_decays)
        self.epochs, self.min_steps, self.batch, self.momentum = epochs, min_steps, batch, momentum
        self.rungs = tuple(rungs)

    def run(self, train: Frozen, val: Frozen, test: Frozen, seed: int) -> ProbeResult:
        classes = check_splits(train, val, test, multi_label=True)
        grids: dict[str, list[Setting]] = {name: [] for name in SOLVERS}
        best: dict[str, Head] = {}
        for pooling in train.feats:
            dominant = count_dominant(train.feats[pooling])
            for shrunk in sorted({0, dominant}):
                version = {"pooling": pooling, "shrunk": shrunk, "least_std": LEAST_STD}
                problem = build_problem(train, val, version, classes, seed)
                for solver in self.choose_solvers(problem, dominant):
                    self.try_values(problem, solver, None, grids, best)
                if problem.standardizer.holds_columns_back and self.lambdas and has_room(problem.x):
                    version["least_std"] = FREE_STD
                    problem = build_problem(train, val, version, classes, seed)
                    self.try_values(problem, "ridge", None, grids, best)
        assert best, "there are no features to probe"
        for solver, name in SOLVERS.items():
            self.grow_grid(train, val, seed, solver, name, grids, best)
        ranks = {solver: rank_solver(head.setting) for solver, head in best.items()}
        head = best[max(ranks, key=lambda solver: ranks[solver])]
        solver = head.setting["solver"]
        setting = {**head.setting, "solvers": describe_solvers(best)}
        if solver == "ridge":
            val_scores = head.score(val.feats[setting["pooling"]])
            setting["scale"], setting["offset"] = fit_logits(val_scores, val.labels)
        scores = head._replace(setting=setting).score(test.feats[setting["pooling"]])
        result = make_result(scores, test.labels, setting, grids["sgd"] + grids["ridge"])
        warnings = describe_edge(grids[solver], setting, SOLVERS[solver])
        return result._replace(warnings=warnings)

    def choose_solvers(self, problem: Problem, dominant: int) -> list[str]:
        """`dominant`: directions of this pooling whose variance may be shrunk.

        Gradient descent is dear, and behind dominant directions it learns slowly. So it learns
        their unshrunk version only where ridge, which learns that one well, has no room.
        """
        can_shrink = dominant > problem.features["shrunk"]
        if can_shrink and self.lambdas and has_room(problem.x):
            return ["ridge"]
        return list(SOLVERS)

    def refit(self, train: Frozen, test: Frozen, chosen: Setting, seed: int) -> ProbeResult:
        classes = check_splits(train, None, test, multi_label=True)
        feats = train.feats[chosen["pooling"]]
        standardizer = Standardizer(feats, chosen["shrunk"], chosen["least_std"])
        x = standardizer.wrap(feats)
        if chosen["solver"] == "ridge":
            weight, bias = decompose(x, train.labels, classes).compute_weight(chosen["lambda"])
        else:
            heads = self.create_heads(x, classes, [(chosen["rate"], chosen["weight_decay"])])
            steps = self.count_steps(len(x))
            work = partial(self.train_until, x, train.labels, seed, 0, steps, steps)
            heads = run_in_threads(heads, x.shape[1] * self.batch, work)
            weight, bias = heads.weight[0].T, heads.bias[0]
        head = Head(chosen, standardizer, weight, bias)
        scores = head.score(test.feats[chosen["pooling"]])
        return make_result(scores, test.labels, chosen, [chosen])

    def grow_grid(
        self,
        train: Frozen,
        val: Frozen,
        seed: int,
        solver: str,
        name: str,
        grids: dict[str, list[Setting]],
        best: dict[str, Head],
    ) -> None:
        """Try values beyond the end of a solver's grid while its choice lies there."""
        for _ in range(GROWTHS):
            if solver not in best:
                return
            chosen = best[solver].setting
            value = find_next_value(grids[solver], chosen, name)
            if value is None:
                return
            classes = len(best[solver].bias)
            problem = build_problem(train, val, chosen, classes, seed)
            self.try_values(problem, solver, value, grids, best)

    def try_values(
        self,
        problem: Problem,
        solver: str,
        value: float | None,
        grids: dict[str, list[Setting]],
        best: dict[str, Head],
    ) -> None:
        """Add a solver's settings to its grid, and keep the best head.

        `value`: of the rate or lambda; None: the whole grid.
        """
        if solver == "sgd":
            grid = self.grid if value is None else [(value, decay) for decay in self.weight_decays]
            settings, heads = self.solve_by_sgd(problem, grid)
        else:
            settings, heads = solve_by_ridge(problem, self.lambdas if value is None else (value,))
        grids[solver] += settings
        for head in heads:
            if solver not in best or rank_setting(head.setting) > rank_setting(
                best[solver].setting
            ):
                best[solver] = head

    def solve_by_sgd(
        self, problem: Problem, grid: list[tuple[float, float]]
    ) -> tuple[list[Setting], list[Head]]:
        """Every setting with its score on val, and the best head."""
        x, y, x_val, y_val = problem.x, problem.y, problem.x_val, problem.y_val
        heads, scores = self.fit(x, y, x_val, y_val, problem.classes, problem.seed, grid)
        settings: list[Setting] = []
        for (rate, decay), score in zip(grid, scores, strict=True):
            setting = {"solver": "sgd", **problem.features, "rate": rate, "weight_decay": decay}
            settings.append({**setting, **score})
        ranked = []
        for head, index in enumerate(heads.grid_index.tolist()):
            ranked.append((rank_setting(settings[index]), head, index))
        _, head, index = max(ranked)
        # w is taken through the layout D R Q, whose strides fix the rounding of scores.
        weight = heads.weight.movedim(-1, 0)[:, head].clone()
        best = Head(settings[index], problem.standardizer, weight, heads.bias[head].clone())
        return settings, [best]

    def fit(
        self,
        x: "Float[Tensor, 'S D'] | Rows",
        y: Labels,
        x_val: "Float[Tensor, 'V D'] | Rows",
        y_val: Labels,
        classes: int,
        seed: int,
        grid: list[tuple[float, float]] | None = None,
    ) -> tuple[Heads, list[Setting]]:
        """Train a head for every setting of the grid, by successive halving.

        At each of `rungs` the half of the heads that is worse on val stops. Returns the heads that
        ran to the end, and of every setting its metric on val where it stopped and the share of the
        steps for which it was trained. `grid`: (rate, weight decay) pairs; None: the probe's own.
        """
        grid = self.grid if grid is None else grid
        steps = self.count_steps(len(x))
        setting_scores: list[Setting] = [{} for _ in grid]
        heads, first = self.create_heads(x, classes, grid), 0
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

    def count_steps(self, rows: int) -> int:
        per_epoch = math.ceil(rows / self.batch)
        return per_epoch * max(self.epochs, math.ceil(self.min_steps / per_epoch))

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

    def create_heads(
        self, x: "Tensor | Rows", classes: int, grid: list[tuple[float, float]]
    ) -> Heads:
        """A head of zeros for each setting of the grid."""
        template = x[:0]
        rate, decay = (template.new_tensor(column) for column in zip(*grid, strict=True))
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


def build_problem(train: Frozen, val: Frozen, version: Setting, classes: int, seed: int) -> Problem:
    """`version`: pooling, shrunk and least_std of a setting."""
    pooling = version["pooling"]
    feats = train.feats[pooling]
    standardizer = Standardizer(feats, version["shrunk"], version["least_std"])
    features = {"pooling": pooling, "dim": feats.shape[1], "shrunk": version["shrunk"]}
    return Problem(
        features={**features, "least_std": version["least_std"]},
        standardizer=standardizer,
        x=standardizer.wrap(feats),
        y=train.labels,
        x_val=standardizer.wrap(val.feats[pooling]),
        y_val=val.labels,
        classes=classes,
        seed=seed,
    )


def solve_by_ridge(problem: Problem, lambdas: Sequence[float]) -> tuple[list[Setting], list[Head]]:
    """Every penalty with its score on val, and the best head.

    There are none where both clips and columns are too many for an eigen-decomposition.
    """
    if not lambdas or not has_room(problem.x):
        return [], []
    ridge = decompose(problem.x, problem.y, problem.classes)
    on_val = ridge.project(problem.x_val)
    settings: list[Setting] = []
    for penalty in lambdas:
        score = compute_metric(ridge.score(on_val, penalty), problem.y_val)
        setting = {"solver": "ridge", **problem.features, "lambda": penalty}
        settings.append({**setting, f"val/{metric_name(problem.y)}": score})
    best = max(settings, key=rank_setting)
    return settings, [Head(best, problem.standardizer, *ridge.compute_weight(best["lambda"]))]


def describe_solvers(best: dict[str, Head]) -> dict[str, Any]:
    """The best setting of each solver, or why it has none."""
    described: dict[str, Any] = {}
    for solver in SOLVERS:
        described[solver] = best[solver].setting if solver in best else LEFT_OUT
    return described


def rank_setting(setting: Setting) -> tuple[float | int, ...]:
    """Best on val. Among equals the simpler: narrower, fewer directions shrunk, more decay."""
    rank = (read_val_score(setting), -setting["dim"], -setting["shrunk"])
    if setting["solver"] == "ridge":
        return *rank, setting["lambda"]
    return *rank, setting["weight_decay"], -setting["rate"]


def rank_solver(setting: Setting) -> tuple[float | int, ...]:
    """Best on val. Among equals the narrower, then gradient descent, whose scores are logits."""
    return read_val_score(setting), -setting["dim"], setting["solver"] == "sgd"
