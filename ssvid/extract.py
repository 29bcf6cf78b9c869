"""Videos -> frozen features in one .npz file, or in a feature store.

python -m ssvid.extract --encoder RUN --data folder --data.root DIR --out FILE.npz

With `--per_second --out DIR` the features go into a feature store of any size: see
ssvid.data.store.
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
from ssvid.engine.features import Source, evaluation, extract_from, refuse_bad_options, some_clips
from ssvid.engine.per_second import fill_store
from ssvid.engine.train_flags import UNCHANGED, ClipChange
from ssvid.errors import UserError
from ssvid.files import write_whole
from ssvid.hub import open_encoder
from ssvid.log import log
from ssvid.nn.batchnorm import ensure_statistics
from ssvid.weights.encoders import hash_encoder

NAMED_FILES = 20  # unreadable files that the result names; the log names all of them


def extract_features(
    # a run folder, an exported file, or a name (random weights); RUN@random: the run untrained
    encoder: str,
    data: Manifest,  # the clips; all splits are read
    out: str,  # an .npz file; with --per_second also a folder for a feature store
    *,
    per_second: bool = False,  # one row per second of each video instead of one per video
    clip: ClipChange = UNCHANGED,
    clips: int = 1,  # clips of each video, spread evenly over it and averaged
    # number of train clips that batch norm is measured on, for an encoder without statistics
    calibrate_bn: int = 0,
    batch_size: int = 32,  # clips that pass the encoder together
    workers: int = 2,  # loader processes
    short_videos: Literal["pad", "drop"] = "pad",  # what to do with videos shorter than a clip
    devices: Literal["auto", "cpu", "cuda"] = "auto",  # auto: a GPU where there is one
    cache: str = ".cache/ssvid",  # folder of the frozen features
) -> dict[str, object]:
    """Extract frozen features of every clip of a data set, labelled or not.

    The same command again resumes where it stopped.
    """
    into_store = per_second and not out.endswith(".npz")
    _refuse_out(out, per_second, into_store)
    folder = Path(out) if into_store else Path(out).parent
    refuse_bad_options(
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
        # A registered name gets the same random weights each time, so cached features fit.
        torch.manual_seed(0)
        net = open_encoder(encoder).to(device)
    clip.apply_to(net)
    train_clips = some_clips(data.split("train"), net.spec, calibrate_bn, 0, batch_size, workers)
    ensure_statistics(net, encoder, train_clips if calibrate_bn else None)
    if into_store:
        counts = fill_store(data, net, out, batch_size=batch_size, workers=workers, device=device)
        if counts["bad"] == len(data):
            raise UserError(
                f"None of the {len(data)} files could be read, first {data.path(0)}: "
                "check --data.root."
            )
        return counts
    samples: Clips
    if per_second:
        samples = Seconds(data, net.spec)
    else:
        samples = evaluation(data, net.spec, clips, short_videos)
    return _fill_table(
        data, samples, net, encoder, out, cache, batch_size, workers, device, short_videos
    )


def _refuse_out(out: str, per_second: bool, into_store: bool) -> None:
    if into_store or (out.endswith(".npz") and not Path(out).is_dir()):
        return
    folder = ", or of --per_second a folder" if per_second else ""
    raise UserError(f"--out {out} should be a file that ends in .npz{folder}.")


def _fill_table(
    data: Manifest,
    samples: Clips,
    net: Encoder,
    encoder: str,
    out: str,
    cache: str,
    batch_size: int,
    workers: int,
    device: torch.device,
    short: str,
) -> dict[str, object]:
    megabytes = 4 * net.dim * len(samples) / 1e6
    log.info(f"{len(data)} videos through {net.name}; features of {megabytes:.1f} MB")
    key = f"{hash_encoder(net)}/pooled"
    decoded = 0  # clips that this process decodes; an earlier one may have left others

    def run(clip: Tensor, _: Tensor) -> dict[str, Tensor]:
        nonlocal decoded
        decoded += len(clip)
        return {"pooled": net(net.normalise(clip)).pooled}

    extracted = extract_from(
        samples, [Source("pooled", key, run)], cache, batch_size, workers, device, encoder
    )
    video_of_row = samples.row if isinstance(samples, Seconds) else range(len(samples))
    video = np.array(video_of_row, dtype=np.int64)
    good = extracted.ok.numpy()
    lost = name_lost_files(data, video, good, short)
    if not good.any():
        raise UserError(
            f"None of the {len(data)} files could be read, first {lost[0]}: check --data.root."
        )
    table = {"features": extracted.features["pooled"]["pooled"].numpy()[good], "row": video[good]}
    if isinstance(samples, Seconds):
        table["second"] = np.array([second for (second,) in samples.locations])[good]
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
    return {
        "out": out,
        "rows": len(paths),
        "dim": int(table["features"].shape[1]),
        "unreadable_files": len(lost),
        "unreadable": lost[:NAMED_FILES],
        "clips_decoded": decoded,
        "cpu_s": round(extracted.cpu_s, 2),  # with that of the loader processes
        "cpu_s_per_clip": round(extracted.cpu_s / decoded, 4) if decoded else None,
    }


def name_lost_files(data: Manifest, video: np.ndarray, good: np.ndarray, short: str) -> list[str]:
    """Files that gave no row at all. Files that gave none or too few are also logged.

    `video`: of each row, the index of its video. `good`: of each row, whether it was read.
    """
    wanted = np.bincount(video, minlength=len(data)).tolist()
    read = np.bincount(video[good], minlength=len(data)).tolist()
    why = "could not be read"
    if short == "drop":
        why += " or is shorter than the clip"
    for i, row in enumerate(data.rows):
        if not read[i]:
            log.info(f"{data.root / row.path} {why}")
        elif read[i] < wanted[i]:
            log.info(f"{data.root / row.path}: {wanted[i] - read[i]} of {wanted[i]} seconds {why}")
    return [row.path for i, row in enumerate(data.rows) if not read[i]]


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("extract")
