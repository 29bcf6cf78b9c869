"""videos + a frozen encoder -> a feature store: the writer of `extract --per_second --out DIR`.

The only file that fills a store. A video's features are written whole when its last second is done, with the video's
own time of change: so a start goes on after the videos that are done, and makes a video anew that has changed since.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ssvid.data.loader import explain_dead_worker, use_one_thread
from ssvid.data.manifest import Manifest
from ssvid.data.preprocess.flow import flow_file, need_flow
from ssvid.data.quarantine import NAME, Quarantine
from ssvid.data.sampling import need_part
from ssvid.data.seconds import EACH, Block, Passes
from ssvid.data.store import Store, make_card, open_for_writing, read_features, write_features
from ssvid.encoder import Encoder
from ssvid.engine.features import cpu_seconds
from ssvid.errors import UserError
from ssvid.files import locked
from ssvid.log import log
from ssvid.progress import progress_bar
from ssvid.shapes import ClipSpec
from ssvid.weights.encoders import encoder_hash

AHEAD = 2  # blocks of clips that each worker has ready


def fill_store(
    data: Manifest,
    net: Encoder,
    out: str | Path,
    *,
    batch_size: int = 32,
    workers: int = 2,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """The features of every video that has none there yet. A video that fails is counted, listed and left out.

    `bad` may be all of them: the caller knows whether that is a fault.
    """
    began, cpu_s = time.monotonic(), cpu_seconds()
    _own_names(data)
    need_part(net.spec, EACH)
    if net.spec.modality == "flow":
        need_flow(data)
    root = Path(out).expanduser()
    with locked(root / "lock", wait=False, what=f"--out {root}"):
        store = open_for_writing(root, make_card(net.dim, net.name, encoder_hash(net), net.spec))
        (root / NAME).unlink(missing_ok=True)  # every video that has no features is looked at again
        bad = Quarantine(root, len(data))
        todo = [row for row in range(len(data)) if not _made(store, data, row, net.spec.modality)]
        kept = len(data) - len(todo)
        hour = 3600 * 2 * net.dim / 1e6
        log.info(
            f"{root}: {len(todo)} videos to go, {kept} done; {hour:.1f} MB for an hour of video"
        )
        rows = _extract(data, net, store, todo, bad, batch_size, workers, torch.device(device))
    made = len(todo) - len(bad)
    counts = {
        "out": str(out),
        "videos": len(data),
        "made": made,
        "kept": kept,
        "bad": len(bad),
        "rows": rows,
    }
    spent = {
        "seconds": round(time.monotonic() - began, 3),
        "cpu_s": round(cpu_seconds() - cpu_s, 3),
    }
    return {**counts, "dim": net.dim, **spent}


def _own_names(data: Manifest) -> None:
    """A store holds one file for each id."""
    twins = [name for name, n in Counter(data.video_ids).items() if n > 1]
    if twins:
        paths = [
            row.path
            for row, name in zip(data.rows, data.video_ids, strict=True)
            if name == twins[0]
        ]
        raise UserError(
            f"{len(twins)} video ids stand for several files, first {twins[0]} for {paths[0]} and {paths[1]}: give "
            "each its own, a feature store has one file for each id."
        )


def _changed(data: Manifest, row: int, modality: str) -> int | None:
    """When what a video's clips are read from was changed last, in ns; None: it is not there."""
    try:
        files = [data.path(row), *([flow_file(data, row)] if modality == "flow" else [])]
        return max(os.stat(file).st_mtime_ns for file in files)
    except OSError:
        return None


def _made(store: Store, data: Manifest, row: int, modality: str) -> bool:
    path = store.path(data.video_id(row))
    if not path.is_file() or path.stat().st_mtime_ns != _changed(data, row, modality):
        return False
    try:
        return len(read_features(path, store.dim)) > 0
    except UserError:
        return False  # cut short by a full disk of another writer: made again


def _extract(
    data: Manifest,
    net: Encoder,
    store: Store,
    todo: list[int],
    bad: Quarantine,
    batch_size: int,
    workers: int,
    device: torch.device,
) -> int:
    """Gives the number of seconds that were made."""
    done: dict[int, list[np.ndarray]] = defaultdict(
        list
    )  # of the videos that are under way, one for each worker
    seconds = 0
    with progress_bar(len(todo), "video", desc=net.name, disable=not todo) as bar:
        for block in _blocks(data, net.spec, todo, batch_size, workers):
            if isinstance(block.fault, UserError):
                raise block.fault
            if block.clips is None:
                done.pop(block.row, None)
                bar.update()
                if block.fault is not None:
                    bad.add(block.fault.path, block.fault.time, block.fault.why)
                continue
            done[block.row].append(_embed(net, block.clips, device, data.path(block.row)))
            seconds += len(block.clips)
            bar.set_postfix(seconds=seconds, refresh=False)
            if block.last:
                _write(store, data, block.row, done.pop(block.row), net.spec.modality)
                bar.update()
    return seconds


@torch.inference_mode()
def _embed(net: Encoder, clips: torch.Tensor, device: torch.device, video: Path) -> np.ndarray:
    pooled = net(net.normalise(clips.to(device))).pooled.float().cpu()
    if not pooled.isfinite().all():
        raise UserError(
            f"{net.name}: the features of {video} hold NaN or infinity: the weights are damaged, or their training "
            "diverged."
        )
    if pooled.abs().max() > torch.finfo(torch.float16).max:
        raise UserError(
            f"{net.name}: the features of {video} reach {pooled.abs().max():.3g}, too much for float16."
        )
    return pooled.numpy().astype(np.float16)


def _write(store: Store, data: Manifest, row: int, parts: list[np.ndarray], modality: str) -> None:
    path, changed = store.path(data.video_id(row)), _changed(data, row, modality)
    write_features(path, np.concatenate(parts))
    if changed is not None:
        os.utime(path, ns=(changed, changed))


def _blocks(
    data: Manifest, spec: ClipSpec, todo: list[int], batch_size: int, workers: int
) -> Iterator[Block]:
    workers = min(workers, len(todo))
    loader = DataLoader(
        Passes(data, spec, todo, batch_size),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        worker_init_fn=use_one_thread,
        generator=torch.Generator(),  # else it draws from the global one
    )
    with explain_dead_worker():
        yield from loader
