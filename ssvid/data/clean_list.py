"""A manifest without some rows -> a csv that `--data csv` takes.

Each part of a mixture is a part of the csv: `--data.where source=NAME`.
"""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssvid.data.captions import list_captions
from ssvid.data.fingerprints import Fingerprint
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.files import write_text_whole
from ssvid.shapes import Row

# The csv reads the column subject as the group as it is. Its column group belongs to a label.
COLUMNS = ("path", "label", "split", "subject", "source", "duration", "video_id", "caption")


def check_listable(data: Manifest) -> None:
    """Raise a UserError if the clips have what no csv of clips can hold."""
    for row in data.rows:
        kind = ""
        if row.fps is not None:
            kind = "a folder of pictures, whose rate"
        elif row.features:
            kind = "a clip with stored features, whose path"
        elif row.segments or row.boxes:
            kind = "a clip of several classes, whose times"
        elif any(start > 0 for start, _, _ in row.sentences):
            kind = "a narrated video, whose times of sentences"
        elif row.questions:
            kind = "a clip with questions, whose weighted answers"
        if kind:
            raise UserError(
                f"--out cannot list {row.path}: it is {kind} a csv of clips cannot hold. Leave out "
                "--out and take the clips of --pairs out of the list yourself."
            )


def write_clean_list(
    file: Path,
    data: Manifest,
    train: Manifest,
    removed_rows: Sequence[int],  # rows of the train split
    prints: dict[int, Fingerprint],
) -> None:
    """Write all rows but the removed ones. Rows of val and test stay as they are."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    folder, removed = file.absolute().parent, set(removed_rows)
    for i, row in enumerate(train.rows):
        if i not in removed:
            seconds = prints[i].seconds if i in prints else 0.0
            writer.writerows(list_lines(row, train.path(i), folder, seconds))
    for i, row in enumerate(data.rows):
        if row.split != "train":
            writer.writerows(list_lines(row, data.path(i), folder, 0.0))
    write_text_whole(file, text.getvalue())


def list_lines(row: Row, path: Path, folder: Path, seconds: float) -> Iterator[list[str]]:
    """The lines of a clip: one for each caption. `seconds`: its length, if its list has none."""
    path_below = os.path.relpath(path.absolute(), folder)
    length = row.duration or seconds
    fields = [path_below, row.label or "", row.split, row.group, row.source]
    fields += [f"{length:.3f}" if length else "", row.video_id]
    for caption in list_captions(row) or [""]:
        yield [*fields, caption]
