"""The classes of Kinetics-600 that Kinetics-400 has not, in three splits of 160 -> Manifest.

The protocol is that of ER-ZSAR (arXiv:2108.02833), which X-CLIP and VideoPrism report: a net that
learnt from Kinetics-400 names the class of each clip among the 160 of a split. All clips are test.
"""

from dataclasses import replace

from ssvid.data import files, official
from ssvid.data.datasets.pathlist import pathlist
from ssvid.data.lists import read_names
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import datasets

SPLITS = (1, 2, 3)


@datasets.register("kinetics600_unseen")
def kinetics600_unseen(
    root: str,  # folder of the videos of Kinetics-600, at any depth
    *,
    # folder of test_splitN_exist.txt and k160_labels_splitN.csv (github.com/whwu95/BIKE, MIT);
    # default: the folder kinetics600_zeroshot in or beside root
    splits: str | None = None,
    fold: int = 1,  # 1 | 2 | 3, the split; a score is the mean of the three
    missing_ok: float = 0.0,  # share of listed clips that may be absent: films vanish from YouTube
) -> Manifest:
    if fold not in SPLITS:
        raise UserError(f"--data.fold {fold}: the unseen classes have the splits 1, 2 and 3.")
    source = official.SOURCES["kinetics"]
    path = official.need_folder(root, "--data.root of kinetics600_unseen", source)
    inside = ("kinetics600_zeroshot", "splits")
    clips = f"test_split{fold}_exist.txt"
    folder = official.find_lists(path, splits, "--data.splits", clips, inside, source)
    names = files.need_file(folder / f"k160_labels_split{fold}.csv", "--data.splits")
    label_map = str(names)
    data = pathlist(root, test=str(folder / clips), label_map=label_map, missing_ok=missing_ok)
    # A class counts among the answers although none of its clips may be there.
    return replace(data, classes=tuple(sorted(read_names(names).values())))
