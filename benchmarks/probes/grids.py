"""Grids that grow: a choice at the end of a grid asks whether the next value would be better."""

from collections.abc import Sequence

from benchmarks.probes.base import Setting, read_val_score

GROWTHS = 4  # values at most by which a grid grows


def find_next_value(settings: Sequence[Setting], chosen: Setting, name: str) -> float | None:
    """The value behind the end of the grid at which the choice lies; None where it lies inside.

    A choice that another value equals does not count as an end: on a small val split many settings
    tie. A grid of a single value is a decision of the user, and does not grow.
    """
    values = sorted({setting[name] for setting in settings})
    if len(values) < 2 or values[0] < chosen[name] < values[-1]:
        return None
    for setting in settings:
        differs = setting[name] != chosen[name]
        if differs and read_val_score(setting) >= read_val_score(chosen):
            return None
    if chosen[name] == values[-1]:
        return float(values[-1] * values[-1] / values[-2])
    return float(values[0] * values[0] / values[1])


def describe_edge(settings: Sequence[Setting], chosen: Setting, name: str) -> list[str]:
    """A sentence where the choice lies at the end of its grid, else nothing."""
    beyond = find_next_value(settings, chosen, name)
    if beyond is None:
        return []
    end = "largest" if beyond > chosen[name] else "smallest"
    return [
        f"The probe chose {name} {chosen[name]:g} for {chosen['pooling']}, the {end} that was "
        f"tried: a better {name} may lie beyond it."
    ]
