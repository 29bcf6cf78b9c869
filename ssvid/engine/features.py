"""videos + frozen functions of clips -> arrays on disk. One decode of a clip serves everything that wants it.

Kept under `cache/features` in parts of PART rows, each written whole, so an interrupted extraction goes on where it
stopped and several processes share one. A part is named by what it depends on: function, rows, clip and clip grid.
"""

import hashlib
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from ssvid.data.clips import Clips
from ssvid.data.loader import eval_loader
from ssvid.data.manifest import Manifest
from ssvid.files import locked, write_whole
from ssvid.shapes import ClipSpec, Views

PART = 256  # rows


class Source(NamedTuple):
    """A frozen function of clips: uint8 `B C T H W` and row numbers `B` -> named features `B D`."""

    name: str
    key: str  # everything its values depend on but the clips
    run: Callable[[Tensor, Tensor], dict[str, Tensor]]


class Extracted(NamedTuple):
    features: dict[str, dict[str, Tensor]]  # source -> feature -> S D; zeros where a file could not be read
    ok: Tensor  # S
    cpu_s: float  # spent this time, loader processes included


def extract(
    manifest: Manifest,
    spec: ClipSpec,
    sources: list[Source],
    *,
    cache: str | Path,
    batch_size: int = 32,  # videos
    workers: int = 2,
    clips: int = 1,  # of a video, spread evenly; their features are averaged
    device: torch.device | str = "cpu",
    short: str = "pad",
    label: str = "features",
) -> Extracted:
    """Features of every row, in the manifest's order."""
    grid = repr((manifest.hash, vars(spec), clips, short))
    data = evaluation(manifest, spec, clips, short)
    return extract_from(data, grid, sources, cache, batch_size, workers, device, label)


def evaluation(manifest: Manifest, spec: ClipSpec, clips: int, short: str) -> Clips:
    """The clips that features are taken from: spread evenly, centre cropped, a bad file left out."""
    return Clips(manifest, Views(clips=(spec,), augment="none"), seed=0, short=short, evaluate=clips)


def extract_from(
    data: Clips,
    grid: str,  # names the rows and which clips of them `data` gives
    sources: list[Source],
    cache: str | Path,
    batch_size: int,
    workers: int,
    device: torch.device | str,
    label: str,
) -> Extracted:
    began = cpu_seconds()
    what = hashlib.sha256(grid.encode()).hexdigest()[:16]
    root = Path(cache) / "features"
    parts = [list(range(a, min(a + PART, len(data)))) for a in range(0, len(data), PART)]
    with locked(root / f"{what}.lock", wait=True, what=str(root)):
        todo = [(rows, [s for s in sources if _load(_file(root, s, what, rows)) is None]) for rows in parts]
        todo = [(rows, wanting) for rows, wanting in todo if wanting]
        slow = 1 if sys.stderr.isatty() else 20
        videos = sum(len(rows) for rows, _ in todo)
        with tqdm(total=videos, unit="video", desc=label, mininterval=slow, disable=not todo) as bar:
            for rows, wanting in todo:
                _extract_part(data, rows, wanting, root, what, batch_size, workers, torch.device(device), bar)
    loaded = {s.name: [_load(_file(root, s, what, rows)) or {} for rows in parts] for s in sources}
    features = {name: _join(got) for name, got in loaded.items()}
    ok = [f.pop("ok").bool() for f in features.values()]
    return Extracted(features, torch.stack(ok).all(0), cpu_seconds() - began)


def _extract_part(
    data: Clips,
    rows: list[int],
    wanting: list[Source],
    root: Path,
    what: str,
    batch_size: int,
    workers: int,
    device: torch.device,
    bar: tqdm,
) -> None:
    got: dict[str, dict[str, Tensor]] = {s.name: {} for s in wanting}
    ok = torch.zeros(len(rows))
    for batch in eval_loader(data, rows, batch_size, workers):
        bar.update(len(batch["ok"]))
        if not batch["ok"].any():
            continue
        where = batch["index"] - rows[0]
        ok[where] = 1
        clips = batch["clips"].to(device)  # B V C T H W
        for source in wanting:
            with torch.inference_mode():
                views = [source.run(clip, batch["index"]) for clip in clips.unbind(1)]
            for name in views[0]:
                value = torch.stack([v[name].float() for v in views]).mean(0).cpu()
                table = got[source.name].setdefault(name, torch.zeros(len(rows), value.shape[1]))
                table[where] = value
    for source in wanting:
        blob = save({**got[source.name], "ok": ok})
        file = _file(root, source, what, rows)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, partial(_put, blob))


def _put(blob: bytes, file: IO[bytes]) -> None:
    file.write(blob)


def _file(root: Path, source: Source, what: str, rows: list[int]) -> Path:
    key = hashlib.sha256(source.key.encode()).hexdigest()[:16]
    return root / f"{key}-{what}" / f"rows_{rows[0]:08d}.safetensors"


def _load(file: Path) -> dict[str, Tensor] | None:
    try:
        return load_file(file)
    except (FileNotFoundError, SafetensorError):
        return None  # not made yet, or cut short by a full disk: it is made again


def _join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A part in which no file could be read has no features but `ok`."""
    widths = {name: value.shape[1] for part in parts for name, value in part.items() if name != "ok"}
    rows = {
        name: torch.cat([part.get(name, torch.zeros(len(part["ok"]), width)) for part in parts])
        for name, width in widths.items()
    }
    return {**rows, "ok": torch.cat([part["ok"] for part in parts])}


def cpu_seconds() -> float:
    """Of this process and of its ended children."""
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
