"""captions of a video -> sentences: the rules by which HTM-370K and HTM-1.2M were made of HowTo100M's captions (TAN).

Pure functions. What tells the language of a text, and what puts marks between words, is plugged in. The published code
was read for what the paper leaves open; its own models are langdetect and a BERT of ssvid.data.narration.punctuation.
"""

import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ssvid.randomness import uniform

Sentence = tuple[float, float, str]  # start s, end s, text
Language = Callable[[str], float]  # the probability that a text is English; nan: it cannot tell

FULL, ANY = ".!?", ".!?,:;"  # marks that end a sentence; that end one which is long already
LONG = 20  # tokens
GAP_S = 1.0  # silence after which a new sentence begins
GLITCH_S = 0.2  # captions this short are no captions
PUNCTUATED = 0.5  # of the captions hold , or .: these were written by a person
MORE_THAN = 10  # captions, and
WORDS = 5.0  # words in each, in the mean, or a video is left out
DRAWN, TELLING, ENGLISH = (
    5,
    4,
    0.9,
)  # captions asked for their language, least words of one, mean probability
AT_LEAST = 6  # captions once they are tidied


class Marked(NamedTuple):
    mark: str = ""  # behind the word, or none
    tokens: int = 1  # that a model makes of the word: `LONG` counts them


Punctuate = Callable[
    [list[str]], Sequence[Marked]
]  # all words of a video, in lower case and without marks


class Word(NamedTuple):
    text: str
    start: float
    end: float
    mark: str
    tokens: int


def of_video(
    captions: Sequence[Sentence],
    *,
    index: int,  # of the video: which captions are drawn
    seed: int = 0,
    language: Language | None = None,  # None: every language is kept
    punctuate: Punctuate | None = None,
) -> tuple[list[Sentence], str]:
    """Its sentences; or none, and why the video is left out."""
    why = unfit([text for _, _, text in captions]) or foreign(
        [t for _, _, t in captions], language, index, seed
    )
    if why:
        return [], why
    tidied = tidy(captions)
    if len(tidied) < AT_LEAST:
        return [], f"fewer than {AT_LEAST} captions once glitches and repeats are gone"
    return sentencify(tidied, punctuate), ""


def unfit(texts: Sequence[str]) -> str:
    """Why a video says too little; empty: it does not."""
    if len(texts) <= MORE_THAN:
        return f"{MORE_THAN} captions or fewer"
    mean = sum(len(text.split()) for text in texts) / len(texts)
    return f"{WORDS:g} words a caption or fewer" if mean <= WORDS else ""


def foreign(texts: Sequence[str], language: Language | None, index: int, seed: int = 0) -> str:
    """Why a video is not English: five captions are drawn, those of four words or more are asked."""
    if language is None:
        return ""
    order = uniform(seed, "language", 0, index, len(texts))[0].argsort().tolist()
    asked = [texts[i] for i in order[:DRAWN] if len(texts[i].split()) >= TELLING]
    told = [p for p in map(language, asked) if not math.isnan(p)]
    return "" if told and sum(told) / len(told) > ENGLISH else "not English"


def tidy(captions: Sequence[Sentence]) -> list[Sentence]:
    """Without glitches, [noises] and what is shown twice; one line each, and no two at the same time."""
    long = [caption for caption in captions if caption[1] - caption[0] > GLITCH_S]
    lines = [[line.strip() for line in text.strip().split("\n")] for _, _, text in long]
    found: list[Sentence] = []
    for (start, end, _), own, later in zip(long, lines, [*lines[1:], [""]], strict=True):
        repeated = (
            len(own) > 1 and own[-1] == later[0]
        )  # the lower line of a screen is the next one's upper line
        text = " ".join(" ".join(own[:-1] if repeated else own).split())
        if not text or ("[" in text and "]" in text):
            continue
        if found and text.startswith(found[-1][2]):  # it grows on the screen
            found[-1] = found[-1][0], end, text
        else:
            found.append((start, end, text))
    return _apart(found)


def _apart(captions: list[Sentence]) -> list[Sentence]:
    """Two that overlap meet in the middle of what they share."""
    meet = [(a[1] + b[0]) / 2 if b[0] < a[1] else None for a, b in pairwise(captions)]
    starts, ends = [None, *meet], [*meet, None]
    return [
        (start if at is None else at, end if to is None else to, text)
        for (start, end, text), at, to in zip(captions, starts, ends, strict=True)
    ]


def sentencify(captions: Sequence[Sentence], punctuate: Punctuate | None = None) -> list[Sentence]:
    """Cut at marks and gaps, with times in proportion. `punctuate` None: only the marks that captions have count.

    Sentences of a `punctuate` are in lower case and without marks, as published.
    """
    if not captions:
        return []
    if sum("," in text or "." in text for _, _, text in captions) >= PUNCTUATED * len(captions):
        words = _spread(captions, [text.split() for _, _, text in captions], _own)
        return _cut(words, lambda word, tokens, gap: any(mark in word.text for mark in FULL))
    if punctuate is None:
        words = _spread(captions, [text.split() for _, _, text in captions], _own)
    else:
        bare = [re.sub(r"[,.!?]", " ", text).lower().split() for _, _, text in captions]
        words = _spread(captions, bare, punctuate)
    return _cut(
        words,
        lambda word, tokens, gap: (
            gap > GAP_S or word.mark in tuple(ANY if tokens >= LONG else FULL)
        ),
    )


def _own(words: list[str]) -> list[Marked]:
    return [Marked(word[-1] if word[-1] in ANY else "") for word in words]


def _spread(
    captions: Sequence[Sentence], texts: list[list[str]], punctuate: Punctuate
) -> list[Word]:
    """Each caption's time is shared by its tokens."""
    marked = iter(punctuate([word for words in texts for word in words]))
    found = []
    for (start, end, _), words in zip(captions, texts, strict=True):
        marks = [next(marked) for _ in words]
        edges = np.linspace(start, end, sum(mark.tokens for mark in marks) + 1)
        at = np.cumsum([0, *(mark.tokens for mark in marks)])
        for i, (word, mark) in enumerate(zip(words, marks, strict=True)):
            found.append(
                Word(word, float(edges[at[i]]), float(edges[at[i + 1]]), mark.mark, mark.tokens)
            )
    return found


def _cut(words: list[Word], ends: Callable[[Word, int, float], bool]) -> list[Sentence]:
    """`ends`: that a sentence ends with this word, after so many tokens, with so many seconds to the next word."""
    found: list[Sentence] = []
    held: list[Word] = []
    for word, later in zip(words, [*words[1:], None], strict=True):
        held.append(word)
        gap = 0.0 if later is None else later.start - word.end
        if later is None or ends(word, sum(w.tokens for w in held), gap):
            found.append((held[0].start, word.end, " ".join(w.text for w in held)))
            held = []
    return found
