"""videos + frozen functions of clips -> arrays on disk. One decode of a clip serves everything that wants it.

Kept under `cache/features` in parts of PART rows, each written whole, so an interrupted extraction goes on where it
stopped and several processes share one. A part is named by all it depends on: the function, which clips are cut how,
and the state of each of its files. Whoever mends one file makes one part anew.
"""

import hashlib
import math
import os
import resource
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from jaxtyping import UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from ssvid.data.clips import Clips
from ssvid.data.loader import eval_loader
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError, positive, within
from ssvid.files import locked, write_whole
from ssvid.progress import progress_bar
from ssvid.randomness import permutation
from ssvid.shapes import ClipSpec, Views

PART = 256  # rows


class Source(NamedTuple):
    """A frozen function of clips: uint8 `B C T H W` and row numbers `B` -> named `B D`, or tokens `B N D`."""

    name: str
    key: str  # everything its values depend on but the clips
    run: Callable[[Tensor, Tensor], dict[str, Tensor]]


class Part(NamedTuple):
    rows: list[int]
    name: str  # of its file


class Extracted(NamedTuple):
    features: dict[
        str, dict[str, Tensor]
    ]  # source -> feature -> S D; zeros where a file could not be read
    ok: Tensor  # S
    cpu_s: float  # spent this time, loader processes included


def refuse(
    out: Path, cache: str, *, batch_size: int, workers: int, clips: int, calibrate_bn: int
) -> None:
    """What no command on features can begin with. `out`: the folder it writes in."""
    positive(batch_size=batch_size, clips=clips)
    within(0, math.inf, workers=workers, calibrate_bn=calibrate_bn)
    for flag, folder in (("--out", out), ("--cache", Path(cache))):
        file = next((path for path in (folder, *folder.parents) if path.is_file()), None)
        if file is not None:
            raise UserError(f"{flag}: {file} is a file where a folder is wanted.")


def evaluation(manifest: Manifest, spec: ClipSpec, clips: int, short: str, crops: int = 1) -> Clips:
    """The clips that features are taken from: spread evenly, centre cropped, a bad file left out."""
    return Clips(
        manifest,
        Views(clips=(spec,), augment="none"),
        seed=0,
        short=short,
        evaluate=clips,
        crops=crops,
    )


def some_clips(
    manifest: Manifest, spec: ClipSpec, n: int, seed: int, batch_size: int, workers: int
) -> Iterator[UInt8[Tensor, "B C T H W"]]:
    """One clip of each of n rows, the same ones every time."""
    rows = permutation(seed, 0, len(manifest))[:n].tolist()
    for batch in eval_loader(evaluation(manifest, spec, 1, "pad"), rows, batch_size, workers):
        if batch["readable"].any():
            yield batch["clips"][:, 0]


def extract_from(
    data: Clips,
    sources: list[Source],
    cache: str | Path,
    batch_size: int,
    workers: int,
    device: torch.device | str,
    label: str,  # whose features these are
    each: bool = False,  # of the views of a video: S V D instead of their average
) -> Extracted:
    began = cpu_seconds()
    sources = [s._replace(key=f"{s.key} each view") for s in sources] if each else sources
    root, parts = Path(cache) / "features", _parts(data)
    lock = root / f"{_digest([part.name for part in parts])}.lock"
    with locked(lock, wait=True, what=str(root)):
        todo = [
            (part, [s for s in sources if _load(_file(root, s, part)) is None]) for part in parts
        ]
        todo = [(part, wanting) for part, wanting in todo if wanting]
        videos = sum(len(part.rows) for part, _ in todo)
        with progress_bar(videos, "video", desc=label, disable=not todo) as bar:
            for part, wanting in todo:
                _extract_part(
                    data,
                    part,
                    wanting,
                    root,
                    batch_size,
                    workers,
                    torch.device(device),
                    bar,
                    label,
                    each,
                )
    loaded = {s.name: [_load(_file(root, s, part)) or {} for part in parts] for s in sources}
    features = {name: _join(got) for name, got in loaded.items()}
    ok = [f.pop("ok").bool() for f in features.values()]
    return Extracted(features, torch.stack(ok).all(0), cpu_seconds() - began)


