"""`partial_mae` beyond the contract: what it is at either end of its options, and what its parts
see.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.mae import MAE
from objectives.turbo import PartialMAE
from ssvid import create_encoder
from ssvid.data.manifest import Manifest
from ssvid.engine.classify import Classify
from ssvid.engine.mix import Mix
from ssvid.engine.train_flags import ClipChange
from ssvid.errors import UserError
from ssvid.shapes import Batch, Row
from tests.helpers import facts, for_each
from tests.objectives.test_contract import batch_for

KWARGS = {
    "dim": 24,
    "depth": 2,
    "heads": 2,
    "patch": 8,
    "frames": 4,
    "size": 32,
}  # 2 x 4 x 4 tokens
SMALL = {"dec_dim": 16, "dec_depth": 2, "dec_heads": 2}
WORDS = {
    "tower": "words",
    "options": {"buckets": 16, "width": 8, "hidden": 16, "length": 6},
    "dim": 8,
}
MASKS = ["random", "tube", "frame", "block"]


def build(**kwargs: Any) -> PartialMAE:
    torch.manual_seed(0)
    return PartialMAE(create_encoder("vit", **KWARGS), **{**SMALL, "drop_ratio": 0.5, **kwargs})


def batch(objective: Any, clips: int = 2, seed: int = 0, labels: tuple[int, ...] = (2, 0)) -> Batch:
    return {**batch_for(objective, clips, seed), "label": torch.tensor(labels[:clips])}


@for_each("mask", MASKS)
@for_each("ratio", [0.5, 0.75])
def test_without_a_task_and_with_all_that_was_dropped_it_is_mae(mask: str, ratio: float):
    ratio = 0.5 if mask == "frame" else ratio
    part = build(drop_ratio=ratio, predict_ratio=ratio, mask=mask, repeat=2)
    torch.manual_seed(0)
    mae = MAE(create_encoder("vit", **KWARGS), mask_ratio=ratio, mask=mask, repeat=2, **SMALL)
    mae.load_state_dict(part.state_dict())
    given = batch_for(mae)
    ours, theirs = part(given).total, mae(given).total
    ours.backward(), theirs.backward()
    assert torch.equal(ours, theirs)
    assert all(
        torch.equal(p.grad, q.grad)
        for p, q in zip(part.parameters(), mae.parameters(), strict=True)
    )


def test_a_task_that_weighs_nothing_leaves_mae():
    part = build(predict_ratio=0.5, task="classification", classes=3, task_weight=0.0)
    mae = MAE(create_encoder("vit", **KWARGS), mask_ratio=0.5, mask="random", **SMALL)
    mae.load_state_dict({k: v for k, v in part.state_dict().items() if not k.startswith("task.")})
    assert torch.equal(part(batch(part)).total, mae(batch(part)).total)


@for_each("smoothing", [0.0, 0.1])
def test_without_dropping_and_without_reconstruction_it_is_fine_tuning(smoothing: float):
    part = build(
        drop_ratio=0.0,
        predict_ratio=0.0,
        rec_weight=0.0,
        task="classification",
        classes=3,
        smoothing=smoothing,
    )
    plain = Classify(
        create_encoder("vit", **KWARGS), classes=3, mix=Mix(0.0, 0.0, 0.0, 0.5), smoothing=smoothing
    )
    plain.load_state_dict({k.removeprefix("task."): v for k, v in part.state_dict().items()})
    ours, theirs = part(batch(part)).total, plain(batch(part)).total
    ours.backward(), theirs.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    of = dict(plain.named_parameters())
    for name, p in part.named_parameters():
        torch.testing.assert_close(
            p.grad, of[name.removeprefix("task.")].grad, rtol=1e-5, atol=1e-8
        )


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([0.5, 0.6, 0.7, 0.75, 0.8, 0.9]),
    st.floats(0.05, 1),
    st.sampled_from(MASKS),
    st.integers(0, 99),
)
def test_what_is_seen_and_what_is_predicted(drop: float, share: float, mask: str, seed: int):
    """Counts exact, no token twice, nothing both seen and predicted."""
    part, drop = round(share * drop, 3), 0.5 if mask == "frame" else drop
    part = min(part, drop)
    n = 32
    if int(part * n) == 0:
        return
    objective = build(drop_ratio=drop, predict_ratio=part, mask=mask)
    visible, hidden = objective.draw_masks(
        batch(objective, seed=seed), objective.encoder.grid(4, 32, 32)
    )
    assert visible is not None and hidden is not None
    floors = {"tube": 2 * int(drop * 16 + 1e-9), "frame": 16, "block": int(drop * n + 1e-9)}
    gone = floors.get(mask, n - int(n * (1 - drop)))
    assert visible.shape == (2, n - gone)
    assert hidden.shape == (
        2,
        gone if part == drop else min(gone, int(round(part * 1000) * n / 1000 + 1e-9)),
    )
    for row in torch.cat([visible, hidden], 1):
        assert len(set(row.tolist())) == len(row) and 0 <= int(row.min()) and int(row.max()) < n


@for_each("mask", MASKS)
def test_the_part_is_drawn_anew_from_all_that_was_dropped(mask: str):
    """Whichever places of `dropped` it takes, over many clips it takes each about as often."""
    objective = build(drop_ratio=0.5, predict_ratio=0.25, mask=mask)
    assert objective.mask is not None
    taken = torch.zeros(16)
    for seed in range(40):
        given, grid = batch(objective, seed=seed), objective.encoder.grid(4, 32, 32)
        _, dropped = objective.mask(given, grid)
        _, hidden = objective.draw_masks(given, grid)
        assert hidden is not None
        taken += (dropped[:, :, None] == hidden[:, None]).any(2).float().sum(0)
    assert 20 <= int(taken.min()) and int(taken.max()) <= 60, "40 of 80 are to be expected"


def test_shares_are_those_that_are_written():
    """0.29 of 100 tokens are 29, though 0.29 * 100 is less in floating point."""
    torch.manual_seed(0)
    wide = create_encoder("vit", **{**KWARGS, "size": 80, "frames": 2})  # 1 x 10 x 10
    objective = PartialMAE(wide, drop_ratio=0.5, predict_ratio=0.29, **SMALL)
    _, hidden = objective.draw_masks(batch(objective), wide.grid(2, 80, 80))
    assert hidden is not None and hidden.shape == (2, 29)


def pixels_of(index: torch.Tensor) -> torch.Tensor:
    """B 1 T H W: True for the pixels of these tokens."""
    cells = (
        torch.zeros(len(index), 32, dtype=torch.bool).scatter(1, index, True).view(-1, 1, 2, 4, 4)
    )
    return cells.repeat_interleave(2, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)


@for_each("mask", MASKS)
def test_dropped_pixels_reach_nothing_but_their_own_target(mask: str):
    objective = build(mask=mask, task="classification", classes=3)
    given = batch(objective)
    visible, hidden = objective.draw_masks(given, objective.encoder.grid(4, 32, 32))
    assert visible is not None and hidden is not None
    whole = objective(given)
    never = ~(pixels_of(visible) | pixels_of(hidden))  # neither seen nor predicted
    changed: Batch = {**given, "clips": given["clips"] + 5 * never[:, None]}
    assert never.any() and torch.equal(objective(changed).total, whole.total)
    noise = torch.randn(given["clips"].shape)
    changed = {**given, "clips": given["clips"] + noise * pixels_of(hidden)[:, None]}
    other = objective(changed)
    assert torch.equal(other.parts["task"], whole.parts["task"])
    assert not torch.equal(other.parts["mse"], whole.parts["mse"])
    clip = changed["clips"][:, 0]
    assert torch.equal(
        objective.encoder(clip, visible).tokens,
        objective.encoder(given["clips"][:, 0], visible).tokens,
    )
    changed = {**given, "clips": given["clips"] + noise * pixels_of(visible)[:, None]}
    assert not torch.equal(objective(changed).parts["task"], whole.parts["task"])


def test_the_loss_is_the_weighted_sum_of_both():
    objective = build(task="classification", classes=3, task_weight=0.5, rec_weight=2.0)
    loss = objective(batch(objective))
    torch.testing.assert_close(loss.total, 0.5 * loss.parts["task"] + 2.0 * loss.parts["mse"])
    assert set(loss.parts) == {"task", "top1", "mse"}


def test_without_reconstruction_there_is_no_decoder():
    for kwargs in ({"rec_weight": 0.0}, {"predict_ratio": 0.0}):
        objective = build(task="classification", classes=3, **kwargs)
        assert not [n for n in objective.state_dict() if n.startswith("pixels")]
        assert (
            set(objective(batch(objective)).parts) == {"task", "top1"}
            and objective.visualize(batch(objective)) == {}
        )


def test_clip_and_sentence_by_hand():
    objective = build(task="video_text", temperature=0.5, predict_ratio=0.0, **WORDS).eval()
    given = batch_for(objective, clips=3)
    assert [len(bag) for bag in given["sentences"]] == [1, 1, 1]
    visible, _ = objective.draw_masks(given, objective.encoder.grid(4, 32, 32))
    video = F.normalize(
        objective.task.head(objective.encoder(given["clips"][:, 0], visible).pooled), dim=-1
    )
    texts = F.normalize(objective.task.tower([bag[0] for bag in given["sentences"]]), dim=-1)
    x = (video @ texts.T / 0.5).double()
    by_hand = -(x.log_softmax(1).diag() + x.log_softmax(0).diag()).mean() / 2
    torch.testing.assert_close(objective(given).total.double(), by_hand, rtol=1e-5, atol=0)
    # A video that is twice in the batch is no negative of itself.
    x[0, 2] = x[2, 0] = -torch.inf
    by_hand = -(x.log_softmax(1).diag() + x.log_softmax(0).diag()).mean() / 2
    pooled = objective.encoder(given["clips"][:, 0], visible).pooled
    loss, _ = objective.task(pooled, {**given, "index": torch.tensor([4, 2, 4])})
    torch.testing.assert_close(loss.double(), by_hand, rtol=1e-5, atol=0)
    joint = objective.joint_space()
    assert joint is not None and joint.cosine and build().joint_space() is None


def test_a_long_video_is_seen_from_end_to_end():
    objective = build(task="long_video", classes=3)
    (spec,) = objective.views.clips
    assert spec.whole and spec.stride is None and spec.frames == 4 and objective.encoder.spec.whole


def test_a_long_video_cut_short_is_refused():
    objective = build(task="long_video", classes=2)
    rows = [Row(f"{i}.mp4", label=str(i % 2), video_id=str(i)) for i in range(4)]
    data = Manifest(tuple(rows), Path("clips"), ("0", "1"))
    objective.check_data(data, objective.views, 2)
    with pytest.raises(UserError, match=facts("--clip.stride")):
        objective.check_data(data, ClipChange(stride=2).views(objective.views), 2)


def test_a_longer_clip_than_it_was_made_for():
    """Positions are made for any length: 4 frames trained, 64 asked."""
    objective = build(task="classification", classes=3, drop_ratio=0.75)
    assert objective(
        {**batch(objective), "clips": torch.randn(2, 1, 3, 64, 32, 32)}
    ).total.isfinite()


def test_data_that_it_cannot_learn_from():
    objective = build(task="classification", classes=3)
    rows = [Row(f"{i}.mp4", label=str(i % 2), video_id=str(i)) for i in range(4)]
    with pytest.raises(UserError, match=facts("--objective.classes", "3", "2")):
        objective.check_data(Manifest(tuple(rows), Path("clips"), ("0", "1")), objective.views, 2)
    rows[2] = replace(rows[2], label=None)
    with pytest.raises(UserError, match=facts("1", "4", "2.mp4")):
        objective.check_data(Manifest(tuple(rows), Path("clips"), ("0", "1")), objective.views, 2)
    build().check_data(Manifest(tuple(rows), Path("clips"), ("0", "1")), objective.views, 2)
    sentences = build(task="video_text", predict_ratio=0.0, **WORDS)
    with pytest.raises(UserError, match=facts("--batch_size", "5", "4")):
        sentences.check_data(Manifest(tuple(rows), Path("clips")), sentences.views, 5)


@for_each(
    "why, kwargs",
    [
        ("--objective.drop_ratio | 1.0", {"drop_ratio": 1.0}),
        ("--objective.drop_ratio | -0.1", {"drop_ratio": -0.1}),
        ("--objective.predict_ratio | 1.5", {"predict_ratio": 1.5}),
        ("--objective.predict_ratio | 0.6 | --objective.drop_ratio | 0.5", {"predict_ratio": 0.6}),
        ("--objective.predict_ratio | 0.01 | 32 | 0.0313", {"predict_ratio": 0.01}),
        ("0.98 | 0 | 32", {"drop_ratio": 0.98}),
        (
            "0.01 | 16",
            {
                "drop_ratio": 0.01,
                "predict_ratio": 0.0,
                "mask": "tube",
                "task": "classification",
                "classes": 2,
            },
        ),
        ("partial_mae | predict_ratio | rec_weight", {"rec_weight": 0.0}),
        ("--objective.classes", {"task": "classification"}),
        ("long_video | --objective.classes", {"task": "long_video"}),
        ("video_text", {"task": "video_text", "repeat": 2}),
        ("--objective.rec_weight | -1", {"rec_weight": -1.0}),
    ],
)
def test_what_is_refused(why: str, kwargs: dict[str, Any]):
    with pytest.raises(UserError, match=facts(*why.split(" | "))):
        build(**kwargs)


def test_the_picture_has_four_rows_and_gray_where_nothing_is_known():
    objective = build(norm="none", predict_ratio=0.25)
    mean, std = (
        torch.tensor(v).view(3, 1, 1, 1) for v in (objective.encoder.mean, objective.encoder.std)
    )
    given: Batch = {**batch(objective), "clips": (torch.rand(2, 1, 3, 4, 32, 32) - mean) / std}
    picture = objective.visualize(given)["reconstruction"]
    assert picture.shape == (3, 4 * 32, 4 * 32)
    true, seen, predicted, wrong = picture.float().unflatten(1, (4, 32)).unbind(1)  # 3 H (T W)
    visible, hidden = objective.draw_masks(given, objective.encoder.grid(4, 32, 32))
    assert visible is not None and hidden is not None

    def strip(index: torch.Tensor) -> torch.Tensor:
        return pixels_of(index[:1])[0, 0].permute(1, 0, 2).flatten(1).expand(3, -1, -1)  # 3 H (T W)

    gray = torch.tensor(127.0)
    assert (
        torch.equal(true[strip(visible)], seen[strip(visible)])
        and (seen[~strip(visible)] == gray).all()
    )
    assert (
        torch.equal(predicted[strip(visible)], true[strip(visible)])
        and (wrong[~strip(hidden)] == 0).all()
    )
    assert (predicted[~(strip(visible) | strip(hidden))] == gray).all()
    off = (predicted - true).abs()[strip(hidden)]
    torch.testing.assert_close(wrong[strip(hidden)], off, atol=1.5, rtol=0)
