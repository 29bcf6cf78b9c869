"""Cross-attention written out: beside the fused kernel, and beside every step by hand."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssvid.nn.bert import Bert, Context
from ssvid.nn.plain_attention import ground_watched
from ssvid.text.grad_cam import compute_cam
from tests.helpers import for_each

HEADS, DIM, CONTEXT, LAYERS = 2, 16, 12, 3
IDS = torch.tensor([[7, 4, 5, 3, 0], [7, 6, 3, 0, 0]])


SCORE = torch.linspace(-1, 2, DIM)  # weights of a score of the first token


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def bert() -> Bert:
    torch.manual_seed(0)
    net = Bert(9, dim=DIM, layers=LAYERS, heads=HEADS, context_dim=CONTEXT, positions=8)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


CONTEXTS = {
    "own clips": Context(draw(2, 6, CONTEXT)),
    "a shared clip and further tokens": Context(
        draw(1, 6, CONTEXT), torch.tensor([0, 0]), further=draw(2, 2, CONTEXT, seed=1)
    ),
    "padding": Context(draw(2, 6, CONTEXT), mask=torch.arange(6) < torch.tensor([[6], [4]])),
}


@for_each("name, layer", list(itertools.product(CONTEXTS, (1, LAYERS))))
def test_a_watched_pass_gives_what_the_fused_kernel_gives(bert: Bert, name: str, layer: int):
    context = CONTEXTS[name]
    states, weights = ground_watched(bert, IDS, context, layer)
    with torch.no_grad():
        torch.testing.assert_close(states.detach(), bert(IDS, context), rtol=0, atol=1e-5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    if context.mask is not None:
        assert not weights[1, :, :, 4:].any() and weights[1, :, :, :4].all()


def attend_by_hand(
    q: Tensor, k: Tensor, v: Tensor, sees: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Of one sentence: (what is read, the weights of the heads). `weights`: instead of its own."""
    width = DIM // HEADS
    if weights is None:
        products = []
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            products.append(q[:, part] @ k[:, part].T / math.sqrt(width))
        weights = torch.stack(products).masked_fill(~sees, -math.inf).softmax(2)
    outputs = []
    for head in range(HEADS):
        outputs.append(weights[head] @ v[:, head * width : (head + 1) * width])
    return torch.cat(outputs, 1), weights


def score_by_hand(
    bert: Bert, ids: Tensor, clip: Tensor, layer: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(a score of one sentence, the weights of a layer's heads), all in one graph.

    `weights`: that the layer is to have instead.
    """
    x = bert.norm(bert.table.weight[ids] + bert.positions[: len(ids)])
    everything = torch.ones(len(clip), dtype=torch.bool)
    watched = torch.empty(0)
    for number, net in enumerate(bert.layers, 1):
        inner, cross = net.attention, net.cross
        mixed, _ = attend_by_hand(*inner.qkv(x).chunk(3, 1), ids != 0)
        x = inner.norm(x + inner.proj(mixed))
        others = weights if number == layer else None
        mixed, used = attend_by_hand(cross.q(x), cross.k(clip), cross.v(clip), everything, others)
        watched = used if number == layer else watched
        x = cross.norm(x + cross.proj(mixed))
        x = net.norm(x + net.fc2(F.gelu(net.fc1(x))))
    return x[0] @ SCORE, watched


@for_each("layer", [1, 2])
def test_grad_cam_is_that_of_autograd_and_of_differences(bert: Bert, layer: int):
    """Weight times gradient, where it is positive, averaged over heads."""
    clip, ids = CONTEXTS["own clips"].tokens[0], IDS[0]
    states, weights = ground_watched(bert, ids[None], Context(clip[None]), layer)
    cam = compute_cam(states[0, 0] @ SCORE, weights)[0]
    score, used = score_by_hand(bert, ids, clip, layer)
    (gradient,) = torch.autograd.grad(score, used)
    products = (gradient * used).detach()
    expected = (products[0].clamp(min=0) + products[1].clamp(min=0)) / HEADS
    torch.testing.assert_close(cam, expected, rtol=1e-4, atol=1e-6)
    assert cam[1:4].any() and (gradient < 0).any()
    changed = used.detach().clone()
    changed[1, 2, 3] += 0.01
    with torch.no_grad():
        above, _ = score_by_hand(bert, ids, clip, layer, changed)
    assert float(above - score.detach()) / 0.01 == pytest.approx(float(gradient[1, 2, 3]), rel=0.05)


def test_after_the_last_layer_words_have_no_part_in_the_first_token(bert: Bert):
    states, weights = ground_watched(bert, IDS[:1], Context(draw(1, 6, CONTEXT)), LAYERS)
    cam = compute_cam(states[0, 0, :3].sum(), weights)[0]
    assert cam[0].any() and not cam[1:].any()
    assert all(parameter.grad is None for parameter in bert.parameters())
