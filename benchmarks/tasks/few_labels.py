"""What the tasks of few labels share: the answers of each draw, and the floor of pixels."""

from collections import Counter
from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.probes.few_labels import RULES, answer_draws
from benchmarks.probes.perceptron import Perceptron
from benchmarks.tasks.base import Answer, Row
from benchmarks.tasks.floor import run_floor
from ssvid.errors import UserError

SELECTION = "leave-one-out"  # in the hash: before, settings were chosen on val
LEAST_DRAWS = 20  # the draw of the labels is a source of chance, and needs a spread of its own


def check_draws(task: str, draws: int) -> None:
    if draws < LEAST_DRAWS:
        raise UserError(
            f"{task}: draws {draws} is too few to tell the chance of the draw: give {LEAST_DRAWS} "
            "or more."
        )


def describe_draws(draws: Float[Tensor, "D S"]) -> dict[str, float]:
    top1 = draws.mean(1)
    return {"top1": top1.mean().item(), "std_over_draws": top1.std().item()}


class FewLabels:
    """One row of a task of few labels.

    The floor's descriptor and probe are those that it chose with all labels, which is fixed
    beforehand for every draw; they are trained on the few.
    """

    def __init__(self, rule: str, bench: Bench, source: str) -> None:
        self.rule, self.seed, self.floor = rule, bench.seed, None
        self.train, self.test = bench.get_frozen(source, "train"), bench.get_frozen(source, "test")
        if source.startswith("pixels"):
            val = bench.get_frozen(source, "val")
            self.floor = run_floor(bench, self.train, val, self.test).chosen
            pooling = self.floor["pooling"]
            self.train = self.train._replace(feats={pooling: self.train.feats[pooling]})
            self.test = self.test._replace(feats={pooling: self.test.feats[pooling]})
            self.rule = self.floor["probe"]

    def answer_draws(self, draws: Sequence[Int[Tensor, " n"]]) -> Answer:
        """The right answers of each draw; `draws`: rows of the labelled train clips."""
        details: Row = {} if self.floor is None else {"chosen": self.floor}
        if self.rule in RULES:
            answers = answer_draws(self.rule, self.train, self.test, draws)
            predictions = answers.predictions
            # pooling -> in how many draws it was chosen
            details["poolings"] = dict(Counter(s["pooling"] for s in answers.settings))
        else:  # the floor's perceptron
            assert self.floor is not None
            predictions = Perceptron().answer_draws(
                self.train, self.test, draws, self.floor, self.seed
            )
        correct = (predictions == self.test.labels).double()  # D S
        return Answer(correct.mean(0), None, details, draws=correct)
