"""an index + sentences -> the moments that fit each sentence.

Keys of windows times vectors of sentences order all windows exactly. Where the text side compares
otherwise, these products choose a shortlist, which is ordered anew.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float16, Int
from torch import Tensor

from benchmarks.features.text_side import Text
from benchmarks.labelling.labeller import compute_factor
from benchmarks.labelling.labels import check_known_words
from benchmarks.searching.index import KEY, Index, Reader
from benchmarks.searching.windows import open_film
from ssvid.errors import DecodeError, UserError
from ssvid.log import log

CHUNK = 2048  # rows that are float32 at once: they stay in the cache of a core
TOP, SHORTLIST = 10, 100


class Moment(NamedTuple):
    """A window that fits a sentence."""

    video: str
    start_s: float
    end_s: float
    score: float


class Scored(NamedTuple):
    """Rows of an index from the best on, each with its score."""

    rows: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]


def find_moments(
    index: Index,
    reader: Reader,
    sentences: Sequence[str],
    top: int = TOP,
    shortlist: int = SHORTLIST,
) -> list[list[Moment]]:
    """The best moments for each sentence, at most `top`, the best first.

    Of windows that share a part of a video only the best is a moment. `shortlist`: windows that are
    ordered anew, where the text side needs it. Raises a UserError as `check_queries` does.
    """
    check_queries(sentences, reader)
    needs_second = needs_shortlist(reader)
    width = shortlist if needs_second else top * (1 + 2 * index.pace.overlapping)
    if not len(index) or not sentences:
        return [[] for _ in sentences]
    warn_of_long(sentences, reader)
    texts = Text(reader.joint).embed(sentences)
    queries = reader.joint.compute_queries(texts.to(_device_of(reader))).float().cpu()
    best = []
    for scores in score_keys(index.keys, queries):
        best.append(choose_best(scores, index.ranks, width))
    if reader.joint.can_match:
        best = match_again(index, reader, sentences, best)
    elif needs_second:
        for number, scored in enumerate(best):
            best[number] = compare_again(index, reader, texts[number : number + 1], scored)
    return [choose_moments(index, scored, top) for scored in best]


def needs_shortlist(reader: Reader) -> bool:
    return reader.joint.can_match or not reader.joint.is_product


def phrase_order(reader: Reader, windows: int, shortlist: int) -> str:
    """How the moments were ordered, in a sentence."""
    if not needs_shortlist(reader):
        return f"Each query was compared with all {windows} windows, exactly."
    few = min(shortlist, windows)
    if reader.joint.can_match:
        how = "were read again from their videos and matched with the query, a pass for each"
    else:
        how = "were compared as in training, where the clip changes the sentence"
    return f"Plain products chose {few} of {windows} windows for each query; only these {how}."


def check_queries(sentences: Sequence[str], reader: Reader) -> None:
    """Raise a UserError for a sentence that says nothing."""
    for sentence in sentences:
        if not sentence.strip():
            raise UserError("--query is empty: write what should be seen, in a few words.")
    check_known_words(sentences, reader.joint.tower, "query")


def warn_of_long(sentences: Sequence[str], reader: Reader) -> None:
    """Say how much is read of a sentence that is too long, where the text side can tell."""
    for sentence in sentences:
        length = reader.joint.tower.measure(sentence)
        if length is not None and length.is_cut:
            log.warning(
                f"Of the query {shorten(sentence)!r} the first {length.most} of {length.total} "
                f"{length.unit} are read: this text side reads no more."
            )


def shorten(sentence: str, letters: int = 40) -> str:
    return sentence if len(sentence) <= letters else f"{sentence[: letters - 3].rstrip()}..."


def score_keys(keys: Float16[Tensor, "R E"], queries: Float[Tensor, "Q E"]) -> Float[Tensor, "Q R"]:
    """The product of every key with every query, in float32. The keys may lie on the disk."""
    scores = torch.empty(len(queries), len(keys))
    exact = torch.empty(min(CHUNK, len(keys)), keys.shape[1])  # the same memory for all chunks
    for start in range(0, len(keys), CHUNK):
        some = keys[start : start + CHUNK]
        part = exact[: len(some)].copy_(some)
        scores[:, start : start + CHUNK] = (part @ queries.T).T
    return scores


def choose_best(scores: Float[Tensor, " R"], ranks: Int[Tensor, " R"], count: int) -> Scored:
    """The best rows. Of equal ones the first by its rank comes first; rows of rank -1 are out."""
    scores = scores.masked_fill(ranks < 0, -torch.inf)
    count = min(count, int((ranks >= 0).sum()))
    check_scores(scores.max())
    least = scores.topk(count).values[-1]
    rows = (scores >= least).nonzero()[:, 0]  # more than `count` where scores are equal
    return order(Scored(rows, scores[rows]), ranks, count)


def check_scores(scores: Float[Tensor, "*n"]) -> None:
    """Raise a UserError for a score that is no number. The largest is NaN if any is."""
    if not scores.isfinite().all():
        raise UserError(
            "A score is NaN or infinity: the index is damaged (remove its folder, and it is built "
            "again) or the weights are."
        )


def order(scored: Scored, ranks: Int[Tensor, " R"], count: int | None = None) -> Scored:
    """From the best on; of equal ones the first by its rank comes first."""
    check_scores(scored.scores)
    keys = (ranks[scored.rows].numpy(), -scored.scores.numpy())
    best = torch.from_numpy(np.lexsort(keys)[:count])
    return Scored(scored.rows[best], scored.scores[best])


def compare_again(
    index: Index, reader: Reader, text: Float[Tensor, "1 E"], scored: Scored
) -> Scored:
    """The shortlist in the order of `compare`, from the vectors that the index keeps."""
    clips = {name: x[scored.rows] for name, x in index.arrays.items() if name != KEY}
    scores = Text(reader.joint).compare(clips, text)[:, 0] / compute_factor(reader.joint)
    return order(Scored(scored.rows, scores), index.ranks)


def match_again(
    index: Index, reader: Reader, sentences: Sequence[str], shortlists: Sequence[Scored]
) -> list[Scored]:
    """The shortlists in the order of `match`. Their windows are read from the videos again.

    Each window is read once, whichever sentences ask for it. Windows of a video that can no longer
    be read are left out, and a warning says so.
    """
    second = SecondStage(index, reader, sentences, shortlists)
    for video, rows in second.list_rows().items():
        try:
            second.match_rows(video, rows)
        except DecodeError as error:
            log.warning(f"{len(rows)} windows of the shortlist are left out: {error}.")
    ordered = []
    for scores in second.scores:
        rows = torch.tensor([*scores], dtype=torch.long)
        ordered.append(order(Scored(rows, torch.tensor([*scores.values()])), index.ranks))
    return ordered


class SecondStage:
    """The scores that `match` gives to the windows of the shortlists of some sentences."""

    def __init__(
        self, index: Index, reader: Reader, sentences: Sequence[str], shortlists: Sequence[Scored]
    ) -> None:
        self.index, self.reader = index, reader
        self.pairs = list(zip(sentences, shortlists, strict=True))
        self.scores: list[dict[int, float]] = [{} for _ in sentences]  # of each by row

    def list_rows(self) -> dict[str, Int[Tensor, " n"]]:
        """The rows of each video that any sentence asks for, in the order of time."""
        rows_of: dict[str, list[int]] = {}
        for row in torch.cat([scored.rows for _, scored in self.pairs]).unique().tolist():
            rows_of.setdefault(self.index.locate(row).video, []).append(row)
        return {video: torch.tensor(rows) for video, rows in rows_of.items()}

    def match_rows(self, video: str, rows: Int[Tensor, " n"]) -> None:
        """Match the windows of a video with the sentences that ask for them."""
        text = Text(self.reader.joint)
        film = open_film(self.index.paths[video], self.index.pace)
        numbers = rows.numpy() - self.index.find_entry(int(rows[0])).first
        start = 0
        for vectors in self.reader.read(film, self.index.pace, numbers):
            count = len(next(iter(vectors.values())))
            block = rows[start : start + count]
            start += count
            for (sentence, scored), scores in zip(self.pairs, self.scores, strict=True):
                is_asked = torch.isin(block, scored.rows)
                if is_asked.any():
                    some = {name: x[is_asked.to(x.device)] for name, x in vectors.items()}
                    values = text.match(some, [sentence] * int(is_asked.sum())).tolist()
                    scores.update(zip(block[is_asked].tolist(), values, strict=True))


def choose_moments(index: Index, scored: Scored, top: int) -> list[Moment]:
    """The best windows, without those that share a part of their video with a better one."""
    moments: list[Moment] = []
    numbers: dict[str, list[int]] = {}  # of the windows of a video that are moments
    for row, score in zip(scored.rows.tolist(), scored.scores.tolist(), strict=True):
        window = index.locate(row)
        others = numbers.setdefault(window.video, [])
        if all(abs(number - window.number) > index.pace.overlapping for number in others):
            others.append(window.number)
            moments.append(Moment(window.video, window.begin_s, window.end_s, score))
        if len(moments) == top:
            break
    return moments


def _device_of(reader: Reader) -> torch.device:
    return next(reader.joint.parameters()).device
