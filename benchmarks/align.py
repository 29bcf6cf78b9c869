"""a video and its transcript -> when each sentence is seen: python -m benchmarks.align VIDEO TRANSCRIPT --encoder E ...

Writes NAME.vtt, NAME.json and NAME.png, of one video or of each in a folder. How: benchmarks.alignment.realign.
"""

import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from benchmarks.alignment.aligner import open_aligner, same_features
from benchmarks.alignment.realign import Aligner, Found, realign, web_vtt
from ssvid.data import files
from ssvid.data.decode import stamps
from ssvid.data.manifest import Manifest
from ssvid.data.narration import readers
from ssvid.data.narration.sentences import Sentence
from ssvid.data.narration.skipped import LeftOut
from ssvid.data.quarantine import NAME, Quarantine
from ssvid.data.seconds import seconds_in
from ssvid.data.store import Store, place, stored
from ssvid.encoder import Encoder
from ssvid.engine.distributed import join
from ssvid.engine.per_second import fill_store
from ssvid.errors import DecodeError, UserError, positive, within
from ssvid.files import locked, write_bytes_whole
from ssvid.hub import open_encoder
from ssvid.nn.batchnorm import lacks_statistics
from ssvid.progress import progress_bar
from ssvid.shapes import Row
from ssvid.weights.encoders import encoder_hash

VERSION = 1  # of what is written: another one is written anew
LISTED = "left_out.jsonl"


def align(
    video: str,  # a file, or a folder of them; with --features also the name of one video
    transcript: str,  # .vtt, .srt, .json, .csv or .txt; for a folder also a folder, each file named after its video
    *,
    aligner: str,  # folder of a run of tan, or its published file
    out: str,  # folder
    encoder: str
    | None = None,  # a run folder, an exported or published file: the one of the aligner's features
    features: str
    | None = None,  # instead: a folder of features, as ssvid.extract --per_second writes it
    words: str | None = None,  # the list of words of a published aligner, beside its file
    threshold: float
    | None = None,  # least probability of an alignable sentence, 0.5; least score, without a head
    batch_size: int = 32,  # clips through the encoder at once
    workers: int = 2,  # loader processes
    devices: Literal["auto", "cpu", "cuda"] = "auto",  # auto: a GPU where there is one
) -> dict[str, Any]:
    """Re-time the sentences of one video, or of each in a folder. The same command again goes on where it stopped."""
    if (encoder is None) == (features is None):
        raise UserError(
            "Features of each second are wanted: give --encoder, or --features; one of the two."
        )
    positive(batch_size=batch_size)
    within(0, math.inf, workers=workers)
    began, target = time.monotonic(), Path(out).expanduser()
    many = Path(video).expanduser().is_dir()
    if target.is_file():
        raise UserError(f"--out {out} is a file; name a folder.")
    device = join(devices).device
    by = open_aligner(aligner, device, words)
    videos = _videos(video, features)
    with locked(target / "lock", wait=False, what=f"--out {out}"):
        for rest in target.rglob(".*.tmp"):
            rest.unlink()  # of a writer that was killed
        (target / NAME).unlink(missing_ok=True)  # every pair is looked at again
        listing = LeftOut()
        said = _spoken(transcript, videos, many, listing)
        if videos.listed is not None:
            assert encoder is not None
            net = _open_encoder(encoder, by, aligner).to(device)
            rows = [i for i, id in enumerate(videos.ids) if id in said]
            root = target / "features" / encoder_hash(net)
            fill_store(
                videos.listed.take(rows),
                net,
                root,
                batch_size=batch_size,
                workers=workers,
                device=device,
            )
            videos = videos._replace(store=Store(root))
        assert videos.store is not None
        same_features(by, (videos.store.card or {}).get("hash"), f"--features {videos.store.root}")
        told = _align_all(videos, said, by, target, threshold, many)
        listing.say(transcript)
        listing.write(target / LISTED)
    told |= {"left_out": listing.counts, "seconds": round(time.monotonic() - began, 3), "out": out}
    return told | ({"exit_code": 3} if told["bad"] else {})


class Videos(NamedTuple):
    """Those that were asked for."""

    ids: list[str]
    listed: Manifest | None  # None: their features are in the store
    store: Store | None

    def length(self, video: str) -> float | None:
        """In seconds; None: it cannot be read, which is said elsewhere."""
        try:
            if self.listed is None:
                assert self.store is not None
                return float(len(self.store.read(video)))
            return float(seconds_in(stamps(self.listed.path(self.ids.index(video)))))
        except (DecodeError, UserError, ValueError):
            return None


def _videos(video: str, features: str | None) -> Videos:
    path, store = Path(video).expanduser(), None if features is None else Store(features)
    if not path.is_dir():
        if store is not None:
            return Videos([video if video in store else path.stem], None, store)
        file = files.file(path, "VIDEO")
        return Videos(
            [file.stem], Manifest.build([Row(file.name, video_id=file.stem)], file.parent), None
        )
    names = files.videos(path)
    if not names and store is not None:  # the folder of features stands for its videos
        return Videos(
            sorted(
                p.relative_to(store.root).with_suffix("").as_posix() for p in stored(store.root)
            ),
            None,
            store,
        )
    if not names:
        raise UserError(f"{path} holds no video files: check VIDEO.")
    ids = Manifest.build([Row(name) for name in names], path).video_ids
    rows = [Row(name, video_id=id) for name, id in zip(names, ids, strict=True)]
    return Videos(ids, Manifest.build(rows, path) if store is None else None, store)


