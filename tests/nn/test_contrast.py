"""The contrast of clips and sentences beside a plain writing of the whole matrix."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssvid.nn.contrast import contrast_pairs


def contrast_plainly(logits: Tensor, positives: Tensor, ignored: Tensor) -> Tensor:
    """Both directions over the whole matrix; positives of a row have equal weights."""
    losses = []
    for side, pairs, left_out in ((logits, positives, ignored), (logits.T, positives.T, ignored.T)):
        targets = pairs / pairs.sum(1, keepdim=True)
        losses.append(F.cross_entropy(side.masked_fill(left_out, -1e30), targets.to(side.dtype)))
    return (losses[0] + losses[1]) / 2


@pytest.mark.parametrize("chunk", [2, 3, 100])
@pytest.mark.parametrize("shares", [False, True])
def test_chunks_give_the_loss_and_gradients_of_the_whole_matrix(chunk: int, shares: bool):
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(2, 7, 5, dtype=torch.float64), dim=2).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([0, 1, 2, 1, 4, 5, 6])  # one video is twice in the batch
    sentences = torch.tensor([9, 8, 7, 6, 9, 5, 4])  # two sentences are equal
    result = contrast_pairs(*vectors, scale, index, sentences if shares else None, chunk)
    positives = torch.eye(7, dtype=torch.bool)
    if shares:
        positives[0, 4] = positives[4, 0] = True
    ignored = torch.zeros_like(positives)
    ignored[1, 3] = ignored[3, 1] = True
    logits = scale * vectors[0] @ vectors[1].T
    expected = contrast_plainly(logits, positives, ignored)
    torch.testing.assert_close(result.loss, expected)
    ours = torch.autograd.grad(result.loss, (vectors, scale))
    theirs = torch.autograd.grad(expected, (vectors, scale))
    for mine, plain in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, plain)
    nearest = logits.masked_fill(ignored, -torch.inf).argmax(1)
    hits = positives[torch.arange(7), nearest].double().mean()
    assert result.top1 == pytest.approx(hits.item())


def test_no_matrix_of_the_whole_batch_is_held():
    """The largest tensor that autograd keeps is no larger than the vectors."""
    sizes: list[int] = []

    def note(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    vectors = F.normalize(torch.randn(2, 64, 4), dim=2).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        contrast_pairs(*vectors, torch.tensor(3.0), torch.arange(64), chunk=4)
    assert max(sizes) <= 64 * 4
