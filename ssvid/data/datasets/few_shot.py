"""A labelled data set with few training clips of each class -> Manifest.

They are drawn by a seed, or read from a published list. X-CLIP (arXiv:2208.02816) reports 2, 4, 8
and 16 clips a class of the first split of UCF101 and HMDB51.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Any

from ssvid import registry
from ssvid.data import files
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError, check_positive
from ssvid.files import write_text_whole
from ssvid.randomness import uniform
from ssvid.registry import datasets
from ssvid.shapes import Row


@datasets.register("few_shot")
def few_shot(
    root: str | None = None,  # of the whole data set
    *,
    source: str = "ucf101",  # the whole data set, by its registered name
    settings: dict[str, Any] | None = None,  # its other settings
    shots: int = 16,  # training clips of a class
    seed: int = 0,  # of the drawn clips
    # a list whose lines begin with the names of the training clips, as `v_Name_g01_c02.avi 0`, in
    # place of a drawn one
    sample: str | None = None,
    write: str | None = None,  # file into which the training clips are written, as `path class`
) -> Manifest:
    """Test is that of the whole set, and val what shares no group with the training clips.

    Drawn clips are of train. A published list may name clips that were taken from train to be val.
    """
    check_positive(shots=shots)
    folder = {} if root is None else {"root": root}
    whole = registry.datasets[source](**folder, **(settings or {}))
    train = whole.split("train").rows
    if sample is None:
        chosen = draw_rows(train, shots, seed)
    else:
        listed = (*train, *whole.split("val").rows)
        chosen = find_rows(listed, files.need_file(sample, "--data.sample"))
    check_shots(chosen, whole.classes, shots, sample)
    if write is not None:
        lines = "".join(f"{row.path} {row.label}\n" for row in chosen)
        write_text_whole(Path(write).expanduser(), lines)
    groups = set(map(attrgetter("group"), chosen))
    val = filter(lambda row: row.group not in groups, whole.split("val").rows)
    return replace(whole, rows=(*chosen, *val, *whole.split("test").rows), redraw=None)


def draw_rows(rows: Sequence[Row], shots: int, seed: int) -> list[Row]:
    """So many rows of each class. They depend on the seed, the class and its clips alone."""
    rows_of_class: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=attrgetter("path")):
        if row.label is not None:
            rows_of_class[row.label].append(row)
    chosen = []
    for number, label in enumerate(sorted(rows_of_class)):
        draws = uniform(seed, "few_shot", 0, number, len(rows_of_class[label]))[0]
        order = draws.argsort(stable=True).tolist()
        chosen += [rows_of_class[label][i] for i in order[:shots]]
    return chosen


def find_rows(rows: Sequence[Row], file: Path) -> list[Row]:
    """The rows whose clips a list names. The class is that of the row, whatever the list says.

    The published lists number the classes of HMDB51 in another order than the published names.
    """
    rows_of_name: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        rows_of_name[row.path].append(row)
        rows_of_name[PurePosixPath(row.path).stem].append(row)
    chosen = []
    for line in filter(str.strip, files.read_text(file).splitlines()):
        name = line.split()[0]
        matches = rows_of_name.get(name) or rows_of_name.get(PurePosixPath(name).stem, [])
        if len(matches) != 1:
            count = "no training clip" if not matches else f"the name of {len(matches)} clips"
            raise UserError(
                f"{file}: {name} is {count} of this data set: does the list belong to another set "
                "or split?"
            )
        chosen.append(replace(matches[0], split="train"))
    return chosen


def check_shots(
    rows: Sequence[Row], classes: Sequence[str], shots: int, sample: str | None
) -> None:
    """Raise a UserError where a class has fewer or more clips than wanted."""
    counts = dict.fromkeys(classes, 0)
    for row in rows:
        counts[str(row.label)] += 1
    for label, count in counts.items():
        if count != shots:
            where = "the train split" if sample is None else sample
            raise UserError(
                f"--data.shots {shots}: {where} has {count} clips of the class {label!r}."
            )
