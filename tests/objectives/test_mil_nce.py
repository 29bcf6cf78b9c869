"""MIL-NCE: the loss by hand, one process and two, its bags of sentences, runs that start and go on.

Run as a program it is one process of the test that compares one with two.
"""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from objectives.mil_nce import MilNCE, mil_nce
from ssvid import create_encoder
from ssvid.data.manifest import Manifest
from ssvid.engine.distributed import join
from ssvid.errors import UserError
from ssvid.nn.sync_bn import synchronise
from ssvid.shapes import Bag, Batch, Row
from ssvid.text.joint import load_joint, save_joint
from tests.engine.pairs import leave, same_as_two
from tests.helpers import for_each

WORDS = ["add", "the", "onion", "stir", "fish", "cut"]
OPTIONS = {"buckets": 32, "width": 6, "hidden": 12, "length": 4}


def bags(clips: int, candidates: int = 3) -> list[list[str]]:
    return [[f"{WORDS[(b + k) % 6]} {WORDS[(b * k) % 6]} {b}" for k in range(candidates)] for b in range(clips)]


def build(denominator: str = "double", **kwargs: object) -> MilNCE:
    torch.manual_seed(0)
    encoder = create_encoder("s3dg", width=0.125, frames=4, size=32)
    return MilNCE(encoder, dim=8, candidates=3, denominator=denominator, **{"options": OPTIONS, **kwargs})


