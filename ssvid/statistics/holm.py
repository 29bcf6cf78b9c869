"""p-values of several differences -> the level at which each is tested (Holm 1979).

The smallest p is compared with ALPHA / n, the next with ALPHA / (n - 1), and so on until one fails.
The probability of one false "shown" or more among all n is then at most ALPHA.
"""

from collections.abc import Sequence

ALPHA = 0.05


def choose_levels(p_values: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """For each p the level at which it is tested; it is shown where p is at most its level.

    After the first that fails, all are tested at the level of that one. So a p that is not shown
    is always above its own level, and an interval at that level includes zero.
    """
    levels = [0.0] * len(p_values)
    failed: float | None = None
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        level = failed or alpha / (len(p_values) - rank)
        levels[index] = level
        if p_values[index] > level:
            failed = level
    return levels
