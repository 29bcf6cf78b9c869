"""Videos, or their stored features, and files of what is said in them -> Manifest with sentences (HowTo100M)."""

from dataclasses import replace
from pathlib import Path

from ssvid.data import files
from ssvid.data.manifest import Manifest
from ssvid.data.narration import readers
from ssvid.data.narration.pairing import Paired
from ssvid.data.narration.pairing import durations as durations_of
from ssvid.data.narration.skipped import LeftOut
from ssvid.errors import UserError, within
from ssvid.registry import datasets
from ssvid.shapes import Row

MOST_VAL = 1000  # videos, as published


@datasets.register("narrated")
def narrated(
    root: str,  # of the videos, or of their features where there are no videos; files are named after their ids
    *,
    transcripts: str,  # file or folder (below root, or absolute): vtt, srt, json, csv, plain lists
    features: str
    | None = None,  # folder of stored features, a row a second (below root, or absolute)
    held_out: str | None = None,  # a list of ids that never train, as htm_holdout_vid.txt
    durations: str | None = None,  # csv of ids and seconds: spares the scan of each video
    least_s: float = 64.0,  # videos of this length or less are left out, as published
    most_s: float = 1000.0,  # and of this length or more
    val: float = 0.05,  # share of the videos, 1000 at most: the first ones by id, as published
    left_out: str | None = None,  # a .jsonl to list in what is left out, and why
) -> Manifest:
    """All are for training, but for the share that is val. There is no test: see `htm_align`."""
    within(0.0, 1.0, val=val)
    base = files.folder(root, "--data.root of narrated")
    known = durations_of(durations, "--data.durations")
    paired, left = Paired(base, features, known), LeftOut()
    out = _ids(held_out) if held_out else set()
    source = base / Path(transcripts).expanduser()
    said = readers.read(source, length=paired.seconds, left_out=left)
    rows = []
    for id in sorted(said):
        place = paired.find(id)
        if id in out:
            left.add(id, "held out")
        elif place.why:
            left.add(id, place.why, place.what)
        elif not least_s < place.seconds < most_s:
            left.add(id, f"not between {least_s:g} and {most_s:g} s", f"{place.seconds:.1f} s")
        else:
            sentences = tuple(said[id])
            rows.append(
                Row(
                    place.path,
                    None,
                    "train",
                    id,
                    place.seconds,
                    None,
                    sentences,
                    place.features,
                    id,
                )
            )
    for id in sorted(paired.ids - set(said)):
        left.add(id, "no transcript")
    for id, path in paired.spare:
        left.add(id, "another file of the same id", path)
    if left_out is not None:
        left.write(Path(left_out).expanduser())
    if not rows:
        raise UserError(f"{base}: no video of {source} can be used: {left.counted()}.")
    left.say(source)
    made = Manifest.build(rows, base, source=source)
    first = min(int(val * len(rows)), MOST_VAL)
    split = tuple(
        replace(row, split="val") if i < first else row for i, row in enumerate(made.rows)
    )
    return replace(
        made, rows=split
    )  # after its checks, which would make the only other split the test


def _ids(held_out: str) -> set[str]:
    file = files.file(held_out, "--data.held_out")
    found = {line.strip() for line in files.text(file).splitlines() if line.strip()}
    if not found or any(len(id.split()) > 1 for id in found):
        raise UserError(f"{file} (--data.held_out) is no list of video ids: one a line.")
    return found
