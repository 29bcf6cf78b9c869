"""Name the class of each test clip, by any probe trained on the train clips."""

from einops import rearrange

from benchmarks.probe import Probe
from benchmarks.strips import attended
from benchmarks.subject import Bench
from benchmarks.task import Answer, Row, Task, right
from ssvid.registry import tasks
from ssvid.statistics import chance, topk


@tasks.register("classify")
class Classify(Task):
    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def answer(self, bench: Bench, source: str) -> Answer:
        """With several views of a clip each is learnt from by itself, and their scores are averaged."""
        train, val, test = (bench.each_view(source, split) for split in ("train", "val", "test"))
        got = self.probe_of(source).run(train, val, test, bench.seed)
        labels = bench.labels[bench.splits["test"]]
        scores, attention = got.scores, got.attention
        if bench.views > 1:
            scores = rearrange(scores.softmax(-1), "(S V) Q -> S V Q", V=bench.views).mean(1)
            attention = None  # of many views: a picture of which would be a choice
        said = scores.argmax(-1)
        more = {"val_top1": got.metrics["val/top1"], "chosen": got.chosen, "grid": got.grid}
        if "test/top5" in got.metrics:
            more["top5"] = topk(scores, labels, 5)
        return Answer(right(said, labels), said, more, attention=attention)

    def chance(self, bench: Bench) -> float:
        return chance(bench.labels[bench.splits["test"]])

    def pictures(self, bench: Bench, answer: Answer) -> Row:
        """Where an attentive probe looks, frame by frame."""
        if answer.attention is None or answer.said is None or answer.attention.shape[1] != bench.grid.n:
            return {}
        over_time = rearrange(answer.attention, "S (t n) -> S t n", t=bench.grid.t).sum(-1)
        rows = [bench.row[i] for i in bench.splits["test"]]
        return {"attention": attended(bench.data, bench.spec, rows, answer.said, over_time)}
