"""Which clip does a sentence describe, and which sentence describes a clip? Nothing is trained.

The queries are captions of test videos, as in MIL-NCE (Miech et al. 2020, arXiv:1912.06430). A
caption's clips are windows of its segment, averaged. Each query has one right answer among all
others. Reported are R@1, 5, 10, and the median and mean rank (from 1), in both directions.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Row, Task, make_share_measure, number_groups
from ssvid.engine.features import cpu_seconds
from ssvid.errors import UserError, check_positive, check_range
from ssvid.registry import tasks

KS = (1, 5, 10)
PAIRS_AT_ONCE = 512  # whose tokens are held at a time


class Ranks(NamedTuple):
    """The ranks of R right answers, one for each query.

    Where ties are counted as published, a query has an entry for each rank that its right answer
    may have.
    """

    above: Int[Tensor, " R"]  # answers with a higher similarity than the right one
    tied: Int[Tensor, " R"]  # other answers with the same similarity, whose order is random
    query: Int[Tensor, " R"]

    @property
    def mean(self) -> Float[Tensor, " R"]:
        """The rank from 0, averaged over all orders of the tied answers."""
        return self.above + self.tied / 2

    def share_within(self, k: int) -> Float[Tensor, " R"]:
        """The share of these orders in which the right answer is among the first k."""
        return ((k - self.above).clamp(min=0) / (self.tied + 1)).clamp(max=1).double()


@tasks.register("text_retrieval")
class TextRetrieval(Task):
    metric = "recall1"
    joint = True
    rows = ("encoder", "random")
    rerank = 0

    def __init__(
        self,
        probe: Probe | None = None,
        *,
        windows: int = 10,  # clips of a segment, averaged
        ties: Literal["fair", "published"] = "fair",  # published: as MIL-NCE counts equal scores
        # so many of the most similar are ordered anew by a second stage that looks at both, where
        # the text side has one (BLIP's matching); 0: none
        rerank: int = 0,
    ) -> None:
        if probe is not None:
            raise UserError("text_retrieval takes no probe: nothing is trained.")
        check_positive(windows=windows)
        check_range(0, 10**6, rerank=rerank)
        if rerank and windows > 1:
            raise UserError(
                "A second stage looks at the tokens of one clip, and those of several windows "
                "cannot be averaged: give windows 1 beside rerank."
            )
        self.windows, self.ties, self.kind = windows, ties, f"captions:{windows}"
        if rerank:  # else it is no attribute, so that results of one stage keep their hashes
            self.rerank = rerank

    def answer(self, bench: Bench, source: str) -> Answer:
        """The main number is the recall of clips by sentences."""
        began = cpu_seconds()
        similarity = compute_similarity(bench, source)
        first_s = cpu_seconds() - began
        both = {"text_to_video": similarity, "video_to_text": similarity.T}
        details: Row = {"captions": len(similarity)}
        candidates = min(self.rerank, len(similarity))
        if candidates:
            details["first_stage"] = {**self.describe(both), "cpu_s": first_s}
            began = cpu_seconds()
            both = rerank_both(bench, source, both, candidates)
            details["second_stage"] = {
                "candidates": candidates,
                "pairs": 2 * candidates * len(similarity),
                "cpu_s": cpu_seconds() - began,
            }
        details |= self.describe(both)
        text_to_video = self.rank(both["text_to_video"])
        groups = number_groups(bench)
        group_of_rank, group_count = groups[text_to_video.query], int(groups.max()) + 1
        measure = make_share_measure(text_to_video.share_within(1), group_of_rank, group_count)
        return Answer(None, None, details, measure)

    def describe(self, both: Mapping[str, Float[Tensor, "S S"]]) -> Row:
        """The recalls of both directions."""
        return {name: compute_recalls(self.rank(table)) for name, table in both.items()}

    def rank(self, similarity: Float[Tensor, "S S"]) -> Ranks:
        ranks = rank_diagonal(similarity)
        return repeat_ties(ranks) if self.ties == "published" else ranks

    def chance(self, bench: Bench) -> float:
        """The recall of pairs drawn at random, where any order is as likely as any other."""
        return 1 / len(bench.splits["test"])


def compute_similarity(bench: Bench, source: str) -> Float[Tensor, "S S"]:
    """Sentences down, clips across. A caption has the same number in both.

    Raises a UserError where no caption's segment could be read.
    """
    assert bench.text is not None, "a task that reads :joint"
    clips = bench.get_frozen(source, "test").feats
    return bench.text.compare(clips, bench.text.embed(list_sentences(bench))).T


def list_sentences(bench: Bench) -> list[str]:
    """The sentence of each caption. A UserError where no caption's segment could be read."""
    units = bench.splits["test"]
    if not units:
        raise UserError("No caption's segment could be read: there is nothing to retrieve.")
    sentences = []
    for unit in units:
        captions = bench.data.rows[bench.row_of_unit[unit]].sentences
        _, _, text = captions[int(bench.position_of_unit[unit][0])]
        sentences.append(text)
    return sentences


