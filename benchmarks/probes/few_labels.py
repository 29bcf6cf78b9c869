"""A few labelled clips, drawn many times: probes whose settings come from these few alone.

Val is not read. What a probe has to choose (the pooling, and a penalty or a number of neighbours)
is chosen by leave-one-out inside the few: each labelled clip is named by the others. Everything is
in kernel form: products of clips are computed once for each pooling, and a draw only indexes them.

With one clip a class nothing can be left out. The setting is then fixed beforehand: the narrowest
pooling (of an encoder `mean@last`), the penalty 1 (of ridge, in mean eigenvalues), one neighbour.

Features are standardised, or centred and made unit vectors, by the train clips without their
labels: every encoder has those.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from benchmarks.probes.base import Probe, Setting, check_splits
from benchmarks.probes.standardizer import Standardizer
from ssvid.errors import UserError
from ssvid.registry import probes
from ssvid.shapes import Frozen

LAMBDAS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)  # of ridge, in mean eigenvalues
FIXED_LAMBDA = 1.0
KS = (1, 3, 5, 10, 20, 50)  # of nearest neighbours; above the number of labelled clips: all
TEMPERATURE = 0.07  # of votes, as in the knn probe
WHOLE = 8192  # train clips whose products are kept: 256 MB; of more each draw computes its own


class Shots(NamedTuple):
    """The labelled clips of one draw, as products with each other and with the test clips."""

    gram: Float[Tensor, "n n"]
    cross: Float[Tensor, "S n"]
    labels: Int[Tensor, " n"]
    classes: int

    @property
    def can_leave_out(self) -> Bool[Tensor, " n"]:
        """Whether another labelled clip has the class of this one."""
        return self.labels.bincount(minlength=self.classes)[self.labels] > 1

    @property
    def one_hot(self) -> Float[Tensor, "n Q"]:
        return F.one_hot(self.labels, self.classes).to(self.gram.dtype)


class Outcome(NamedTuple):
    """The best setting of a rule on one pooling."""

    rank: tuple[float, ...]  # leave-one-out accuracy, and what decides among equals
    setting: Setting
    scores: Float[Tensor, "S Q"]


class Answers(NamedTuple):
    predictions: Int[Tensor, "D S"]
    settings: list[Setting]  # of each draw


def rank_by_leaving_out(shots: Shots, scores: Float[Tensor, "n Q"]) -> tuple[float, float]:
    """(accuracy, margin) of scores that each labelled clip gets from the others.

    The margin, by which the right class is above the best other one, decides among equals.
    """
    usable = shots.can_leave_out
    if not usable.any():
        return 0.0, 0.0
    scores, labels = scores[usable], shots.labels[usable]
    right = scores.gather(1, labels[:, None])[:, 0]
    others = scores.scatter(1, labels[:, None], -math.inf)
    margin = right - others.amax(1) if scores.shape[1] > 1 else right
    spread = scores.std().clamp(min=1e-12)
    return (margin > 0).double().mean().item(), (margin / spread).clamp(-3, 3).mean().item()


def learn_ridge(shots: Shots) -> Outcome:
    """Least squares to one-hot targets; the penalty by leave-one-out, in closed form."""
    n = len(shots.gram)
    column_mean = shots.gram.mean(0)
    gram = shots.gram - column_mean - column_mean[:, None] + column_mean.mean()
    cross = shots.cross - shots.cross.mean(1, keepdim=True) - column_mean + column_mean.mean()
    mean_y = shots.one_hot.mean(0)
    target = shots.one_hot - mean_y
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp(min=0)
    mean = max(values.mean().item(), 1e-12)
    product = vectors.T @ target
    penalties = LAMBDAS if shots.can_leave_out.any() else (FIXED_LAMBDA,)
    best: tuple[tuple[float, float], float] | None = None
    for penalty in penalties:
        share = values / (values + penalty * mean)
        smooth = vectors @ (share[:, None] * product)
        leverage = (vectors.square() @ share + 1 / n).clamp(max=1 - 1e-6)
        left_out = mean_y + target - (target - smooth) / (1 - leverage)[:, None]
        rank = rank_by_leaving_out(shots, left_out)
        if best is None or rank >= best[0]:  # among equals the stronger penalty
            best = rank, penalty
    assert best is not None
    rank, penalty = best
    weight = vectors @ (product / (values + penalty * mean)[:, None])
    return Outcome(rank, {"lambda": penalty}, cross @ weight + mean_y)


def learn_neighbours(shots: Shots) -> Outcome:
    """Votes of the k nearest labelled clips, weighted by exp(cosine / T)."""
    n = len(shots.gram)
    among = shots.gram.clone().fill_diagonal_(-math.inf)
    ks = sorted({min(k, n - 1) for k in KS}) if n > 1 and shots.can_leave_out.any() else [1]
    ranks = {k: rank_by_leaving_out(shots, count_votes(among, shots, k)) for k in ks}
    k = max(ranks, key=lambda k: (ranks[k], k))
    return Outcome(ranks[k], {"k": k}, count_votes(shots.cross, shots, k))


def count_votes(cosine: Float[Tensor, "S n"], shots: Shots, k: int) -> Float[Tensor, "S Q"]:
    similarity, index = cosine.topk(min(k, cosine.shape[1]), dim=1)
    votes = similarity.new_zeros(len(cosine), shots.classes)
    return votes.scatter_add(1, shots.labels[index], (similarity / TEMPERATURE).exp())


def learn_prototypes(shots: Shots) -> Outcome:
    """Cosine to each class's mean of unit features."""
    one_hot = shots.one_hot
    products = shots.gram @ one_hot  # n Q: of each clip with the sum of each class
    lengths = (one_hot * products).sum(0).clamp(min=1e-12)  # Q: squared, of each sum
    # Without the clip itself the sum of its own class is shorter.
    square = shots.gram.diagonal()[:, None]
    reduced = (lengths - 2 * products + square).clamp(min=1e-12)
    without = torch.where(
        one_hot > 0, (products - square) / reduced.sqrt(), products / lengths.sqrt()
    )
    scores = (shots.cross @ one_hot) / lengths.sqrt()
    absent = one_hot.sum(0) == 0
    rank = rank_by_leaving_out(shots, without.masked_fill(absent, -2.0))
    return Outcome(rank, {}, scores.masked_fill(absent, -2.0))


