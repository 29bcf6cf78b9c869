"""Losses of a run -> its progress bar, metrics and pictures. Nothing here changes a weight."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ssvid.encoder import evaluating
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

ProbeFunction = Callable[[Objective], dict[str, float]]  # objective -> scores of its features


class TrainLog:
    """The progress bar, metrics and pictures of a run. The first process writes them."""

    def __init__(self, folder: RunFolder, step: int, settings: Settings, world: World) -> None:
        first = world.first
        # Cost comes first: it reads lines that Metrics cuts from the file.
        self.cost = Cost(folder.path if first else None)
        self.metrics = Metrics(folder.path, step) if first else None
        self.bar = progress_bar(settings.steps, "step", initial=step, disable=not first)
        self.world = world
        self.last: dict[str, float] = {}  # the numbers of the last line
        self.scores: dict[str, float] = {}  # the last scores of the online probe
        self.warned = False  # that clips are longer than their videos
        self.reset()

    def reset(self) -> None:
        """Begin the next line."""
        self.start_s, self.waiting_s = time.perf_counter(), 0.0
        # `counted_before`: clips of this line that an earlier start of the run has counted.
        self.clips = self.counted_before = self.dropped_videos = 0
        self.padded_clips = 0.0
        self.losses: dict[str, list[torch.Tensor]] = {}

    def state(self) -> dict[str, Any]:
        """What the next line will count, so that it is the same line after a resume."""
        losses = {}
        for name, values in self.losses.items():
            losses[name] = [float(value) for value in values]
        clips = self.counted_before + self.clips
        counts = (clips, self.dropped_videos, self.padded_clips)
        return {"losses": losses, "counts": counts}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with the line that a checkpoint had begun."""
        for name, values in state["losses"].items():
            self.losses[name] = list(torch.tensor(values, device=self.world.device))
        self.counted_before, self.dropped_videos, self.padded_clips = state["counts"]

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        start_s = time.perf_counter()
        self.world.announce_activity("waits for its clips")
        yield
        self.world.announce_activity("")
        self.waiting_s += time.perf_counter() - start_s

    def add(self, loss: Loss, batch: Batch) -> None:
        """Add the losses of a micro-batch to the next line. They stay on the device."""
        views = batch["clips"].shape[1] if "clips" in batch else 1
        self.clips += len(batch["index"])
        self.padded_clips += batch["padded"] / views
        self.dropped_videos += batch["dropped"]
        for name, value in {"loss": loss.total, **loss.parts}.items():
            self.losses.setdefault(name, []).append(value.detach())

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Write a line: `numbers`, the mean losses over all processes, speed and cost."""
        spent_s = time.perf_counter() - self.start_s
        means_here = {}
        for name, values in self.losses.items():
            means_here[name] = float(torch.stack(values).float().mean())
        of_all = gather_numbers({**means_here, "cpu_s": self.cost.cpu()}, self.world)
        cost = self.cost.total(of_all.pop("cpu_s"))
        means = {name: statistics.fmean(values) for name, values in of_all.items()}
        clips_per_s, data_wait = self.clips * self.world.size / spent_s, self.waiting_s / spent_s
        self.last = {**means, **numbers, "clips_per_s": clips_per_s, "data_wait": data_wait}
        if self.padded_clips:
            self.last["padded"] = self.padded_clips / (self.counted_before + self.clips)
        if self.dropped_videos:
            self.last["dropped"] = self.dropped_videos
        self.last |= cost
        if self.metrics:
            self.metrics.write(step, self.last)
            self.warn_short_videos()
        self.bar.set_postfix_str(
            f"loss {means['loss']:.4f}, {clips_per_s:.0f} clips/s, {data_wait:.0%} waiting for "
            "data",
            refresh=False,
        )
        self.bar.update(step - self.bar.n)
        self.reset()

    def write_cost(self, step: int) -> None:
        """Write what the run has cost so far, before it stops between two lines."""
        cost = self.cost.total(gather_numbers({"cpu_s": self.cost.cpu()}, self.world)["cpu_s"])
        if self.metrics:
            self.metrics.write(step, cost)

    def warn_short_videos(self) -> None:
        """Warn once if videos are shorter than the clip. Padded clips stand still at their end."""
        if self.warned or not (self.padded_clips or self.dropped_videos):
            return
        self.warned = True
        clips = self.counted_before + self.clips
        log.warning(
            f"of the last {clips} clips {self.padded_clips / clips:.0%} are longer than "
            f"their video, whose last frame is repeated; {self.dropped_videos} videos were left "
            "out as too short. See --short_videos, --clip."
        )

    def log_pictures(
        self, step: int, objective: Objective, batch: Batch, views: Views
    ) -> dict[str, float]:
        """Write pictures and collapse monitors, and return the monitors.

        Only the first process does it; the others return {}. The random state and the statistics of
        the run stay as they are.
        """
        if not self.metrics:
            return {}
        numbers = monitor_features(objective, batch)
        if numbers:
            self.metrics.write(step, numbers)
        with evaluating(objective):
            pictures = objective.visualize(batch)
        if "clips" in batch:
            pictures["clips"] = draw_clips(batch["clips"][:4, 0], views)
        for name, picture in pictures.items():
            self.metrics.picture(step, name, picture)
        return numbers

    def probe(self, step: int, objective: Objective, probe: ProbeFunction | None) -> None:
        """Run the online probe, if there is one, on the first process. The others wait for it."""
        if not self.metrics or not probe:
            return
        self.world.announce_activity("scores the features, as --probe_every asks")
        scores = probe(objective)
        self.world.announce_activity("")
        self.metrics.write(step, scores)
        self.scores.update(scores)
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
