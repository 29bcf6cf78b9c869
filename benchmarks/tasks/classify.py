"""Name the class of each test clip, by any probe trained on the train clips."""

from typing import Literal

import torch
from einops import rearrange

from benchmarks.features.bench import Bench
from benchmarks.probes.base import Probe, ProbeResult
from benchmarks.tasks.base import Answer, Row, Task, average_probabilities, mark_correct
from benchmarks.tasks.film_strips import describe_attention
from ssvid.registry import tasks
from ssvid.statistics import chance, topk


@tasks.register("classify")
class Classify(Task):
    fuses_encoders = True

    def __init__(
        self,
        probe: Probe,
        *,
        # clips: the clips that the user chooses; windows, ten_crops: CoCLR's windows
        kind: Literal["clips", "windows", "ten_crops"] = "clips",
    ) -> None:
        self._probe = probe
        if kind != self.kind:  # no attribute for plain clips, so their hash stays as it was
            self.kind = kind

    def answer(self, bench: Bench, source: str) -> Answer:
        """The class of each video by the softmax of its scores, averaged over views and encoders.

        The probe learns from each view or window of a video as from a clip. Of several encoders
        each has a probe of its own.
        """
        results = [
            self.probe_stream(stream._replace(seed=bench.seed), source) for stream in bench.streams
        ]
        units, video_of_view = bench.index_videos("test")
        scores, attention = results[0].scores, results[0].attention
        labels = bench.labels[units]
        if len(results) > 1 or len(video_of_view) > len(units):
            probabilities = []
            for result, stream in zip(results, bench.streams, strict=True):
                stream_units, stream_index = stream.index_videos("test")
                probabilities.append(
                    average_probabilities(result.scores, len(stream_units), stream_index)
                )
            scores = torch.stack(probabilities).mean(0)
            attention = None  # there are many views, and none stands for all
        predictions = scores.argmax(-1)
        described: list[Row] = []
        for result in results:
            val_top1 = result.metrics["val/top1"]
            described.append({"val_top1": val_top1, "chosen": result.chosen, "grid": result.grid})
        details: Row = described[0] if len(described) == 1 else {"streams": described}
        details["warnings"] = sum((result.warnings for result in results), [])
        if "test/top5" in results[0].metrics:
            details["top5"] = topk(scores, labels, 5)
        correct = mark_correct(predictions, labels)
        return Answer(correct, predictions, details, attention=attention)

    def probe_stream(self, bench: Bench, source: str) -> ProbeResult:
        train, val = bench.get_frozen_views(source, "train"), bench.get_frozen_views(source, "val")
        test = bench.get_frozen_views(source, "test")
        return self.run_probe(bench, source, train, val, test)

    def chance(self, bench: Bench) -> float:
        return chance(bench.labels[bench.splits["test"]])

    def visualize(self, bench: Bench, answer: Answer) -> Row:
        """Where an attentive probe looks, frame by frame."""
        attention, predictions = answer.attention, answer.predictions
        if attention is None or predictions is None or attention.shape[1] != bench.grid.n:
            return {}
        over_time = rearrange(attention, "S (t n) -> S t n", t=bench.grid.t).sum(-1)
        rows = [bench.row_of_unit[unit] for unit in bench.splits["test"]]
        described = describe_attention(bench.data, bench.spec, rows, predictions, over_time)
        return {"attention": described}
