"""captions of a video -> sentences, by the rules that made HTM-370K and HTM-1.2M (TAN).

These datasets were made from the captions of HowTo100M. All functions are pure. What detects the
language of a text and what restores punctuation are plug-ins. Where the paper leaves something
open, the published code was read; its own models are langdetect and the BERT of
ssvid.data.narration.punctuation.
"""

import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ssvid.randomness import uniform

Sentence = tuple[float, float, str]  # start s, end s, text
Language = Callable[[str], float]  # the probability that a text is English; nan: unknown

FULL = ".!?"  # marks that end a sentence
ANY = ".!?,:;"  # marks that end a sentence of LONG tokens or more
LONG = 20  # tokens
GAP_S = 1.0  # silence after which a new sentence begins
GLITCH_S = 0.2  # captions as short as this are left out
# A video was transcribed by a person if at least this share of its captions has a , or a .
PUNCTUATED = 0.5
# A video is left out if it has no more captions, or no more words per caption on average.
MORE_THAN, WORDS = 10, 5.0
# The language is that of DRAWN random captions, of which those with TELLING words count. A video is
# English if their mean probability is above ENGLISH.
DRAWN, TELLING, ENGLISH = 5, 4, 0.9
AT_LEAST = 6  # captions that a video needs after tidying


class Marked(NamedTuple):
    """What a punctuation model says about a word."""

    mark: str = ""  # the mark after the word; empty: none
    tokens: int = 1  # tokens of the word, which count for LONG


# All words of a video, in lower case and without marks -> the mark of each.
Punctuate = Callable[[list[str]], Sequence[Marked]]


class Word(NamedTuple):
    text: str
    start: float  # seconds
    end: float
    mark: str
    tokens: int


def cut_video(
    captions: Sequence[Sentence],
    *,
    index: int,  # of the video; the random captions depend on it
    seed: int = 0,
    language: Language | None = None,  # None: videos of every language are used
    punctuate: Punctuate | None = None,
) -> tuple[list[Sentence], str]:
    """The sentences of a video; or none, and the reason why the video is left out."""
    texts = texts_of(captions)
    why = reject_short(texts) or reject_foreign(texts, language, index, seed)
    if why:
        return [], why
    tidied = tidy(captions)
    if len(tidied) < AT_LEAST:
        return [], f"fewer than {AT_LEAST} captions once glitches and repeats are gone"
    return sentencify(tidied, punctuate), ""


def texts_of(captions: Sequence[Sentence]) -> list[str]:
    return [text for _, _, text in captions]


def reject_short(texts: Sequence[str]) -> str:
    """The reason why a video has too few captions or words; empty if it has enough."""
    if len(texts) <= MORE_THAN:
        return f"{MORE_THAN} captions or fewer"
    mean = sum(map(len, map(str.split, texts))) / len(texts)
    return f"{WORDS:g} words a caption or fewer" if mean <= WORDS else ""


def reject_foreign(
    texts: Sequence[str], language: Language | None, index: int, seed: int = 0
) -> str:
    """The reason why a video is not English; empty if it is.

    Five random captions are tested, without those of fewer than four words.
    """
    if language is None:
        return ""
    order = uniform(seed, "language", 0, index, len(texts))[0].argsort().tolist()
    probabilities = []
    for i in order[:DRAWN]:
        if len(texts[i].split()) >= TELLING:
            probability = language(texts[i])
            if not math.isnan(probability):
                probabilities.append(probability)
    if not probabilities:
        return "not English"
    return "" if sum(probabilities) / len(probabilities) > ENGLISH else "not English"


def tidy(captions: Sequence[Sentence]) -> list[Sentence]:
    """Captions without glitches, [noises] and repeated lines.

    Each becomes one line, and no two are at the same time.
    """
    captions = [caption for caption in captions if caption[1] - caption[0] > GLITCH_S]
    screens = list(map(_lines, texts_of(captions)))
    tidied: list[Sentence] = []
    for (start, end, _), lines, following in zip(
        captions, screens, [*screens[1:], [""]], strict=True
    ):
        # The lower line of a screen is shown again as the upper line of the next one.
        repeated = len(lines) > 1 and lines[-1] == following[0]
        text = " ".join(" ".join(lines[:-1] if repeated else lines).split())
        if not text or ("[" in text and "]" in text):
            continue
        if tidied and text.startswith(tidied[-1][2]):  # it grows on the screen
            tidied[-1] = tidied[-1][0], end, text
        else:
            tidied.append((start, end, text))
    return _separate(tidied)


