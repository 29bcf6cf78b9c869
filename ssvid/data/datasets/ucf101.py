"""UCF101 with its official split files -> Manifest (crcv.ucf.edu; 101 classes, 3 folds, 25 groups a class)."""

import re
from pathlib import Path, PurePosixPath

from ssvid.data import files
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import datasets
from ssvid.shapes import Row

GROUP = re.compile(r"v_(?P<group>\w+_g\d+)_c\d+$")  # clips of one group are cut from one film


@datasets.register("ucf101")
def ucf101(
    root: str,  # of the videos: class/v_class_gNN_cNN.avi, or re-encoded under the same names
    *,
    splits: str | None = None,  # folder of classInd.txt, trainlist0N.txt, testlist0N.txt; default: looked for by root
    fold: int = 1,  # 1 | 2 | 3
    present: bool = False,  # take the listed clips that are there: a part of the classes
) -> Manifest:
    if fold not in (1, 2, 3):
        raise UserError(f"--data.fold {fold}: UCF101 has folds 1, 2 and 3.")
    path = files.folder(root, "--data.root of ucf101")
    lists = _lists(path, splits)
    find = files.Finder(files.videos(path))
    rows, absent = [], []
    for split, name in (("train", f"trainlist0{fold}.txt"), ("test", f"testlist0{fold}.txt")):
        for line in files.text(files.file(lists / name, "--data.splits/" + name)).split("\n"):
            if not line.strip():
                continue
            listed = PurePosixPath(line.split()[0])
            found = find(str(listed))
            match = GROUP.fullmatch(listed.stem)
            if match is None or not listed.parent.name:
                raise UserError(f"{lists / name}: {line!r} is not class/v_class_gNN_cNN.avi.")
            if found is None:
                absent.append(str(listed))
                continue
            rows.append(Row(found, listed.parent.name, split, match["group"], video_id=listed.stem))
    if absent and not (present and rows):
        raise UserError(
            f"{path}: {len(absent)} of {len(absent) + len(rows)} clips of fold {fold} are missing, first {absent[0]}: "
            "check --data.root, or take the part that is there with --data.present true."
        )
    return Manifest.build(rows, path)


def _lists(root: Path, splits: str | None) -> Path:
    if splits is not None:
        return files.folder(splits, "--data.splits")
    for name in ("ucfTrainTestlist", "splits", "."):
        for base in (root, root.parent):
            if (base / name / "trainlist01.txt").is_file():
                return base / name
    raise UserError(f"No trainlist01.txt by {root}: give the folder of the official lists with --data.splits.")
