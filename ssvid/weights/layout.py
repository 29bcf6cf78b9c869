"""A list of rows -> the tensors of a checkpoint, renamed in either direction.

This file says what a layout is, and holds the only code that moves tensors between two sets of
names. "Ours" are the names of an objective's state dict: `encoder.*` and, where there is one, the
decoder. "Theirs" are the names of the published code. A layout lists its keys in the order in which
the published code registers them. The number of blocks is counted in the file.
"""

import re
from collections.abc import Callable, Collection, Container, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssvid.errors import UserError

State = dict[str, Tensor]
Conversion = Callable[[Tensor], Tensor]
QKV = "qkv"  # kinds of the rows that hold a third of our product of query, key and value
# Kind of a row -> how its tensor becomes ours, and how ours becomes theirs.
CONVERSIONS: dict[str, tuple[Conversion, Conversion]] = {
    "same": (lambda x: x, lambda x: x),
    "flat": (lambda x: x.flatten(), lambda x: x.view(1, 1, -1)),
    "point": (lambda x: x.reshape(x.shape[:-3]), lambda x: x[..., None, None, None]),
    "turned": (lambda x: x.transpose(0, 1).contiguous(), lambda x: x.transpose(0, 1).contiguous()),
    "single": (lambda x: x.reshape(()), lambda x: x.reshape(1)),
    "batched": (lambda x: x.squeeze(0), lambda x: x.unsqueeze(0)),
}


class Row(NamedTuple):
    """One key of theirs, the key of ours that it becomes, and how the tensor changes.

    Two rows with the same `ours` are two names of one tensor: we hold it once and write it twice.
    Two rows with the same `theirs` are one tensor that we hold twice.

    `kind` is one of
    - same: the tensor is unchanged
    - flat: theirs has the shape 1 1 D, ours D
    - point: theirs is a 1x1x1 convolution with the shape A B 1 1 1, ours has A B
    - turned: theirs has the shape A B, ours B A
    - single: theirs has the shape 1, ours is a scalar
    - batched: theirs has the shape 1 A B, ours A B
    - q, k, v: theirs is that third of the rows of ours
    - joined: theirs is our `cls` followed by our `table`
    """

    theirs: str
    ours: str
    kind: str = "same"
    optional: bool = False  # a file may lack the row, if it lacks it in every block


