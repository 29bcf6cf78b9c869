"""Videos and frozen functions of clips -> features on disk.

A clip is decoded once for all functions.

The features are stored under `cache/features` in parts of PART_ROWS rows. A part is written as a
whole, so an interrupted extraction resumes where it stopped, and several processes can share the
cache. The name of a part contains everything it depends on: the function, how clips are cut, and
the state of its files. If one file changes, one part is computed again.
"""

import hashlib
import math
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from ssvid.data.clips import Clips
from ssvid.data.loader import eval_loader
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError, check_positive, check_range
from ssvid.files import locked, write_bytes_whole
from ssvid.progress import progress_bar
from ssvid.randomness import permutation
from ssvid.shapes import Batch, ClipSpec, Views

PART_ROWS = 256
BYTES_IN_MEMORY = 4 << 30  # of features, up to which all stay in memory
NEWEST = 4  # sources that stay in memory where all are more


class Source(NamedTuple):
    """A frozen function: uint8 clips B C T H W and row numbers B -> named features B D or B N D."""

    name: str
    key: str  # everything besides the clips that its values depend on
    run: Callable[[Tensor, Tensor], dict[str, Tensor]]


class Part(NamedTuple):
    """Consecutive rows whose features are in one file."""

    rows: list[int]
    name: str  # of its file


class Extracted(NamedTuple):
    features: Mapping[str, dict[str, Tensor]]  # source -> feature -> S D; zeros for bad files
    ok: Tensor  # S: False for unreadable files
    cpu_s: float  # of this call, with its loader processes


