"""Samples -> the micro-batches of each step.

The samples of all epochs form one endless stream (ssvid.data.order). The step alone gives the
position in it, so a run that resumes at a step sees the same samples.
"""

import atexit
import multiprocessing
import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ssvid.data.order import Key, Walk
from ssvid.data.parts import Mixture
from ssvid.data.samples import Samples, collate
from ssvid.errors import RunError, UserError
from ssvid.shapes import Batch


class Stream(Sampler[Any]):
    """A step takes `batch_size` positions of a walk through the samples.

    Rank r has the r-th slice of every global batch, in `accumulate` micro-batches, so one process
    and n processes see the same samples. Where the parts of a mixture alternate, a whole step is of
    one part. Raises a UserError if there are no rows or the batch cannot be divided.
    """

    def __init__(
        self,
        members: Mapping[str, Sequence[int]],  # part of a mixture -> its samples; else one entry
        mixture: Mixture | None = None,
        *,
        batch_size: int,  # global: over all ranks and micro-batches
        steps: int,
        seed: int,
        start_step: int = 0,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ) -> None:
        for name, samples in members.items():
            if not len(samples):
                which = f" of the part {name} of the mixture" if name else ""
                raise UserError(f"There are no clips to train on: the train split{which} is empty.")
        if batch_size < 1 or batch_size % (world * accumulate):
            raise UserError(
                f"--batch_size {batch_size} is global and is shared by {world} processes x "
                f"{accumulate} micro-batches: take a multiple of {world * accumulate}."
            )
        self.batch_size, self.steps = batch_size, steps
        self.start_step, self.accumulate = start_step, accumulate
        self.rank, self.world = rank, world
        self.micro = batch_size // (world * accumulate)
        weights = [part.weight for part in mixture.parts] if mixture else [1.0]
        alternates = mixture is not None and mixture.order == "alternate"
        self.walk = Walk(list(members.values()), weights, seed, batch_size if alternates else 1)

    def __len__(self) -> int:
        return max(0, self.steps - self.start_step) * self.accumulate

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.start_step, self.steps):
            first = step * self.batch_size + self.rank * self.accumulate * self.micro
            for start in range(first, first + self.accumulate * self.micro, self.micro):
                yield self.walk.list_keys(range(start, start + self.micro))


class Loader(DataLoader[Any]):
    """A DataLoader that reports faults in one sentence and does not use torch's global generator.

    Its worker processes end when its iterator is exhausted or closed.
    """

    def __init__(self, clips: Samples, *, workers: int, **options: Any) -> None:
        # By default the loader would draw from the global generator, which resume restores.
        generator = torch.Generator().manual_seed(clips.seed)
        super().__init__(
            _ErrorsAsValues(clips),
            collate_fn=partial(_collate, seed=clips.seed),
            num_workers=workers,
            worker_init_fn=begin_worker,
            generator=generator,
            prefetch_factor=2 if workers else None,
            **options,
        )

    # This is a generator because faults of the workers pass through here.
    def __iter__(self) -> Generator[Batch, None, None]:  # type: ignore[override]
        batches = super().__iter__()
        while True:
            with explain_dead_worker():
                batch = next(batches, None)
            if batch is None:
                return
            if isinstance(batch, UserError):
                raise batch
            yield batch


@contextmanager
def explain_dead_worker() -> Iterator[None]:
    """Turn torch's error about a worker process that died into a RunError with a plain sentence.

    An error of our own code is raised unchanged, because its traceback is needed.
    """
    try:
        yield
    except RuntimeError as error:
        # torch has no error class for this, so it is recognised by its words.
        if "DataLoader worker" not in str(error) or "Traceback" in str(error):
            raise
        raise RunError(
            f"A loader process died ({str(error).splitlines()[0]}). Most often memory ran out: "
            "take fewer --workers or a smaller --batch_size and start the same command again."
        ) from error


class _ErrorsAsValues(Dataset[Any]):
    """Returns a UserError as a value.

    If it were raised in a worker, it would arrive as a traceback in a string.
    """

    def __init__(self, clips: Samples) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: Key) -> Any:
        try:
            return self.clips[key]
        except UserError as error:
            return error


def _collate(samples: list[Any], seed: int) -> Batch | UserError:
    errors = (sample for sample in samples if isinstance(sample, UserError))
    return next(errors, None) or collate(samples, seed)


def use_one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def begin_worker(worker: int) -> None:
    """Use one thread, and leave it to the main process to decide what a signal means.

    SLURM and others send SIGTERM to every process of a run. If a worker ended by it, torch would
    raise an error in the middle of a step, so a worker ignores the first SIGTERM. The second one
    ends it, because multiprocessing sends one to end it.
    """
    use_one_thread(worker)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


@atexit.register
def kill_workers() -> None:
    """End the workers of an iterator that nobody closed, so that the process itself can end.

    At exit multiprocessing sends such workers a SIGTERM and waits for them without end. It would
    be their first SIGTERM, which `begin_worker` has them ignore.
    """
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def train_loader(
    clips: Samples,
    *,
    batch_size: int,
    steps: int,
    start_step: int = 0,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
    workers: int = 2,
) -> Loader:
    """`accumulate` micro-batches for each step from `start_step` to `steps - 1`.

    Raises the UserErrors of `Stream`.
    """
    stream = Stream(
        clips.members,
        clips.manifest.mixture,
        batch_size=batch_size,
        steps=steps,
        seed=clips.seed,
        start_step=start_step,
        rank=rank,
        world=world,
        accumulate=accumulate,
    )
    return Loader(clips, workers=workers, batch_sampler=stream)


def eval_loader(
    clips: Samples, indices: Sequence[int], batch_size: int, workers: int = 2
) -> Loader:
    """Batches of these samples, each once, in this order."""
    keys = [(0, int(i)) for i in indices]
    batches = [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]
    return Loader(clips, workers=workers, batch_sampler=batches)
