"""Name the class of each test clip, by any probe trained on the train clips."""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.probes.base import Probe, ProbeResult
from benchmarks.tasks.base import Answer, Row, Task, right
from benchmarks.tasks.film_strips import attended
from ssvid.registry import tasks
from ssvid.statistics import chance, topk


@tasks.register("classify")
class Classify(Task):
    fuses_encoders = True

    def __init__(
        self,
        probe: Probe,
        *,
        kind: Literal[
            "clips", "windows", "ten_crops"
        ] = "clips",  # clips: as the user asks; else CoCLR's windows
    ) -> None:
        self._probe = probe
        if kind != self.kind:  # what is asked of plain clips keeps its hash
            self.kind = kind

    def answer(self, bench: Bench, source: str) -> Answer:
        """Each view or window of a video is learnt from by itself, and the softmax of their scores is averaged.

        So is that of several encoders, each of which has a probe of its own.
        """
        got = [self.heard(one, source, bench.seed) for one in bench.streams]
        units, which = bench.videos("test")
        scores, attention, labels = got[0].scores, got[0].attention, bench.labels[units]
        if len(got) > 1 or len(which) > len(units):
            each = [
                shares(of.scores, *one.videos("test"))
                for of, one in zip(got, bench.streams, strict=True)
            ]
            scores = torch.stack(each).mean(0)
            attention = None  # of many views: a picture of which would be a choice
        said = scores.argmax(-1)
        told = [
            {"val_top1": one.metrics["val/top1"], "chosen": one.chosen, "grid": one.grid}
            for one in got
        ]
        more: Row = told[0] if len(told) == 1 else {"streams": told}
        if "test/top5" in got[0].metrics:
            more["top5"] = topk(scores, labels, 5)
        return Answer(right(said, labels), said, more, attention=attention)

    def heard(self, bench: Bench, source: str, seed: int) -> ProbeResult:
        train, val, test = (bench.each_view(source, split) for split in ("train", "val", "test"))
        return self.get_probe(source).run(train, val, test, seed)

    def chance(self, bench: Bench) -> float:
        return chance(bench.labels[bench.splits["test"]])

    def visualize(self, bench: Bench, answer: Answer) -> Row:
        """Where an attentive probe looks, frame by frame."""
        if (
            answer.attention is None
            or answer.predictions is None
            or answer.attention.shape[1] != bench.grid.n
        ):
            return {}
        over_time = rearrange(answer.attention, "S (t n) -> S t n", t=bench.grid.t).sum(-1)
        rows = [bench.row[i] for i in bench.splits["test"]]
        return {"attention": attended(bench.data, bench.spec, rows, answer.predictions, over_time)}


def shares(
    logits: Float[Tensor, "W Q"], units: list[int], which: Int[Tensor, " W"]
) -> Float[Tensor, "S Q"]:
    """Softmax, averaged over the views of each video."""
    share = logits.softmax(-1)
    total = share.new_zeros(len(units), share.shape[1]).index_add_(0, which, share)
    return total / which.bincount(minlength=len(units))[:, None]
