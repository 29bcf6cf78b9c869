"""Random clips of 16 frames, 4 apart, against pytorchvideo's `LabeledVideoDataset`: on prepared
files, on originals.
"""

import os
import tempfile
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop

from benchmarks.profiling.speed.pairs import Case
from ssvid.data import files
from ssvid.data.clips import Clips
from ssvid.data.datasets.folder import folder
from ssvid.data.preprocess.prepare import prepare
from ssvid.shapes import ClipSpec, Views

SPEC = ClipSpec(frames=16, stride=4, size=224)
VIEWS = Views(
    clips=(SPEC,), augment="none"
)  # short side resized, centre cropped: no choice but the start
FILMS, TAKEN = 4, 16  # of our own making; clips taken on each side
OWN = "SSVID_SPEED_VIDEOS"  # a folder of videos to read instead of ours


def clips() -> Case:
    """Ours and theirs on what `ssvid.data.preprocess.prepare` made: a key frame every 12, no B
    frames.
    """
    place = tempfile.TemporaryDirectory()
    source = originals(Path(place.name) / "originals")
    prepare(str(source), f"{place.name}/prepared", workers=1)
    return pair(Path(place.name) / "prepared", place)


def clips_original() -> Case:
    """Ours and theirs on the files as they came: x264's own choice, a key frame every 250, B
    frames.
    """
    place = tempfile.TemporaryDirectory()
    return pair(originals(Path(place.name) / "originals"), place)


def originals(place: Path) -> Path:
    place.mkdir()
    if own := os.environ.get(OWN):
        found = files.list_videos(files.need_folder(own, OWN))
        for i, name in enumerate(found[:: max(1, len(found) // TAKEN)][:TAKEN]):
            (place / f"{i}{Path(name).suffix}").symlink_to((Path(own) / name).resolve())
    else:
        for i in range(FILMS):
            film(place / f"{i}.mp4", seed=i)
    return place


def pair(root: Path, place: tempfile.TemporaryDirectory[str]) -> Case:
    mine, yours = our_clips(root), their_clips(root)
    return Case(
        ours=lambda: [next(mine) for _ in range(TAKEN)],
        theirs=lambda: [next(yours) for _ in range(TAKEN)],
        unit=f"CPU-seconds of {TAKEN} clips of 16 x 224 x 224",
        close=place.cleanup,
    )


def our_clips(root: Path) -> Iterator[Tensor]:
    """uint8 C T H W.

    The table of a file's time stamps is kept once it was read, as in a run of many epochs.
    """
    data = Clips(folder(str(root)), VIEWS, seed=0)
    return (data[epoch, row]["clips"][0] for epoch in count() for row in range(len(data)))


def their_clips(root: Path) -> Iterator[Tensor]:
    """float32 C T H W, 0 to 255. One clip of each video, again and again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorchvideo.data.clip_sampling import make_clip_sampler
        from pytorchvideo.data.labeled_video_dataset import LabeledVideoDataset
    paths: list[tuple[str, dict[str, int] | None]] = [
        (str(root / name), {"label": 0}) for name in files.list_videos(root)
    ]
    with av.open(paths[0][0]) as container:
        seconds = (
            SPEC.frames * (SPEC.stride or 1) / float(container.streams.video[0].average_rate or 25)
        )
    while True:
        sampler = make_clip_sampler("random", seconds)
        yield from (
            each["video"]
            for each in LabeledVideoDataset(paths, sampler, transform=shrink, decode_audio=False)
        )


def shrink(sample: dict[str, Any]) -> dict[str, Any]:
    """UniformTemporalSubsample and ShortSideScale, which do not import beside this torchvision;
    then the centre.
    """
    clip = sample["video"]  # C T H W, every frame of the span
    clip = clip[:, torch.linspace(0, clip.shape[1] - 1, SPEC.frames).long()]
    scale = SPEC.size / min(clip.shape[-2:])
    height, width = (round(side * scale) for side in clip.shape[-2:])
    return sample | {
        "video": center_crop(
            F.interpolate(clip, (height, width), mode="bilinear"), [SPEC.size, SPEC.size]
        )
    }


def film(path: Path, *, gop: int = 250, seed: int = 0, seconds: int = 10) -> None:
    """A drifting texture under a little noise in H.264, 320 x 240, 25 frames a second; x264's B
    frames.
    """
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 12, 16)).astype(np.float32))
    fine = torch.from_numpy(rng.uniform(-40, 40, (1, 3, 60, 80)).astype(np.float32))
    large = [F.interpolate(part, (240, 320), mode="bicubic")[0] for part in (coarse, fine)]
    picture = (large[0] + large[1]).permute(1, 2, 0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": str(gop), "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for i in range(25 * seconds):
            noise = torch.from_numpy(rng.normal(0, 3, (240, 320, 1)).astype(np.float32))
            frame = (picture.roll((i, 2 * i), (0, 1)) + noise).clamp(0, 255).byte().numpy()
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                )
            )
        container.mux(stream.encode())
