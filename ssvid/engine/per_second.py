"""Videos and a frozen encoder -> a feature store: `ssvid.extract --per_second --out DIR`.

The features of a video are written as a whole when its last second is done. Their file gets the
video's time of change. So the next start skips finished videos and repeats videos that have
changed.
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
from ssvid.weights.encoders import hash_encoder

PREFETCH = 2  # blocks of clips that each worker has ready


def fill_store(
    data: Manifest,
    net: Encoder,
    out: str | Path,
    *,
    batch_size: int = 32,
    workers: int = 2,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Compute the features of every video that has none in the store yet.

    A video that fails is counted, listed and left out. `bad` may count all of them: the caller
    knows whether that is an error.
    """
    start_s, cpu_start_s = time.monotonic(), cpu_seconds()
    _check_ids(data)
    need_part(net.spec, EACH)
    if net.spec.modality == "flow":
        need_flow(data)
    root = Path(out).expanduser()
    with locked(root / "lock", wait=False, what=f"--out {root}"):
        store = open_for_writing(root, make_card(net.dim, net.name, hash_encoder(net), net.spec))
        (root / NAME).unlink(missing_ok=True)  # every video without features is tried again
        bad = Quarantine(root, len(data))
        videos = range(len(data))
        todo = [row for row in videos if not _is_done(store, data, row, net.spec.modality)]
        done = len(data) - len(todo)
        megabytes = 3600 * 2 * net.dim / 1e6
        log.info(
            f"{root}: {len(todo)} videos to go, {done} done; {megabytes:.1f} MB for an hour of "
            "video"
        )
        rows = _extract(data, net, store, todo, bad, batch_size, workers, torch.device(device))
    return {
        "out": str(out),
        "videos": len(data),
        "made": len(todo) - len(bad),
        "kept": done,
        "bad": len(bad),
        "rows": rows,
        "dim": net.dim,
        "seconds": round(time.monotonic() - start_s, 3),
        "cpu_s": round(cpu_seconds() - cpu_start_s, 3),
    }


def _check_ids(data: Manifest) -> None:
    """Raise a UserError if two files share a video id: a store has one file for each id."""
    repeated = [name for name, n in Counter(data.video_ids).items() if n > 1]
    if repeated:
        files = zip(data.rows, data.video_ids, strict=True)
        paths = [row.path for row, name in files if name == repeated[0]]
        raise UserError(
            f"{len(repeated)} video ids stand for several files, first {repeated[0]} for "
            f"{paths[0]} and {paths[1]}: give each its own, a feature store has one file for each "
            "id."
        )


def _read_change_time(data: Manifest, row: int, modality: str) -> int | None:
    """When the files of a video's clips changed last, in ns; None if they are missing."""
    try:
        files = [data.path(row)]
        if modality == "flow":
            files.append(flow_file(data, row))
        return max(os.stat(file).st_mtime_ns for file in files)
    except OSError:
        return None


def _is_done(store: Store, data: Manifest, row: int, modality: str) -> bool:
    """Whether the store has the features of a video as it is now."""
    path = store.path(data.video_id(row))
    if not path.is_file() or path.stat().st_mtime_ns != _read_change_time(data, row, modality):
        return False
    try:
        return len(read_features(path, store.dim)) > 0
    except UserError:
        return False  # a full disk cut it short: it is computed again


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
    """Fill the store. Returns the number of seconds whose features were computed."""
    # Features of the videos that are in progress, one video for each worker.
    unfinished: dict[int, list[np.ndarray]] = defaultdict(list)
    seconds = 0
    with progress_bar(len(todo), "video", desc=net.name, disable=not todo) as bar:
        for block in _blocks(data, net.spec, todo, batch_size, workers):
            if isinstance(block.fault, UserError):
                raise block.fault
            if block.clips is None:
                unfinished.pop(block.row, None)
                bar.update()
                if block.fault is not None:
                    bad.add(block.fault.path, block.fault.time, block.fault.why)
                continue
            unfinished[block.row].append(_embed(net, block.clips, device, data.path(block.row)))
            seconds += len(block.clips)
            bar.set_postfix(seconds=seconds, refresh=False)
            if block.last:
                features = np.concatenate(unfinished.pop(block.row))
                _write(store, data, block.row, features, net.spec.modality)
                bar.update()
    return seconds


@torch.inference_mode()
def _embed(net: Encoder, clips: torch.Tensor, device: torch.device, video: Path) -> np.ndarray:
    pooled = net(net.normalise(clips.to(device))).pooled.float().cpu()
    if not pooled.isfinite().all():
        raise UserError(
            f"{net.name}: the features of {video} hold NaN or infinity: the weights are damaged, "
            "or their training diverged."
        )
    if pooled.abs().max() > torch.finfo(torch.float16).max:
        raise UserError(
            f"{net.name}: the features of {video} reach {pooled.abs().max():.3g}, too much for "
            "float16."
        )
    return pooled.numpy().astype(np.float16)


def _write(store: Store, data: Manifest, row: int, features: np.ndarray, modality: str) -> None:
    path, change_ns = store.path(data.video_id(row)), _read_change_time(data, row, modality)
    write_features(path, features)
    if change_ns is not None:
        os.utime(path, ns=(change_ns, change_ns))


def _blocks(
    data: Manifest, spec: ClipSpec, todo: list[int], batch_size: int, workers: int
) -> Iterator[Block]:
    workers = min(workers, len(todo))
    loader = DataLoader(
        Passes(data, spec, todo, batch_size),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=use_one_thread,
        generator=torch.Generator(),  # otherwise it draws from the global one
    )
    with explain_dead_worker():
        yield from loader
