"""Folders of jpeg or png frames -> Manifest: laid out as `folder` or listed as `csv`, one folder for each clip."""

from dataclasses import replace
from pathlib import Path

from ssvid.data import files
from ssvid.data.datasets.csv import NAMES, csv
from ssvid.data.datasets.folder import lay_out
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import datasets


@datasets.register("frames")
def frames(
    root: str,  # folder of folders of pictures, or a csv beside them
    *,
    fps: float,  # pictures a second, which a folder cannot state
    labels: bool
    | None = None,  # the folders above are classes; default: when every clip lies in one
    split_column: str = "split",  # of a csv
    group: str | None = None,  # column of a csv
    where: str | None = None,  # COLUMN=VALUE of a csv
) -> Manifest:
    """`root`: a folder of folders of pictures, or a csv (also labels.csv inside) whose paths are such folders."""
    if fps <= 0:
        raise UserError(
            f"--data.fps {fps:g} is not a rate: give pictures a second, for example 25."
        )
    path = Path(root).expanduser()
    if path.is_file() or any((path / name).is_file() for name in NAMES):
        listed = csv(root, split_column=split_column, group=group, where=where)
        bare = [row.path for row in listed.rows if not (listed.root / row.path).is_dir()]
        if bare:
            raise UserError(
                f"{root}: {bare[0]} is not a folder of frames: use --data csv for video files."
            )
        return replace(listed, rows=tuple(replace(row, fps=fps) for row in listed.rows))
    path = files.need_folder(path, "--data.root of a frames data set")
    found = [name for name in files.list_frame_folders(path) if name != "."]
    if not found:
        raise UserError(f"{path} holds no folders of jpeg or png frames: check --data.root.")
    return lay_out(path, found, labels, fps)