class StoredFeatures(Mapping[str, dict[str, Tensor]]):
    """Source -> its features, read from the cache when they are asked for.

    Of many sources of a large data set the newest few stay in memory, which may not hold all.
    """

    def __init__(self, files: dict[str, tuple[Path, ...]]) -> None:
        self._files = files
        total = 0
        for of_source in files.values():
            total += sum(map(os.path.getsize, of_source))
        self._read = lru_cache(None if total <= BYTES_IN_MEMORY else NEWEST)(_read_parts)

    def __getitem__(self, source: str) -> dict[str, Tensor]:
        return dict(self._read(self._files[source]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def read_ok(self) -> Tensor:
        """S: False for files that some source could not read."""
        columns = []
        for files in self._files.values():
            column = [torch.zeros(0, dtype=torch.bool)]
            for file in files:
                with safe_open(file, "pt") as part:
                    column.append(part.get_tensor("ok").bool())
            columns.append(torch.cat(column))
        return torch.stack(columns).all(0)


def refuse_bad_options(
    out: Path, cache: str, *, batch_size: int, workers: int, clips: int, calibrate_bn: int
) -> None:
    """Raise a UserError for flags that no command on features can work with.

    `out`: the folder that the command writes to.
    """
    check_positive(batch_size=batch_size, clips=clips)
    check_range(0, math.inf, workers=workers, calibrate_bn=calibrate_bn)
    for flag, folder in (("--out", out), ("--cache", Path(cache))):
        for path in (folder, *folder.parents):
            if path.is_file():
                raise UserError(f"{flag}: {path} is a file where a folder is wanted.")


def evaluation(manifest: Manifest, spec: ClipSpec, clips: int, short: str, crops: int = 1) -> Clips:
    """The clips that features are taken from: spread evenly and centre cropped.

    Bad files are skipped.
    """
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
    """One clip of each of n rows, in batches. The rows are the same every time."""
    clips = choose_clips(manifest, spec, n, seed)
    for batch in eval_loader(clips, range(len(clips)), batch_size, workers):
        if batch["readable"].any():
            yield batch["clips"][:, 0]


def describe_some_clips(manifest: Manifest, spec: ClipSpec, n: int, seed: int) -> str:
    """A digest of all that `some_clips` depends on: the state of the files and the cut of clips."""
    parts = _divide_rows(choose_clips(manifest, spec, n, seed))
    return _name_parts(parts)


def choose_clips(manifest: Manifest, spec: ClipSpec, n: int, seed: int) -> Clips:
    return evaluation(manifest.take(permutation(seed, 0, len(manifest))[:n]), spec, 1, "pad")


def extract_from(
    data: Clips,
    sources: list[Source],
    cache: str | Path,
    batch_size: int,
    workers: int,
    device: torch.device | str,
    label: str,  # the name of the encoder, for the bar and messages
    each: bool = False,  # return the features of each view, S V D, instead of their average
) -> Extracted:
    """Compute the features that are not in the cache, and load all of them.

    Raises a UserError if a feature is NaN or infinite.
    """
    start_s = cpu_seconds()
    sources, root, parts = _name_views(sources, each), Path(cache) / "features", _divide_rows(data)
    lock = root / f"{_name_parts(parts)}.lock"
    with locked(lock, wait=True, what=str(root)):
        missing: list[tuple[Part, list[Source]]] = []
        for part in parts:
            to_compute = [s for s in sources if not _is_whole(_file(root, s, part))]
            if to_compute:
                missing.append((part, to_compute))
        videos = sum(len(part.rows) for part, _ in missing)
        with progress_bar(videos, "video", desc=label, disable=not missing) as bar:
            for part, to_compute in missing:
                loader = eval_loader(data, part.rows, batch_size, workers)
                _extract_part(
                    loader, part, to_compute, root, torch.device(device), bar, label, each
                )
    files = {}
    for source in sources:
        files[source.name] = tuple(_file(root, source, part) for part in parts)
    features = StoredFeatures(files)
    return Extracted(features, features.read_ok(), cpu_seconds() - start_s)


def count_missing_rows(
    data: Clips, sources: list[Source], cache: str | Path, keep_views: bool = False
) -> dict[str, int]:
    """Name of a source -> rows whose features are not in the cache.

    `keep_views`: each view keeps features of its own.
    """
    root, parts = Path(cache) / "features", _divide_rows(data)
    missing = {}
    for source in _name_views(sources, keep_views):
        missing[source.name] = 0
        for part in parts:
            if not _is_whole(_file(root, source, part)):
                missing[source.name] += len(part.rows)
    return missing


def _name_views(sources: list[Source], keep_views: bool) -> list[Source]:
    """The sources with the keys that they have where each view keeps features of its own."""
    return [s._replace(key=f"{s.key} each view") for s in sources] if keep_views else sources


def _extract_part(
    batches: Iterable[Batch],
    part: Part,
    sources: list[Source],
    root: Path,
    device: torch.device,
    bar: "tqdm[Any]",
    label: str,
    each: bool,
) -> None:
    """Compute the features of one part and write them, one file for each source."""
    tables: dict[str, dict[str, Tensor]] = {source.name: {} for source in sources}
    ok = torch.zeros(len(part.rows))
    for batch in batches:
        bar.update(len(batch["readable"]))
        if not batch["readable"].any():
            continue
        rows = batch["index"] - part.rows[0]
        ok[rows] = 1
        views: dict[str, list[dict[str, Tensor]]] = {source.name: [] for source in sources}
        # All sources get the same clip object, B C T H W, because they may share work on it.
        for clip in batch["clips"].to(device).unbind(1):
            with torch.inference_mode():
                for source in sources:
                    views[source.name].append(source.run(clip, batch["index"]))
        for source in sources:
            for name, first in views[source.name][0].items():
                stack = torch.stack([v[name].float() for v in views[source.name]], dim=1)  # B V ...
                value = (stack if each else stack.mean(1)).to(first.dtype).cpu()
                _check_finite(value, source, batch["video_id"], label)
                empty = torch.zeros(len(part.rows), *value.shape[1:], dtype=value.dtype)
                tables[source.name].setdefault(name, empty)[rows] = value
    for source in sources:
        blob = save({**tables[source.name], "ok": ok})
        file = _file(root, source, part)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_whole(file, blob)


def _check_finite(value: Tensor, source: Source, videos: list[str], label: str) -> None:
    """Raise a UserError for NaN or infinity, because a probe would score them as chance."""
    bad = (~value.isfinite()).flatten(1).any(1).nonzero()[:, 0].tolist()
    if bad:
        raise UserError(
            f"{label}: the features of {videos[bad[0]]} ({source.name}) hold NaN or infinity: "
            "the weights are damaged, or their training diverged."
        )


def _divide_rows(data: Clips) -> list[Part]:
    cut = (type(data).__name__, data.views, data.short, data.evaluate, data.crops, data.decoder)
    states, parts = _describe_files(data), []
    for first in range(0, len(data), PART_ROWS):
        rows = list(range(first, min(first + PART_ROWS, len(data))))
        parts.append(Part(rows, f"rows_{first:08d}_{_digest([cut, [states[i] for i in rows]])}"))
    return parts


def _name_parts(parts: list[Part]) -> str:
    return _digest([part.name for part in parts])


def _describe_files(data: Clips) -> list[tuple[object, ...]]:
    """The state of the files that each row's clips are cut from.

    It takes one stat per file: on a network disk 240,000 of them take minutes.
    """
    real_folder = lru_cache(os.path.realpath)  # asking for each file would take another stat
    files: list[tuple[object, ...]] = []
    for i, row in enumerate(data.manifest.rows):
        state: list[object] = []
        for path in data.files(i):
            state += _describe_file(os.path.join(real_folder(path.parent), path.name))
        files.append((*state, row.fps))
    if not data.locations:
        return files
    return [(*files[row], *moment) for row, moment in zip(data.row, data.locations, strict=True)]


def _describe_file(path: str) -> tuple[object, ...]:
    """Path, size, time of change and mode. chmod may mend a file too.

    A folder of frames has the times of the folder: a picture that is overwritten changes nothing.
    """
    try:
        stat = os.stat(path)
    except OSError:
        return path, None
    return path, stat.st_size, stat.st_mtime_ns, stat.st_mode


def _digest(content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _file(root: Path, source: Source, part: Part) -> Path:
    return root / _digest(source.key) / f"{part.name}.safetensors"


def _is_whole(file: Path) -> bool:
    """Whether a file holds all the tensors that its head lists. The tensors are not read."""
    try:
        with safe_open(file, "pt"):
            return True
    except (FileNotFoundError, SafetensorError):
        return False


def _load(file: Path) -> dict[str, Tensor] | None:
    try:
        return load_file(file)
    except (FileNotFoundError, SafetensorError):
        return None  # missing, or a full disk cut it short: it will be computed again


def _read_parts(files: tuple[Path, ...]) -> dict[str, Tensor]:
    """Raises a UserError where a file has gone since the features were extracted."""
    parts = []
    for file in files:
        part = _load(file)
        if part is None:
            raise UserError(f"The cached features {file} have gone: run the command again.")
        parts.append(part)
    joined = _join(parts)
    del joined["ok"]
    return joined


def _join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The features of all parts.

    A part without a readable file has only `ok`; its rows are zeros.
    """
    templates: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.items():
            if name != "ok":
                templates[name] = value[:0]
    joined = {"ok": torch.cat([torch.zeros(0), *(part["ok"] for part in parts)])}
    for name, template in templates.items():
        tables = []
        for part in parts:
            zeros = template.new_zeros(len(part["ok"]), *template.shape[1:])
            tables.append(part.get(name, zeros))
        joined[name] = torch.cat(tables)
    return joined


def cpu_seconds() -> float:
    """CPU-seconds of this process and of its children that have ended."""
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