def _spoken(
    transcript: str, videos: Videos, many: bool, listing: LeftOut
) -> dict[str, list[Sentence]]:
    """Video id -> its sentences. For a single video the one transcript that there is, whatever its name."""
    if not Path(transcript).expanduser().exists():
        raise UserError(f"There is no transcript {transcript}.")
    only = videos.ids[0]
    said = readers.read(
        transcript, length=lambda id: videos.length(id if many else only), left_out=listing
    )
    if many:
        return said
    if len(said) > 1 and only not in said:
        raise UserError(f"{transcript} has sentences of {len(said)} videos, and none of {only}.")
    return {only: said[only] if only in said else next(iter(said.values()))}


def _open_encoder(given: str, by: Aligner, aligner: str) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a name gives the same random weights each time
        net = open_encoder(given)
    if lacks_statistics(net):
        raise UserError(
            f"{given} has batch norm without running statistics: extract its features with ssvid.extract --per_second "
            "--calibrate_bn 256, and give them with --features."
        )
    if by.width is not None and by.width != net.dim:
        raise UserError(
            f"The features of --encoder {given} are {net.dim} wide and the aligner {aligner} learnt from {by.width}: "
            "name the encoder of the features that it learnt from."
        )
    same_features(by, encoder_hash(net), f"--encoder {given}")
    return net


def _align_all(
    videos: Videos,
    said: dict[str, list[Sentence]],
    by: Aligner,
    target: Path,
    threshold: float | None,
    many: bool,
) -> dict[str, Any]:
    assert videos.store is not None
    unread = _reasons(videos)
    bad = Quarantine(target, len(videos.ids), 1.0)
    aligned, kept, found = 0, 0, list[Found]()
    ids = videos.ids
    for video in progress_bar(len(ids), "video", iterable=ids, desc="align", disable=not many):
        try:
            if video not in said:
                raise UserError(f"The video {video} has no sentences in the transcript.")
            if video in unread:
                raise UserError(f"The video {video} cannot be read: {unread[video]}.")
            again, new = _align_one(video, said[video], videos.store, by, target, threshold)
        except UserError as error:
            if not many or error.exit_code != UserError.exit_code:
                raise
            bad.add(video, None, str(error))
            continue
        aligned, kept, found = aligned + new, kept + (not new), found + again
    counts = {"videos": len(videos.ids), "aligned": aligned, "kept": kept, "bad": len(bad)}
    told = [one.alignable for one in found if one.alignable is not None]
    return counts | {"sentences": len(found), "alignable": sum(told) if told else None}


def _reasons(videos: Videos) -> dict[str, str]:
    """Video -> why it has no features, of those whose features were made here."""
    if videos.listed is None or videos.store is None:
        return {}
    why = Quarantine(videos.store.root, len(videos.ids)).bad
    paths = {id: str(videos.listed.path(i)) for i, id in enumerate(videos.ids)}
    return {id: why[path] for id, path in paths.items() if path in why}


def _align_one(
    video: str,
    said: list[Sentence],
    store: Store,
    by: Aligner,
    target: Path,
    threshold: float | None,
) -> tuple[list[Found], bool]:
    """Its sentences; and whether they had to be found, not being there from the same inputs."""
    table = store.read(video)
    key = _key(table, said, by, threshold)
    vtt, file, png = (place(target, video, suffix) for suffix in (".vtt", ".json", ".png"))
    old = _kept(file, key) if vtt.exists() and png.exists() else None
    if old is not None:
        return old, False
    found, shares = realign(table, said, by, threshold)
    from benchmarks.reports.alignment import draw_alignment

    picture = draw_alignment(
        f"{video}: {len(found)} sentences",
        shares,
        [one.text for one in found],
        [one.said for one in found],
        [one.found for one in found],
        [one.alignable for one in found],
    )
    told = {
        "video": video,
        "seconds": len(table),
        "key": key,
        "aligner": by.hash,
        "threshold": threshold,
    }
    whole = json.dumps(
        told | {"segments": [one._asdict() for one in found]}, indent=1, ensure_ascii=False
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    for path, data in (
        (vtt, web_vtt(found).encode()),
        (png, picture),
        (file, whole.encode()),
    ):  # json says: all done
        write_bytes_whole(path, data)
    return found, True


def _key(table: np.ndarray, said: list[Sentence], by: Aligner, threshold: float | None) -> str:
    digest = hashlib.sha256(
        repr((VERSION, table.shape, table.dtype.str, said, by.hash, threshold)).encode()
    )
    digest.update(np.ascontiguousarray(table).tobytes())
    return digest.hexdigest()[:16]


def _kept(file: Path, key: str) -> list[Found] | None:
    """What an earlier run of the same inputs found."""
    try:
        held = json.loads(file.read_text())
        return [Found(**one) for one in held["segments"]] if held["key"] == key else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


if __name__ == "__main__":
    from ssvid.cli import command

    command(align, "video", "transcript")