def _extract_part(
    data: Clips,
    part: Part,
    wanting: list[Source],
    root: Path,
    batch_size: int,
    workers: int,
    device: torch.device,
    bar: "tqdm[Any]",
    label: str,  # of the encoder, for a message
    each: bool,
) -> None:
    got: dict[str, dict[str, Tensor]] = {s.name: {} for s in wanting}
    ok = torch.zeros(len(part.rows))
    for batch in eval_loader(data, part.rows, batch_size, workers):
        bar.update(len(batch["readable"]))
        if not batch["readable"].any():
            continue
        where = batch["index"] - part.rows[0]
        ok[where] = 1
        found: dict[str, list[dict[str, Tensor]]] = {source.name: [] for source in wanting}
        for clip in (
            batch["clips"].to(device).unbind(1)
        ):  # B C T H W, the same one for all sources: they may share work
            with torch.inference_mode():
                for source in wanting:
                    found[source.name].append(source.run(clip, batch["index"]))
        for source in wanting:
            views = found[source.name]
            for name in views[0]:
                stack = torch.stack([v[name].float() for v in views], dim=1)  # B V ...
                value = (stack if each else stack.mean(1)).to(views[0][name].dtype).cpu()
                _check_finite(value, source, batch["video_id"], label)
                empty = torch.zeros(len(part.rows), *value.shape[1:], dtype=value.dtype)
                got[source.name].setdefault(name, empty)[where] = value
    for source in wanting:
        blob = save({**got[source.name], "ok": ok})
        file = _file(root, source, part)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, partial(_put, blob))


def _check_finite(value: Tensor, source: Source, videos: list[str], label: str) -> None:
    """A probe on NaN scores chance and a nearest neighbour of NaN is anybody: no number may come of it."""
    bad = (~value.isfinite()).flatten(1).any(1).nonzero()[:, 0].tolist()
    if bad:
        raise UserError(
            f"{label}: the features of {videos[bad[0]]} ({source.name}) hold NaN or infinity: "
            "the weights are damaged, or their training diverged."
        )


def _parts(data: Clips) -> list[Part]:
    cut = (type(data).__name__, data.views, data.short, data.evaluate, data.crops, data.decoder)
    shown, parts = _shown(data), []
    for first in range(0, len(data), PART):
        rows = list(range(first, min(first + PART, len(data))))
        parts.append(Part(rows, f"rows_{first:08d}_{_digest([cut, [shown[i] for i in rows]])}"))
    return parts


def _shown(data: Clips) -> list[tuple[object, ...]]:
    """For each row what its clips are cut from. One stat a file: a disk far away takes minutes for 240k of them."""
    real = lru_cache(os.path.realpath)  # of folders: to ask for each file costs a stat more
    files: list[tuple[object, ...]] = [
        (
            *(
                part
                for path in data.files(i)
                for part in _state(os.path.join(real(path.parent), path.name))
            ),
            row.fps,
        )
        for i, row in enumerate(data.manifest.rows)
    ]
    return (
        [(*files[row], *at) for row, at in zip(data.row, data.locations, strict=True)]
        if data.locations
        else files
    )


def _state(path: str) -> tuple[object, ...]:
    """A folder of frames is known by its own times: a picture written over in place does not change them."""
    try:
        stat = os.stat(path)
    except OSError:
        return path, None
    return path, stat.st_size, stat.st_mtime_ns, stat.st_mode  # chmod mends a file too


def _digest(what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def _put(blob: bytes, file: IO[bytes]) -> None:
    file.write(blob)


def _file(root: Path, source: Source, part: Part) -> Path:
    return root / _digest(source.key) / f"{part.name}.safetensors"


def _load(file: Path) -> dict[str, Tensor] | None:
    try:
        return load_file(file)
    except (FileNotFoundError, SafetensorError):
        return None  # not made yet, or cut short by a full disk: it is made again


def _join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A part in which no file could be read has no features but `ok`."""
    likes = {name: value[:0] for part in parts for name, value in part.items() if name != "ok"}
    rows = {
        name: torch.cat(
            [part.get(name, like.new_zeros(len(part["ok"]), *like.shape[1:])) for part in parts]
        )
        for name, like in likes.items()
    }
    return {**rows, "ok": torch.cat([torch.zeros(0), *(part["ok"] for part in parts)])}


def cpu_seconds() -> float:
    """Of this process and of its ended children."""
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
