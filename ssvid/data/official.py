"""Official data sets: what to get, from whom and on which terms.

Finds the lists and the listed clips on the disk; where they are missing, the error says where to
get them. This is the only file that names owners and terms. They are as the owners' pages were
known when this was written; the pages are what counts.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ssvid.data import files
from ssvid.errors import UserError
from ssvid.log import log_once
from ssvid.shapes import Row


class Source(NamedTuple):
    """Where the files of a data set come from."""

    name: str
    videos: str  # the files below --data.root
    lists: str
    site: str
    terms: str
    words: tuple[str, ...] = ()  # a path with one of these is probably of this data set


YOUTUBE = "the videos belong to those who put them on YouTube"
SOURCES = {
    "ucf101": Source(
        "UCF101",
        "UCF101's class folders of .avi",
        "UCF101's action recognition splits (classInd.txt, trainlist01.txt, testlist01.txt, ...)",
        "the University of Central Florida, crcv.ucf.edu",
        "no licence is stated, published for research",
    ),
    "hmdb51": Source(
        "HMDB51",
        "HMDB51's class folders of .avi",
        "HMDB51's three splits (brush_hair_test_split1.txt, ...)",
        "the Serre lab of Brown University, serre-lab.clps.brown.edu",
        "CC BY 4.0 by its page; the films belong to their makers",
    ),
    "kinetics": Source(
        "Kinetics",
        "Kinetics' clips, named youtubeid_start_end.mp4",
        "Kinetics-400/600/700's train.csv, val.csv, test.csv",
        "Google DeepMind; github.com/cvdfoundation/kinetics-dataset has copies",
        f"lists CC BY 4.0, {YOUTUBE}",
        ("kinetics", "k400", "k600", "k700"),
    ),
    "ssv2": Source(
        "Something-Something v2",
        "Something-Something v2's .webm files, named by their numbers",
        "Something-Something v2's train.json, validation.json and labels.json",
        "Qualcomm, developer.qualcomm.com",
        "Qualcomm's own research licence, to be accepted there, not for commercial use",
        ("something", "ssv2", "sthv2"),
    ),
    "diving48": Source(
        "Diving48",
        "Diving48's .mp4 files",
        "Diving48_V2_train.json, Diving48_V2_test.json and Diving48_vocab.json",
        "the SVCL lab of UC San Diego, svcl.ucsd.edu/projects/resound",
        "no licence is stated, published for research",
        ("diving48",),
    ),
    "moments": Source(
        "Moments in Time",
        "Moments in Time's folder that holds training/ and validation/",
        "trainingSet.csv, validationSet.csv and moments_categories.txt",
        "MIT, moments.csail.mit.edu, by its form",
        "its own licence, for research and teaching, not for commercial use",
        ("moments", "trainingset.csv", "validationset.csv"),
    ),
    "jester": Source(
        "Jester",
        "Jester's folders of frames, named by their numbers (12 a second: --data.fps 12)",
        "Jester's train and validation csv",
        "Qualcomm, developer.qualcomm.com",
        "Qualcomm's own research licence, to be accepted there, not for commercial use",
        ("jester",),
    ),
    "charades": Source(
        "Charades",
        "Charades' .mp4 files (Charades_v1_480, or Charades_v1)",
        "Charades_v1_train.csv, Charades_v1_test.csv and Charades_v1_classes.txt, all in "
        "Charades.zip",
        "the Allen Institute for AI, prior.allenai.org/projects/charades",
        "its own licence (license.txt), not for commercial use",
    ),
    "activitynet": Source(
        "ActivityNet",
        "ActivityNet's videos, named v_youtubeid.mp4",
        "activity_net.v1-3.min.json",
        "activity-net.org, which also lends the videos on request",
        f"lists as its page says, {YOUTUBE}",
    ),
    "ava": Source(
        "AVA",
        "AVA's films, named youtubeid.mkv or .mp4",
        "ava_train_v2.2.csv, ava_val_v2.2.csv and ava_action_list_v2.2.pbtxt",
        "Google, research.google.com/ava; github.com/cvdfoundation/ava-dataset has the films",
        "lists CC BY 4.0, the films belong to their makers",
    ),
    "howto100m": Source(
        "HowTo100M",
        "HowTo100M's videos, named youtubeid.mp4, or its S3D features, youtubeid.mp4.npy",
        "caption.json or the csv files of HowTo100M, sentencified_htm_370k.json or htm_aa_v1.csv "
        "of TAN",
        "Inria and the ENS, www.di.ens.fr/willow/research/howto100m",
        f"no licence of the lists is known here, {YOUTUBE}",
    ),
    "htm_align": Source(
        "HTM-Align",
        "the 80 videos of HowTo100M that HTM-Align names, youtubeid.mp4, or features of them",
        "htm_align.json",
        "the VGG of Oxford, www.robots.ox.ac.uk/~vgg/research/tan",
        f"no licence of the list is known here, {YOUTUBE}",
    ),
    "youcook2": Source(
        "YouCook2",
        "YouCook2's videos, named youtubeid.mp4, or features of them",
        "validation_youcook.csv of MIL-NCE, or youcookii_annotations_trainval.json",
        "the University of Michigan, youcook2.eecs.umich.edu",
        f"no licence of the list is known here, {YOUTUBE}",
    ),
    "msrvtt": Source(
        "MSR-VTT",
        "MSR-VTT's clips, named video7020.mp4, or features of them",
        "MSRVTT_JSFUSION_test.csv, the 1k-A list (MIL-NCE has it as msrvtt_test.csv)",
        "Microsoft Research; the list comes with JSFusion and with "
        "github.com/antoine77340/MIL-NCE_HowTo100M",
        f"no licence of the clips is known here, {YOUTUBE}",
    ),
    "msrvtt_qa": Source(
        "MSRVTT-QA",
        "MSR-VTT's clips, named video7010.mp4",
        "MSRVTT-QA's train_qa.json, val_qa.json and test_qa.json, or HQGA's train.csv, val.csv and "
        "test.csv",
        "github.com/xudejing/video-question-answering; github.com/doc-doc/HQGA has the csv files",
        f"no licence of the lists is known here (HQGA's repository: MIT), {YOUTUBE}",
    ),
    "msvd_qa": Source(
        "MSVD-QA",
        "MSVD's clips, named youtubeid_start_end.avi or vid7.avi",
        "MSVD-QA's train_qa.json, val_qa.json and test_qa.json, or HQGA's train.csv, val.csv and "
        "test.csv, with youtube_mapping.txt",
        "github.com/xudejing/video-question-answering; github.com/doc-doc/HQGA has the csv files, "
        "github.com/yaoli/arctic-capgen-vid the mapping",
        f"no licence of the lists is known here (HQGA's repository: MIT), {YOUTUBE}",
    ),
    "nextqa": Source(
        "NExT-QA",
        "NExT-QA's videos in VidOR's folders, as 0101/4010069381.mp4",
        "NExT-QA's train.csv, val.csv and test.csv (of NExT-OE for open-ended questions), with "
        "map_vid_vidorID.json",
        "github.com/doc-doc/NExT-QA; github.com/doc-doc/NExT-OE has the open-ended questions",
        "MIT by its repository, the videos belong to those who put them on Flickr",
    ),
    "didemo": Source(
        "DiDeMo",
        "DiDeMo's videos by the names of its lists, or features of them",
        "DiDeMo's train_data.json, val_data.json and test_data.json",
        "github.com/LisaAnne/LocalizingMoments",
        "no licence is stated, the videos belong to those who put them on Flickr",
    ),
    "activitynet_captions": Source(
        "ActivityNet Captions",
        "ActivityNet's videos, named v_youtubeid.mp4, or features of them",
        "ActivityNet Captions' train.json and val_1.json",
        "cs.stanford.edu/people/ranjaykrishna/densevid; github.com/microsoft/VideoX has val_1.json "
        "as val.json",
        f"no licence of the lists is known here, {YOUTUBE}",
    ),
}


def guess_source(*paths: str | Path | None) -> Source | None:
    """The data set that these paths seem to belong to, for the sake of a better error."""
    text = " ".join(str(path).lower() for path in paths if path)
    for source in SOURCES.values():
        if any(word in text for word in source.words):
            return source
    return None


def where_to_get(source: Source | None, files: str) -> str:
    """A sentence that says where the files come from and on which terms."""
    if source is None:
        return "docs/datasets.md says where each data set and its lists come from, and their terms."
    return f"Get {files} from {source.site}; terms: {source.terms}."


def need_folder(path: str | Path, flag: str, source: Source | None) -> Path:
    """The folder of the videos. A UserError says where to get them if it does not exist."""
    try:
        return files.need_folder(path, flag)
    except UserError as error:
        advice = where_to_get(source, source.videos if source else "")
        raise UserError(f"{error} {advice}") from None


def need_file(path: str | Path, flag: str, source: Source | None) -> Path:
    """A list file. A UserError says where to get it if it does not exist."""
    try:
        return files.need_file(path, flag)
    except UserError as error:
        advice = where_to_get(source, source.lists if source else "")
        raise UserError(f"{error} {advice}") from None


def find_lists(
    root: Path, path: str | None, flag: str, name: str, inside: tuple[str, ...], source: Source
) -> Path:
    """The folder that holds a list of this name (which may hold *).

    `path`: the folder that the user has named; None: the list is searched in the folder of the
    videos, beside it, and in the folders `inside` there. Raises a UserError if it is not found.
    """
    for folder in list_folders(root, path, inside):
        if folder.is_dir() and next(folder.glob(name), None):
            return folder
    raise UserError(explain_absent_lists(name, root, path, flag, inside, source))


def list_folders(root: Path, path: str | None, inside: tuple[str, ...]) -> list[Path]:
    """The folders in which a list is searched. `path`: the only one, which the user has named."""
    if path is not None:
        return [Path(path).expanduser()]
    inner = (*inside, ".")
    return [root / name for name in inner] + [root.parent / name for name in inner]


def explain_absent_lists(
    name: str, root: Path, path: str | None, flag: str, inside: tuple[str, ...], source: Source
) -> str:
    """Where a list was searched in vain, and where to get it."""
    searched = f"{root}, nor beside it, nor in {' or '.join(inside)} there"
    if path is not None:
        searched = f"{Path(path).expanduser()} ({flag})"
    return (
        f"There is no {name} in {searched}. {where_to_get(source, source.lists)} "
        f"Put them there, or name their folder with {flag}."
    )


def locate_clips(
    root: Path,
    listed: Iterable[tuple[tuple[str, ...], Row]],  # possible names of the file, and its row
    source: Source | None,
    *,
    missing_ok: float,  # share of the listed clips
    fps: float | None = None,  # of folders of frames
    allow: str = "allow a share with --data.missing_ok",
) -> list[Row]:
    """The rows of the listed clips, each with the path of its file below root.

    Raises a UserError if more than `missing_ok` of the clips have no file. `allow`: what the error
    suggests.
    """
    if not 0 <= missing_ok <= 1:
        raise UserError(f"--data.missing_ok {missing_ok:g} is not a share: give 0 to 1.")
    contents = files.list_contents(root)
    videos = contents.videos
    find = files.Finder(root, videos or contents.frame_folders)
    rows, absent = [], []
    for names, row in listed:
        path = next(filter(None, map(find, names)), None)
        if path is None:
            absent.append(names[0])
        else:
            rows.append(replace(row, path=path, fps=None if videos else fps))
    if not absent:
        return rows
    n_listed = len(absent) + len(rows)
    why = f"{len(absent)} of {n_listed} listed clips are missing, first "
    why += f"{absent[0]}{find.explain(absent[0])}"
    if not rows or len(absent) > missing_ok * n_listed:
        raise UserError(
            f"{root}: {why}: check --data.root, or {allow}. "
            f"{where_to_get(source, source.videos if source else '')}"
        )
    log_once(f"{root}: {why}.")
    return rows
