"""A list of rows -> both directions. What a layout is, and the only code that moves tensors between two sets of names.

"Ours" are the names of an objective's state dict: `encoder.*` and, where there is one, the decoder. A layout lists its
keys in the order in which the published code registers them; how many blocks there are is counted in the file.
"""

import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssvid.errors import UserError

State = dict[str, Tensor]
THIRDS = "qkv"  # ours is one product where theirs has three
# One tensor of theirs -> ours, and back.
WAYS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "same": (lambda x: x, lambda x: x),
    "flat": (lambda x: x.flatten(), lambda x: x.view(1, 1, -1)),
    "point": (lambda x: x.reshape(x.shape[:-3]), lambda x: x[..., None, None, None]),
    "turned": (lambda x: x.transpose(0, 1).contiguous(), lambda x: x.transpose(0, 1).contiguous()),
    "single": (lambda x: x.reshape(()), lambda x: x.reshape(1)),
}


class Row(NamedTuple):
    """One key of theirs. Two rows with the same `ours` are two names of one tensor: dropped inside, written twice; two
    with the same `theirs` are one that we hold twice.

    `how`: same | flat (theirs is 1 1 D, ours D) | point (theirs is a convolution of one place, A B 1 1 1, ours A B) |
    turned (theirs is A B, ours B A) | single (theirs is 1, ours a number) | q, k, v (theirs is that third of our rows)
    | joined (theirs is our `cls` on top of our `table`).
    """

    theirs: str
    ours: str
    how: str = "same"
    optional: bool = False  # all of its kind may be absent together


class Net(NamedTuple):
    """What the tensors are of, as far as they tell."""

    encoder: str | None  # registered name; None: there is none in it
    kwargs: dict[str, Any]
    objective: str | None = None
    settings: dict[str, Any] = {}  # of the objective
    untold: str = ""  # what no tensor tells and the user should know


@dataclass(frozen=True, kw_only=True)
class Layout:
    name: str
    title: str
    licence: str | None  # of the weights that were published in it
    mark: tuple[str, ...]  # keys that tell it from all others; `a|b`: one of them
    counted: tuple[
        tuple[str, str], ...
    ]  # (theirs, ours): `blocks.` counts blocks, a whole key is 1 or 0
    rows: Callable[..., list[Row]]  # of these counts
    describe: Callable[[State], Net]  # of tensors in our names
    positions: tuple[str, ...] = ()  # kinds that it has a place for, where nets have any
    wrapper: str | None = None  # entry of the published file that holds the tensors
    prefix: str = ""  # of every key in the published file
    # What no single row can say, of all tensors in our names: after they are read, and before they are written.
    arrive: Callable[[State], State] = dict
    leave: Callable[[State], State] = dict

    def marked(self, keys: Container[str], prefix: str = "") -> bool:
        return all(any(prefix + key in keys for key in mark.split("|")) for mark in self.mark)

    def of_theirs(self, keys: Iterable[str]) -> list[Row]:
        """All rows for these keys, without the optional ones of which nothing is there."""
        keys = set(keys)
        rows = self.rows(*(count(keys, theirs) for theirs, _ in self.counted))
        seen = {kind(row.theirs) for row in rows if row.theirs in keys}
        return [row for row in rows if not row.optional or kind(row.theirs) in seen]

    def of_ours(self, keys: Iterable[str]) -> list[Row]:
        keys = set(keys)
        rows = self.rows(*(count(keys, ours) for _, ours in self.counted))
        seen = {kind(row.ours) for row in rows if row.ours in keys}
        return [row for row in rows if not row.optional or kind(row.ours) in seen]

    def to_ours(self, theirs: State) -> State:
        """What is there, in our names; thirds that are not complete are left out."""
        ours: State = {}
        thirds: dict[str, list[Tensor]] = {}
        for row in self.of_theirs(theirs):
            if row.theirs not in theirs:
                continue
            x = theirs[row.theirs]
            if row.how == "joined":
                ours[f"{row.ours}.cls"], ours[f"{row.ours}.table"] = x[:, :1], x[:, 1:]
            elif row.how in THIRDS:
                ours.setdefault(row.ours, x)  # its place; the whole comes below
                thirds.setdefault(row.ours, []).append(x)
            elif row.ours not in ours:
                ours[row.ours] = WAYS[row.how][0](x)
            elif not torch.equal(ours[row.ours], WAYS[row.how][0](x)):
                raise UserError(
                    f"{row.theirs} should be the same tensor under a second name, but it differs."
                )
        for key, parts in thirds.items():
            if len({part.shape[1:] for part in parts}) == 1 and len(parts) == 3:
                ours[key] = torch.cat(parts)
            else:
                del ours[key]
        return self.arrive(ours)

    def to_theirs(self, ours: State) -> State:
        """Their names in their order."""
        theirs: State = {}
        ours = self.leave(ours)
        for row in self.of_ours(ours):
            if row.how == "joined":
                theirs[row.theirs] = torch.cat(
                    [ours[f"{row.ours}.cls"], ours[f"{row.ours}.table"]], dim=1
                )
            elif row.how in THIRDS:
                theirs[row.theirs] = ours[row.ours].chunk(3)[THIRDS.index(row.how)].clone()
            elif row.theirs not in theirs:
                theirs[row.theirs] = WAYS[row.how][1](ours[row.ours])
            elif not torch.equal(theirs[row.theirs], WAYS[row.how][1](ours[row.ours])):
                raise UserError(f"{row.ours} differs from what a {self.title} holds as the same.")
        if not self.marked(theirs):
            lacking = next(
                mark for mark in self.mark if not any(key in theirs for key in mark.split("|"))
            )
            raise UserError(
                f"This is no {self.title}: there is nothing for {lacking.replace('|', ' or ')}."
            )
        return theirs


def our_keys(row: Row) -> list[str]:
    return [f"{row.ours}.cls", f"{row.ours}.table"] if row.how == "joined" else [row.ours]


def kind(key: str) -> str:
    """The same in every block."""
    return re.sub(r"\d+", "#", key)


def count(keys: set[str], what: str) -> int:
    if not what.endswith("."):
        return int(what in keys)
    return len({key[len(what) :].partition(".")[0] for key in keys if key.startswith(what)})


def both(theirs: str, ours: str, **more: Any) -> list[Row]:
    """`.weight` and `.bias`."""
    return [Row(f"{theirs}.{leaf}", f"{ours}.{leaf}", **more) for leaf in ("weight", "bias")]
