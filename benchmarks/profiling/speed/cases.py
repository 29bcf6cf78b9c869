"""The cases: name -> a function that builds a pair of functions to compare.

To add a case, write its function and add a line to CASES.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from benchmarks.profiling.speed import accuracy, blip, knn, linear, masked_distillation
from benchmarks.profiling.speed.attentive import attentive
from benchmarks.profiling.speed.clips import clips, clips_original, write_film
from benchmarks.profiling.speed.dpc import dpc
from benchmarks.profiling.speed.infonce import infonce
from benchmarks.profiling.speed.loader import loader
from benchmarks.profiling.speed.mae import mae
from benchmarks.profiling.speed.milnce import milnce
from benchmarks.profiling.speed.overhead import overhead
from benchmarks.profiling.speed.pairs import Case
from benchmarks.profiling.speed.tan import cotrain, first_stage
from benchmarks.profiling.speed.videoprism import videoprism
from benchmarks.profiling.speed.xclip import xclip, xclip_step
from ssvid.data.decode import read, read_timestamps


def decode() -> Case:
    """16 frames, 4 apart, from the middle of 10 s, against decoding the whole file to RGB."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "clip.mp4"
    write_film(path, gop=25)
    times = read_timestamps(path)[100:164:4]

    def theirs() -> Tensor:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return torch.from_numpy(np.stack(frames[100:164:4]))

    return Case(ours=lambda: read(path, times), theirs=theirs, close=folder.cleanup)


CASES: dict[str, Callable[[], Case]] = {
    **linear.CASES,
    "knn": knn.knn,
    "attentive": attentive,
    "overhead": overhead,
    "decode": decode,
    "clips": clips,
    "clips_original": clips_original,
    "loader": loader,
    "mae": mae,
    "dpc": dpc,
    "infonce": infonce,
    "tan": first_stage,
    "tan_cotrain": cotrain,
    "milnce": milnce,
    "xclip": xclip,
}
# These cases take minutes, so they run only if they are named.
SLOW_CASES: dict[str, Callable[[], Case]] = {
    **linear.SLOW_CASES,
    "accuracy": accuracy.accuracy,
    **masked_distillation.CASES,
    "xclip_step": xclip_step,
    "videoprism": videoprism,
    "blip": blip.blip,
    "blip_step": blip.blip_step,
}
