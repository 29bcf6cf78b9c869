"""objective + batches -> trained weights: the one loop. It knows no objective and no data set."""

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ssvid.data.quarantine import Quarantine
from ssvid.encoder import evaluating
from ssvid.engine import optim
from ssvid.engine.checkpoint import RunFolder
from ssvid.engine.collapse import Watch, monitors
from ssvid.engine.cost import Cost
from ssvid.engine.distributed import World, gather, gathered
from ssvid.engine.logs import Metrics, film
from ssvid.engine.stop import Stop
from ssvid.engine.to_device import to_device
from ssvid.engine.token_dropping import Turbo
from ssvid.engine.train_flags import TrainFlags
from ssvid.errors import RunError, Stopped
from ssvid.log import log
from ssvid.objective import Objective
from ssvid.progress import progress_bar
from ssvid.randomness import prepare_for_compile
from ssvid.shapes import Batch, Loss, Views
from ssvid.text.joint import save_joint
from ssvid.weights.encoders import save_encoder
from ssvid.weights.state_dict import fit


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the loop does with any objective. Each field comes from a flag of the command that trains."""

    steps: int
    batch_size: int  # over all processes
    accumulate: int = 1  # micro-batches of a step
    lr: float  # at `batch_size`, scaled already
    min_lr: float = 0.0
    warmup: int = 0  # steps
    lr_milestones: tuple[int, ...] = ()  # steps at which the rate falls to a tenth; no cosine then
    freeze_steps: int = 0  # first steps in which frozen groups of the optimiser do not learn
    clip_grad: float | None = None  # largest norm
    bf16: bool = False
    compile: bool = False
    log_every: int = 10  # steps
    picture_every: int = 200  # steps, collapse monitors too
    checkpoint_every: int = 200  # steps
    keep_checkpoints: int = 2
    stop_on_collapse: float | None = None  # least effective rank of an exported encoder's features
    probe_every: int | None = None  # steps
    seed: int = 0

    @classmethod
    def of(cls, flags: TrainFlags, steps: int, device: torch.device, **own: Any) -> "Settings":
        """`own`: what one command has beside the flags of all."""
        scale = flags.batch_size / flags.lr_batch if flags.lr_batch else 1.0
        automatic = flags.precision == "auto" and device.type == "cuda"
        return cls(
            steps=steps,
            batch_size=flags.batch_size,
            accumulate=flags.accumulate,
            lr=flags.lr * scale,
            min_lr=flags.min_lr * scale,
            warmup=int(flags.warmup * steps),
            lr_milestones=optim.milestone_steps(flags.lr_milestones, steps),
            clip_grad=flags.clip_grad,
            bf16=flags.precision == "bf16" or automatic,
            compile=flags.compile,
            log_every=flags.log_every,
            picture_every=flags.picture_every,
            checkpoint_every=flags.checkpoint_every,
            keep_checkpoints=flags.keep_checkpoints,
            seed=flags.seed,
            **own,
        )

    def rate(self, step: int) -> float:
        return optim.rate(
            step,
            self.steps,
            peak=self.lr,
            warmup=self.warmup,
            last=self.min_lr,
            milestones=self.lr_milestones,
        )


@dataclass
class Trained:
    """All that a checkpoint holds, and how it goes there and back."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    world: World
    turbo: Turbo | None = (
        None  # what drops tokens; drawn from coordinates, so no checkpoint holds it
    )
    step: int = 0

    def state(self, config: dict[str, Any]) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state() if self.world.device.type == "cuda" else None
        return {
            "step": self.step,
            "model": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": gather(
                {"cpu": torch.get_rng_state(), "cuda": cuda}, self.world
            ),  # dropout draws from it
            "config": config,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        fit(self.objective, state["model"], "The run's checkpoint")
        self.optimizer.load_state_dict(state["optimizer"])
        rng = state["rng"][self.world.rank % len(state["rng"])]
        torch.set_rng_state(rng["cpu"])
        if rng["cuda"] is not None and self.world.device.type == "cuda":
            torch.cuda.set_rng_state(rng["cuda"])


