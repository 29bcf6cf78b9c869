import multiprocessing
import os
import signal
import subprocess
import sys
from operator import itemgetter
from pathlib import Path

import pytest
import torch

from ssvid.data.clips import Clips
from ssvid.data.loader import Stream, eval_loader, train_loader
from ssvid.data.manifest import Manifest
from ssvid.errors import RunError, UserError
from ssvid.shapes import ClipSpec, Row, Views
from tests.helpers import facts, for_each

VIEWS = Views(clips=(ClipSpec(frames=2, stride=2, size=16),), augment="multiscale")


@pytest.fixture
def clips(small_set):
    rows = [Row(path.name) for path in sorted(small_set.glob("*.mp4"))]
    return Clips(Manifest.build(rows, small_set), VIEWS, seed=5)


def keys(rows=10, **options):
    return list(make_stream(rows, **options))


def make_stream(rows=10, **options):
    return Stream({"": range(rows)}, seed=3, **{"batch_size": 4, "steps": 10, **options})


def test_each_epoch_sees_each_row_once():
    flat = sum(keys(), [])
    for epoch in range(4):
        keys_of_epoch = flat[epoch * 10 : epoch * 10 + 10]
        assert sorted(keys_of_epoch) == [(epoch, row) for row in range(10)]
    assert [row for e, row in flat[:10]] != [row for e, row in flat[10:20]]


def test_a_set_smaller_than_the_batch_goes_round():
    (batch,) = keys(rows=3, batch_size=8, steps=1)
    assert list(map(itemgetter(0), batch)) == [0, 0, 0, 1, 1, 1, 2, 2]


def test_resuming_goes_on_where_it_stopped():
    assert keys(start_step=7) == keys()[7:]
    assert keys(start_step=10) == [] and len(make_stream(start_step=7)) == 3


@for_each("world, accumulate", [(2, 1), (1, 4), (2, 2)])
def test_processes_and_micro_batches_share_the_same_global_batch(world, accumulate):
    ranks = [keys(rank=rank, world=world, accumulate=accumulate) for rank in range(world)]
    for step, whole in enumerate(keys()):
        of_step = slice(step * accumulate, (step + 1) * accumulate)
        micro_batches = []
        for rank in ranks:
            micro_batches += rank[of_step]
        assert sum(micro_batches, []) == whole


def test_a_batch_that_cannot_be_shared_is_refused(clips):
    with pytest.raises(UserError, match=facts("--batch_size", "6", "4")):
        train_loader(clips, batch_size=6, steps=1, world=2, accumulate=2)
    with pytest.raises(UserError, match=facts("train")):
        keys(rows=0)


def test_workers_change_nothing_and_the_global_generator_is_left_alone(clips):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    runs = []
    for workers in (0, 2):
        loader = train_loader(clips, batch_size=4, steps=3, accumulate=2, workers=workers)
        runs.append(list(loader))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(runs[0]) == len(runs[1]) == 6
    for alone, shared in zip(*runs, strict=True):
        assert torch.equal(alone["clips"], shared["clips"]) and torch.equal(
            alone["index"], shared["index"]
        )
        assert (
            alone["clips"].shape == (2, 1, 3, 2, 16, 16)
            and alone["seed"] == 5
            and alone["bad_files"] == []
        )


def test_eval_loader_keeps_the_order(clips):
    clips.evaluate = 2
    batches = list(eval_loader(clips, [4, 0, 3], batch_size=2, workers=0))
    assert [batch["index"].tolist() for batch in batches] == [[4, 0], [3]]


class Deadly(Clips):
    def __getitem__(self, key):
        os.kill(os.getpid(), signal.SIGKILL)


class Faulty(Clips):
    def __getitem__(self, key):
        raise ZeroDivisionError("ours")


class Refusing(Clips):
    def __getitem__(self, key):
        raise UserError("One sentence.")


@for_each(
    "kind, error, match",
    [
        (Deadly, RunError, facts("--workers")),
        (Faulty, ZeroDivisionError, "Traceback"),
        (Refusing, UserError, r"^One sentence\.$"),
    ],
)
def test_what_ends_a_worker_is_told(clips, kind, error, match):
    loader = train_loader(kind(clips.manifest, VIEWS, seed=0), batch_size=2, steps=2, workers=1)
    with pytest.raises(error, match=match):
        next(iter(loader))


def test_a_closed_iterator_has_no_workers(clips):
    others = set(multiprocessing.active_children())
    batches = iter(train_loader(clips, batch_size=2, steps=20, workers=1))
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    batches.close()
    assert not worker.is_alive()


FORGETFUL = """
import gc
from ssvid.data.datasets.folder import folder
from ssvid.data.clips import Clips
from ssvid.data.loader import train_loader
from ssvid.shapes import ClipSpec, Views

gc.disable()
views = Views(clips=(ClipSpec(frames=2, stride=1, size=16),))
clips = Clips(folder({root!r}), views, seed=0)
batches = iter(train_loader(clips, batch_size=2, steps=20, workers=1))
next(batches)
cycle = [batches]
cycle.append(cycle)
"""


@pytest.mark.slow
def test_a_process_ends_whose_iterator_nobody_closed(videos: Path):
    """Once a run of two processes had printed its result and waited for its worker without end."""
    script = FORGETFUL.format(root=str(videos))
    ended = subprocess.run([sys.executable, "-c", script], timeout=120)
    assert ended.returncode == 0
