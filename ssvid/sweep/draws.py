"""the `random` part of a sweep file -> its draws, one mapping of flags to values each.

It checks that part and draws the values.
"""

import math
from typing import Any

from ssvid.errors import UserError

MAX_DRAWS = 20_000


def draw_settings(content: Any, path: str) -> list[dict[str, Any]]:
    """The draws of `random` in the sweep file `path`; one empty draw if it has no such part.

    UserError: the part has no count or no axis, or an axis has a bad range.
    """
    if content is None:
        return [{}]
    content = content if isinstance(content, dict) else {}
    axes = dict(content)
    axes.pop("count", None)
    axes.pop("seed", None)
    count, seed = content.get("count"), content.get("seed", 0)
    is_count = isinstance(count, int) and 1 <= count <= MAX_DRAWS
    if not axes or not is_count or not isinstance(seed, int):
        raise UserError(
            f"The sweep {path}: `random` needs the `count` of its draws (at most "
            f"{MAX_DRAWS}) and at least one axis; "
            "`seed` is optional and a whole number."
        )
    columns = {}
    for axis, distribution in axes.items():
        columns[axis] = draw_axis(distribution, axis, seed, count, path)
    draws = []
    for i in range(count):
        draws.append({axis: column[i] for axis, column in columns.items()})
    return draws


def draw_axis(distribution: Any, axis: str, seed: int, count: int, path: str) -> list[Any]:
    """The `count` values of one axis.

    They are drawn by the coordinates (seed, axis, number). So a larger count begins with the same
    values as a smaller one.
    """
    from ssvid.randomness import uniform

    kind, values = check_distribution(distribution, axis, path)
    import torch

    shares = uniform(seed, f"sweep {axis}", 0, torch.arange(count), 1)[:, 0].double().tolist()
    return [pick_value(kind, values, u) for u in shares]


def pick_value(kind: str, values: list[Any], u: float) -> Any:
    """The value of a distribution at the share `u`, which is uniform in [0, 1)."""
    if kind == "choice":
        return values[int(u * len(values))]
    low, high = values
    if kind == "integers":
        return int(low) + int(u * (int(high) - int(low) + 1))
    if kind == "log":
        return float(f"{math.exp(math.log(low) + u * math.log(high / low)):.6g}")
    return float(f"{low + u * (high - low):.6g}")


def check_distribution(distribution: Any, axis: str, path: str) -> tuple[str, list[Any]]:
    """The kind of a distribution and its values. UserError: it is none, or its range is bad."""
    kind, values = "", None
    if isinstance(distribution, dict) and len(distribution) == 1:
        kind, values = next(iter(distribution.items()))
    kinds = ("uniform", "log", "integers", "choice")
    if kind not in kinds or not isinstance(values, list) or not values:
        raise UserError(
            f"The sweep {path}: random.{axis} is one of uniform, log, integers: [LOW, HIGH] or "
            "choice: [...]."
        )
    if kind == "choice":
        return kind, values
    is_range = len(values) == 2 and all(isinstance(end, int | float) for end in values)
    if not is_range or values[0] > values[1] or (kind == "log" and values[0] <= 0):
        positive = " and above 0" if kind == "log" else ""
        raise UserError(
            f"The sweep {path}: random.{axis}.{kind} is [LOW, HIGH], with LOW first{positive}."
        )
    return kind, values
