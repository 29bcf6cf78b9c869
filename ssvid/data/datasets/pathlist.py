"""Published lists -> Manifest: Kinetics, SSv2, Diving48, Moments in Time, Jester, and `path label` lines."""

from collections.abc import Iterator

from ssvid.data import files, lists, official
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import datasets
from ssvid.shapes import Row


@datasets.register("pathlist")
def pathlist(
    root: str,  # of the videos, or of folders of frames
    *,
    train: str
    | None = None,  # list files: .txt, .csv or .json; their forms are known by their content
    val: str
    | None = None,  # the test, where none is given: labels of official tests are often secret
    test: str | None = None,  # list of the test clips; null: val is the test
    label_map: str
    | None = None,  # class names: a line for each id from 0 (or `id name`), or SSv2's labels.json
    missing_ok: float = 0.0,  # share of listed clips that may be absent: films vanish from YouTube
    fps: float | None = None,  # of folders of frames, which cannot state it: 12 for Jester
) -> Manifest:
    given = {
        split: name for split, name in (("train", train), ("val", val), ("test", test)) if name
    }
    if not given:
        raise UserError(
            "A pathlist data set needs --data.train, --data.val or --data.test: a list file."
        )
    likely = official.guess_source(*given.values(), root)
    path = official.need_folder(root, "--data.root of a pathlist data set", likely)
    found = {
        split: official.need_file(name, f"--data.{split}", likely) for split, name in given.items()
    }
    named = lists.read_names(files.need_file(label_map, "--data.label_map")) if label_map else {}
    forms: list[str] = []

    def rows() -> Iterator[tuple[tuple[str, ...], Row]]:
        for split, file in found.items():
            form, listed = lists.read_entries(file)
            forms.extend([form] if form else [])
            for entry in listed:
                label = lists.look_up_label(entry.label, named, file, label_map)
                yield entry.names, Row("", label, split, entry.video, video_id=entry.video)

    listed = list(rows())
    source = official.SOURCES[forms[0]] if forms else likely
    made = official.locate_clips(path, listed, source, missing_ok=missing_ok, fps=fps)
    return Manifest.build(made, path, source=" and ".join(given.values()))
