"""Capped attention beside a plain writing: in runs, under masks, in backward, on FlexAttention."""

import pytest
import torch
from torch import Tensor

from ssvid.nn import capped
from ssvid.nn.capped import Run, attend_capped
from ssvid.nn.grouping import group_rows, group_space, group_time
from ssvid.nn.prism import PrismBlock
from ssvid.shapes import Grid
from tests import warm

CAP = 2.0  # low, so that the cap decides


def attend_plainly(qkv: Tensor, runs: list[Run], mask: Tensor | None = None) -> Tensor:
    outs, first = [], 0
    for groups, length in runs:
        rows = qkv[first : first + groups * length].view(groups, length, *qkv.shape[1:])
        q, k, v = (rows[:, :, part].transpose(1, 2) for part in range(3))
        logits = CAP * torch.tanh(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 / CAP)
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None], -1e30)
        outs.append((logits.softmax(-1) @ v).transpose(1, 2).flatten(0, 1))
        first += groups * length
    return torch.cat(outs)


def draw(rows: int) -> Tensor:
    torch.manual_seed(0)
    return (3 * torch.randn(rows, 3, 2, 4, dtype=torch.float64)).requires_grad_()


@pytest.mark.parametrize("block", [1, 100, 2**20])
def test_groups_of_several_lengths_give_plain_attention_and_its_gradient(block: int, monkeypatch):
    monkeypatch.setattr(capped, "BLOCK", block)
    qkv, runs = draw(4 * 5 + 3 * 7), [Run(4, 5), Run(3, 7)]
    ours, plain = attend_capped(qkv, runs, CAP), attend_plainly(qkv, runs)
    torch.testing.assert_close(ours, plain)
    weight = torch.randn_like(plain)
    (gradient,) = torch.autograd.grad((ours * weight).sum(), qkv)
    (expected,) = torch.autograd.grad((plain * weight).sum(), qkv)
    torch.testing.assert_close(gradient, expected)
    uncapped = attend_capped(qkv, runs, 1e6)
    assert (uncapped - ours).abs().max() > 0.1, "the cap changes the numbers of this case"


@pytest.mark.parametrize("shape", ["each", "keys", "shared"])
def test_masks_are_selected_after_the_cap(shape: str, monkeypatch):
    monkeypatch.setattr(capped, "BLOCK", 100)
    mask = torch.rand(4, 5, 5, generator=torch.Generator().manual_seed(1)) > 0.4
    mask |= torch.eye(5, dtype=torch.bool)
    mask = {"each": mask, "keys": mask[:, :1], "shared": mask[:1]}[shape].clone()
    qkv, runs = draw(20), [Run(4, 5)]
    ours, plain = attend_capped(qkv, runs, CAP, mask), attend_plainly(qkv, runs, mask)
    torch.testing.assert_close(ours, plain)
    (gradient,) = torch.autograd.grad(ours.sum(), qkv)
    (expected,) = torch.autograd.grad(plain.sum(), qkv)
    torch.testing.assert_close(gradient, expected)


def test_a_query_without_keys_gets_the_mean_of_all_values():
    qkv = draw(3)
    out = attend_capped(qkv, [Run(1, 3)], CAP, torch.zeros(1, 3, 3, dtype=torch.bool))
    torch.testing.assert_close(out, qkv[:, 2].mean(0).expand(3, -1, -1))
    (gradient,) = torch.autograd.grad(out.square().sum(), qkv)
    assert not gradient[:, :2].any() and gradient[:, 2].all()


FLEX = """
import torch
from ssvid.nn.capped import Run, attend_capped, attend_flex

torch.manual_seed(0)
qkv = 3 * torch.randn(20, 3, 2, 4)
causal = torch.ones(5, 5, dtype=torch.bool).tril()[None]
for runs, mask in (([Run(2, 5), Run(5, 2)], None), ([Run(4, 5)], causal)):
    flex = attend_flex(qkv, runs, 2.0, mask, compiled=False)
    print(float((flex - attend_capped(qkv, runs, 2.0, mask)).abs().max()))
"""


def test_flex_attention_is_the_same():
    """Its shapes are not checked there: the check breaks what the library traces."""
    outcome = warm.run("-c", FLEX)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    gaps = [float(line) for line in outcome.stdout.split()]
    assert len(gaps) == 2 and max(gaps) <= 1e-5


def test_half_precision_has_its_softmax_in_float32():
    qkv = draw(10).detach()
    exact = attend_capped(qkv, [Run(2, 5)], CAP)
    half = attend_capped(qkv.bfloat16(), [Run(2, 5)], CAP)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), exact, atol=0.05, rtol=0.05)


def test_no_matrix_of_attention_is_stored():
    torch.manual_seed(0)
    block = PrismBlock(8, 2, 16)
    sizes: list[int] = []

    def note(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    x = torch.randn(3 * 64, 8)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        block(x, [Run(3, 64)])
    assert max(sizes) <= 3 * 64 * 3 * 8, (
        "queries, keys and values are the largest; a map has 64 x 64"
    )


def test_visible_tokens_are_grouped_by_frame_and_by_position():
    grid = Grid(3, 1, 4)
    visible = torch.tensor([[0, 2, 3, 4, 9], [11, 1, 5, 6, 10]])
    space = group_space(2, grid, visible)
    # clip 0: frame 0 has three tokens, 1 and 2 one each; clip 1: 1, 2 and 2
    assert space.runs == [Run(3, 1), Run(2, 2), Run(1, 3)]
    rows = torch.arange(10)
    assert torch.equal(space.restore(space.arrange(rows)), rows)
    frames = (visible // 4 + torch.tensor([[0], [3]])).flatten()
    in_order = space.arrange(frames).tolist()
    assert in_order[-3:] == [0, 0, 0] and sorted(in_order[3:7]) == [4, 4, 5, 5]
    time = group_time(2, grid, None, torch.device("cpu"))
    tokens = torch.arange(2 * grid.n)
    assert time.arrange(tokens)[:3].tolist() == [0, 4, 8] and time.runs == [Run(8, 3)]
    assert torch.equal(time.restore(time.arrange(tokens)), tokens)


def test_groups_that_lie_together_are_not_moved():
    assert group_rows(torch.tensor([0, 0, 1, 1, 3, 3])).order is None
    assert group_rows(torch.tensor([0, 1, 1])).runs == [Run(1, 1), Run(1, 2)]
