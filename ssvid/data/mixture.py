"""Several manifests -> the one manifest of a mixture.

This is the only file that joins data sets. The rows of a part stand together, in the order of the
parts, and each says which part it comes from.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ssvid.commands import phrase_command
from ssvid.data.manifest import Manifest
from ssvid.data.parts import Mixture, Order, Part
from ssvid.log import log_once
from ssvid.shapes import Row, Views


def join(parts: Sequence[tuple[Part, Manifest]], order: Order) -> Manifest:
    """The rows of all parts below the folder that all roots have in common.

    Classes of the same name are one class. The groups of a part are its own, because two data sets
    may number their films alike.
    """
    is_alone = len(parts) == 1
    roots = [os.path.abspath(data.root) for _, data in parts]
    root = parts[0][1].root if is_alone else Path(os.path.commonpath(roots))
    rows: list[Row] = []
    joined: list[Part] = []
    classes: set[str] = set()
    is_drawn = False
    for (part, data), own_root in zip(parts, roots, strict=True):
        below = "." if is_alone else os.path.relpath(own_root, root)
        part = part._replace(root=data.root, prefix="" if below == "." else f"{below}/")
        joined.append(part)
        for row in data.rows:
            rows.append(_move(row, part, is_alone))
        classes.update(data.classes)
        is_drawn = is_drawn or data.redraw is not None
    _warn_of_shared_files(rows, root)
    redraw = partial(_redraw, parts, order) if is_drawn else None
    return Manifest(
        tuple(rows),
        root,
        tuple(sorted(classes)),
        redraw,
        Mixture(tuple(joined), order),
        source="--data mixture",
    )


def _redraw(parts: Sequence[tuple[Part, Manifest]], order: Order, views: Views) -> Manifest:
    """The mixture of the parts that suit these views, of which drawn ones are drawn again."""
    return join([(part, data.suit(part.change(views))) for part, data in parts], order)


def _move(row: Row, part: Part, is_alone: bool) -> Row:
    """The row below the mixture's root, with the name of its part."""
    group = row.group if is_alone else f"{part.name}/{row.group}"
    path, features = _prepend(part.prefix, row.path), _prepend(part.prefix, row.features)
    return replace(row, path=path, features=features, group=group, source=part.name)


def _prepend(prefix: str, path: str) -> str:
    return path if not path or os.path.isabs(path) else f"{prefix}{path}"


def _warn_of_shared_files(rows: Sequence[Row], root: Path) -> None:
    """Warn if a file that one part trains on is held out by another."""
    first_of: dict[str, Row] = {}
    for row in rows:
        first = first_of.setdefault(os.path.abspath(root / row.path), row)
        if (first.split == "train") != (row.split == "train"):
            log_once(
                f"{row.path} is in {first.split} of the part {first.source} and in {row.split} of "
                f"the part {row.source}: what is measured on val or test was seen in training. "
                f"`{phrase_command('corpus')} --benchmarks` lists such files.",
                logging.WARNING,
            )
            return
