from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.profiling.__main__ import main
from benchmarks.profiling.speed import large
from benchmarks.profiling.speed.cases import CASES, LONG, decode
from benchmarks.profiling.speed.clips import FILMS, SPEC, film, our_clips, their_clips
from benchmarks.profiling.speed.dpc import Plain, in_blocks, plain_mask
from benchmarks.profiling.speed.infonce import Plain as PlainInfoNCE
from benchmarks.profiling.speed.knn import knn
from benchmarks.profiling.speed.linear import BATCH, CLASSES, DIM, LAYOUTS, alive, leg, products
from benchmarks.profiling.speed.overhead import Nothing, Same, run
from benchmarks.profiling.speed.pairs import Case, allocated_bytes, compare, saved_bytes
from ssvid import create_encoder, registry
from ssvid.data.decode import stamps
from ssvid.objective import Objective
from tests.helpers import facts

pytestmark = pytest.mark.slow  # they measure tools of developers


def work(n):
    return lambda: [torch.randn(200, 200) @ torch.randn(200, 200) for _ in range(n)][0]


def test_the_ratio_is_that_of_the_work():
    got = compare("x", Case(ours=work(20), theirs=work(200)), pairs=3)
    assert 0.02 < got["ratio"] < 0.5 and got["memory_ratio"] is None
    assert {"case", "ours", "theirs", "ratio", "unit", "memory_ratio"} <= set(got)