def batch(clips: int, dtype: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(7)
    pixels = torch.rand(clips, 1, 3, 4, 32, 32, generator=generator, dtype=torch.float64)
    return {"clips": pixels.to(dtype), "sentences": bags(clips)}


def refused(match: str):  # noqa: ANN201
    return pytest.raises(UserError, match=match)


def plain_loss(video: torch.Tensor, texts: torch.Tensor, twice: bool) -> float:
    """Written out over every clip and sentence."""
    B, K, _ = texts.shape
    losses = []
    for i in range(B):
        own = [math.exp(video[i] @ texts[i, k]) for k in range(K)]
        others = [math.exp(video[i] @ texts[j, k]) for j in range(B) for k in range(K) if j != i]
        others += [math.exp(video[j] @ texts[i, k]) for j in range(B) for k in range(K) if j != i]
        losses.append(-math.log(sum(own) / ((1 + twice) * sum(own) + sum(others))))
    return sum(losses) / B


@for_each("twice", [True, False])
@for_each("clips, candidates", [(1, 1), (1, 3), (4, 1), (5, 3)])
def test_the_loss_by_hand(clips: int, candidates: int, twice: bool):
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(clips, 6, generator=generator, dtype=torch.float64).requires_grad_()
    texts = torch.randn(clips, candidates, 6, generator=generator, dtype=torch.float64)
    loss = mil_nce(video, texts, twice)
    assert abs(loss.item() - plain_loss(video.detach(), texts, twice)) < 1e-12
    loss.backward()
    assert video.grad is not None and video.grad.isfinite().all()
    if clips == 1:
        assert abs(loss.item() - (math.log(2) if twice else 0)) < 1e-12


def test_the_published_loss_ends_at_log_two_and_the_plain_one_at_nothing():
    video, texts = 9 * torch.eye(4), 9 * torch.eye(4)[:, None].expand(4, 2, 4)
    assert abs(mil_nce(video, texts).item() - math.log(2)) < 1e-5 and mil_nce(video, texts, twice=False) < 1e-5
    assert mil_nce(100 * video, 100 * texts).isfinite(), "large products do not overflow"


def test_forward_is_the_loss_of_head_and_tower():
    objective = build().eval()
    eaten = batch(4)
    with torch.no_grad():
        loss = objective(eaten)
        joint = objective.joint()
        video = joint.videos(objective.encoder(eaten["clips"][:, 0]).pooled)
        texts = torch.stack([joint.texts(bag) for bag in eaten["sentences"]])
        torch.testing.assert_close(loss.total, mil_nce(video, texts))
        plain = build("plain").eval()(eaten).total
        torch.testing.assert_close(plain, mil_nce(video, texts, twice=False))
        best = torch.einsum("ie,jke->ijk", video, texts).amax(2).argmax(1)
    assert loss.parts["top1"] == (best == torch.arange(4)).float().mean() and torch.equal(loss.parts["nce"], loss.total)


def test_it_asks_for_clips_with_their_bags():
    views = build().views
    assert views.text == Bag(sentences=3) and views.mean == (0, 0, 0) and views.std == (1, 1, 1)
    assert [spec.frames for spec in views.clips] == [4]
    torch.manual_seed(0)
    vit = create_encoder("vit", dim=24, depth=1, heads=2, patch=8, frames=4, size=16, stride=1)
    objective = MilNCE(vit, dim=8, options=OPTIONS)
    clips = torch.randn(2, 1, 3, 4, 16, 16)
    assert objective({"clips": clips, "sentences": bags(2)}).total.isfinite()


def test_bags_that_are_uneven_or_empty_are_refused():
    for sentences in ([["a"], ["a", "b"]], [[], []]):
        with refused("as many sentences of each clip, at least one"):
            build()({**batch(2), "sentences": sentences})


def test_half_precision_leaves_the_products_whole():
    objective = build().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert objective(batch(3)).total.dtype == torch.float32


def test_data_that_it_cannot_learn_from():
    said = ((0.0, 4.0, "add the onion"),)
    narrated = Manifest(tuple(Row(f"{i}.mp4", sentences=said, video_id=str(i)) for i in range(3)), Path("clips"))
    objective = build()
    objective.suits(narrated, objective.views, 2)
    with refused("--batch_size 1: mil_nce tells a clip's sentences from those of the other clips"):
        objective.suits(narrated, objective.views, 1)


def test_arguments_that_do_not_go_together():
    for why, kwargs in {
        "--objective.words w.txt is of the tower words; bert has": {"tower": "bert", "words": "w.txt", "options": {}},
        "--objective.tower clip needs --objective.text": {"tower": "clip", "options": {}},
        "There is no text tower 'word'": {"tower": "word", "options": {}},
        "leave out --objective.options": {"text": "s3d.pth"},
        "The text tower words cannot be made: .*'depth'": {"options": {"depth": 2}},
    }.items():
        with refused(why):
            build(**kwargs)


def test_the_joint_is_saved_and_gives_the_same_products(tmp_path: Path):
    objective = build().eval()
    save_joint(objective.joint(), tmp_path)
    again = load_joint(tmp_path)
    pooled, said = torch.randn(2, objective.encoder.dim), ["add the onion", "cut"]
    with torch.no_grad():
        assert torch.equal(again.videos(pooled), objective.joint().videos(pooled))
        assert torch.equal(again.texts(said), objective.tower(said))


def one_step(clips: int = 4) -> dict[str, torch.Tensor]:
    """Loss, gradients and statistics of one step in float64, of this process's share."""
    world = join("cpu", timeout_s=60.0)
    objective = build().double()
    whole, share = batch(clips, torch.float64), clips // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)
    part: Batch = {"clips": whole["clips"][mine], "sentences": whole["sentences"][mine]}
    module: torch.nn.Module = objective
    if world.size > 1:
        synchronise(objective)
        module = DistributedDataParallel(objective)
    loss = module(part).total
    loss.backward()
    mean = loss.detach().clone()
    if world.size > 1:
        torch.distributed.all_reduce(mean)
    found = {f"grad/{n}": p.grad for n, p in objective.named_parameters() if p.grad is not None}
    return {"loss": mean / world.size, **found, **{f"state/{n}": b for n, b in objective.named_buffers()}}


def test_two_processes_do_what_one_does(tmp_path: Path):
    same_as_two(one_step(), tmp_path / "two.pt", "tests.objectives.test_mil_nce")


if __name__ == "__main__":
    leave(one_step, sys.argv[1:])
