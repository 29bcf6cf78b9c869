"""Top-1 and cost beside scikit-learn's logistic regression on classes that overlap; its best C is
picked on test.
"""

import warnings
from typing import Any

from benchmarks.probes.linear import Linear
from benchmarks.profiling.speed.linear import split
from benchmarks.profiling.speed.pairs import Case
from ssvid.errors import UserError
from ssvid.shapes import Frozen

APART = 0.13  # scale of the centres: about half of the test clips are told right
CS = tuple(10 ** (i / 2) for i in range(-10, 1))  # 1e-5 to 1, the best of them within


def accuracy() -> Case:
    """Ours: the grid of 14, chosen on val, which it does not train on.

    Theirs: 11 values of C, the best on test.
    """
    try:
        import sklearn.linear_model  # noqa: F401
    except ImportError as error:
        raise UserError("The case accuracy needs scikit-learn: pip install -e '.[dev]'.") from error
    train, val, test = (
        split(rows, seed, APART) for rows, seed in ((10_000, 1), (2_000, 2), (20_000, 3))
    )
    results: dict[str, Any] = {}

    def ours() -> None:
        result = Linear().run(train, val, test, 0)
        results["ours_top1"], results["chosen"] = result.metrics["test/top1"], result.chosen

    def theirs() -> None:
        top1 = regression(train, test, CS)
        results["theirs_top1"] = max(top1.values())
        results["their_c"] = max(top1, key=lambda c: top1[c])

    return Case(
        ours,
        theirs,
        unit="CPU-seconds, every setting; top1 of 20 000 test clips",
        extras=lambda: results,
        pairs=1,
    )


def regression(
    train: Frozen, test: Frozen, cs: tuple[float, ...], pooling: str = "mean@last"
) -> dict[float, float]:
    """C -> top-1 on test. Standardised, as is usual; lbfgs to its end or 1000 steps."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scale = StandardScaler().fit(train.feats[pooling].numpy())
    x, x_test = (scale.transform(part.feats[pooling].numpy()) for part in (train, test))

    def score(c: float) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it did not converge, at the weakest penalties
            return float(
                LogisticRegression(C=c, max_iter=1000)
                .fit(x, train.labels.numpy())
                .score(x_test, test.labels.numpy())
            )

    return {c: score(c) for c in cs}
