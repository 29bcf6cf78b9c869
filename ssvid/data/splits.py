"""rows -> the same rows in train, val and test.

Makes the splits that a list lacks. Whole groups are moved, so that clips of one film or person are
never in two splits.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import attrgetter

from ssvid.shapes import Row

# A split's names in lists and of folders -> its name here.
SPLIT_OF_NAME = {
    **dict.fromkeys(("train", "training", "1"), "train"),  # the numbers are those of HMDB51
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "2"), "test"),
}
HELD_OUT = 0.2  # of the train groups, where a list has no val (or no test)


def fill_splits(rows: tuple[Row, ...], hold_out: bool) -> tuple[Row, ...]:
    """Rows with a test and a val, as far as the list allows.

    A list without a test: its val becomes the test. A list without a val then: a fifth of the train
    groups becomes val. A list of train rows only stays as it is, unless `hold_out` asks for a test
    and a val from it.
    """
    listed = splits_of(rows)
    if listed == {"train"}:
        rows = hold_out_groups(rows, "test") if hold_out else rows
    elif "test" not in listed:
        rows = tuple(replace(row, split="test") if row.split == "val" else row for row in rows)
    present = splits_of(rows)
    return rows if present == {"train"} or "val" in present else hold_out_groups(rows, "val")


def splits_of(rows: Iterable[Row]) -> set[str]:
    return {row.split for row in rows}


def are_groups_single(rows: Sequence[Row]) -> bool:
    """Whether no group holds two clips, so that groups keep nothing in one split."""
    return len(set(map(attrgetter("group"), rows))) == len(rows)


def describe_change(before: tuple[Row, ...]) -> str:
    """Why `fill_splits` changed these rows, for the log."""
    listed = splits_of(before)
    if listed == {"train"}:
        return "the list has no splits, whole groups are held out"
    if "test" not in listed:
        return "the list has no test, val is the test and whole groups of train are val"
    return "the list has no val, whole groups of train are val"


def hold_out_groups(rows: Iterable[Row], split: str, share: float = HELD_OUT) -> tuple[Row, ...]:
    """Move about `share` of the train groups into another split.

    Whole groups are moved, chosen by the hash of their names. Each class with two groups or more
    keeps at least one on either side. Rows of other splits stay as they are. A clip of several
    classes counts for each of them, so that more than `share` may move.
    """
    rows = tuple(rows)
    groups: dict[str, set[str]] = defaultdict(set)  # class -> groups
    classes: dict[str, set[str]] = defaultdict(set)  # group -> classes
    for row in rows:
        if row.split == "train":
            for label in row.classes or {""}:
                groups[label].add(row.group)
                classes[row.group].add(label)
    moved: set[str] = set()
    # Counts and not sets of groups: with 240k groups of no class, sets are too slow.
    left = dict(zip(groups, map(len, groups.values()), strict=True))
    for label in sorted(groups):
        candidates = sorted(groups[label], key=lambda group: _hash_group(split, group))
        n = len(candidates)
        n_moved = max(1, round(share * n)) if n > 1 else 0
        for group in candidates:
            if n - left[label] >= n_moved:
                break
            if group not in moved and all(left[name] > 1 for name in classes[group]):
                moved.add(group)
                for name in classes[group]:
                    left[name] -= 1
    held_out = []
    for row in rows:
        moves = row.split == "train" and row.group in moved
        held_out.append(replace(row, split=split) if moves else row)
    return tuple(held_out)


def _hash_group(split: str, group: str) -> str:
    return hashlib.sha256(f"{split}/{group}".encode(errors="surrogateescape")).hexdigest()
