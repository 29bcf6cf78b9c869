"""MIL-NCE: the loss by hand, its bags of sentences, data that it cannot learn from."""

import math
from pathlib import Path

import pytest
import torch

from objectives.mil_nce import MilNCE, mil_nce
from ssvid import create_encoder
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.nn.sources import find_repeats
from ssvid.shapes import Bag, Batch, Row
from ssvid.text.joint_files import load_joint, save_joint
from tests.helpers import facts, for_each

WORDS = ["add", "the", "onion", "stir", "fish", "cut"]
OPTIONS = {"buckets": 32, "width": 6, "hidden": 12, "length": 4}


def bags(clips: int, candidates: int = 3) -> list[list[str]]:
    return [
        [f"{WORDS[(b + k) % 6]} {WORDS[(b * k) % 6]} {b}" for k in range(candidates)]
        for b in range(clips)
    ]


def build(denominator: str = "double", **kwargs: object) -> MilNCE:
    torch.manual_seed(0)
    encoder = create_encoder("s3dg", width=0.125, frames=4, size=32)
    return MilNCE(
        encoder, dim=8, candidates=3, denominator=denominator, **{"options": OPTIONS, **kwargs}
    )


def batch(clips: int) -> Batch:
    pixels = torch.rand(clips, 1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(7))
    return {"clips": pixels, "sentences": bags(clips), "index": torch.arange(clips)}


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
    assert (
        abs(mil_nce(video, texts).item() - math.log(2)) < 1e-5
        and mil_nce(video, texts, count_positives_twice=False) < 1e-5
    )
    assert mil_nce(100 * video, 100 * texts).isfinite(), "large products do not overflow"


def test_forward_is_the_loss_of_head_and_tower():
    objective = build().eval()
    eaten = batch(4)
    with torch.no_grad():
        loss = objective(eaten)
        joint = objective.joint_space()
        video = joint.embed_videos(objective.encoder(eaten["clips"][:, 0]).pooled)
        texts = torch.stack([joint.embed_texts(bag) for bag in eaten["sentences"]])
        torch.testing.assert_close(loss.total, mil_nce(video, texts))
        plain = build("plain").eval()(eaten).total
        torch.testing.assert_close(plain, mil_nce(video, texts, count_positives_twice=False))
        best = torch.einsum("ie,jke->ijk", video, texts).amax(2).argmax(1)
    assert loss.parts["top1"] == (best == torch.arange(4)).float().mean() and torch.equal(
        loss.parts["nce"], loss.total
    )


def test_a_video_that_is_twice_in_a_batch_is_no_negative_of_itself():
    torch.manual_seed(0)
    video, texts = torch.randn(4, 5, requires_grad=True), torch.randn(4, 3, 5)
    repeats = find_repeats(torch.tensor([5, 8, 5, 9]))
    loss = mil_nce(video, texts, repeats=repeats)
    products = (video.detach() @ texts.flatten(0, 1).T).view(4, 4, 3)
    by_hand = 0.0
    for clip in range(4):
        others = [j for j in range(4) if j == clip or {j, clip} != {0, 2}]
        total = products[clip, others].exp().sum() + products[others, clip].exp().sum()
        by_hand += float(total.log() - products[clip, clip].exp().sum().log()) / 4
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    loss.backward()
    assert video.grad.isfinite().all()
    none = torch.zeros(4, 4, dtype=torch.bool)
    assert torch.equal(mil_nce(video, texts, repeats=none), mil_nce(video, texts))
    forward = build().eval()({**batch(4), "index": torch.tensor([5, 8, 5, 9])}).total
    assert forward < build().eval()(batch(4)).total


def test_it_asks_for_clips_with_their_bags():
    views = build().views
    assert views.text == Bag(sentences=3) and views.mean == (0, 0, 0) and views.std == (1, 1, 1)
    assert [spec.frames for spec in views.clips] == [4]
    torch.manual_seed(0)
    vit = create_encoder("vit", dim=24, depth=1, heads=2, patch=8, frames=4, size=16, stride=1)
    objective = MilNCE(vit, dim=8, options=OPTIONS)
    clips = torch.randn(2, 1, 3, 4, 16, 16)
    assert objective({**batch(2), "clips": clips}).total.isfinite()


def test_bags_that_are_uneven_or_empty_are_refused():
    for sentences in ([["a"], ["a", "b"]], [[], []]):
        with pytest.raises(UserError):
            build()({**batch(2), "sentences": sentences})


def test_half_precision_leaves_the_products_whole():
    objective = build().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert objective(batch(3)).total.dtype == torch.float32


def test_data_that_it_cannot_learn_from():
    said = ((0.0, 4.0, "add the onion"),)
    narrated = Manifest(
        tuple(Row(f"{i}.mp4", sentences=said, video_id=str(i)) for i in range(3)), Path("clips")
    )
    objective = build()
    objective.check_data(narrated, objective.views, 2)
    with pytest.raises(UserError, match=facts("--batch_size", "1", "mil_nce")):
        objective.check_data(narrated, objective.views, 1)
    with pytest.raises(UserError, match=facts("--batch_size", "4", "3")):
        objective.check_data(narrated, objective.views, 4)


def test_arguments_that_do_not_go_together():
    for words, kwargs in (
        (
            ("--objective.words", "w.txt", "bert"),
            {"tower": "bert", "words": "w.txt", "options": {}},
        ),
        (("--objective.tower", "clip", "--objective.text"), {"tower": "clip", "options": {}}),
        (("word",), {"tower": "word", "options": {}}),
        (("--objective.options",), {"text": "s3d.pth"}),
        (("words", "depth"), {"options": {"depth": 2}}),
    ):
        with pytest.raises(UserError, match=facts(*words)):
            build(**kwargs)


def test_the_joint_is_saved_and_gives_the_same_products(tmp_path: Path):
    objective = build().eval()
    save_joint(objective.joint_space(), tmp_path)
    again = load_joint(tmp_path)
    pooled, said = torch.randn(2, objective.encoder.dim), ["add the onion", "cut"]
    with torch.no_grad():
        assert torch.equal(again.embed_videos(pooled), objective.joint_space().embed_videos(pooled))
        assert torch.equal(again.embed_texts(said), objective.tower(said))
