"""what a sentence looks at -> a PNG film strip, and index.html with it.

A strip shows the frames, the heat of the sentence over them, and a small row for each word.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.reports.figure_style import (
    BLUE,
    GREY,
    SHARP_DPI,
    encode_png,
    in_house_style,
)
from benchmarks.reports.page import Picture, Table, draw_sharp, make_picture, render_page
from benchmarks.reports.page_heads import Head, join_facts

WIDE = 11.0  # inches of the strip
GAP, LABEL, HEAD = (
    0.12,
    0.22,
    0.62,
)  # inches: between parts, for a line of small text, for the title
CHARACTERS = 110  # of the sentence in the title
SPACE = 0.02  # of a frame's side, between two frames
Json = dict[str, Any]
Strip = np.ndarray  # uint8 T H W 3


@in_house_style
def draw_film(record: Json, strips: Sequence[Strip]) -> bytes:
    """PNG. `strips`: the frames, those with the heat of the sentence, and those of each word."""
    frames, heated, *of_words = strips
    tall = WIDE * frames.shape[1] / (frames.shape[2] * len(frames))
    half = (WIDE - GAP) / 2
    small = tall * half / WIDE
    lines = -(-len(of_words) // 2)
    height = HEAD + 2 * (tall + LABEL) + GAP + lines * (small + LABEL)
    figure = Figure(figsize=(WIDE, height))
    y = height - HEAD
    figure.text(0, 1, cut_text(phrase_title(record)), va="top", fontsize=12, fontweight="bold")
    figure.text(0, 1 - 0.28 / height, phrase_scores(record), va="top", fontsize=9)
    y -= tall
    place_strip(figure, frames, (0, y, WIDE, tall))
    label_frames(figure, [f"{frame['time_s']:.1f} s" for frame in record["frames"]], y)
    y -= LABEL + tall
    place_strip(figure, heated, (0, y, WIDE, tall))
    label_frames(figure, [f"{100 * frame['share']:.0f} %" for frame in record["frames"]], y)
    y -= LABEL + GAP
    for number, (word, strip) in enumerate(zip(record["words"], of_words, strict=True)):
        if number % 2 == 0:
            y -= small + LABEL
        left = (number % 2) * (half + GAP)
        axes = place_strip(figure, strip, (left, y, half, small))
        axes.set_title(f"{word['word']}   {100 * word['share']:.0f} %", fontsize=9, pad=2)
    return encode_png(figure, SHARP_DPI)


def place_strip(figure: Figure, strip: Strip, box: tuple[float, float, float, float]) -> Axes:
    """`box`: left, bottom, width and height in inches."""
    wide, tall = figure.get_size_inches()
    left, bottom, width, height = box
    axes = figure.add_axes((left / wide, bottom / tall, width / wide, height / tall))
    axes.imshow(join_strip(strip), aspect="auto", interpolation="none")
    axes.set_axis_off()
    return axes


def join_strip(strip: Strip) -> np.ndarray:
    """The frames beside each other, with white between them."""
    gap = max(1, round(SPACE * strip.shape[2]))
    spaced = np.pad(strip, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    return np.concatenate(list(spaced), axis=1)[:, :-gap]


def label_frames(figure: Figure, labels: Sequence[str], y: float) -> None:
    """A text below each frame of a strip whose lower edge is at `y` inches."""
    tall = figure.get_size_inches()[1]
    for number, label in enumerate(labels):
        x = (number + 0.5) / len(labels)
        figure.text(x, (y - 0.03) / tall, label, ha="center", va="top", fontsize=8)


@in_house_style
def draw_scales(scales: Sequence[float]) -> Figure:
    """A curve over the blocks; the dashed line is where they begin."""
    figure = Figure(figsize=(4.6, 2.3))
    axes = figure.subplots()
    blocks = range(1, len(scales) + 1)
    axes.axhline(1.0, color=GREY, linewidth=1, linestyle="--")
    axes.plot(blocks, scales, color=BLUE, marker="o", markersize=4)
    axes.set_ylim(min(0.8, *scales) - 0.05, max(1.2, *scales) + 0.05)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.set_xlabel("block of the video encoder, from the pixels up")
    axes.set_ylabel("mean scale")
    axes.grid(axis="y")
    return figure


def make_explain_page(record: Json, film: bytes) -> str:
    """HTML. `film`: the PNG of `draw_film`."""
    curve, scales = None, record["scales"]
    if scales:
        texts = ", ".join(f"{scale:.2f}" for scale in scales)
        curve = draw_sharp(draw_scales(scales), f"scales of the blocks: {texts}")
    about = [record["encoder"], f"layer {record['layer']} of {record['layers']}"]
    return render_page(
        "explain.html",
        head=Head(phrase_title(record), join_facts([Path(record["video"]).name, *about])),
        summary=summarise(record),
        film=show_film(record, film),
        curve=curve,
        words=Table(("word", "share of the heat"), list_words(record)),
        notes=phrase_notes(record),
    )


def show_film(record: Json, film: bytes) -> Picture:
    shares = []
    for frame in record["frames"]:
        shares.append(f"{frame['time_s']:.1f} s {100 * frame['share']:.0f} %")
    return make_picture(film, f"frames with the heat over them: {', '.join(shares)}")


def list_words(record: Json) -> list[list[str]]:
    return [[word["word"], f"{100 * word['share']:.1f} %"] for word in record["words"]]


def phrase_title(record: Json) -> str:
    if record["answer"] is None:
        return record["sentence"]
    return f"{record['sentence']} - {record['answer']}"


def cut_text(text: str) -> str:
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - 3].rstrip() + "..."


def phrase_scores(record: Json) -> str:
    if record["answer"] is not None:
        return (
            f"The answer has a probability of {100 * record['answer_probability']:.3g} % "
            f"(logarithm {record['answer_log_probability']:.3f})."
        )
    return (
        f"The match has a probability of {100 * record['match_probability']:.3g} % "
        f"(logit {record['match_logit']:.3f}), and the cosine is {record['cosine']:.3f}."
    )


def summarise(record: Json) -> list[str]:
    """The scores, and where most of the heat lies."""
    frames = record["frames"]
    hottest = max(range(len(frames)), key=lambda number: frames[number]["share"])
    share = frames[hottest]["share"]
    if share == 0:
        return [phrase_scores(record), "No place of a frame raises the score in this layer."]
    time = frames[hottest]["time_s"]
    where = f"frame {hottest + 1} of {len(frames)}, at {time:.1f} s"
    return [phrase_scores(record), f"Most of the heat lies on {where}: {100 * share:.0f} %."]


def phrase_notes(record: Json) -> list[str]:
    """What the picture shows, in sentences."""
    score = "logit of the match" if record["answer"] is None else "log-probability of the answer"
    outside = 1 - record["shares"]["patches"]
    notes = [
        f"Heat is how much each word reads of a place (attention in layer {record['layer']} of "
        f"{record['layers']} of the text encoder) times the gradient of the {score} with respect "
        "to it. Only what raises the score counts, and heads are averaged (Grad-CAM).",
        "The large row is the mean over the words. Its hottest place has the full colour, and each "
        "word has its own hottest place: the percentages say how the heat divides over frames and "
        "over words.",
        "It shows what this model used for this sentence, and not where a thing is. A sentence "
        "that does not match has heat too.",
    ]
    if outside > 0:
        share = f"{100 * outside:.0f} %" if outside >= 0.01 else "Less than 1 %"
        notes.append(
            f"{share} of the heat lies on tokens that have no place in a frame ("
            "class tokens, and the means of text-dependent pooling) and is not shown."
        )
    return notes
