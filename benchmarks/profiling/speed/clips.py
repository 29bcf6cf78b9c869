"""Loading random clips against pytorchvideo's `LabeledVideoDataset`: a pair to compare.

Clips have 16 frames, 4 apart. One case reads prepared files, the other original files.
"""

import os
import tempfile
import warnings
from collections.abc import Iterator
from itertools import count, islice
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
# The short side is resized and the centre cut out, so that only the start is random.
VIEWS = Views(clips=(SPEC,), augment="none")
FILMS, TAKEN = 4, 16  # synthetic videos; clips that each side loads
VIDEOS = "SSVID_SPEED_VIDEOS"  # environment variable: a folder of videos to read instead


def clips() -> Case:
    """Both sides on files that `ssvid.data.preprocess.prepare` wrote.

    Such a file has a key frame every 12 frames and no B frames.
    """
    folder = tempfile.TemporaryDirectory()
    source = make_originals(Path(folder.name) / "originals")
    prepare(str(source), f"{folder.name}/prepared", workers=1)
    return build_case(Path(folder.name) / "prepared", folder)


def clips_original() -> Case:
    """Both sides on original files.

    x264 chose their format: a key frame every 250 frames, and B frames.
    """
    folder = tempfile.TemporaryDirectory()
    return build_case(make_originals(Path(folder.name) / "originals"), folder)


def make_originals(out: Path) -> Path:
    """Fills a new folder with links to the user's videos, or with synthetic ones. Returns it."""
    out.mkdir()
    if videos := os.environ.get(VIDEOS):
        names = files.list_videos(files.need_folder(videos, VIDEOS))
        for i, name in enumerate(names[:: max(1, len(names) // TAKEN)][:TAKEN]):
            (out / f"{i}{Path(name).suffix}").symlink_to((Path(videos) / name).resolve())
    else:
        for i in range(FILMS):
            write_film(out / f"{i}.mp4", seed=i)
    return out


def build_case(root: Path, folder: tempfile.TemporaryDirectory[str]) -> Case:
    ours, theirs = our_clips(root), their_clips(root)
    return Case(
        ours=lambda: list(islice(ours, TAKEN)),
        theirs=lambda: list(islice(theirs, TAKEN)),
        unit=f"CPU-seconds of {TAKEN} clips of 16 x 224 x 224",
        close=folder.cleanup,
    )


def our_clips(root: Path) -> Iterator[Tensor]:
    """uint8 C T H W.

    The table of a file's time stamps is read once and then kept, as in a run of many epochs.
    """
    data = Clips(folder(str(root)), VIEWS, seed=0)
    for epoch in count():
        for row in range(len(data)):
            yield data[epoch, row]["clips"][0]


def their_clips(root: Path) -> Iterator[Tensor]:
    """float32 C T H W, 0 to 255. One clip of each video, then the videos again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorchvideo.data.clip_sampling import make_clip_sampler
        from pytorchvideo.data.labeled_video_dataset import LabeledVideoDataset
    paths: list[tuple[str, dict[str, int] | None]] = []
    for name in files.list_videos(root):
        paths.append((str(root / name), {"label": 0}))
    with av.open(paths[0][0]) as container:
        fps = float(container.streams.video[0].average_rate or 25)
    seconds = SPEC.frames * (SPEC.stride or 1) / fps
    while True:
        sampler = make_clip_sampler("random", seconds)
        dataset = LabeledVideoDataset(paths, sampler, transform=shrink, decode_audio=False)
        for sample in dataset:
            yield sample["video"]


def shrink(sample: dict[str, Any]) -> dict[str, Any]:
    """pytorchvideo's UniformTemporalSubsample and ShortSideScale, then the centre crop.

    They are written out, because they cannot be imported together with this torchvision.
    """
    clip = sample["video"]  # C T H W, every frame of the span
    clip = clip[:, torch.linspace(0, clip.shape[1] - 1, SPEC.frames).long()]
    scale = SPEC.size / min(clip.shape[-2:])
    height, width = (round(side * scale) for side in clip.shape[-2:])
    clip = F.interpolate(clip, (height, width), mode="bilinear")
    return sample | {"video": center_crop(clip, [SPEC.size, SPEC.size])}


def write_film(path: Path, *, gop: int = 250, seed: int = 0, seconds: int = 10) -> None:
    """Writes a drifting texture under a little noise: H.264, 320 x 240, 25 frames a second.

    `gop` is the distance of key frames. x264 chooses the B frames.
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
            picture_frame = np.ascontiguousarray(frame)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_frame, format="rgb24")))
        container.mux(stream.encode())
