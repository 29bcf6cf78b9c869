"""Both sides of a speed case are one computation, and what is counted is what torch counts."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.profiling.speed.cases import decode
from benchmarks.profiling.speed.dpc import Plain as PlainDPC
from benchmarks.profiling.speed.dpc import in_blocks
from benchmarks.profiling.speed.infonce import Plain as PlainInfoNCE
from benchmarks.profiling.speed.knn import knn
from benchmarks.profiling.speed.linear import (
    BATCH,
    CLASSES,
    DIM,
    LAYOUTS,
    list_legs,
    make_leg_step,
    make_products,
)
from benchmarks.profiling.speed.milnce import Plain as PlainS3DG
from benchmarks.profiling.speed.pairs import Case, compare, saved_bytes
from ssvid import create_encoder, registry

pytestmark = pytest.mark.slow  # they measure tools of developers


def test_what_is_kept_for_backward_is_counted_by_hand():
    """The input (4 x 10) for the first weight; ReLU's output (4 x 20) for it and the second."""
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5, bias=False))
    saved = 4 * (
        4 * 10 + 4 * 20
    )  # bytes; parameters and their transposes do not count, nor a storage twice

    def step() -> None:
        net(torch.randn(4, 10)).sum().backward()

    assert saved_bytes(step) == saved
    assert saved_bytes(lambda: [step(), step()]) == saved, "the first step's were freed"
    assert (
        saved_bytes(lambda: (net(torch.randn(4, 10)) + net(torch.randn(4, 10))).sum().backward())
        == 2 * saved
    )
    with torch.no_grad():
        assert saved_bytes(lambda: net(torch.randn(4, 10))) == 0
    half = compare(
        "x",
        Case(step, lambda: [net(torch.randn(8, 10)).sum().backward()], memory=saved_bytes),
        pairs=1,
    )
    assert half["memory_ratio"] == 0.5


def test_decode_reads_what_the_plain_way_reads():
    case = decode()
    ours, theirs = case.ours(), case.theirs()
    case.close()
    assert torch.equal(ours, theirs.permute(0, 3, 1, 2))


def compare_steps(net: nn.Module, ours: torch.Tensor, run_plain, rtol: float, atol: float) -> None:
    """`ours` and what `run_plain` gives are one number, with one gradient for each parameter."""
    ours.sum().backward()
    grads = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    theirs = run_plain()
    theirs.sum().backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-14)
    for name, grad in grads.items():
        theirs = net.get_parameter(name).grad
        torch.testing.assert_close(grad, theirs, rtol=rtol, atol=atol, msg=name)


def test_the_plain_step_of_dpc_is_ours():
    torch.manual_seed(0)
    encoder = create_encoder("resnet18_2d3d", width=8, frames=5, size=64)
    ours = registry.objectives["dpc"](encoder, blocks=4, predicted=2, dropout=0.0).double()
    clips = torch.randn(3, 1, 3, 20, 64, 64, dtype=torch.float64)
    loss = ours({"clips": clips}).total
    compare_steps(ours, loss, lambda: PlainDPC(ours)(in_blocks(clips[:, 0], 4)), 1e-9, 1e-12)


def test_the_plain_step_of_infonce_is_ours():
    """The queue too. The slow encoder stays where it is, for ours moves it after the step."""
    torch.manual_seed(0)
    encoder = create_encoder("s3d", width=0.125, frames=16, size=64)
    ours = registry.objectives["infonce"](encoder, dim=8, queue=16, momentum=1.0).double()
    plain = PlainInfoNCE(ours)
    clips = torch.randn(4, 2, 3, 16, 64, 64, dtype=torch.float64)
    loss = ours({"clips": clips, "seed": 0}).total
    compare_steps(ours, loss, lambda: plain(clips), 1e-8, 1e-12)
    ours.after_step(0.0)
    torch.testing.assert_close(ours.queue.keys.T, plain.queue, rtol=1e-12, atol=1e-12)


def test_the_plain_step_of_s3dg_is_ours():
    """At sizes that are even and odd on the way down."""
    torch.manual_seed(0)
    encoder = create_encoder("s3dg", width=0.125).double()
    clips = torch.rand(3, 3, 12, 64, 72, dtype=torch.float64)
    loss = encoder(clips).pooled.square()
    compare_steps(encoder, loss, lambda: PlainS3DG(encoder)(clips).square(), 1e-7, 1e-14)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_floor_has_both_products_of_every_step_and_no_other(layout):
    x = torch.randn(BATCH + 40, DIM)  # an epoch of two batches, the last one small
    step = make_leg_step(x, 2, layout)
    with FlopCounterMode(display=False) as counted:
        step(0), step(1)
    row_flops = 2 * DIM * 2 * CLASSES  # of a row and a product: two heads
    assert counted.get_total_flops() == 2 * row_flops * len(x)


def test_the_floor_has_the_heads_that_are_alive():
    assert list_legs(13, ()) == [(13, 800)] and list_legs(1, (0.25, 0.5)) == [
        (1, 200),
        (1, 200),
        (1, 400),
    ]
    assert list_legs(13, (0.25, 0.5)) == [(13, 200), (7, 200), (4, 400)]
    with FlopCounterMode(display=False) as counted:
        run = make_products(torch.randn(BATCH, DIM), [(2, 3), (1, 2)])
        tried = counted.get_total_flops()
        run()
    assert counted.get_total_flops() - tried == 4 * BATCH * DIM * CLASSES * (2 * 3 + 2)


def test_our_neighbours_are_lightlys():
    case = knn(bank=300, queries=50)
    assert torch.equal(case.ours()[-1], case.theirs())
