"""Losses of a run -> its progress bar, metrics and pictures. Nothing here changes a weight."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ssvid.encoder import evaluating
from ssvid.engine.advice import describe_duration
from ssvid.engine.checkpoint import RunFolder
from ssvid.engine.collapse import monitor_features
from ssvid.engine.cost import Cost
from ssvid.engine.distributed import World, gather_numbers
from ssvid.engine.logs import Metrics, draw_clips
from ssvid.engine.settings import Settings
from ssvid.log import log
from ssvid.objective import Objective
from ssvid.progress import progress_bar
from ssvid.shapes import Batch, Loss, Views

TIMED_STEPS = 5  # first steps of a start, of which all but the first are timed

ProbeFunction = Callable[[Objective], dict[str, float]]  # objective -> scores of its features


class TrainLog:
    """The progress bar, metrics and pictures of a run. The first process writes them.

    A line is one record of metrics.jsonl. `add` and `waiting` collect what the next line of `write`
    holds. `write_cost`, `log_pictures` and `probe` write lines of their own in between.
    """

    def __init__(self, folder: RunFolder, step: int, settings: Settings, world: World) -> None:
        first = world.first
        # Cost comes first: Metrics cuts the lines beyond the checkpoint, and their cost counts.
        self.cost = Cost(folder.path if first else None)
        self.metrics = Metrics(folder.path, step) if first else None
        self.bar = progress_bar(settings.steps, "step", initial=step, disable=not first)
        self.world, self.total_steps, self.mixture = world, settings.steps, settings.mixture
        self.first_step, self.timed_from_s = step, 0.0
        self.latest_metrics: dict[str, float] = {}  # the numbers of the last line of `write`
        self.probe_scores: dict[str, float] = {}  # the last scores of the online probe
        self.warned_of_short_videos = False
        self.reset()

    def reset(self) -> None:
        """Begin the next line of `write`."""
        self.start_s, self.waiting_s = time.perf_counter(), 0.0
        self.n_clips = 0  # of this line, that this process took in this start of the run
        self.clips_before_resume = 0  # of this line, that an earlier start of the run has counted
        self.dropped_videos = 0
        # Not a whole number: where a sample has V views, a view that is padded counts as 1 / V.
        self.padded_clips = 0.0
        self.losses: dict[str, list[torch.Tensor]] = {}
        # Clips of each part of a mixture; the same names in all processes.
        self.clips_of = dict.fromkeys(self.mixture.names if self.mixture else (), 0)

    def state(self) -> dict[str, Any]:
        """What the next line will count, so that it is the same line after a resume."""
        losses = {}
        for name, values in self.losses.items():
            losses[name] = [float(value) for value in values]
        n_clips = self.clips_before_resume + self.n_clips
        counts = (n_clips, self.dropped_videos, self.padded_clips)
        return {"losses": losses, "counts": counts, "clips_of": self.clips_of}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with the line that a checkpoint had begun."""
        for name, values in state["losses"].items():
            self.losses[name] = list(torch.tensor(values, device=self.world.device))
        self.clips_before_resume, self.dropped_videos, self.padded_clips = state["counts"]
        self.clips_of |= state.get("clips_of", {})

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        start_s = time.perf_counter()
        self.world.announce_activity("waits for its clips")
        yield
        self.world.announce_activity("")
        self.waiting_s += time.perf_counter() - start_s

    def time_step(self, step: int) -> None:
        """Log how long the run will take, once the first steps of this start are timed.

        The first step is left out: it starts the loader's workers, and libraries choose algorithms.
        """
        timed = step - self.first_step
        if not self.metrics or timed not in (1, TIMED_STEPS):
            return
        if self.world.device.type == "cuda":
            torch.cuda.synchronize()  # steps are only queued until then
        if timed == 1:
            self.timed_from_s = time.perf_counter()
        elif step < self.total_steps:
            step_s = (time.perf_counter() - self.timed_from_s) / (TIMED_STEPS - 1)
            log.info(describe_duration(self.total_steps - step, step_s))

    def add(self, loss: Loss, batch: Batch) -> None:
        """Add the losses of a micro-batch to the next line. They stay on the device."""
        views = batch["clips"].shape[1] if "clips" in batch else 1
        self.n_clips += len(batch["index"])
        self.padded_clips += batch["padded"] / views
        self.dropped_videos += batch["dropped"]
        losses = {"loss": loss.total, **loss.parts}
        for source in batch.get("source", ()):
            self.clips_of[source] += 1
        if self.mixture and self.mixture.order == "alternate":  # the batch is of one part
            losses[f"loss/{batch['source'][0]}"] = loss.total
        for name, value in losses.items():
            self.losses.setdefault(name, []).append(value.detach())

    def write(self, step: int, extra_metrics: dict[str, float]) -> None:
        """Write a line: mean losses over all processes, `extra_metrics`, speed and cost.

        Every process has to call it, because it gathers the losses of all.
        """
        spent_s = time.perf_counter() - self.start_s
        means_here = {}
        for name, values in self.losses.items():
            means_here[name] = float(torch.stack(values).float().mean())
        for source, count in self.clips_of.items():
            means_here[f"share/{source}"] = count / max(1, sum(self.clips_of.values()))
        numbers_here = {**means_here, "cpu_s": self.cost.cpu()}
        values_by_process = gather_numbers(numbers_here, self.world)
        cost = self.cost.total(values_by_process.pop("cpu_s"))
        means = {name: statistics.fmean(values) for name, values in values_by_process.items()}
        clips_per_s = self.n_clips * self.world.size / spent_s
        waiting_share = self.waiting_s / spent_s
        speed = {"clips_per_s": clips_per_s, "data_wait": waiting_share}
        self.latest_metrics = {**means, **extra_metrics, **speed}
        if self.padded_clips:
            n_clips = self.clips_before_resume + self.n_clips
            self.latest_metrics["padded"] = self.padded_clips / n_clips
        if self.dropped_videos:
            self.latest_metrics["dropped"] = self.dropped_videos
        self.latest_metrics |= cost
        if self.metrics:
            self.metrics.write(step, self.latest_metrics)
            self.warn_short_videos()
        self.bar.set_postfix_str(
            f"loss {means['loss']:.4f}, {clips_per_s:.0f} clips/s, {waiting_share:.0%} waiting for "
            "data",
            refresh=False,
        )
        self.bar.update(step - self.bar.n)
        self.reset()

    def write_cost(self, step: int) -> None:
        """Write a line of what the run has cost so far, before it stops between two other lines.

        Every process has to call it, because it gathers the CPU-seconds of all.
        """
        cost = self.cost.total(gather_numbers({"cpu_s": self.cost.cpu()}, self.world)["cpu_s"])
        if self.metrics:
            self.metrics.write(step, cost)

    def warn_short_videos(self) -> None:
        """Warn once if videos are shorter than the clip. Padded clips stand still at their end."""
        if self.warned_of_short_videos or not (self.padded_clips or self.dropped_videos):
            return
        self.warned_of_short_videos = True
        n_clips = self.clips_before_resume + self.n_clips
        log.warning(
            f"of the last {n_clips} clips {self.padded_clips / n_clips:.0%} are longer than "
            f"their video, whose last frame is repeated; {self.dropped_videos} videos were left "
            "out as too short. See --short_videos, --clip."
        )

    def log_pictures(
        self, step: int, objective: Objective, batch: Batch, views: Views
    ) -> dict[str, float]:
        """Write pictures and a line of collapse monitors, and return the monitors.

        Only the first process does it. The others return {} at once, and wait for it when all
        processes next exchange numbers. The objective is in eval mode meanwhile: no dropout draws
        and no batch norm counts, so the random state and the statistics of the run stay as they
        are.
        """
        if not self.metrics:
            return {}
        monitors = monitor_features(objective, batch)
        if monitors:
            self.metrics.write(step, monitors)
        with evaluating(objective):
            pictures = objective.visualize(batch)
        if "clips" in batch:
            pictures["clips"] = draw_clips(batch["clips"][:4, 0], views)
        for name, picture in pictures.items():
            self.metrics.picture(step, name, picture)
        return monitors

    def probe(self, step: int, objective: Objective, probe: ProbeFunction | None) -> None:
        """Run the online probe, if there is one, on the first process, and write a line of scores.

        The others return at once, and wait for it when all processes next exchange numbers. The
        probe itself keeps the weights and the mode of the objective as they are.
        """
        if not self.metrics or not probe:
            return
        self.world.announce_activity("scores the features, as --probe_every asks")
        scores = probe(objective)
        self.world.announce_activity("")
        self.metrics.write(step, scores)
        self.probe_scores.update(scores)
        texts = []
        for name, score in scores.items():
            texts.append(f"{name.removeprefix('probe/')} {100 * score:.1f} %")
        log.info(f"step {step}: online probe {', '.join(texts)}")
        self.reset()  # the time of the probe does not count as time of the steps

    def __enter__(self) -> "TrainLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.metrics:
            self.metrics.close()
