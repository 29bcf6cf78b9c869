"""Name the class of each test clip, by any probe trained on the train clips."""

from benchmarks.probe import Probe
from benchmarks.subject import Bench
from benchmarks.task import Answer, Task, right
from ssvid.registry import tasks
from ssvid.statistics import chance


@tasks.register("classify")
class Classify(Task):
    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def answer(self, bench: Bench, source: str) -> Answer:
        train, val, test = (bench.frozen(source, split) for split in ("train", "val", "test"))
        got = self.probe_of(source).run(train, val, test, bench.seed)
        more = {"val_top1": got.metrics["val/top1"], "chosen": got.chosen, "grid": got.grid}
        if "test/top5" in got.metrics:
            more["top5"] = got.metrics["test/top5"]
        return Answer(right(got.predictions, test.labels), got.predictions, more)

    def chance(self, bench: Bench) -> float:
        return chance(bench.data.labels[bench.splits["test"]])
