"""UCF101 with its official split files -> Manifest (crcv.ucf.edu; 101 classes, 3 folds, 25 groups a class)."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ssvid.data import files, official
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import datasets
from ssvid.shapes import Row

GROUP = re.compile(r"v_(?P<group>\w+_g\d+)_c\d+$")  # clips of one group are cut from one film
SOURCE = official.SOURCES["ucf101"]


@datasets.register("ucf101")
def ucf101(
    root: str,  # of the videos: class/v_class_gNN_cNN.avi, or re-encoded under the same names
    *,
    splits: str
    | None = None,  # folder of classInd.txt, trainlist0N.txt, testlist0N.txt; default: looked for by root
    fold: int = 1,  # 1 | 2 | 3; a score is the mean of the three
    present: bool = False,  # take the listed clips that are there: a part of the classes
) -> Manifest:
    if fold not in (1, 2, 3):
        raise UserError(f"--data.fold {fold}: UCF101 has folds 1, 2 and 3.")
    path = official.need_folder(root, "--data.root of ucf101", SOURCE)
    lists = official.find_lists(
        path, splits, "--data.splits", "trainlist01.txt", ("ucfTrainTestlist", "splits"), SOURCE
    )
    allow = "take the part that is there with --data.present true"
    listed = sorted(
        _listed(lists, fold), key=lambda item: item[0]
    )  # folds are the same clips: they share features
    return Manifest.build(
        official.locate_clips(path, listed, SOURCE, missing_ok=float(present), allow=allow), path
    )


def _listed(lists: Path, fold: int) -> Iterator[tuple[tuple[str, ...], Row]]:
    for split, name in (("train", f"trainlist0{fold}.txt"), ("test", f"testlist0{fold}.txt")):
        file = official.need_file(lists / name, f"--data.splits/{name}", SOURCE)
        for line in files.read_text(file).split("\n"):
            if not line.strip():
                continue
            clip = PurePosixPath(line.split()[0])
            match = GROUP.fullmatch(clip.stem)
            if match is None or not clip.parent.name:
                raise UserError(f"{file}: {line!r} is not class/v_class_gNN_cNN.avi.")
            yield (str(clip),), Row("", clip.parent.name, split, match["group"], video_id=clip.stem)
