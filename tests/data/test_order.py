from collections import Counter

import pytest
import torch

from ssvid.data import order
from ssvid.data.loader import Stream
from ssvid.data.order import Walk
from ssvid.data.parts import Mixture, Part
from tests.helpers import find_wilson, for_each

MEMBERS = {"web": range(7), "clean": range(7, 12), "few": range(12, 14)}
WEIGHTS = {"web": 5.0, "clean": 2.5, "few": 2.5}
OWNER = ["web"] * 7 + ["clean"] * 5 + ["few"] * 2


def make_mixture(kind, names=tuple(MEMBERS)):
    parts = [Part(name, WEIGHTS[name], None, "", "", {}) for name in names]
    return Mixture(tuple(parts), kind)


def list_batches(kind, **options):
    flags = {"batch_size": 4, "steps": 60, "seed": 3, **options}
    return list(Stream(MEMBERS, make_mixture(kind), **flags))


def name_parts(batch):
    return [OWNER[row] for _, row in batch]


def test_where_batches_alternate_each_step_is_of_one_part_and_its_micro_batches_too():
    batches = list_batches("alternate", accumulate=2, world=2, rank=1)
    assert len(batches) == 120
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        assert len(set(name_parts(first + second))) == 1
    assert set(map(len, map(set, map(name_parts, list_batches("mix"))))) > {1}


def test_parts_are_drawn_as_often_as_their_weights_say():
    walk = Walk(list(MEMBERS.values()), list(WEIGHTS.values()), seed=1)
    drawn, n = walk.draw(0, 20_000), 20_000
    for part, weight in enumerate(WEIGHTS.values()):
        low, high = find_wilson(float((drawn == part).float().mean()), n, 0.9999)
        assert low < weight / 10 < high
    changes = int((drawn[1:] != drawn[:-1]).sum())  # drawn one by one, and not in runs
    low, high = find_wilson(changes / n, n, 0.9999)
    assert low < 1 - 0.25 - 2 * 0.0625 < high


@for_each("kind, largest", [("alternate", 4), ("mix", 1)])
def test_batches_or_clips_are_what_is_drawn(kind, largest):
    runs = []
    for batch in list_batches(kind, steps=40):
        runs.append(max(Counter(name_parts(batch)).values()))
    assert min(runs) == (4 if kind == "alternate" else min(runs)) and min(runs) >= largest
    drawn = Counter(sum(map(name_parts, list_batches(kind, steps=40)), []))
    assert drawn["web"] > max(drawn["clean"], drawn["few"]) > 0


@for_each("kind", ["alternate", "mix"])
def test_each_part_walks_through_its_own_epochs(kind):
    flat = sum(list_batches(kind), [])
    for name, rows in MEMBERS.items():
        keys = [key for key in flat if OWNER[key[1]] == name]
        for epoch in range(len(keys) // len(rows)):
            of_epoch = keys[epoch * len(rows) : (epoch + 1) * len(rows)]
            assert sorted(of_epoch) == [(epoch, row) for row in rows]


def test_parts_of_one_size_have_orders_of_their_own():
    walk = Walk([range(50), range(50)], [1.0, 1.0], seed=0)
    first, second = [], []
    for k in range(50):
        first.append(walk.find_key(0, k))
        second.append(walk.find_key(1, k))
    assert sorted(first) == sorted(second) and first != second


@for_each("kind", ["alternate", "mix"])
def test_a_resumed_stream_and_a_second_pass_have_the_same_batches(kind):
    whole = list_batches(kind)
    for step in (1, 17, 59):
        assert list_batches(kind, start_step=step) == whole[step:]
    stream = Stream(MEMBERS, make_mixture(kind), batch_size=4, steps=60, seed=3)
    assert list(stream) == list(stream) == whole


@for_each("kind, world, accumulate", [("alternate", 2, 2), ("mix", 4, 1), ("mix", 2, 2)])
def test_processes_and_micro_batches_share_the_global_batch(kind, world, accumulate):
    ranks = []
    for rank in range(world):
        ranks.append(list_batches(kind, rank=rank, world=world, accumulate=accumulate))
    for step, whole in enumerate(list_batches(kind)):
        shared = []
        for rank in ranks:
            shared += sum(rank[step * accumulate : (step + 1) * accumulate], [])
        assert shared == whole


@for_each("kind", ["alternate", "mix"])
def test_one_part_alone_is_the_stream_of_the_plain_data_set(kind):
    plain = list(Stream({"": range(7)}, batch_size=4, steps=20, seed=3))
    alone = Stream({"web": range(7)}, make_mixture(kind, ("web",)), batch_size=4, steps=20, seed=3)
    assert list(alone) == plain


def test_draws_are_counted_in_blocks_too(monkeypatch: pytest.MonkeyPatch):
    whole = list_batches("mix", start_step=50)
    monkeypatch.setattr(order, "COUNTED", 7)
    assert list_batches("mix", start_step=50) == whole


def test_the_smallest_weight_is_drawn_and_the_largest_number_has_a_part():
    walk = Walk([range(1), range(1, 2)], [1e-3, 1.0], seed=0)
    assert set(walk.draw(0, 20_000).tolist()) == {0, 1}
    walk.limits = torch.tensor([0.0, 0.0])  # as if all sums were rounded down
    assert walk.draw(0, 10).tolist() == [1] * 10
