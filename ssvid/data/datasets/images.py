"""Pictures -> Manifest, each a clip of one frame.

They lie in folders as videos do in `folder`, or a csv names them as in `csv`. So an objective of
single frames learns from pictures, and one of clips from pictures that stand still.
"""

from pathlib import Path

from ssvid.data import files, pictures
from ssvid.data.datasets.csv import Columns, build_from_csv
from ssvid.data.datasets.folder import build_from_paths
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import datasets

SUFFIXES = ", ".join(sorted(pictures.STILL_SUFFIXES))


@datasets.register("images")
def images(
    root: str,  # folder of pictures, at any depth; or a csv beside them
    *,
    # csv of pictures below root: path, and where there are any label, split, group and caption;
    # several rows of one path are several captions of it. Default: all pictures below root
    list: str | None = None,
    # whether the folders are classes; default: yes if every file is in one, and there are several
    labels: bool | None = None,
    split_column: str = "split",  # column of the csv
    group: str | None = None,  # column of the csv
    where: str | None = None,  # COLUMN=VALUE of the csv
) -> Manifest:
    """Folders named train, val and test are the splits, as in `folder`."""
    if list is None and Path(root).expanduser().is_file():
        list, root = root, str(Path(root).parent)
    path = files.need_folder(root, "--data.root of an images data set")
    if list is None:
        paths, suffixes = files.list_stills(path)
        files.log_skipped_files(path, suffixes, pictures.STILL_SUFFIXES)
        if not paths:
            raise UserError(f"{path} holds no pictures ({SUFFIXES}): check --data.root.")
        return build_from_paths(path, paths, labels)
    if labels is not None:
        raise UserError("--data.labels is of folders: in a csv the column label counts.")
    file = files.need_file(list, "--data.list of an images data set")
    columns = Columns(split=split_column, group=group)
    listed = build_from_csv(file, path, columns, where, seconds=pictures.STILL_S)
    for row in listed.rows:
        if not pictures.is_still(row.path):
            raise UserError(
                f"{file}: {row.path} is no picture ({SUFFIXES}): use --data csv for video files."
            )
    return listed
