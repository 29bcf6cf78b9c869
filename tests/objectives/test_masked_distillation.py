"""Masked distillation: its losses by hand, its shuffling, its teacher and its stored targets."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from objectives.masked_distillation import MaskedDistillation
from objectives.masked_distillation.branches import LocalBranch, Sizes
from objectives.masked_distillation.teacher import Teacher
from ssvid import create_encoder, load_encoder
from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.engine.warm_start import warm_start
from ssvid.errors import UserError
from ssvid.nn.masks import take
from ssvid.nn.prism import AttentionPooler
from ssvid.shapes import Batch, Grid, Row
from ssvid.text import create_tower
from ssvid.text.joint_files import save_joint
from ssvid.text.pooled import PooledSpace, make_auxiliary
from ssvid.weights.encoders import save_encoder
from ssvid.weights.npz import write_npz
from ssvid.weights.published import LAYOUTS
from tests.helpers import facts, for_each, run_pretrain, squares, write_video

NET = {"dim": 16, "heads": 2, "hidden": 32, "space_depth": 1, "time_depth": 1}
NET |= {"patch": 8, "frames": 4, "size": 32}
GRID = Grid(4, 4, 4)
SMALL = {"dec_dim": 8, "dec_depth": 1, "dec_heads": 2, "dec_hidden": 16}
FIXED = {"augment": "none", "middle": True}


def create_net(seed: int = 0, **changes: Any) -> Encoder:
    torch.manual_seed(seed)
    return create_encoder("videoprism", **{**NET, **changes})


def create(net: Encoder | None = None, **changes: Any) -> MaskedDistillation:
    torch.manual_seed(1)
    return MaskedDistillation(net or create_net(), **{**SMALL, **changes})


def make_batch(clips: int = 3, frames: int = 4, seed: int = 0) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    index = torch.arange(clips)
    pixels = torch.rand(clips, 1, 3, frames, 32, 32, generator=draws)
    return {"clips": pixels, "index": index, "epoch": torch.zeros_like(index), "seed": seed}


def pick(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return torch.stack([row[i] for row, i in zip(x, index, strict=True)])


@pytest.fixture
def stage_1(tmp_path: Path) -> tuple[Path, PooledSpace]:
    """A run with an encoder, a text side and a pooler behind a block of its own."""
    torch.manual_seed(5)
    tower = create_tower("videoprism_text", letters=True, dim=12, layers=1, heads=2)
    pooler = AttentionPooler(16, 2, hidden=32, query_dim=12)
    space = PooledSpace(tower, pooler, make_auxiliary(1, 16, 2, 32)).eval()
    save_encoder(create_net(seed=7), tmp_path / "one", "encoder", {})
    save_joint(space, tmp_path / "one")
    return tmp_path / "one", space


def test_both_losses_by_hand():
    objective, batch = create(target_norm=False, local_weight=0.5, global_weight=2.0), make_batch()
    clip = batch["clips"][:, 0]
    visible, hidden = objective.mask(batch, GRID)
    assert hidden.shape == (3, round(0.65 * 64))
    student, whole = objective.encoder(clip, visible).tokens, objective.teacher.encoder(clip).tokens
    order = objective.draw_order(batch, GRID)
    assert order is not None
    branch = objective.local_branch
    pred = branch.out(branch.decoder(branch.arrange(student, visible, hidden, GRID, order)))
    distances = []
    for b in range(3):
        for slot in range(64):  # also those that are visible; the targets are in natural order
            distances.append(1 - F.cosine_similarity(pred[b, slot], whole[b, slot], dim=0))
    local = torch.stack(distances).mean()
    branch = objective.global_branch
    vector = branch.pooler(branch.out(branch.decoder(branch.bridge(student))))[:, 0]
    other = (1 - F.cosine_similarity(vector, whole.mean(1), dim=1)).mean()
    loss = objective(batch)
    torch.testing.assert_close(loss.total, 0.5 * local + 2 * other)
    torch.testing.assert_close(loss.parts["local"], local.detach())
    torch.testing.assert_close(loss.parts["global"], other.detach())


@for_each("mask_token", ["decoder", "encoder"])
def test_tokens_are_shuffled_and_positions_are_not(mask_token):
    branch = LocalBranch(16, Grid(2, 2, 2), Sizes(8, 1, 2, 16), "joint", mask_token)
    visible, hidden = torch.tensor([[1, 4, 6], [0, 2, 7]]), torch.tensor([[0, 2, 3, 5, 7]] * 2)
    hidden[1] = torch.tensor([1, 3, 4, 5, 6])
    tokens = torch.randn(2, 3, 16)
    mask = branch.bridge(branch.mask_token) if mask_token == "encoder" else branch.mask_token
    natural = mask.expand(2, 8, 8).clone()
    for b in range(2):
        for rank, position in enumerate(visible[b].tolist()):
            natural[b, position] = branch.bridge(tokens[b, rank])
    table, order = branch.positions.table[0], torch.stack([torch.randperm(8) for _ in range(2)])
    shuffled = branch.arrange(tokens, visible, hidden, Grid(2, 2, 2), order)
    torch.testing.assert_close(shuffled, pick(natural, order) + table)
    plain = branch.arrange(tokens, visible, hidden, Grid(2, 2, 2), None)
    torch.testing.assert_close(plain, natural + table)


def test_each_clip_and_epoch_has_an_order_of_its_own():
    objective, batch = create(), make_batch()
    order = objective.draw_order(batch, GRID)
    assert order is not None and create(shuffle=False).draw_order(batch, GRID) is None
    assert torch.equal(order.sort(1).values, torch.arange(64).expand(3, -1))
    later = objective.draw_order({**batch, "epoch": batch["epoch"] + 1}, GRID)
    assert not torch.equal(order[0], order[1]) and not torch.equal(order, later)


@for_each("mask", ["bevt", "tube", "random"])
def test_hidden_pixels_do_not_reach_the_student(mask):
    objective, batch = create(mask=mask), make_batch()
    clip = batch["clips"][:, 0]
    visible, hidden = objective.mask(batch, GRID)
    pixels = clip.unflatten(4, (4, 8)).unflatten(3, (4, 8))  # B C t h q w r
    pixels = pixels.permute(0, 2, 3, 5, 1, 4, 6).flatten(1, 3).clone()
    for b in range(3):
        pixels[b, hidden[b]] = 9.0
    changed = pixels.unflatten(1, (4, 4, 4)).permute(0, 4, 1, 2, 5, 3, 6).reshape(clip.shape)
    assert not torch.equal(changed, clip)
    tokens = [objective.encoder(x, visible).tokens for x in (clip, changed)]
    assert torch.equal(*tokens)
    whole = [objective.teacher(x).tokens for x in (clip, changed)]
    assert not torch.equal(*(take(x, visible) for x in whole))


def test_gradient_flows_to_all_but_the_teacher():
    objective = create()
    objective(make_batch()).total.backward()
    for name, p in objective.named_parameters():
        assert (p.grad is not None and p.grad.any()) == (not name.startswith("teacher.")), name


def test_the_teacher_is_in_eval_mode_and_trains_on():
    net = create_encoder("vit", dim=24, depth=1, heads=2, patch=8, frames=4, size=16, dropout=0.5)
    teacher, clip = Teacher(net), torch.rand(1, 3, 4, 16, 16)
    net.train()
    assert torch.equal(teacher(clip).tokens, teacher(clip).tokens) and net.training


def test_each_part_can_be_left_out():
    whole = create()
    for changes, parts in (
        ({"local": False}, {"global"}),
        ({"global_loss": False}, {"local"}),
        ({"shuffle": False}, {"local", "global"}),
    ):
        loss = create(**changes)(make_batch())
        assert set(loss.parts) == parts
    plain = create(shuffle=False)
    plain.load_state_dict(whole.state_dict())
    assert plain(make_batch()).parts["global"] == whole(make_batch()).parts["global"]
    assert plain(make_batch()).parts["local"] != whole(make_batch()).parts["local"]


def test_normalised_targets_have_no_mean_of_their_own():
    objective = create(target_norm=True)
    tokens, pooled = objective.find_targets(make_batch()["clips"][:, 0], make_batch())
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(3, 64), atol=1e-5, rtol=0)
    torch.testing.assert_close(pooled.var(-1, correction=0), torch.ones(3), atol=1e-2, rtol=0)


def test_it_begins_from_its_teacher_whose_pooler_makes_the_target(stage_1):
    path, space = stage_1
    objective, trained = create(teacher=str(path)), load_encoder(path)
    for key, x in trained.state_dict().items():
        assert torch.equal(objective.encoder.state_dict()[key], x)
    clip = make_batch()["clips"][:, 0]
    tokens, pooled = objective.teacher(clip)
    torch.testing.assert_close(tokens, trained(clip).tokens)
    torch.testing.assert_close(pooled, space.pool(trained(clip).tokens))
    assert objective.global_branch.pooler.sizes == space.pooler.sizes
    assert not any(key.startswith("teacher.tower") for key in objective.state_dict())
    anew = create(teacher=str(path), start="new")
    assert not torch.equal(anew.encoder.patch.weight, trained.patch.weight)
    (path / "text.json").unlink()
    torch.testing.assert_close(create(teacher=str(path)).teacher(clip).pooled, tokens.mean(1))


def test_a_published_video_text_file_is_a_teacher_without_its_vocabulary(tmp_path):
    torch.manual_seed(2)
    tower = create_tower("videoprism_text", letters=True, dim=16, layers=1, heads=2)
    space = PooledSpace(tower, AttentionPooler(16, 2), make_auxiliary(2, 16, 2, 32))
    net, ours = create_net(seed=7), {}
    for prefix, module in (("encoder.", net), ("", space)):
        ours |= {f"{prefix}{key}": x for key, x in module.state_dict().items()}
    (layout,) = (layout for layout in LAYOUTS if layout.name == "videoprism-lvt")
    write_npz(tmp_path / "lvt.npz", layout.to_theirs(ours))
    objective, clip = create(teacher=str(tmp_path / "lvt.npz")), make_batch()["clips"][:, 0]
    torch.testing.assert_close(objective.teacher(clip).pooled, space.pool(net(clip).tokens))
    (layout,) = (layout for layout in LAYOUTS if layout.name == "videoprism")
    write_npz(tmp_path / "net.npz", layout.to_theirs(ours))
    objective = create(teacher=str(tmp_path / "net.npz"))
    torch.testing.assert_close(objective.teacher(clip).pooled, net(clip).tokens.mean(1))
    assert torch.equal(objective.encoder.patch.weight, net.patch.weight)


def test_without_a_teacher_the_start_is_the_teacher(stage_1):
    path, _ = stage_1
    objective = create()
    warm_start(objective, str(path))
    for net in (objective.encoder, objective.teacher.encoder):
        assert torch.equal(net.patch.weight, load_encoder(path).patch.weight)
    second = create(create_net(seed=3), teacher=str(path))
    warm_start(second, str(path))
    assert torch.equal(second.teacher.encoder.patch.weight, load_encoder(path).patch.weight)


def test_a_picture_is_a_clip_of_one_frame():
    loss = create(create_net(frames=1))(make_batch(frames=1))
    assert loss.total.isfinite()


def test_what_does_not_fit_is_refused(stage_1, tmp_path):
    path = str(stage_1[0])
    flag = "--objective.teacher"
    vit = {"depth": 1, "heads": 2, "patch": 8, "frames": 4, "size": 32}
    (tmp_path / "file").write_text("")
    for net, changes, words in (
        (create_net(), {"teacher": str(tmp_path / "gone")}, (flag, "gone")),
        (create_net(dim=24), {"teacher": path}, (flag, "16", "24")),
        (create_net(patch=16), {"teacher": path}, (flag, "4 x 4 x 4", "4 x 2 x 2")),
        (create_net(space_depth=2), {"teacher": path}, ("--objective.start",)),
        (create_encoder("vit", dim=16, **vit), {"teacher": path}, (flag, "vit", "2 x 4 x 4")),
        (create_net(), {"mask_ratio": 1.0}, ("mask_ratio", "1.0")),
        (create_net(), {"mask_ratio": 0.001}, ("mask_ratio", "0.001")),
        (create_net(), {"local": False, "global_loss": False}, ("--objective.local",)),
        (create_net(), {"dec_heads": 3}, ("8", "3")),
        (create_encoder("r3d_18"), {}, ("can_skip", "videoprism")),
        (create_net(), {"targets": str(tmp_path)}, ("--objective.augment", "--objective.middle")),
        (create_net(), {"targets": str(tmp_path), "augment": "none"}, ("--objective.middle",)),
        (create_net(), {"targets": str(tmp_path / "file"), **FIXED}, ("--objective.targets",)),
    ):
        with pytest.raises(UserError, match=facts(*words)):
            create(net, **changes)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("films")
    for i in range(6):
        write_video(root / f"{i}.mp4", squares(i))
    return root


def stored(films: Path, folder: Path, **changes: Any) -> MaskedDistillation:
    objective = create(targets=str(folder), **{**FIXED, **changes})
    rows = tuple(Row(f"{i}.mp4") for i in range(3))
    objective.check_data(Manifest(rows, films), objective.views, 3)
    return objective


def test_stored_targets_are_those_of_the_teacher_and_spare_it(films, tmp_path, monkeypatch):
    objective, batch = stored(films, tmp_path), make_batch()
    clip = batch["clips"][:, 0]
    first = objective.find_targets(clip, batch)
    plain = objective.teacher(clip)
    torch.testing.assert_close(first.tokens, plain.tokens, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(first.pooled, plain.pooled, atol=2e-3, rtol=1e-3)
    assert len(list(tmp_path.rglob("*.npy"))) == 3
    loss = objective(batch).total

    def refuse(*_: Any) -> None:
        raise AssertionError("the teacher was asked")

    again = stored(films, tmp_path)
    monkeypatch.setattr(Teacher, "forward", refuse)
    assert torch.equal(again(batch).total, loss)


def test_stored_targets_belong_to_a_teacher_a_clip_and_a_film(films, tmp_path):
    batch = make_batch()
    stored(films, tmp_path)(batch)
    (damaged, *_) = tmp_path.rglob("*.npy")
    expected = damaged.read_bytes()
    damaged.write_bytes(expected[:50])
    stored(films, tmp_path)(batch)
    assert damaged.read_bytes() == expected and len(list(tmp_path.rglob("*.npy"))) == 3
    os.utime(films / "0.mp4", ns=(1, 1))  # another film, perhaps
    stored(films, tmp_path)(batch)
    assert len(list(tmp_path.rglob("*.npy"))) == 4
    stored(films, tmp_path, net=create_net(seed=4))(batch)
    assert len(list(tmp_path.rglob("*.npy"))) == 7
    assert not list(tmp_path.rglob(".*.tmp"))


def list_flags(owner: str, settings: dict[str, Any]) -> list[str]:
    flags = []
    for name, value in settings.items():
        flags += [f"--{owner}.{name}", str(value)]
    return flags


def read_newest(run: Path) -> dict[str, torch.Tensor]:
    newest = max((run / "checkpoints").glob("step_*.pt"))
    return torch.load(newest, weights_only=True)["model"]


@for_each("targets", [False, True])
def test_a_run_that_was_cut_short_goes_on_to_the_same_bits(films, tmp_path, targets):
    """Also where some targets were stored before, and others were not."""
    out, folder = tmp_path / "run", tmp_path / "targets"
    flags = ["--objective", "masked_distillation", *list_flags("objective", SMALL)]
    flags += ["--encoder", "videoprism", *list_flags("encoder", NET), "--batch_size", "4"]
    if targets:
        flags += list_flags("objective", {**FIXED, "middle": "true", "targets": folder})
    run_pretrain(films, out, *flags)
    whole = read_newest(out)
    (out / "checkpoints/step_00000006.pt").unlink()
    for table in sorted(folder.rglob("*.npy"))[::2]:
        table.unlink()
    run_pretrain(films, out, *flags)
    again = read_newest(out)
    assert whole.keys() == again.keys()
    assert all(torch.equal(x, again[key]) for key, x in whole.items())
