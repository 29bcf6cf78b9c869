"""Films of one shape, with exact sentences whose parts can be asked for -> Manifest.

A sentence names the shape and its colour, the quarter of the picture where it begins, what it does,
and the order where it does two things. A single frame tells nothing of what it does
(`ssvid.data.captioned_films`).
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ssvid.data import captioned_films as films
from ssvid.data import synthetic as drawing
from ssvid.data.captioned_films import MOTIONS, Script
from ssvid.data.captions import describe_whole
from ssvid.data.datasets.synthetic import default_folder
from ssvid.data.manifest import Manifest
from ssvid.data.narration.synthetic_narrator import COLOURED_SHAPES, COLOURS, SHAPES
from ssvid.errors import UserError
from ssvid.registry import datasets
from ssvid.shapes import Row

VERSION = 1  # of films and sentences; sets of another version are drawn again
MOST_ACTS = 2
ALL = tuple(MOTIONS)

Labels = dict[str, tuple[str, ...]]  # label -> its motions in order


class Unseen(NamedTuple):
    """What only test films show. An empty part means any."""

    colour: str
    shape: str
    motion: str  # a motion, or the label of an order of two

    def is_in(self, thing: tuple[str, str], label: str, motions: Sequence[str]) -> bool:
        colour, shape = thing
        return (
            self.colour in ("", colour)
            and self.shape in ("", shape)
            and self.motion in ("", label, *motions)
        )


@datasets.register("synthetic_captioned")
def synthetic_captioned(
    # folder that holds one folder for each set; default: $SSVID_CACHE or .cache/ssvid
    root: str | None = None,
    *,
    train: int = 2400,  # films
    val: int = 240,  # films
    test: int = 480,  # films
    acts: int = 1,  # motions of a film, one after the other: 1 or 2; 0: stills of one frame
    motions: tuple[str, ...] = ALL,  # of which the films are made
    # what only test films show: motions (grows), orders (grows then moves up), things (red square,
    # red, square), or a thing with a motion (red square grows)
    unseen: tuple[str, ...] = (),
    captions: Literal["full", "still"] = "full",  # still: of the first frame, without any motion
    sentences: int = 1,  # captions of a film, in different words
    frames: int = 16,  # of a film
    size: int = 64,  # pixels
    fps: int = 8,  # frames per second
    seed: int = 0,  # of everything that is drawn
) -> Manifest:
    """Write the files if they do not exist. Of several processes one writes and the others wait.

    The label is the motion or the order of two; of stills it is the thing. The columns colour,
    shape, place, motion and unseen (yes or no) tell the parts of the sentences.
    """
    counts = {"train": train, "val": val, "test": test}
    frames = frames if acts else 1
    _check_numbers(counts, acts, frames, size, fps)
    labels = list_labels(acts, motions)
    held_out = [parse_unseen(entry, labels) for entry in unseen]
    forms = films.list_forms(acts, captions == "still")
    if not 1 <= sentences <= len(forms):
        raise UserError(
            f"synthetic_captioned: a film has 1 to {len(forms)} sentences here, not {sentences}."
        )
    script_of: dict[str, Script] = {}  # path of a file -> what it shows
    rows = []
    for split, count in counts.items():
        things_of = list_things(labels, held_out if split != "test" else [])
        numbers = films.draw_numbers(drawing.SPLITS[split], count, seed)
        for n, (u, label) in enumerate(zip(numbers, itertools.cycle(things_of), strict=False)):
            script = films.write_script(u, things_of[label], labels[label])
            texts = films.write_sentences(script, forms, sentences)
            row = _make_row(split, n, script, held_out)
            script_of[row.path] = script
            rows.append(replace(row, sentences=describe_whole(texts, frames / fps)))

    def fill(unfinished: Path) -> None:
        def write(row: Row) -> None:
            film = films.draw_film(script_of[row.path], frames, size)
            drawing.encode(unfinished / row.path, film, fps)

        drawing.write_files(rows, unfinished, write)

    settings = {"acts": acts, "motions": list(motions), "unseen": list(unseen), **counts}
    settings |= {"frames": frames, "size": size, "fps": fps, "seed": seed}
    folder = default_folder(root) / _name_folder(settings)
    drawing.fill_once(folder, settings, fill)
    return Manifest.build(rows, folder)


def _check_numbers(counts: dict[str, int], acts: int, frames: int, size: int, fps: int) -> None:
    if min(counts.values()) < 1 or not 0 <= acts <= MOST_ACTS:
        raise UserError(
            f"synthetic_captioned: train, val and test are one or more, and acts 0, 1 or "
            f"{MOST_ACTS}."
        )
    if size % 2 or size < 16 or frames < 2 * acts or fps < 1:
        raise UserError(
            "synthetic_captioned: films have an even size of 16 pixels or more, two frames or more "
            f"of each act and a rate of 1 or more, not {size} pixels, {frames} frames, {fps} a "
            "second."
        )


def list_labels(acts: int, motions: Sequence[str]) -> Labels:
    """The labels of films of so many acts. Stills have one, which is empty.

    Raises a UserError if a motion is unknown or named twice, or there are too few.
    """
    unknown = sorted(set(motions) - set(MOTIONS))
    if unknown or len(set(motions)) < max(len(motions), acts):
        raise UserError(
            f"synthetic_captioned: --data.motions names {max(1, acts)} or more of these, each "
            f"once: {', '.join(MOTIONS)}."
        )
    return {films.name_order(order): order for order in itertools.permutations(motions, acts)}


def parse_unseen(entry: str, labels: Labels) -> Unseen:
    """`red square grows`: a colour, a shape and a motion or an order, of which two may lack.

    Raises a UserError if it has other words.
    """
    names = {*labels, *itertools.chain(*labels.values())} - {""}
    endings = [name for name in names if f" {entry}".endswith(f" {name}")]
    motion = max(endings, key=len, default="")
    words = entry.removesuffix(motion).split()
    colour = words.pop(0) if words and words[0] in COLOURS else ""
    shape = words.pop(0) if words and words[0] in SHAPES else ""
    if words or not entry.strip():
        raise UserError(
            f"synthetic_captioned: --data.unseen {entry!r} is not made of a colour "
            f"({', '.join(COLOURS)}), a shape ({', '.join(SHAPES)}) and a motion of this set, in "
            "this order; two of the three may lack."
        )
    return Unseen(colour, shape, motion)


def list_things(labels: Labels, held_out: Sequence[Unseen]) -> dict[str, list[tuple[str, str]]]:
    """Label -> the colours and shapes that may be shown with it. Labels without any are left out.

    Raises a UserError if none is left.
    """
    things_of: dict[str, list[tuple[str, str]]] = {}
    for label, motions in labels.items():
        for thing in COLOURED_SHAPES:
            if not any(entry.is_in(thing, label, motions) for entry in held_out):
                things_of.setdefault(label, []).append(thing)
    if not things_of:
        raise UserError("synthetic_captioned: --data.unseen leaves nothing to train on.")
    return things_of


def _make_row(split: str, n: int, script: Script, held_out: Sequence[Unseen]) -> Row:
    order = films.name_order(script.motions)
    thing = (script.colour, script.shape)
    is_unseen = any(entry.is_in(thing, order, script.motions) for entry in held_out)
    label = order or script.thing
    columns = {"colour": script.colour, "motion": order, "place": script.quarter}
    columns |= {"shape": script.shape, "unseen": "yes" if is_unseen else "no"}
    return Row(
        path=f"{split}/{label.replace(' ', '_')}/{n:05d}.mp4",
        label=label,
        split=split,
        group=f"{split}/{n}",
        columns=tuple(columns.items()),
    )


def _name_folder(settings: dict[str, Any]) -> str:
    """The words of the sentences are in no file, so they are not in the name."""
    versions = {"captioned": VERSION, "pictures": drawing.VERSION}
    digest = hashlib.sha256(json.dumps({**versions, **settings}).encode()).hexdigest()[:12]
    return f"captioned_{digest}"
