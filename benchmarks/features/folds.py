"""A column of the data set -> folds: every value of the column is test once (leave one group out).

Few people make a test of few groups, and a val of one person chooses badly. Here each clip is test
once, by probes that have seen none of its person.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from ssvid.data.manifest import Manifest
from ssvid.data.splits import HELD_OUT
from ssvid.errors import UserError

GROUP = "group"  # the column that every data set has
LEAST_FOLDS = 3  # one for test, one for val, one to learn from


def read_fold_names(data: Manifest, column: str) -> list[str]:
    """The fold of each row.

    Raises a UserError for an unknown column, too few folds, or a group that is in two folds.
    """
    names = []
    for row in data.rows:
        columns = {GROUP: row.group, **dict(row.columns)}  # a list's own column comes first
        if column not in columns:
            raise UserError(
                f"--folds {column}: the clip {row.path} has no such column; it has "
                f"{', '.join(sorted(columns))}."
            )
        names.append(columns[column])
    if len(set(names)) < LEAST_FOLDS:
        raise UserError(
            f"--folds {column}: the column has {len(set(names))} values, and at least "
            f"{LEAST_FOLDS} are needed: one for test, one for val, one to learn from."
        )
    folds_of_group: dict[str, set[str]] = defaultdict(set)
    for group, name in zip(data.groups, names, strict=True):
        folds_of_group[group].add(name)
    torn = sorted(group for group, folds in folds_of_group.items() if len(folds) > 1)
    if torn:
        raise UserError(
            f"--folds {column}: clips of the group {torn[0]} are in several folds: name a column "
            "that keeps groups whole."
        )
    return names


def group_by_fold(data: Manifest, names: Sequence[str]) -> Manifest:
    """The same clips, whose groups are the folds: what is tested together is one unit of chance."""
    pairs = zip(data.rows, names, strict=True)
    return replace(data, rows=tuple(replace(row, group=name) for row, name in pairs))


def count_val_folds(folds: int) -> int:
    """How many of the folds beside the test fold are val."""
    return max(1, math.floor(HELD_OUT * (folds - 1)))


def split_by_fold(data: Manifest, names: Sequence[str], fold: int) -> Manifest:
    """The data set with fold number `fold` (sorted by name) as its test.

    Val are the folds that follow it, about a fifth of the others.
    """
    order = sorted(set(names))
    behind = [*order[fold + 1 :], *order[:fold]]
    val = behind[: count_val_folds(len(order))]
    rows = []
    for row, name in zip(data.rows, names, strict=True):
        split = "test" if name == order[fold] else "val" if name in val else "train"
        rows.append(replace(row, split=split))
    return replace(data, rows=tuple(rows))
