"""a video and its transcript -> when each sentence is seen.

`python -m benchmarks.align VIDEO TRANSCRIPT --encoder E ...` writes NAME.vtt, NAME.json and
NAME.png, for one video or for each in a folder. The method is in benchmarks.alignment.realign.
"""

import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from benchmarks.alignment.aligner import check_same_features, open_aligner
from benchmarks.alignment.realign import AlignedSentence, Aligner, format_web_vtt, realign
from ssvid.data import files
from ssvid.data.decode import read_span
from ssvid.data.manifest import Manifest
from ssvid.data.narration import readers
from ssvid.data.narration.sentences import Sentence
from ssvid.data.narration.skipped import LeftOut
from ssvid.data.quarantine import NAME as BAD_FILES
from ssvid.data.quarantine import Quarantine
from ssvid.data.seconds import seconds_in
from ssvid.data.store import Store, list_features, path_of_video
from ssvid.encoder import Encoder
from ssvid.engine.distributed import join
from ssvid.engine.per_second import fill_store
from ssvid.errors import DecodeError, UserError, check_positive, check_range
from ssvid.files import locked, remove_leftovers, write_bytes_whole
from ssvid.hub import open_encoder
from ssvid.log import log
from ssvid.nn.batchnorm import lacks_statistics
from ssvid.progress import progress_bar
from ssvid.shapes import Row
from ssvid.weights.encoders import hash_encoder

VERSION = 1  # of the files that are written; files of another version are written again
LEFT_OUT_FILE = "left_out.jsonl"  # in the out folder: the sentences that were not used


def align(
    video: str,  # a file, or a folder of them; with --features also the name of one video
    # .vtt, .srt, .json, .json3, .csv, .tsv or .txt; for a folder also a folder, each file named
    # after its video
    transcript: str,
    *,
    aligner: str,  # folder of a run of tan, or its published file
    out: str,  # folder
    # a run folder, an exported or published file: the encoder of the aligner's features
    encoder: str | None = None,
    # instead of --encoder: a folder of features, as ssvid.extract --per_second writes it
    features: str | None = None,
    words: str | None = None,  # word list of a published aligner
    # where a video has several transcripts, the one to read: en of ID.en.vtt and ID.de.vtt
    language: str | None = None,
    # A sentence is alignable if its probability is at least this; 0.5 if it is not set. An aligner
    # without an alignability head has no probabilities, so this is then the least similarity.
    threshold: float | None = None,
    batch_size: int = 32,  # clips through the encoder at once
    workers: int = 2,  # loader processes
    devices: Literal["auto", "cpu", "cuda"] = "auto",  # auto: a GPU where there is one
) -> dict[str, Any]:
    """Give new times to the sentences of one video, or of each video in a folder.

    The same command continues where it stopped.
    """
    if (encoder is None) == (features is None):
        raise UserError(
            "Features of each second are needed: give --encoder, or --features; one of the two."
        )
    check_positive(batch_size=batch_size)
    check_range(0, math.inf, workers=workers)
    began, target = time.monotonic(), _name_folder(out)
    is_folder = Path(video).expanduser().is_dir()
    device = join(devices).device
    loaded_aligner = open_aligner(aligner, device, words)
    videos = _find_videos(video, features)
    with locked(target / "lock", wait=False, what=f"--out {out}"):
        _clear_leftovers(target)
        left_out = LeftOut()
        sentences = _read_sentences(transcript, language, videos, is_folder, left_out)
        if videos.manifest is not None:
            assert encoder is not None
            net = _open_encoder(encoder, loaded_aligner, aligner).to(device)
            rows = [i for i, video_id in enumerate(videos.ids) if video_id in sentences]
            root = target / "features" / hash_encoder(net)
            settings = {"batch_size": batch_size, "workers": workers}
            fill_store(videos.manifest.take(rows), net, root, device=device, **settings)
            videos = videos._replace(store=Store(root))
        assert videos.store is not None
        store_hash = (videos.store.card or {}).get("hash")
        check_same_features(loaded_aligner, store_hash, f"--features {videos.store.root}")
        work = Work(videos.store, loaded_aligner, target, threshold)
        report = _align_all(work, videos, sentences, is_folder)
        report["left_out"] = left_out.counts
        left_out.log(transcript)
        left_out.write(target / LEFT_OUT_FILE)
    report |= {"seconds": round(time.monotonic() - began, 3), "out": out}
    # Exit code 3 says that the run ended, but that some videos could not be aligned.
    return report | ({"exit_code": 3} if report["bad"] else {})


