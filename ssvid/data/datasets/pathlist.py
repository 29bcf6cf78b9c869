"""Published lists -> Manifest: Kinetics, SSv2, Diving48, Moments in Time, Jester.

Lists of `path label` lines are read too.
"""

from itertools import repeat
from pathlib import Path

from ssvid.data import files, lists, official
from ssvid.data.labels import parse_label, spell_whole_numbers
from ssvid.data.lines import Entry
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import datasets
from ssvid.shapes import Row


@datasets.register("pathlist")
def pathlist(
    root: str,  # folder of the videos, or of folders of frames
    *,
    # list of the train clips: .txt, .csv or .json; its form is recognised by its content
    train: str | None = None,
    # list of the val clips; they are the test if there is no test: official tests are often secret
    val: str | None = None,
    test: str | None = None,  # list of the test clips; null: val is the test
    # class names: a line for each id from 0 (or `id name`), or SSv2's labels.json
    label_map: str | None = None,
    missing_ok: float = 0.0,  # share of listed clips that may be absent: films vanish from YouTube
    fps: float | None = None,  # of folders of frames, which do not state it: 12 for Jester
) -> Manifest:
    lists_or_none = {"train": train, "val": val, "test": test}
    list_of_split = {split: name for split, name in lists_or_none.items() if name}
    if not list_of_split:
        raise UserError(
            "A pathlist data set needs --data.train, --data.val or --data.test: a list file."
        )
    likely = official.guess_source(*list_of_split.values(), root)
    path = official.need_folder(root, "--data.root of a pathlist data set", likely)
    list_files = {}
    for split, name in list_of_split.items():
        list_files[split] = official.need_file(name, f"--data.{split}", likely)
    names: dict[str, str] = {}
    if label_map:
        names = lists.read_names(files.need_file(label_map, "--data.label_map"))
    forms: list[str] = []
    clips: list[tuple[str, Path, Entry]] = []  # with the split and the list of each
    for split, file in list_files.items():
        form, entries = lists.read_entries(file)
        forms.extend([form] if form else [])
        clips.extend(zip(repeat(split), repeat(file), entries))
    labels = []
    for _, file, entry in clips:
        labels.append(parse_label(f"{file}: {entry.names[0]}", entry.label))
    listed = []
    for (split, file, entry), label in zip(clips, spell_whole_numbers(labels), strict=True):
        label = lists.look_up_label(label, names, file, label_map)
        listed.append((entry.names, Row("", label, split, entry.video, video_id=entry.video)))
    source = official.SOURCES[forms[0]] if forms else likely
    rows = official.locate_clips(path, listed, source, missing_ok=missing_ok, fps=fps)
    return Manifest.build(rows, path, source=" and ".join(list_of_split.values()))