class Countable(nn.Module):
    """Keeps its input (4 x 10) for the first weight and what ReLU gave (4 x 20) for ReLU and the second weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_what_is_kept_for_backward_is_counted_by_hand():
    net = Countable()
    kept = 4 * (4 * 10 + 4 * 20)  # bytes; parameters and their transposes do not count, nor a storage twice

    def step() -> None:
        net(torch.randn(4, 10)).sum().backward()

    assert saved_bytes(step) == kept
    assert saved_bytes(lambda: [step(), step()]) == kept, "the first step's were freed"
    assert saved_bytes(lambda: (net(torch.randn(4, 10)) + net(torch.randn(4, 10))).sum().backward()) == 2 * kept
    with torch.no_grad():
        assert saved_bytes(lambda: net(torch.randn(4, 10))) == 0
    half = compare("x", Case(step, lambda: [net(torch.randn(8, 10)).sum().backward()], memory=saved_bytes), pairs=1)
    assert half["memory_ratio"] == 0.5


def test_the_hooks_leave_the_gradients_alone():
    net, x = Countable(), torch.randn(4, 10)
    net(x).sum().backward()
    true = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    saved_bytes(lambda: net(x).sum().backward())
    assert all(torch.equal(a, p.grad) for a, p in zip(true, net.parameters(), strict=True))


@pytest.mark.gpu
def test_the_allocators_peak_on_a_gpu():
    big = allocated_bytes(lambda: torch.zeros(1000, 1000, device="cuda").sum())
    assert 4_000_000 <= big < 4_200_000


def test_decode_reads_what_the_plain_way_reads():
    case = decode()
    ours, theirs = case.ours(), case.theirs()
    case.close()
    assert torch.equal(ours, theirs.permute(0, 3, 1, 2))
    assert set(CASES) >= {"probe", "linear1", "knn", "decode", "clips", "clips_original", "loader", "mae", "dpc"}


def small_dpc() -> tuple[Objective, torch.Tensor]:
    torch.manual_seed(0)
    encoder = create_encoder("resnet18_2d3d", width=8, frames=5, size=64)
    ours = registry.objectives["dpc"](encoder, blocks=4, predicted=2, dropout=0.0).double()
    return ours, torch.randn(3, 1, 3, 20, 64, 64, dtype=torch.float64)


def test_the_plain_dpc_gives_our_loss_and_gradients():
    ours, clips = small_dpc()
    loss = ours({"clips": clips}).total
    loss.backward()
    mine = {name: p.grad.clone() for name, p in ours.named_parameters()}
    ours.zero_grad()
    plain = Plain(ours)(in_blocks(clips[:, 0], 4))
    plain.backward()
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(mine[name], parameter.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_the_plain_step_of_infonce_is_ours():
    """Loss, gradients and queue; the slow encoder stays where it is, for ours moves it after the step."""
    torch.manual_seed(0)
    encoder = create_encoder("s3d", width=0.125, frames=16, size=64)
    ours = registry.objectives["infonce"](encoder, dim=8, queue=16, momentum=1.0).double()
    plain = PlainInfoNCE(ours)
    clips = torch.randn(4, 2, 3, 16, 64, 64, dtype=torch.float64)
    loss = ours({"clips": clips, "seed": 0}).total
    loss.backward()
    mine = {name: p.grad.clone() for name, p in ours.named_parameters() if p.grad is not None}
    ours.zero_grad()
    theirs = plain(clips)
    theirs.backward()
    torch.testing.assert_close(loss, theirs, rtol=1e-12, atol=0)
    for name, grad in mine.items():
        torch.testing.assert_close(grad, ours.get_parameter(name).grad, rtol=1e-8, atol=1e-12, msg=name)
    ours.after_step(0.0)
    torch.testing.assert_close(ours.queue.keys.T, plain.queue, rtol=1e-12, atol=1e-12)


def test_the_plain_mask_has_one_true_one_in_each_row():
    mask = plain_mask(2, 3, 4)
    rows = mask.view(24, 24)
    assert torch.equal((rows == 1).int(), torch.eye(24, dtype=torch.int32))
    counts = {int(code): int(n) for code, n in zip(*rows.unique(return_counts=True), strict=True)}
    assert counts == {1: 24, -1: 24 * 2, -3: 24 * 3 * 3, 0: 24 * 12}


def test_both_sides_read_clips_of_one_shape(tmp_path: Path):
    for i in range(2):
        film(tmp_path / f"{i}.mp4", seed=i, seconds=4)
    ours, theirs = (list(islice(side(tmp_path), 3)) for side in (our_clips, their_clips))
    assert {tuple(clip.shape) for clip in ours + theirs} == {(3, SPEC.frames, SPEC.size, SPEC.size)}
    for side in (ours, theirs):  # three clips of two films: a film's own mean colour stays near while it drifts
        means = torch.stack([clip.float().mean((1, 2, 3)) for clip in side])
        assert torch.pdist(means).min() < 0.5 * torch.pdist(means).max() and 60 < means.mean() < 200


def test_originals_have_long_groups_and_b_frames(tmp_path: Path):
    import av

    film(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert sum(packet.is_keyframe for packet in packets) == 1 and FILMS > 1
    assert any(packet.pts != packet.dts for packet in packets) and len(stamps(tmp_path / "a.mp4")) == 250


def test_the_loop_of_nothing_tells_how_long_it_waited():
    told = run(Nothing(seconds=0.01), Same(8, 1, 3, 2, 8, 8), steps=4, log_every=2)
    assert 0 <= told["data_wait"] < 0.5


def test_a_case_says_how_many_pairs_it_reads():
    calls = []
    compare("x", Case(ours=lambda: calls.append("ours"), theirs=lambda: sum(range(10**5)), pairs=2))
    assert len(calls) == 3, "one warms up"


def test_an_unknown_case_is_named_and_long_ones_are_known(capsys):
    with pytest.raises(SystemExit, match=facts("linear7", "linear1", "linear100")):
        main(["linear7"])
    main(["--help"])
    assert "only by name: linear100" in capsys.readouterr().out and not set(LONG) & set(CASES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_floor_has_both_products_of_every_step_and_no_other(layout):
    x = torch.randn(BATCH + 40, DIM)  # an epoch of two batches, the last one small
    step = leg(x, 2, layout)
    with FlopCounterMode(display=False) as counted:
        step(0), step(1)
    each = 2 * DIM * 2 * CLASSES  # of a row and a product: two heads
    assert counted.get_total_flops() == 2 * each * len(x)


def test_the_floor_has_the_heads_that_are_alive():
    assert alive(13, ()) == [(13, 800)] and alive(1, (0.25, 0.5)) == [(1, 200), (1, 200), (1, 400)]
    assert alive(13, (0.25, 0.5)) == [(13, 200), (7, 200), (4, 400)]
    with FlopCounterMode(display=False) as counted:
        run = products(torch.randn(BATCH, DIM), [(2, 3), (1, 2)])
        tried = counted.get_total_flops()
        run()
    assert counted.get_total_flops() - tried == 4 * BATCH * DIM * CLASSES * (2 * 3 + 2)


def test_our_neighbours_are_lightlys():
    case = knn(bank=300, queries=50)
    assert torch.equal(case.ours()[-1], case.theirs())


def test_large_features_are_read_from_files_and_drawn(tmp_path: Path):
    for name, rows in (("train", 400), ("val", 100), ("test", 100)):
        large.write(tmp_path / name, rows, seed=rows)
    got = large.one(str(tmp_path), "knn")
    assert got["rows"] == 400 and got["peak_gib"] >= 0 and got["cpu_s"] >= 0
    assert got["test/top1"] > 3 / CLASSES, "the classes are those of the centres"
    assert large.mapped(tmp_path / "val").feats["mean@last"].dtype == torch.float16
    lines = [got | {"probe": probe, "rows": rows} for probe in large.PROBES for rows in (400, 800)]
    cost, memory = large.draw(lines).axes
    assert cost.lines[0].get_xdata().tolist() == [0.4, 0.8] and len(memory.lines) == 4


def test_the_peak_is_that_of_this_process():
    before = large.peak()
    held = torch.ones(2**28, dtype=torch.uint8)  # 0.25 GiB; earlier tests' own peak may have been higher
    assert large.peak() >= max(before, held.numel() / 2**30)
