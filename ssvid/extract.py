"""videos -> features in one .npz: `python -m ssvid.extract --encoder RUN --data folder --data.root DIR --out F.npz`."""

import sys
from pathlib import Path
from typing import Literal

import numpy as np

from ssvid.data.clips import Clips
from ssvid.data.manifest import Manifest
from ssvid.data.seconds import Seconds
from ssvid.engine.distributed import join
from ssvid.engine.features import Source, evaluation, extract_from
from ssvid.errors import UserError
from ssvid.files import write_whole
from ssvid.weights import encoder_hash, open_encoder


def extract_features(
    encoder: str,  # a run folder, an exported file, or a name (random weights)
    data: Manifest,
    out: str,  # .npz
    *,
    per_second: bool = False,  # one row for each second of each video, instead of one for each video
    clips: int = 1,  # of a video, spread evenly and averaged
    batch_size: int = 32,
    workers: int = 2,
    short: Literal["pad", "drop"] = "pad",
    devices: Literal["auto", "cpu", "cuda"] = "auto",
    cache: str = ".cache/ssvid",
) -> dict[str, object]:
    """Frozen features of every clip of a data set, all splits, labelled or not. Interrupted, it goes on."""
    if not out.endswith(".npz"):
        raise UserError(f"--out {out} should end in .npz.")
    device = join(devices).device
    net = open_encoder(encoder).to(device)
    print(f"{len(data)} videos through {net.name}; features of {4 * net.dim * len(data) / 1e6:.1f} MB", file=sys.stderr)
    key = f"{encoder_hash(net)}/pooled"
    source = Source("pooled", key, lambda clip, _: {"pooled": net(net.normalise(clip)).pooled})
    seen: Clips = Seconds(data, net.spec) if per_second else evaluation(data, net.spec, clips, short)
    grid = repr((data.hash, vars(net.spec), "seconds" if per_second else clips, short))
    got = extract_from(seen, grid, [source], cache, batch_size, workers, device, "features")
    good = got.ok.nonzero()[:, 0].numpy()
    rows = np.array(seen.row)[good] if isinstance(seen, Seconds) else good
    table = {"features": got.features["pooled"]["pooled"].numpy()[good], "row": rows}
    if isinstance(seen, Seconds):
        table["second"] = np.array(seen.second)[good]
    paths = np.array([data.rows[i].path for i in rows])
    labels = data.labels.numpy()[rows]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    columns = {**table, "path": paths, "label": labels, "classes": np.array(data.classes, dtype=str)}
    write_whole(Path(out), lambda file: np.savez(file, **columns))
    unread = len(data) - len(np.unique(rows))
    return {"out": out, "rows": len(rows), "dim": int(table["features"].shape[1]), "unreadable_files": unread}


if __name__ == "__main__":
    from ssvid.cli import command

    command(extract_features)
