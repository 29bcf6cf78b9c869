"""Folders of jpeg or png frames -> Manifest, one folder for each clip.

They are laid out as in `folder` or listed as in `csv`.
"""

from pathlib import Path

from ssvid.data import files, pictures
from ssvid.data.datasets.csv import NAMES, Columns, build_from_csv, find_csv
from ssvid.data.datasets.folder import build_from_paths
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import datasets


@datasets.register("frames")
def frames(
    root: str,  # folder of folders of pictures, or a csv beside them
    *,
    fps: float,  # pictures per second, which a folder does not state
    # whether the folders above are classes; default: yes if every clip is in one of several
    labels: bool | None = None,
    split_column: str = "split",  # column of a csv
    group: str | None = None,  # column of a csv
    where: str | None = None,  # COLUMN=VALUE of a csv
) -> Manifest:
    """The paths of a csv are folders of frames. It may also be labels.csv in the folder."""
    if fps <= 0:
        raise UserError(
            f"--data.fps {fps:g} is not a rate: give pictures per second, for example 25."
        )
    path = Path(root).expanduser()
    if path.is_file() or any((path / name).is_file() for name in NAMES):
        file = find_csv(root)
        columns = Columns(split=split_column, group=group)
        listed = build_from_csv(file, file.parent, columns, where, fps=fps)
        for row in listed.rows:
            if not (listed.root / row.path).is_dir():
                raise UserError(
                    f"{root}: {row.path} is not a folder of frames: use --data csv for video files."
                )
        return listed
    path = files.need_folder(path, "--data.root of a frames data set")
    contents = files.list_contents(path)
    files.log_skipped_files(path, contents.suffixes, pictures.SUFFIXES)
    folders = list(filter(lambda name: name != ".", contents.frame_folders))
    if not folders:
        raise UserError(f"{path} holds no folders of jpeg or png frames: check --data.root.")
    return build_from_paths(path, folders, labels, fps)