def _lines(text: str) -> list[str]:
    return list(map(str.strip, text.strip().split("\n")))


def _separate(captions: list[Sentence]) -> list[Sentence]:
    """Two captions that overlap meet in the middle of their common time."""
    separate = list(captions)
    for i, (before, after) in enumerate(pairwise(captions)):
        if after[0] < before[1]:
            middle = (before[1] + after[0]) / 2
            separate[i] = separate[i][0], middle, before[2]
            separate[i + 1] = middle, after[1], after[2]
    return separate


def sentencify(captions: Sequence[Sentence], punctuate: Punctuate | None = None) -> list[Sentence]:
    """Cut captions at marks and gaps into sentences, whose times are in proportion to their tokens.

    Without `punctuate` only the marks in the captions count. Sentences cut with `punctuate` are in
    lower case and without marks, as published.
    """
    if not captions:
        return []
    texts = texts_of(captions)
    words_of_caption = list(map(str.split, texts))
    if sum(map(_has_mark, texts)) >= PUNCTUATED * len(captions):
        words = _spread(captions, words_of_caption, _own_marks)
        return _cut(words, lambda word, tokens, gap: _ends_sentence(word))
    if punctuate is None:
        punctuate = _own_marks
    else:
        words_of_caption = [re.sub(r"[,.!?]", " ", text).lower().split() for text in texts]
    words = _spread(captions, words_of_caption, punctuate)
    return _cut(words, _ends_at_mark_or_gap)


def _has_mark(text: str) -> bool:
    return "," in text or "." in text


def _ends_sentence(word: Word) -> bool:
    """The rule for captions that a person has written."""
    return any(mark in word.text for mark in FULL)


def _ends_at_mark_or_gap(word: Word, tokens: int, gap: float) -> bool:
    """The rule for automatic captions."""
    return gap > GAP_S or word.mark in tuple(ANY if tokens >= LONG else FULL)


def _own_marks(words: list[str]) -> list[Marked]:
    """The marks that the words have themselves."""
    return [Marked(word[-1] if word[-1] in ANY else "") for word in words]


def _spread(
    captions: Sequence[Sentence], words_of_caption: list[list[str]], punctuate: Punctuate
) -> list[Word]:
    """Words with times: the time of each caption is divided among its tokens."""
    flat: list[str] = []
    for words in words_of_caption:
        flat += words
    marked = iter(punctuate(flat))
    timed = []
    for (start, end, _), words in zip(captions, words_of_caption, strict=True):
        marks = [next(marked) for _ in words]
        edges = np.linspace(start, end, sum(mark.tokens for mark in marks) + 1)
        first = 0  # token of the caption
        for word, (mark, tokens) in zip(words, marks, strict=True):
            last = first + tokens
            timed.append(Word(word, float(edges[first]), float(edges[last]), mark, tokens))
            first = last
    return timed


def _cut(words: list[Word], ends: Callable[[Word, int, float], bool]) -> list[Sentence]:
    """Cut words into sentences.

    `ends(word, tokens, gap)`: whether a sentence ends with this word, if it has so many tokens and
    the next word begins after so many seconds.
    """
    sentences: list[Sentence] = []
    current: list[str] = []
    start, tokens = 0.0, 0
    for word, following in zip(words, [*words[1:], None], strict=True):
        start = start if current else word.start
        current.append(word.text)
        tokens += word.tokens
        gap = 0.0 if following is None else following.start - word.end
        if following is None or ends(word, tokens, gap):
            sentences.append((start, word.end, " ".join(current)))
            current, tokens = [], 0
    return sentences
