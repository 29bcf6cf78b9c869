"""UCF101 with its official split files -> Manifest.

See crcv.ucf.edu. There are 101 classes, 3 folds and 25 groups for each class.
"""

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
    root: str,  # folder of the videos: class/v_class_gNN_cNN.avi, or re-encoded with the same names
    *,
    # folder of classInd.txt, trainlist0N.txt, testlist0N.txt; default: searched in and beside root
    splits: str | None = None,
    fold: int = 1,  # 1 | 2 | 3; a score is the mean of the three
    present: bool = False,  # use the listed clips that exist, if they are a part of the classes
) -> Manifest:
    if fold not in (1, 2, 3):
        raise UserError(f"--data.fold {fold}: UCF101 has folds 1, 2 and 3.")
    path = official.need_folder(root, "--data.root of ucf101", SOURCE)
    name, inside = "trainlist01.txt", ("ucfTrainTestlist", "splits")
    folder = official.find_lists(path, splits, "--data.splits", name, inside, SOURCE)
    # The folds hold the same clips. In one order, they share cached features.
    listed = sorted(_read_clips(folder, fold), key=lambda item: item[0])
    allow = "use the part that exists with --data.present true"
    rows = official.locate_clips(path, listed, SOURCE, missing_ok=float(present), allow=allow)
    return Manifest.build(rows, path)


def _read_clips(folder: Path, fold: int) -> Iterator[tuple[tuple[str, ...], Row]]:
    """The file name of each clip, and its row."""
    for split, name in (("train", f"trainlist0{fold}.txt"), ("test", f"testlist0{fold}.txt")):
        file = official.need_file(folder / name, f"--data.splits/{name}", SOURCE)
        for line in filter(str.strip, files.read_text(file).split("\n")):
            clip = PurePosixPath(line.split()[0])
            match = GROUP.fullmatch(clip.stem)
            if match is None or not clip.parent.name:
                raise UserError(f"{file}: {line!r} is not class/v_class_gNN_cNN.avi.")
            yield (str(clip),), Row("", clip.parent.name, split, match["group"], video_id=clip.stem)