def rerank_both(
    bench: Bench, source: str, both: Mapping[str, Float[Tensor, "S S"]], candidates: int
) -> dict[str, Float[Tensor, "S S"]]:
    """The tables of both directions, in which the best of each query are ordered by matching.

    A UserError where the text side has no second stage.
    """
    assert bench.text is not None, "a task that reads :joint"
    if not bench.text.can_match:
        raise UserError(
            "This text side has one stage, so `rerank` has nothing to order by: leave it out, or "
            "take the run of litevl_retrieval or a file of BLIP."
        )
    sentences, tables = list_sentences(bench), {}
    clips = bench.get_frozen(source, "test").feats
    for direction, table in both.items():
        best = table.topk(candidates, dim=1).indices
        queries = torch.arange(len(table)).repeat_interleave(candidates)
        answers = best.flatten()
        swapped = direction == "video_to_text"
        clip_rows, text_rows = (queries, answers) if swapped else (answers, queries)
        scores = []
        for start in range(0, len(queries), PAIRS_AT_ONCE):
            rows = slice(start, start + PAIRS_AT_ONCE)
            some = {name: x[clip_rows[rows]] for name, x in clips.items()}
            chosen = [sentences[row] for row in text_rows[rows].tolist()]
            scores.append(bench.text.match(some, chosen))
        tables[direction] = put_first(table, best, torch.cat(scores).view_as(best).to(table))
    return tables


def put_first(
    table: Float[Tensor, "S S"], best: Int[Tensor, "S k"], scores: Float[Tensor, "S k"]
) -> Float[Tensor, "S S"]:
    """A table in which the best of each row come before all others, in the order of their scores.

    The published code gives all others one rank; here they keep the order of the first stage.
    """
    others_first = table - table.max() - 1  # all below 0
    return others_first.scatter(1, best, scores - scores.min())


def rank_diagonal(similarity: Float[Tensor, "S S"]) -> Ranks:
    """Queries down, answers across; the right answer of query i is answer i.

    Raises a UserError for similarities that are NaN or infinite.
    """
    if not similarity.isfinite().all():
        raise UserError(
            "Some similarities of sentences and clips are NaN or infinite: the weights are damaged."
        )
    right = similarity.diagonal()[:, None]
    above, equal = (similarity > right).sum(1), (similarity == right).sum(1)
    return Ranks(above, equal - 1, torch.arange(len(similarity)))


def repeat_ties(ranks: Ranks) -> Ranks:
    """A tied query counts once for each rank that its answer may have, as in MIL-NCE's code."""
    times = ranks.tied + 1
    first = (times.cumsum(0) - times).repeat_interleave(times)
    above = ranks.above.repeat_interleave(times) + torch.arange(int(times.sum())) - first
    return Ranks(above, torch.zeros_like(above), ranks.query.repeat_interleave(times))


def rank_as_published(similarity: Float[Tensor, "S S"]) -> Int[Tensor, " R"]:
    return repeat_ties(rank_diagonal(similarity)).above


def compute_recalls(ranks: Ranks | Int[Tensor, " R"]) -> dict[str, float]:
    """R@k as shares, and the median and mean of the ranks from 1.

    The median of an even number of ranks is the mean of the middle two.
    """
    if isinstance(ranks, Tensor):
        ranks = Ranks(ranks, torch.zeros_like(ranks), torch.arange(len(ranks)))
    mean = ranks.mean.double() + 1
    shares = {f"recall{k}": ranks.share_within(k).mean().item() for k in KS}
    return {**shares, "median_rank": mean.quantile(0.5).item(), "mean_rank": mean.mean().item()}