def train(
    trained: Trained,
    batches: Iterable[Batch],
    views: Views,
    settings: Settings,
    folder: RunFolder,
    quarantine: Quarantine,
    config: dict[str, Any],
    probe: Callable[[Objective], dict[str, float]]
    | None = None,  # of the features so far, every probe_every steps
) -> dict[str, float]:
    """From `trained.step` to `settings.steps`, or to a signal. Returns the last logged numbers."""
    world, objective = trained.world, trained.objective
    forward = parallel(objective, settings, world)
    watch = Watch()
    bad: list[Any] = []  # files that could not be read since the last log line
    objective.train()
    with Stop(world) as stop, Log(folder, trained.step, settings, world) as log:
        feed = iter(
            batches
        )  # its processes begin with our handlers: no signal finds them without any
        while trained.step < settings.steps:
            rate = settings.rate(trained.step)
            optim.set_rates(trained.optimizer, rate, freeze=trained.step < settings.freeze_steps)
            skip = False
            for micro in range(settings.accumulate):
                with log.waiting():
                    raw = next(feed)
                quarantine.take(raw)
                bad += raw["bad_files"]
                batch = to_device(raw, views, world.device)
                if trained.turbo:
                    trained.turbo.begin(batch, trained.step)
                with synced(forward, micro == settings.accumulate - 1), autocast(settings, world):
                    loss = forward(batch)
                (loss.total / settings.accumulate).backward()
                watch.add(trained.step, "loss", loss.total, batch["video_id"])
                log.add(loss, raw)
                skip |= loss.skip
            norm = optim.clip_norm(objective, settings.clip_grad)
            watch.add(trained.step, "gradient's norm", norm, batch["video_id"])
            if not skip:
                trained.optimizer.step()
            trained.optimizer.zero_grad(set_to_none=True)
            trained.step += 1
            objective.after_step(trained.step / settings.steps)
            final = trained.step == settings.steps
            signal = 0 if final else stop.agreed()  # then this is the step at which all leave
            if trained.step % settings.log_every == 0 or final or signal:
                watch.check(folder.last_good())
                spread(bad, quarantine, world)
                log.write(trained.step, {"lr": rate, "grad_norm": float(norm)})
            if (trained.step % settings.picture_every == 0 and not signal) or final:
                alive(log.look(trained.step, objective, batch, views), trained, settings, folder)
            if settings.probe_every and (
                (trained.step % settings.probe_every == 0 and not signal) or final
            ):
                log.probe(trained.step, objective, probe)
            if trained.step % settings.checkpoint_every == 0 or final or signal:
                watch.check(folder.last_good())
                save(trained, folder, config, settings.keep_checkpoints)
            if signal:
                gather(
                    None, world
                )  # none ends, and has the others ended, before the first has written
                raise Stopped(signal, trained.step)
    return log.last | log.scores


def alive(
    numbers: dict[str, float], trained: Trained, settings: Settings, folder: RunFolder
) -> None:
    """Stop all processes where the first one's features have collapsed."""
    ranks = {name: value for name, value in numbers.items() if name.endswith("effective_rank")}
    least = min(ranks.values(), default=math.inf)
    if (
        settings.stop_on_collapse is None
        or gather(least, trained.world)[0] >= settings.stop_on_collapse
    ):
        return
    raise RunError(
        f"The features have collapsed: at step {trained.step} their effective rank is {least:.2f}, less than "
        f"--stop_on_collapse {settings.stop_on_collapse:g} (it can be 1 to the number of clips looked at, less one). "
        f"The last checkpoint is {folder.last_good()}."
    )


def spread(bad: list[Any], quarantine: Quarantine, world: World) -> None:
    """What the loaders of all processes met: the first writes it down, and all stop alike."""
    for met in gather(bad, world):
        for file in met:
            quarantine.add(*file)
    bad.clear()
    quarantine.check()


def parallel(objective: Objective, settings: Settings, world: World) -> Callable[[Batch], Loss]:
    module: nn.Module = objective
    if world.size > 1:
        module = DistributedDataParallel(module)  # on the device it lies on
    if not settings.compile:
        return module
    prepare_for_compile()
    return torch.compile(module)


def synced(forward: Callable[[Batch], Loss], last: bool) -> contextlib.AbstractContextManager[None]:
    """Gradients travel between processes once per step, with the last micro-batch."""
    if isinstance(forward, DistributedDataParallel) and not last:
        return forward.no_sync()
    return contextlib.nullcontext()


def autocast(settings: Settings, world: World) -> torch.autocast:
    return torch.autocast(world.device.type, torch.bfloat16, enabled=settings.bf16)


def save(trained: Trained, folder: RunFolder, config: dict[str, Any], keep: int) -> None:
    state = trained.state(config)  # every rank takes part
    if trained.world.first:
        trained.world.doing("writes a checkpoint")
        folder.save(trained.step, state, keep)
        export(trained, folder, config)
        trained.world.doing("")


