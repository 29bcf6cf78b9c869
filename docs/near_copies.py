"""Folder of videos -> how many changed copies `ssvid corpus` recognises (docs/guides/mixtures.md).

python docs/near_copies.py FOLDER [EVERY]

Every EVERY-th video is written again in each form below and compared with all originals. Pairs of
different films among the originals are counted too; films are told by their names, as in UCF101.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image

from ssvid.data import fingerprints
from ssvid.data.datasets.folder import folder
from ssvid.data.decode import read, read_timestamps
from ssvid.data.files import name_film
from ssvid.data.preprocess.pool import run_all

Film = np.ndarray  # uint8 T H W 3


def crop(share: float, down: float = 0.5, right: float = 0.5) -> Callable[[Film], Film]:
    def cut(film: Film) -> Film:
        height, width = film.shape[1:3]
        y, x = int(height * (1 - share) * down), int(width * (1 - share) * right)
        return film[:, y : y + int(height * share), x : x + int(width * share)]

    return cut


def scale(film: Film, width: int, height: int) -> Film:
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in film])


def add_logo(film: Film) -> Film:
    film = film.copy()
    film[:, : film.shape[1] // 8, : film.shape[2] // 4] = 255
    return film


FORMS: dict[str, Callable[[Film], Film]] = {
    "half the size, crf 35": lambda film: scale(film, film.shape[2] // 2, film.shape[1] // 2),
    "square of 112": lambda film: scale(film, 112, 112),
    "middle 90 %": crop(0.9),
    "middle 80 %": crop(0.8),
    "middle 70 %": crop(0.7),
    "corner 90 %": crop(0.9, 0.0, 0.0),
    "corner 80 %": crop(0.8, 0.0, 0.0),
    "middle half of the time": lambda film: film[len(film) // 4 : 3 * len(film) // 4],
    "every second frame": lambda film: film[::2],
    "black bars": lambda film: np.pad(film, ((0, 0), (40, 40), (0, 0), (0, 0))),
    "brighter": lambda film: np.clip(film * 1.2 + 15, 0, 255).astype(np.uint8),
    "gray": lambda film: film.mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8),
    "white logo": add_logo,
    "mirrored": lambda film: film[:, :, ::-1],
}


def write(path: Path, film: Film, crf: str) -> None:
    height, width = film.shape[1] // 2 * 2, film.shape[2] // 2 * 2
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=width, height=height)
        stream.pix_fmt, stream.options = "yuv420p", {"crf": crf, "preset": "veryfast"}
        for frame in film[:, :height, :width]:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def main(root: str, every: int = 15) -> None:
    data = folder(root)
    clips = fingerprints.list_clips(data, range(len(data)))
    prints = sorted(run_all(fingerprints.take_fingerprint, clips, 2, "originals"))
    films = list(map(name_film, data.video_ids))
    others = []
    for pair in fingerprints.compare(prints):
        if films[pair.first] != films[pair.second]:
            others.append((data.rows[pair.first].path, data.rows[pair.second].path, pair.share))
    print(f"{len(others)} pairs of different films look alike:", *others, sep="\n")
    rows = range(every // 3, len(data), every)
    for name, change in FORMS.items():
        hits = 0
        with tempfile.TemporaryDirectory() as scratch:
            for row in rows:
                path = Path(scratch, "copy.mp4")
                frames = read(data.path(row), read_timestamps(data.path(row)))
                film = change(frames.permute(0, 2, 3, 1).numpy())
                write(path, film, "35" if "crf" in name else "23")
                copy = fingerprints.take_fingerprint(fingerprints.Clip(0, str(path), None))
                hits += bool(fingerprints.compare([copy], [prints[row]]))
        print(f"{name}: {hits} of {len(rows)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
