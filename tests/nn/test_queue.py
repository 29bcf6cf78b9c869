"""The queue of keys, and keys that are computed beside other clips."""

from pathlib import Path

import pytest
import torch

from objectives.infonce import InfoNCE
from ssvid import create_encoder
from ssvid.errors import UserError
from ssvid.nn.queue import Queue
from tests.helpers import facts
from tests.objectives.test_contract import batch_for
from tests.warm import run_ranks

TWO = """
import sys, torch
from ssvid.engine.distributed import join
from ssvid.nn.shuffle import run_shuffled
world = join("cpu", timeout_s=60.0)
clips = torch.arange(4.0)[:, None, None, None, None] + 4 * world.rank
inputs = []
def encode(some):
    inputs.extend(some.flatten().tolist())
    return torch.stack([some.flatten(), some.flatten() * 0 + world.rank], 1)
out = [run_shuffled(encode, clips, 0, step) for step in range(3)]
torch.save((out, inputs), f"{sys.argv[1]}.{world.rank}")
torch.distributed.destroy_process_group()
"""


def test_the_oldest_go_first_and_all_is_in_the_state():
    queue = Queue(6, 2, ("label",))
    assert (
        torch.allclose(queue.keys.norm(dim=1), torch.ones(6)) and queue.label.tolist() == [-1] * 6
    )
    for start in (0, 2, 4, 6):
        rows = torch.arange(start, start + 2)
        queue.push(torch.stack([rows.float(), rows.float()], 1), label=rows)
        assert queue.full == (start >= 4)
    assert queue.keys[:, 0].tolist() == [6, 7, 2, 3, 4, 5] and queue.label.tolist() == [
        6,
        7,
        2,
        3,
        4,
        5,
    ]
    again = Queue(6, 2, ("label",))
    again.load_state_dict(queue.state_dict())
    again.push(torch.zeros(2, 2), label=torch.tensor([9, 9]))
    assert again.label.tolist() == [6, 7, 9, 9, 4, 5] and int(again.pushed) == 10


def test_a_batch_that_does_not_divide_it():
    with pytest.raises(UserError, match=facts("6", "4")):
        Queue(6, 2).push(torch.zeros(4, 2))


def make_infonce(**kwargs) -> InfoNCE:
    torch.manual_seed(0)
    with torch.device("meta"):
        tiny = create_encoder("vit").tiny_kwargs
    return InfoNCE(create_encoder("vit", **tiny), dim=8, queue=4, **kwargs)


def test_keys_follow_slowly_and_wait_for_the_step():
    net = make_infonce(momentum=0.9)
    batch = batch_for(net)
    before = [p.clone() for p in net.key_head.parameters()]
    with torch.no_grad():
        for p in net.head.parameters():
            p += 1
    first = net(batch).total
    assert int(net.queue.pushed) == 0 and torch.equal(net(batch).total, first)
    net.pending_keys.pop()
    net.after_step(0.5)
    assert int(net.queue.pushed) == 2 and not net.pending_keys
    for old, new, student in zip(
        before, net.key_head.parameters(), net.head.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * student)
    net.eval()
    with torch.no_grad():
        net(batch)
    assert not net.pending_keys  # a look at the loss is no step


def test_the_loss_without_queue_and_labels_by_hand():
    """Own key alone among zeros: every wrong logit is 0."""
    net = make_infonce()
    net.queue.keys.zero_()
    batch = batch_for(net)
    with torch.no_grad():
        loss = net(batch).total
        query = torch.nn.functional.normalize(
            net.head(net.encoder(batch["clips"][:, 0]).pooled), dim=1
        )
        key = torch.nn.functional.normalize(
            net.key_head(net.key_encoder(batch["clips"][:, 1]).pooled), dim=1
        )
        positive = (query * key).sum(1) / 0.07
    torch.testing.assert_close(loss, -(positive - (positive.exp() + 4).log()).mean())


def test_labels_are_wanted_where_they_are_positives():
    net = make_infonce(positives="label")
    unlabelled = {**batch_for(net), "label": torch.tensor([0, -1])}
    with pytest.raises(UserError, match=facts("infonce", "positives", "label")):
        net(unlabelled)
    with pytest.raises(UserError, match=facts("lable")):
        make_infonce(positives="lable")


def test_keys_are_computed_in_other_processes_and_come_back(tmp_path: Path):
    for done in run_ranks("-c", TWO, str(tmp_path / "out")):
        assert done.returncode == 0, done.stderr[-2000:]
    for rank in (0, 1):
        out, inputs = torch.load(tmp_path / f"out.{rank}", weights_only=True)
        for keys in out:
            assert keys[:, 0].tolist() == [4.0 * rank + i for i in range(4)]  # its own, in order
            assert set(keys[:, 1].tolist()) == {0.0, 1.0}  # made in both
        assert len({tuple(sorted(inputs[i : i + 4])) for i in (0, 4, 8)}) > 1  # others at each step