def _name_folder(out: str) -> Path:
    target = Path(out).expanduser()
    if target.is_file():
        raise UserError(f"--out {out} is a file; name a folder.")
    return target


def _clear_leftovers(target: Path) -> None:
    remove_leftovers(target)
    # This run tries every video again, so it makes the list of bad videos anew.
    (target / BAD_FILES).unlink(missing_ok=True)


class Videos(NamedTuple):
    """The videos that the user named."""

    ids: list[str]
    manifest: Manifest | None  # None: their features are in the store
    store: Store | None

    def length(self, video: str) -> float | None:
        """In seconds. None where the video cannot be read, which is reported elsewhere."""
        try:
            if self.manifest is None:
                assert self.store is not None
                return float(len(self.store.read(video)))
            return float(seconds_in(read_span(self.manifest.path(self.ids.index(video)))))
        except (DecodeError, UserError, ValueError):
            return None


class Work(NamedTuple):
    """What the alignment of every video needs."""

    store: Store  # of features
    aligner: Aligner
    target: Path  # folder of the files
    threshold: float | None


def _find_videos(video: str, features: str | None) -> Videos:
    path, store = Path(video).expanduser(), None if features is None else Store(features)
    if not path.is_dir():
        if store is not None:
            return Videos([video if video in store else path.stem], None, store)
        file = files.need_file(path, "VIDEO")
        row = Row(file.name, video_id=file.stem)
        return Videos([file.stem], Manifest.build([row], file.parent), None)
    names = files.list_videos(path)
    if not names and store is not None:  # the folder of features stands for its videos
        return Videos(sorted(_list_stored_ids(store)), None, store)
    if not names:
        raise UserError(f"{path} holds no video files: check VIDEO.")
    ids = Manifest.build([Row(name) for name in names], path).video_ids
    if store is not None:
        return Videos(ids, None, store)
    rows = [Row(name, video_id=video_id) for name, video_id in zip(names, ids, strict=True)]
    return Videos(ids, Manifest.build(rows, path), None)


def _list_stored_ids(store: Store) -> list[str]:
    files_of_store = list_features(store.root)
    return [path.relative_to(store.root).with_suffix("").as_posix() for path in files_of_store]


def _read_sentences(
    transcript: str, language: str | None, videos: Videos, is_folder: bool, left_out: LeftOut
) -> dict[str, list[Sentence]]:
    """Video id -> its sentences. A single video gets the only transcript, whatever its name."""
    if not Path(transcript).expanduser().exists():
        raise UserError(f"There is no transcript {transcript}.")
    first = videos.ids[0]
    sentences = readers.read(
        transcript,
        length=lambda video_id: videos.length(video_id if is_folder else first),
        left_out=left_out,
        language=language,
        language_flag="--language",
        ids=videos.ids,
    )
    if is_folder:
        return sentences
    if len(sentences) > 1 and first not in sentences:
        raise UserError(
            f"{transcript} has sentences of {len(sentences)} videos, and none of {first}."
        )
    return {first: sentences[first] if first in sentences else next(iter(sentences.values()))}