def export(trained: Trained, folder: RunFolder, config: dict[str, Any]) -> None:
    """The encoders as they are now, beside the checkpoints."""
    for name, encoder in trained.objective.exported_encoders().items():
        save_encoder(encoder, folder.path, name, {"config": config, "step": trained.step})
    trained.objective.save_assets(folder.path)
    if (joint := trained.objective.joint_space()) is not None:
        save_joint(joint, folder.path)


class Log:
    """What a person watches: the bar, the metrics, the pictures. Nothing here changes a weight."""

    def __init__(self, folder: RunFolder, step: int, settings: Settings, world: World) -> None:
        self.cost = Cost(
            folder.path if world.first else None
        )  # before Metrics cuts the lines it reads
        self.metrics = Metrics(folder.path, step) if world.first else None
        self.bar = progress_bar(settings.steps, "step", initial=step, disable=not world.first)
        self.world = world
        self.last: dict[str, float] = {}
        self.scores: dict[str, float] = {}  # of the online probe
        self.told = False  # that clips are longer than their videos
        self.reset()

    def reset(self) -> None:
        self.began, self.waited = time.perf_counter(), 0.0
        self.clips = self.dropped = 0
        self.padded = 0.0
        self.parts: dict[str, list[torch.Tensor]] = {}

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        self.world.doing("waits for its clips")
        yield
        self.world.doing("")
        self.waited += time.perf_counter() - began

    def add(self, loss: Loss, batch: Batch) -> None:
        views = batch["clips"].shape[1] if "clips" in batch else 1
        self.clips += len(batch["index"])
        self.padded += batch["padded"] / views
        self.dropped += batch["dropped"]
        for name, value in {"loss": loss.total, **loss.parts}.items():
            self.parts.setdefault(name, []).append(value.detach())

    def write(self, step: int, more: dict[str, float]) -> None:
        spent = time.perf_counter() - self.began
        mine = {
            name: float(torch.stack(values).float().mean()) for name, values in self.parts.items()
        }
        each = gathered({**mine, "cpu_s": self.cost.cpu()}, self.world)
        cost = self.cost.total(each.pop("cpu_s"))
        means = {name: statistics.fmean(values) for name, values in each.items()}
        rates = {
            "clips_per_s": self.clips * self.world.size / spent,
            "data_wait": self.waited / spent,
        }
        short = {
            "padded": self.padded / self.clips,
            "dropped": self.dropped,
        }  # of the clips; videos
        self.last = {
            **means,
            **more,
            **rates,
            **{name: value for name, value in short.items() if value},
            **cost,
        }
        if self.metrics:
            self.metrics.write(step, self.last)
            self.tell(short)
        self.bar.set_postfix_str(
            f"loss {means['loss']:.4f}, {rates['clips_per_s']:.0f} clips/s, {rates['data_wait']:.0%} waiting for data",
            refresh=False,
        )
        self.bar.update(step - self.bar.n)
        self.reset()

    def tell(self, short: dict[str, float]) -> None:
        """Once, where videos are shorter than the clip: padded clips stand still at their end."""
        if any(short.values()) and not self.told:
            self.told = True
            log.warning(
                f"of the last {self.clips} clips {short['padded']:.0%} are longer than their video, whose "
                f"last frame is repeated; {short['dropped']} videos were left out as too short. See --short_videos, --clip."
            )

    def look(self, step: int, objective: Objective, batch: Batch, views: Views) -> dict[str, float]:
        """Collapse monitors and pictures, on the first rank, without touching the run's random state or statistics."""
        if not self.metrics:
            return {}
        numbers = monitors(objective, batch)
        if numbers:
            self.metrics.write(step, numbers)
        with evaluating(objective):
            pictures = objective.visualize(batch)
        if "clips" in batch:
            pictures["clips"] = film(batch["clips"][:4, 0], views)
        for name, picture in pictures.items():
            self.metrics.picture(step, name, picture)
        return numbers

    def probe(
        self, step: int, objective: Objective, probe: Callable[[Objective], dict[str, float]] | None
    ) -> None:
        """On the first rank alone; the others wait for it at their next step."""
        if self.metrics and probe:
            self.world.doing("scores the features, as --probe_every asks")
            scores = probe(objective)
            self.world.doing("")
            self.metrics.write(step, scores)
            self.scores.update(scores)
            said = ", ".join(
                f"{name.removeprefix('probe/')} {100 * score:.1f} %"
                for name, score in scores.items()
            )
            log.info(f"step {step}: online probe {said}")
            self.reset()  # its time is not the step's

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.metrics:
            self.metrics.close()