RULES: dict[str, Callable[[Shots], Outcome]] = {
    "prototypes": learn_prototypes,
    "linear": learn_ridge,
    "knn": learn_neighbours,
}


def find_rule(probe: Probe, task: str) -> str:
    """The name of the rule by which a probe learns from few labels.

    Raises a UserError for a probe without one, and for settings, which the few labels choose.
    """
    for name in RULES:
        kind = probes[name]
        if type(probe) is kind:
            if vars(probe) != vars(kind()):
                raise UserError(
                    f"{task}: the settings of the probe {name} are chosen inside the few labels; "
                    "leave out its `with`."
                )
            return name
    raise UserError(
        f"{task} takes the probes {', '.join(RULES)}: only they learn by leave-one-out."
    )


def answer_draws(
    rule: str, train: Frozen, test: Frozen, draws: Sequence[Int[Tensor, " n"]]
) -> Answers:
    """The class of each test clip by the labelled clips of each draw (rows of train)."""
    classes = check_splits(train, None, test)
    best: list[Outcome | None] = [None] * len(draws)
    for pooling in sorted(train.feats, key=lambda name: rank_pooling(name, train.feats[name])):
        products = Products(rule, train.feats[pooling], test.feats[pooling])
        for i, rows in enumerate(draws):
            shots = Shots(*products.select(rows), train.labels[rows], classes)
            outcome, previous = RULES[rule](shots), best[i]
            if previous is None or outcome.rank > previous.rank:  # among equals the narrower
                setting = {"pooling": pooling, **outcome.setting}
                best[i] = outcome._replace(setting=setting)
    outcomes = [outcome for outcome in best if outcome is not None]
    predictions = torch.stack([outcome.scores.argmax(1) for outcome in outcomes])
    return Answers(predictions, [outcome.setting for outcome in outcomes])


def rank_pooling(name: str, feats: Float[Tensor, "N D"]) -> tuple[int, bool]:
    """The narrowest comes first, and among equally wide ones that of the last layer."""
    return feats.shape[1], not name.endswith("@last")


class Products:
    """Inner products of the clips of one pooling, in the coordinates of a rule."""

    def __init__(self, rule: str, train: Float[Tensor, "N D"], test: Float[Tensor, "S D"]) -> None:
        if rule == "linear":
            standardizer = Standardizer(train, takes_span=False)
            self.x, self.queries = standardizer(train), standardizer(test)
        else:
            mean = train.float().mean(0)
            self.x = F.normalize(train.float() - mean, dim=1)
            self.queries = F.normalize(test.float() - mean, dim=1)
        self.whole = None
        if len(train) <= WHOLE:
            gram, cross = self.x @ self.x.T, self.queries @ self.x.T
            self.whole = gram.double(), cross.double()

    def select(self, rows: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
        """(n n, S n): of some train clips with each other, and of the test clips with them."""
        if self.whole is not None:
            return self.whole[0][rows[:, None], rows], self.whole[1][:, rows]
        labelled = self.x[rows]
        return (labelled @ labelled.T).double(), (self.queries @ labelled.T).double()
