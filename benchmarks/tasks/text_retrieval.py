"""Which clip does a sentence tell of, and which sentence tells of a clip? Captions of test videos, nothing trained.

As MIL-NCE has it (Miech et al. 2020, arXiv:1912.06430): a caption's clips are windows of its segment, averaged; one
right answer to each query, among all others. R@1, 5, 10, median and mean rank (of 1 on), both ways.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Row, Task, group_numbers, share
from ssvid.errors import UserError, positive
from ssvid.registry import tasks

KS = (1, 5, 10)


class Ranks(NamedTuple):
    """Of each query, or where ties are counted as published of each place that its answer may have: R of them."""

    above: Int[Tensor, " R"]  # answers of higher similarity than the right one
    tied: Int[Tensor, " R"]  # others of the same: their order is left to chance
    query: Int[Tensor, " R"]

    @property
    def mean(self) -> Float[Tensor, " R"]:
        """From 0, over all orders of the tied ones."""
        return self.above + self.tied / 2

    def within(self, k: int) -> Float[Tensor, " R"]:
        """The share of these orders in which the right answer is among the first k."""
        return ((k - self.above).clamp(min=0) / (self.tied + 1)).clamp(max=1).double()


@tasks.register("text_retrieval")
class TextRetrieval(Task):
    metric = "recall1"
    joint = True
    rows = ("encoder", "random")

    def __init__(
        self,
        probe: Probe | None = None,
        *,
        windows: int = 10,  # clips of a segment, averaged
        ties: Literal["fair", "published"] = "fair",  # published: as MIL-NCE counts equal scores
    ) -> None:
        if probe is not None:
            raise UserError("text_retrieval takes no probe: nothing is trained.")
        positive(windows=windows)
        self.windows, self.ties, self.kind = windows, ties, f"captions:{windows}"

    def answer(self, bench: Bench, source: str) -> Answer:
        """The main number is of sentences that ask for clips."""
        table = similarity(bench, source)
        ways = {"text_to_video": self.ranked(table), "video_to_text": self.ranked(table.T)}
        more: Row = {way: recalls(found) for way, found in ways.items()}
        found = ways["text_to_video"]
        groups = group_numbers(bench)
        right = share(found.within(1), groups[found.query], int(groups.max()) + 1)
        return Answer(None, None, {**more, "captions": len(table)}, right)

    def ranked(self, table: Float[Tensor, "S S"]) -> Ranks:
        return as_published(ranks(table)) if self.ties == "published" else ranks(table)

    def chance(self, bench: Bench) -> float:
        """Any order is as likely as any other: what pairs drawn anew get."""
        return 1 / len(bench.splits["test"])


def similarity(bench: Bench, source: str) -> Float[Tensor, "S S"]:
    """Sentences down, clips across; those of one caption share a number."""
    units = bench.splits["test"]
    if not units:
        raise UserError("No caption's segment could be read: there is nothing to retrieve.")
    assert bench.text is not None, "a task that reads :joint"
    said = [bench.data.rows[bench.row[unit]].sentences[int(bench.at[unit][0])][2] for unit in units]
    clips = bench.text.one(bench.frozen(source, "test").feats["joint"].float())
    return bench.text.embed(said) @ clips.T


def ranks(similarity: Float[Tensor, "S S"]) -> Ranks:
    """Queries down; the right answer of query i is answer i."""
    if not similarity.isfinite().all():
        raise UserError(
            "Some similarities of sentences and clips are NaN or infinite: the weights are damaged."
        )
    right = similarity.diagonal()[:, None]
    above, same = (similarity > right).sum(1), (similarity == right).sum(1)
    return Ranks(above, same - 1, torch.arange(len(similarity)))


def as_published(found: Ranks) -> Ranks:
    """A query whose answer is tied counts once for each place that it may have, as in the code of MIL-NCE."""
    times = found.tied + 1
    first = (times.cumsum(0) - times).repeat_interleave(times)
    above = found.above.repeat_interleave(times) + torch.arange(int(times.sum())) - first
    return Ranks(above, torch.zeros_like(above), found.query.repeat_interleave(times))


def ranks_published(similarity: Float[Tensor, "S S"]) -> Int[Tensor, " R"]:
    return as_published(ranks(similarity)).above


def recalls(found: Ranks | Int[Tensor, " R"]) -> dict[str, float]:
    """Shares; of the ranks from 1 on their median (of an even number: between the middle two) and mean."""
    if isinstance(found, Tensor):
        found = Ranks(found, torch.zeros_like(found), torch.arange(len(found)))
    mean = found.mean.double() + 1
    shares = {f"recall{k}": found.within(k).mean().item() for k in KS}
    return {**shares, "median_rank": mean.quantile(0.5).item(), "mean_rank": mean.mean().item()}
