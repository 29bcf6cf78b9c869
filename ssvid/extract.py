"""videos -> features in one .npz: `python -m ssvid.extract --encoder RUN --data folder --data.root DIR --out F.npz`.

With `--per_second --out DIR` a feature store of any size instead: see ssvid.data.store.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ssvid.data.clips import Clips
from ssvid.data.manifest import Manifest
from ssvid.data.seconds import Seconds
from ssvid.encoder import Encoder
from ssvid.engine.distributed import join
from ssvid.engine.features import Source, evaluation, extract_from, refuse, some_clips
from ssvid.engine.per_second import fill_store
from ssvid.engine.train_flags import UNCHANGED, ClipChange
from ssvid.errors import UserError
from ssvid.files import write_whole
from ssvid.hub import open_encoder
from ssvid.log import log
from ssvid.nn.batchnorm import settle
from ssvid.weights.encoders import encoder_hash

NAMED = 20  # unreadable files in the result; standard error has them all


def extract_features(
    encoder: str,  # a run folder, an exported file, or a name (random weights)
    data: Manifest,  # the clips, of all splits
    out: str,  # .npz; with --per_second also a folder: a feature store
    *,
    per_second: bool = False,  # one row for each second of each video, instead of one for each video
    clip: ClipChange = UNCHANGED,
    clips: int = 1,  # of a video, spread evenly and averaged
    calibrate_bn: int = 0,  # train clips to measure batch norm on, for an encoder that has no statistics
    batch_size: int = 32,  # clips through the encoder at once
    workers: int = 2,  # loader processes
    short_videos: Literal["pad", "drop"] = "pad",  # what to do with videos shorter than a clip
    devices: Literal["auto", "cpu", "cuda"] = "auto",  # auto: a GPU where there is one
    cache: str = ".cache/ssvid",  # folder of the frozen features
) -> dict[str, object]:
    """Frozen features of every clip of a data set, all splits, labelled or not. Interrupted, it goes on."""
    into_store = per_second and not out.endswith(".npz")
    _refuse_out(out, per_second, into_store)
    folder = Path(out) if into_store else Path(out).parent
    refuse(
        folder,
        cache,
        batch_size=batch_size,
        workers=workers,
        clips=clips,
        calibrate_bn=calibrate_bn,
    )
    if per_second and clips != 1:
        raise UserError("--per_second gives one clip for each second: it takes no --clips.")
    device = join(devices).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(
            0
        )  # a name gives the same random weights each time: the next run goes on with its features
        net = open_encoder(encoder).to(device)
    clip.onto(net)
    measured = some_clips(data.split("train"), net.spec, calibrate_bn, 0, batch_size, workers)
    settle(net, encoder, measured if calibrate_bn else None)
    if into_store:
        told = fill_store(data, net, out, batch_size=batch_size, workers=workers, device=device)
        if told["bad"] == len(data):
            raise UserError(
                f"None of the {len(data)} files could be read, first {data.path(0)}: check --data.root."
            )
        return told
    seen: Clips = (
        Seconds(data, net.spec) if per_second else evaluation(data, net.spec, clips, short_videos)
    )
    return _into_table(
        data, seen, net, encoder, out, cache, batch_size, workers, device, short_videos
    )


def _refuse_out(out: str, per_second: bool, into_store: bool) -> None:
    if into_store or (out.endswith(".npz") and not Path(out).is_dir()):
        return
    more = ", or of --per_second a folder" if per_second else ""
    raise UserError(f"--out {out} should be a file that ends in .npz{more}.")


def _into_table(
    data: Manifest,
    seen: Clips,
    net: Encoder,
    encoder: str,
    out: str,
    cache: str,
    batch_size: int,
    workers: int,
    device: torch.device,
    short: str,
) -> dict[str, object]:
    log.info(
        f"{len(data)} videos through {net.name}; features of {4 * net.dim * len(seen) / 1e6:.1f} MB"
    )
    key = f"{encoder_hash(net)}/pooled"
    decoded = 0  # now: what an earlier run has left is not decoded again

    def run(clip: Tensor, _: Tensor) -> dict[str, Tensor]:
        nonlocal decoded
        decoded += len(clip)
        return {"pooled": net(net.normalise(clip)).pooled}

    got = extract_from(
        seen, [Source("pooled", key, run)], cache, batch_size, workers, device, encoder
    )
    video = np.array(
        seen.row if isinstance(seen, Seconds) else range(len(seen)), dtype=np.int64
    )  # of each row
    good = got.ok.numpy()
    lost = name_lost(data, video, good, short)
    if not good.any():
        raise UserError(
            f"None of the {len(data)} files could be read, first {lost[0]}: check --data.root."
        )
    table = {"features": got.features["pooled"]["pooled"].numpy()[good], "row": video[good]}
    if isinstance(seen, Seconds):
        table["second"] = np.array([second for (second,) in seen.locations])[good]
    paths = np.array([data.rows[i].path for i in video[good]])
    labels = data.labels.numpy()[video[good]]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    columns = {
        **table,
        "path": paths,
        "label": labels,
        "classes": np.array(data.classes, dtype=str),
    }
    write_whole(Path(out), lambda file: np.savez(file, **columns))
    each = (
        got.cpu_s / decoded if decoded else None
    )  # loader processes included, the parts that are there too
    cost = {
        "clips_decoded": decoded,
        "cpu_s": round(got.cpu_s, 2),
        "cpu_s_per_clip": each and round(each, 4),
    }
    told = {"unreadable_files": len(lost), "unreadable": lost[:NAMED], **cost}
    return {"out": out, "rows": len(paths), "dim": int(table["features"].shape[1]), **told}


def name_lost(data: Manifest, video: np.ndarray, good: np.ndarray, short: str) -> list[str]:
    """Files that gave no row at all; one line on standard error for each that gave none, or not all."""
    wanted, read = (
        np.bincount(rows, minlength=len(data)).tolist() for rows in (video, video[good])
    )
    why = "could not be read" + " or is shorter than the clip" * (short == "drop")
    for i, row in enumerate(data.rows):
        if not read[i]:
            log.info(f"{data.root / row.path} {why}")
        elif read[i] < wanted[i]:
            log.info(f"{data.root / row.path}: {wanted[i] - read[i]} of {wanted[i]} seconds {why}")
    return [row.path for i, row in enumerate(data.rows) if not read[i]]


if __name__ == "__main__":
    from ssvid.cli import command

    command(extract_features)
