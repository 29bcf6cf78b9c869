"""Folders of films, small runs with a text side, and what a search of them must answer."""

from operator import itemgetter
from pathlib import Path

import numpy as np
import torch

from benchmarks.features.text_side import open_text_side
from benchmarks.search import search
from benchmarks.searching.index import Index, Reader
from benchmarks.searching.query import choose_best, score_keys
from objectives.clip import CLIP
from objectives.xclip import XCLIP
from ssvid import create_encoder
from ssvid.cli import parse
from ssvid.data.augment import RECIPES, crop_frames
from ssvid.data.decode import read
from ssvid.hub import open_encoder
from tests.benchmarks.test_label import LETTERS, PICTURE, save_run
from tests.helpers import squares, write_video

QUERY = "red ball"
EACH_S = 1.0  # the windows of these tests
WINDOWS = {"a.mp4": 2, "b.mp4": 3, "sub/c.mp4": 3}  # of the films
Json = dict


def save_clip(folder: Path) -> Path:
    """A run of clip: products order its windows."""
    torch.manual_seed(1)
    (folder / "words.txt").write_text("red\nblue\nball\nbox\n")
    net = create_encoder("clip_vit", **PICTURE, frames=2, size=16)
    sizes = {"width": 8, "hidden": 16, "length": 6}
    objective = CLIP(net, tower="words", words=str(folder / "words.txt"), options=sizes)
    return save_run(objective, folder)


def save_xclip(folder: Path) -> Path:
    """A run of xclip: its sentences depend much on the clip."""
    torch.manual_seed(0)
    net = create_encoder("xclip", image="clip_vit", image_kwargs=PICTURE, frames=2, size=16)
    objective = XCLIP(net, tower="clip_text", options=LETTERS, train="both", prompt_layers=1)
    objective.set_classes(("red ball", "blue box"))
    for weight in objective.joint_space().prompts.blocks.parameters():
        weight.data *= 10
    return save_run(objective, folder)


def write_films(folder: Path) -> Path:
    """Three videos of 2, 3 and 2.5 s, in each of whose seconds another square moves."""
    for number, (name, frames) in enumerate(zip(WINDOWS, (20, 30, 25), strict=True)):
        parts = [squares(10 * number + second, frames=10) for second in range(3)]
        write_video(folder / "v" / name, np.concatenate(parts)[:frames])
    return folder


def write_three(folder: Path) -> None:
    """Videos of 2 s each."""
    for number, name in enumerate("abc"):
        write_video(folder / f"v/{name}.mp4", squares(number, frames=20))


def open_reader(run: Path) -> Reader:
    return Reader(open_encoder(str(run)), open_text_side(str(run), None))


def name_paths(films: Path) -> dict[str, Path]:
    return {name: films / "v" / name for name in WINDOWS}


def run_search(films: Path, encoder: Path | str, *flags: str) -> Json:
    argv = ["--folder", str(films / "v"), "--encoder", str(encoder), "--out", str(films / "out")]
    return search(**parse(search, [*argv, "--window", str(EACH_S), *flags]))


def list_moments(printed: Json, query: int = 0) -> list[tuple[str, float]]:
    return list(map(itemgetter("video", "start"), printed["queries"][query]["moments"]))


@torch.inference_mode()
def score_by_hand(films: Path, encoder: Path, query: str = QUERY) -> dict[tuple[str, float], float]:
    """(video, start) -> similarity, by the contract of joint spaces, a window at a time."""
    net, joint = open_encoder(str(encoder)), open_text_side(str(encoder), None)
    text, scores = joint.embed_texts([query]), {}
    for name, count in WINDOWS.items():
        for second in range(count):
            # Two frames of a second come from the middles of its halves.
            pictures = read(films / f"v/{name}", [second + 0.25, second + 0.75])
            clip = crop_frames(pictures, RECIPES["none"], 16, torch.zeros(0))
            vectors = joint.read_clips(net(net.normalise(clip[None]), layers=joint.layers))
            scores[name, float(second)] = float(joint.compare(vectors, text)) / np.exp(2.0)
    return scores


def list_shortlist(index: Index, reader: Reader, query: str, size: int) -> set[tuple[str, float]]:
    """(video, start) of the windows that the products choose."""
    with torch.inference_mode():
        queries = reader.joint.compute_queries(reader.joint.embed_texts([query]))
        rows = choose_best(score_keys(index.keys, queries)[0], index.ranks, size).rows
    windows = map(index.locate, rows.tolist())
    return {(window.video, window.begin_s) for window in windows}
