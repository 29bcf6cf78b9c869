"""Stage 1 of VideoPrism: its loss by hand, what is dropped, and LiT on a frozen encoder."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from objectives.video_text import VideoText
from ssvid import create_encoder
from ssvid.encoder import Encoder
from ssvid.engine.warm_start import warm_start
from ssvid.errors import UserError
from ssvid.shapes import Batch
from ssvid.text.joint_files import save_joint
from ssvid.weights.encoders import save_encoder
from tests.helpers import facts
from tests.nn.test_contrast import contrast_plainly
from tests.test_videoprism import vocabulary as vocabulary

WORDS = {"buckets": 64, "width": 8, "hidden": 16, "length": 6}
SIZES = {"tower": "words", "options": WORDS, "heads": 2, "hidden": 16}


def create_net(**changes) -> Encoder:
    torch.manual_seed(0)
    tiny = {"dim": 24, "heads": 2, "hidden": 32, "space_depth": 1, "time_depth": 1, "patch": 8}
    return create_encoder("videoprism", **{**tiny, "frames": 2, "size": 32, **changes})


def create_objective(net: Encoder | None = None, **changes) -> VideoText:
    torch.manual_seed(1)
    return VideoText(net or create_net(), **{**SIZES, **changes})


def make_batch(clips: int = 4, seed: int = 0) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    index = torch.arange(clips)
    return {
        "clips": torch.rand(clips, 1, 3, 2, 32, 32, generator=draws),
        "index": index,
        "epoch": torch.zeros_like(index),
        "seed": seed,
        "sentences": [[f"red thing {i}"] for i in range(clips)],
    }


def find_learnt(objective: VideoText) -> set[str]:
    """The parts with a gradient."""
    parts = set()
    for name, weight in objective.named_parameters():
        if weight.grad is not None:
            parts.add(name.partition(".")[0])
    return parts


def test_the_loss_is_that_of_its_joint_space():
    objective, batch = create_objective(drop_ratio=0.0, auxiliary=1, chunk=3), make_batch()
    space = objective.joint_space()
    clips = space.read_clips(objective.encoder(batch["clips"][:, 0]))
    logits = space.compare(clips, F.normalize(objective.tower([b[0] for b in batch["sentences"]])))
    pairs = torch.eye(4, dtype=torch.bool)
    expected = contrast_plainly(logits, pairs, torch.zeros_like(pairs))
    loss = objective(batch)
    torch.testing.assert_close(loss.total, expected)
    assert loss.parts["scale"].item() == pytest.approx(1 / 0.07)


def test_half_of_the_tubes_are_dropped_in_training_alone():
    objective, batch = create_objective(), make_batch()
    tokens = objective.encode_visible(batch)
    assert tokens.shape[1] == 2 * 8, "of 16 positions in 2 frames"
    other = {**batch, "epoch": batch["epoch"] + 1}
    assert not torch.allclose(objective.encode_visible(other), tokens)
    with pytest.raises(UserError, match=facts("can_skip")):
        create_objective(create_encoder("r3d_18"), drop_ratio=0.5)


def test_what_is_dropped_is_not_seen():
    objective, batch = create_objective(), make_batch()
    visible, _ = objective.mask(batch, objective.encoder.grid(2, 32, 32))
    hidden = torch.ones(4, 32, dtype=torch.bool).scatter(1, visible, False)
    cells = hidden.view(4, 1, 2, 4, 4).repeat_interleave(8, 3).repeat_interleave(8, 4)
    before = objective(batch).total
    batch["clips"] = batch["clips"].masked_fill(cells[:, None], 9.0)
    assert torch.equal(objective(batch).total, before)


def test_lit_learns_the_text_side_and_the_pooler_on_a_frozen_encoder():
    objective = create_objective(train="text")
    assert objective.encode_visible(make_batch()).shape[1] == 32, "nothing is dropped"
    objective(make_batch()).total.backward()
    assert find_learnt(objective) == {"tower", "pooler", "scale"}


def test_its_own_tower_takes_a_vocabulary_and_options(vocabulary: Path):
    """As the recipe of published size gives it: --objective.words FILE."""
    small = {"layers": 1, "heads": 2, "dim": 24}
    objective = VideoText(create_net(), words=str(vocabulary), options=small)
    assert objective.tower.name == "videoprism_text" and objective.pooler.heads == 12
    assert torch.isfinite(objective(make_batch()).total)


def test_a_frozen_text_side():
    objective = create_objective(train="video")
    objective(make_batch()).total.backward()
    assert find_learnt(objective) == {"encoder", "pooler", "scale"}


def test_lit_begins_from_the_pooler_and_the_text_side_of_stage_1(tmp_path: Path):
    first = create_objective(auxiliary=1)
    first.scale.data.fill_(1.5)
    save_joint(first.joint_space(), tmp_path)
    save_encoder(first.encoder, tmp_path, "encoder", {})
    again = VideoText(create_net(), text=str(tmp_path), train="text", tower="words")
    warm_start(again, str(tmp_path))
    ours, theirs = again.state_dict(), first.state_dict()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    with pytest.raises(UserError, match=facts("width 24", "48")):
        VideoText(create_net(dim=48), text=str(tmp_path), tower="words")


def test_a_picture_is_a_clip_of_one_frame():
    objective, batch = create_objective(), make_batch()
    batch["clips"] = batch["clips"][:, :, :, :1]
    assert objective.encode_visible(batch).shape[1] == 8
    assert torch.isfinite(objective(batch).total)


def test_the_temperature_is_bounded():
    objective = create_objective()
    objective.scale.data.fill_(9.0)
    objective.after_step(0.5)
    assert objective.scale.exp().item() == pytest.approx(100.0)