def _open_encoder(argument: str, aligner: Aligner, aligner_argument: str) -> Encoder:
    """The encoder of --encoder. Raises a UserError where the aligner cannot take its features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a name gives the same random weights each time
        net = open_encoder(argument)
    if lacks_statistics(net):
        raise UserError(
            f"{argument} has batch norm without running statistics: extract its features with "
            "ssvid.extract --per_second --calibrate_bn 256, and give them with --features."
        )
    if aligner.width is not None and aligner.width != net.dim:
        raise UserError(
            f"The features of --encoder {argument} are {net.dim} wide, but the aligner "
            f"{aligner_argument} learnt from features that are {aligner.width} wide: name the "
            "encoder of the features that it learnt from."
        )
    check_same_features(aligner, hash_encoder(net), f"--encoder {argument}")
    return net


def _align_all(
    work: Work, videos: Videos, sentences: dict[str, list[Sentence]], is_folder: bool
) -> dict[str, Any]:
    """Align every video, and count.

    An error of a single video is raised. Those of videos in a folder are listed.
    """
    unreadable = _list_unreadable(videos)
    bad = Quarantine(work.target, len(videos.ids), 1.0)
    counts = {"videos": len(videos.ids), "aligned": 0, "kept": 0}
    all_aligned: list[AlignedSentence] = []
    ids = videos.ids
    for video in progress_bar(len(ids), "video", iterable=ids, desc="align", disable=not is_folder):
        try:
            if video not in sentences:
                raise UserError(f"The video {video} has no sentences in the transcript.")
            if video in unreadable:
                raise UserError(f"The video {video} cannot be read: {unreadable[video]}.")
            aligned, is_new = _align_video(work, video, sentences[video])
        except UserError as error:
            if not is_folder or error.exit_code != UserError.exit_code:
                raise
            bad.add(video, None, str(error))
            continue
        counts["aligned" if is_new else "kept"] += 1
        all_aligned += aligned
    decided = [line.alignable for line in all_aligned if line.alignable is not None]
    return {
        **counts,
        "bad": len(bad),
        "sentences": len(all_aligned),
        "alignable": sum(decided) if decided else None,
    }


def _list_unreadable(videos: Videos) -> dict[str, str]:
    """Video -> the reason why it has no features, where the features were extracted here."""
    if videos.manifest is None or videos.store is None:
        return {}
    reasons = Quarantine(videos.store.root, len(videos.ids)).bad
    unreadable = {}
    for row, video in enumerate(videos.ids):
        path = str(videos.manifest.path(row))
        if path in reasons:
            unreadable[video] = reasons[path]
    return unreadable


def _align_video(
    work: Work, video: str, sentences: list[Sentence]
) -> tuple[list[AlignedSentence], bool]:
    """(sentences with new times, whether they are new rather than read from the same inputs)."""
    table = work.store.read(video)
    key = _hash_inputs(table, sentences, work.aligner, work.threshold)
    vtt = path_of_video(work.target, video, ".vtt")
    file = path_of_video(work.target, video, ".json")
    png = path_of_video(work.target, video, ".png")
    earlier = _read_earlier(file, key) if vtt.exists() and png.exists() else None
    if earlier is not None:
        return earlier, False
    aligned, likelihood = realign(table, sentences, work.aligner, work.threshold)
    from benchmarks.reports.alignment import draw_alignment, warn_of_equal_answers

    warning = warn_of_equal_answers(likelihood)
    if warning:
        log.warning(f"{video}: {warning.removeprefix('WARNING: ')}")
    picture = draw_alignment(
        f"{video}: {len(aligned)} sentences",
        likelihood,
        [sentence.text for sentence in aligned],
        [sentence.spoken for sentence in aligned],
        [sentence.span for sentence in aligned],
        [sentence.alignable for sentence in aligned],
    )
    content = {
        "video": video,
        "seconds": len(table),
        "key": key,
        "aligner": work.aligner.hash,
        "threshold": work.threshold,
        "segments": [sentence.to_json() for sentence in aligned],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_whole(vtt, format_web_vtt(aligned).encode())
    write_bytes_whole(png, picture)
    # Last, because the JSON file shows that all three are complete.
    write_bytes_whole(file, json.dumps(content, indent=1, ensure_ascii=False).encode())
    return aligned, True


def _hash_inputs(
    table: np.ndarray, sentences: list[Sentence], aligner: Aligner, threshold: float | None
) -> str:
    inputs = (VERSION, table.shape, table.dtype.str, sentences, aligner.hash, threshold)
    digest = hashlib.sha256(repr(inputs).encode())
    digest.update(np.ascontiguousarray(table).tobytes())
    return digest.hexdigest()[:16]


def _read_earlier(file: Path, key: str) -> list[AlignedSentence] | None:
    """The sentences that an earlier run of the same inputs wrote."""
    try:
        content = json.loads(file.read_text())
        if content["key"] != key:
            return None
        return [AlignedSentence.from_json(segment) for segment in content["segments"]]
    except (OSError, ValueError, TypeError, KeyError):
        return None


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("align")