class Net(NamedTuple):
    """The encoder and the objective that tensors belong to, as far as the tensors show it."""

    encoder: str | None  # registered name; None: the file holds no encoder
    kwargs: dict[str, Any]  # arguments of the encoder
    objective: str | None = None
    settings: dict[str, Any] = {}  # arguments of the objective
    note: str = ""  # what no tensor shows and the user should know


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The names that one code base gives to the tensors of one kind of checkpoint."""

    name: str
    title: str
    licence: str | None  # of the weights that were published in this layout
    # Keys that tell this layout from all others. `a|b`: one of the two is enough.
    marker_keys: tuple[str, ...]
    # Pairs (theirs, ours) that are counted in a file: a prefix such as `blocks.` counts its blocks,
    # a whole key counts 1 or 0. The counts are the arguments of `make_rows`.
    counted_keys: tuple[tuple[str, str], ...]
    make_rows: Callable[..., list[Row]]
    describe: Callable[[State], Net]  # takes tensors in our names
    positions: tuple[str, ...] = ()  # kinds of position embeddings that it can hold; (): any
    wrapper: str | None = None  # entry of the published file that holds the tensors
    prefix: str = ""  # of every key in the published file
    ignored_keys: tuple[str, ...] = ()  # of files that hold more than weights
    ignored_prefixes: tuple[str, ...] = ()  # beginnings of keys of parts that we do not have
    # Why the file is no encoder by itself, and what takes its weights; None: it is one.
    only_a_start: str | None = None
    # The tensors in our names that a whole file of this net holds, on the meta device. The shapes
    # of the file are compared with them; None: they are not compared.
    list_parts: Callable[[Net, State], State] | None = None
    # Changes that no single row can express. These two take all tensors in their names, as the file
    # has them: before the rows read them, and after the rows wrote them.
    before_reading: Callable[[State], State] = dict
    after_writing: Callable[[State], State] = dict
    # These two take all tensors in our names: after they were read, and before they are written.
    after_reading: Callable[[State], State] = dict
    before_writing: Callable[[State], State] = dict

    def matches(self, keys: Container[str], prefix: str = "") -> bool:
        """Whether every marker is among the keys, which begin with `prefix`."""
        return all(has_any(marker, keys, prefix) for marker in self.marker_keys)

    def list_rows_of_theirs(self, keys: Iterable[str]) -> list[Row]:
        """All rows for these keys of theirs, less the optional rows that the keys lack."""
        prefixes = [theirs for theirs, _ in self.counted_keys]
        return self._list_rows(set(keys), prefixes, attrgetter("theirs"))

    def list_rows_of_ours(self, keys: Iterable[str]) -> list[Row]:
        """All rows for these keys of ours, less the optional rows that the keys lack."""
        prefixes = [ours for _, ours in self.counted_keys]
        return self._list_rows(set(keys), prefixes, attrgetter("ours"))

    def _list_rows(
        self, keys: set[str], prefixes: list[str], get_key: Callable[[Row], str]
    ) -> list[Row]:
        rows = self.make_rows(*(count_blocks(keys, prefix) for prefix in prefixes))
        present = set()
        for row in rows:
            if get_key(row) in keys:
                present.add(hide_numbers(get_key(row)))
        return [row for row in rows if not row.optional or hide_numbers(get_key(row)) in present]

    def to_ours(self, theirs: State) -> State:
        """The tensors in our names.

        Keys that `theirs` lacks are left out. A third (q, k, v) is left out where the other two
        are missing. Raises UserError where two names of one tensor hold different values.
        """
        ours: State = {}
        theirs = self.before_reading(theirs)
        thirds: dict[str, dict[str, Tensor]] = {}
        for row in self.list_rows_of_theirs(theirs):
            if row.theirs not in theirs:
                continue
            x = theirs[row.theirs]
            if row.kind == "joined":
                ours[f"{row.ours}.cls"], ours[f"{row.ours}.table"] = x[:, :1], x[:, 1:]
            elif row.kind in QKV:
                # This reserves the position of the key; the three thirds are joined below.
                ours.setdefault(row.ours, x)
                thirds.setdefault(row.ours, {})[row.kind] = x
            elif row.ours not in ours:
                ours[row.ours] = CONVERSIONS[row.kind][0](x)
            elif not torch.equal(ours[row.ours], CONVERSIONS[row.kind][0](x)):
                raise UserError(
                    f"{row.theirs} should be the same tensor under a second name, but it differs."
                )
        for key, of_kind in thirds.items():
            tensors = [of_kind[kind] for kind in QKV if kind in of_kind]
            if len(tensors) == 3 and have_equal_widths(*tensors):
                ours[key] = torch.cat(tensors)
            else:
                del ours[key]
        return self.after_reading(ours)

    def to_theirs(self, ours: State) -> State:
        """The tensors in their names and in their order.

        Raises UserError where `ours` lacks a marker of the layout, or holds two values for what
        the layout holds once.
        """
        theirs: State = {}
        ours = self.before_writing(ours)
        for row in self.list_rows_of_ours(ours):
            if row.kind == "joined":
                tables = [ours[f"{row.ours}.cls"], ours[f"{row.ours}.table"]]
                theirs[row.theirs] = torch.cat(tables, dim=1)
            elif row.kind in QKV:
                theirs[row.theirs] = ours[row.ours].chunk(3)[QKV.index(row.kind)].clone()
            elif row.theirs not in theirs:
                theirs[row.theirs] = CONVERSIONS[row.kind][1](ours[row.ours])
            elif not torch.equal(theirs[row.theirs], CONVERSIONS[row.kind][1](ours[row.ours])):
                raise UserError(
                    f"{row.ours} has another value than its second name, and a {self.title} holds "
                    "both as one tensor."
                )
        theirs = self.after_writing(theirs)
        for marker in self.marker_keys:
            if not has_any(marker, theirs):
                raise UserError(
                    f"This is no {self.title}: it has nothing for {marker.replace('|', ' or ')}."
                )
        return theirs


def has_any(marker: str, keys: Container[str], prefix: str = "") -> bool:
    """Whether one of the alternatives of a marker, `a|b`, is among the keys."""
    return any(prefix + key in keys for key in marker.split("|"))


def have_equal_widths(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return q.shape[1:] == k.shape[1:] == v.shape[1:]


def list_our_keys(row: Row) -> list[str]:
    """The keys of ours that a row is read from."""
    return [f"{row.ours}.cls", f"{row.ours}.table"] if row.kind == "joined" else [row.ours]


def hide_numbers(key: str) -> str:
    """The key with `#` for each number, so that it is the same in every block."""
    return re.sub(r"\d+", "#", key)


def count_blocks(keys: Collection[str], prefix: str) -> int:
    """How many different words follow the prefix; 1 or 0 for a whole key (no dot at its end)."""
    if not prefix.endswith("."):
        return int(prefix in keys)
    return len({key[len(prefix) :].partition(".")[0] for key in keys if key.startswith(prefix)})


def map_weight_and_bias(theirs: str, ours: str, optional: bool = False) -> list[Row]:
    """The two rows of a module with `.weight` and `.bias`."""
    return [
        Row(f"{theirs}.weight", f"{ours}.weight", optional=optional),
        Row(f"{theirs}.bias", f"{ours}.bias", optional=optional),
    ]
