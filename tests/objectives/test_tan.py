"""TAN beside what the reference case proves: two processes, what the published code cannot bear,
its stages.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

import benchmarks.profiling.speed.tan as speed
from objectives.tan import pseudo_labels
from objectives.tan.aligner import STAGE
from objectives.tan.losses import alignability_loss
from objectives.tan.objective import TAN
from ssvid import create_encoder
from ssvid.engine.distributed import join
from ssvid.errors import UserError
from ssvid.nn.timeline import Timeline, select_positions
from ssvid.shapes import Batch
from ssvid.weights.tan import LAYOUTS
from tests.engine.pairs import leave, same_as_two
from tests.helpers import facts, for_each
from tests.objectives.test_contract import batch_for

FORMS: dict[str, dict[str, Any]] = {
    "first": {},
    "positions": {"text_positions": True, "alignability": True},
    "keep": {"cotrain": "keep"},
    "u": {"cotrain": "u", "threshold": 0.0},
}


def small(**change: Any) -> TAN:
    torch.manual_seed(0)
    return TAN(**{**TAN.tiny_kwargs, **change})


def batch_of(net: TAN, windows: int = 4) -> Batch:
    """In the net's precision; sentences are moved apart from where the teacher may find them."""
    batch = batch_for(net, clips=windows)
    batch["features"] = batch["features"].to(net.aligner.positions)
    return batch


def changed(net: TAN) -> TAN:
    """The teacher moves away, so that there is something to agree about."""
    if net.teacher is not None:
        draws = torch.Generator().manual_seed(3)
        for p in net.teacher.parameters():
            p.data += 0.05 * torch.randn(p.shape, generator=draws, dtype=p.dtype)
    return net


def one_step(form: str) -> dict[str, torch.Tensor]:
    """Loss, gradients and state after a step in float64, as one process or as several."""
    world = join("cpu", timeout_s=60.0)
    net = changed(small(**FORMS[form]).double()).train()
    batch, share = batch_of(net), 4 // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)
    part: dict[str, Any] = {
        k: v[mine] if isinstance(v, torch.Tensor | list) else v for k, v in batch.items()
    }
    own = max(map(len, part["sentences"]))  # a process pads to its own longest window
    part |= {key: part[key][:, :own] for key in ("spans_s", "span_fractions", "text_padding_mask")}
    module = (
        DistributedDataParallel(net) if world.size > 1 else net
    )  # kept: without it nothing is averaged
    loss = module(part)
    loss.total.backward()
    net.after_step(0.5)
    mean = loss.total.detach().clone()
    if world.size > 1:
        torch.distributed.all_reduce(mean)
    found = {f"grad/{n}": p.grad for n, p in net.named_parameters() if p.requires_grad}
    return {
        "loss": mean / world.size,
        **found,
        **{f"state/{n}": x for n, x in net.state_dict().items()},
    }


@pytest.mark.parametrize("form", FORMS)
def test_two_processes_are_one(form: str, tmp_path: Path):
    """Rows are gathered with gradient and padded alike, and positions begin at the same place."""
    same_as_two(one_step(form), tmp_path / "two.pt", "tests.objectives.test_tan", form)


@for_each("settings", [{"random_start": False}, {"cotrain": "keep"}])
def test_the_plain_step_of_the_benchmark_is_ours(settings: dict[str, Any]):
    sizes = {"dim": 32, "heads": 4, "video_layers": 2, "joint_layers": 3, "options": {"dim": 16}}
    ours = changed(speed.objective(windows=3, **sizes, **settings).double())
    batch = speed.windows(3)
    batch |= {key: batch[key].double() for key in ("features", "spans_s", "span_fractions")}  # type: ignore[literal-required]
    loss = ours(batch).total
    loss.backward()
    mine = {name: p.grad.clone() for name, p in ours.named_parameters() if p.grad is not None}
    ours.zero_grad()
    theirs = speed.Plain(ours)(batch)
    theirs.backward()
    torch.testing.assert_close(loss, theirs, rtol=1e-12, atol=0)
    for name, grad in mine.items():
        torch.testing.assert_close(
            grad, ours.get_parameter(name).grad, rtol=1e-8, atol=1e-12, msg=name
        )


def test_what_only_fills_up_changes_nothing():
    """Seconds past the end and sentences that nobody said: the others' vectors stay as they are."""
    net = small().double().eval()
    batch = batch_of(net)
    batch["video_padding_mask"] = torch.arange(net.seconds).expand(4, -1) >= net.seconds - 3
    most = max(map(len, batch["sentences"]))
    text = net.embed_sentences(batch["sentences"], most)
    hidden = batch["features"].clone()
    hidden[:, -3:] = 7.0
    strange = torch.where(batch["text_padding_mask"][..., None], 5.0, text)
    one = net.aligner(
        batch["features"], batch["video_padding_mask"], text, batch["text_padding_mask"]
    )
    two = net.aligner(hidden, batch["video_padding_mask"], strange, batch["text_padding_mask"])
    assert not torch.equal(one.joint_video[:, :, -3:], two.joint_video[:, :, -3:])
    for name in ("video", "joint_video"):
        torch.testing.assert_close(getattr(one, name)[:, :, :-3], getattr(two, name)[:, :, :-3])
    said = ~batch["text_padding_mask"]
    torch.testing.assert_close(
        one.joint_text.transpose(1, 2)[said], two.joint_text.transpose(1, 2)[said]
    )


def test_where_no_label_is_positive_the_head_learns_nothing():
    """Published: infinite, or not a number."""
    net = small(cotrain="keep")
    batch = batch_of(net)
    batch["span_fractions"] = torch.full_like(
        batch["span_fractions"], 0.05
    )  # all in the first fifth
    loss = net(batch)
    loss.total.backward()
    assert float(loss.parts["bce"]) == 0 and loss.total.isfinite()
    assert float(net.aligner.head.weight.grad.abs().max()) == 0
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    batch["span_fractions"] = torch.full_like(batch["span_fractions"], 0.5)
    assert float(net(batch).parts["bce"].detach()) > 0


def test_positive_and_negative_labels_weigh_alike():
    label = torch.tensor([True, False, False, False, False])
    told_of = torch.tensor([True, True, True, True, False])
    chosen = pseudo_labels.Alignable(torch.zeros(5), told_of, label, told_of)
    bce, correct = alignability_loss(torch.zeros(5), chosen)
    torch.testing.assert_close(
        bce, torch.tensor(2.0).log() * 6 / 4
    )  # one positive weighs as the three negatives
    assert correct == 0.75


@for_each("settings", [{}, {"cotrain": "keep"}, {"cotrain": "i"}])
def test_a_sentence_without_a_second_is_not_asked(settings: dict[str, Any]):
    """Published: the run ends once a threshold leaves some out."""
    net = small(**settings)
    batch = batch_of(net)
    batch["spans_s"][1, 0] = torch.tensor([2.3, 2.7])  # no whole second begins in it
    loss = net(batch)
    loss.total.backward()
    assert (
        loss.total.isfinite() and float(loss.parts["nce"]) < 100
    )  # a missing positive would count 60000
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@for_each("said", [["one"], ["one", "two"]])
@for_each("settings", [{}, {"cotrain": "keep"}, {"cotrain": "u"}])
def test_a_batch_of_one_window_has_a_loss(settings: dict[str, Any], said: list[str]):
    net = small(**settings)
    batch = batch_of(net, 1)
    batch["sentences"] = [said]
    for key in ("spans_s", "span_fractions", "text_padding_mask"):
        batch[key] = batch[key][:, : len(said)]  # type: ignore[literal-required]
    loss = net(batch)
    loss.total.backward()
    assert loss.total.isfinite()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_positions_begin_by_the_coordinates_of_the_first_window():
    net = small().train()
    batch = batch_of(net)
    drawn = set()
    for index in range(40):
        batch["index"] = torch.arange(4) + index
        most, starts = net.agree_on_sizes(batch)
        assert net.agree_on_sizes(batch)[1] == starts and most == 5
        drawn.add(starts[:2])
    assert {s for s, _ in drawn} == {s for _, s in drawn} == set(range(net.seconds // 2)) and len(
        drawn
    ) > 4
    assert net.eval().agree_on_sizes(batch)[1] == (0, 0, 0)
    assert small(cotrain="keep").train().agree_on_sizes(batch)[1] == (0, 0, 0)


def test_windows_are_found_and_keep_off_the_ends():
    """A sentence of three seconds; the teacher likes 4, 5, 6, then one that hangs over the first
    second.
    """
    liked = torch.full((1, 8, 2), -1.0)
    liked[0, 4:7, 0] = liked[0, 0:2, 1] = 1.0
    spoken = torch.zeros(1, 8, 2, dtype=torch.bool)
    spoken[0, 0:3, 0] = spoken[0, 1:3, 1] = True
    none = torch.zeros(1, 8, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.bool)
    picked = pseudo_labels.pick(liked / 0.07, spoken, *none, 0.07)
    assert picked.box[0, :, 0].nonzero().flatten().tolist() == [4, 5, 6]
    assert picked.box[0, :, 1].nonzero().flatten().tolist() == [
        1
    ]  # two seconds from 0, of which 0 is never labelled
    agreed = pseudo_labels.combine(picked, picked, spoken, none[1], "keep")
    assert torch.equal(agreed.targets, picked.box) and agreed.agree.all()
    other = picked._replace(box=picked.box.flip(1))
    assert torch.equal(
        pseudo_labels.combine(picked, other, spoken, none[1], "keep").targets[..., 0],
        spoken[..., 0],
    )


def test_one_second_belongs_to_one_sentence():
    box = torch.ones(1, 4, 2, dtype=torch.bool)
    picked = pseudo_labels.Pick(box.float(), box, torch.ones(1, 2), torch.ones(1, 2))
    spoken = torch.tensor([[[1, 0], [1, 0], [0, 1], [0, 1]]]).bool()
    agreed = pseudo_labels.combine(
        picked, picked, spoken, torch.zeros(1, 2, dtype=torch.bool), "keep"
    )
    assert agreed.targets[..., 0].all()
    assert torch.equal(
        agreed.targets[..., 1], spoken[..., 1]
    )  # left with none, it has its own again


def test_the_teacher_follows_and_gets_no_gradient():
    net = small(cotrain="keep", momentum=0.75)
    before = {name: p.clone() for name, p in net.teacher.named_parameters()}
    for p in net.aligner.parameters():
        p.data += 1
    net(batch_of(net)).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in net.teacher.parameters())
    assert all(torch.equal(p, before[n]) for n, p in net.teacher.named_parameters()), (
        "forward moved it"
    )
    net.after_step(0.0)
    for name, p in net.teacher.named_parameters():
        step = 0.25 if net.aligner.get_parameter(name).requires_grad else 0.0
        torch.testing.assert_close(p, before[name] + step, rtol=1e-4, atol=1e-6)


def test_the_second_stage_begins_with_the_first(tmp_path: Path):
    """Both copies; the head, which the first had not, is new in both."""
    first = small()
    layout = next(one for one in LAYOUTS if one.name == "tan")
    file = tmp_path / "epoch19.pth.tar"
    torch.save({"epoch": 19, "state_dict": layout.to_theirs(first.state_dict())}, file)
    torch.manual_seed(5)
    second = TAN(**TAN.tiny_kwargs, cotrain="keep", init=str(file))
    for name, value in first.aligner.state_dict().items():
        for copy in (second.aligner, second.teacher):
            assert torch.equal(copy.state_dict()[name], value), name
    assert torch.equal(second.aligner.head.weight, second.teacher.head.weight)
    back = TAN(**TAN.tiny_kwargs, init=str(file))
    assert back.aligner.head is None
    for change, path in (({"dim": 32}, file), ({}, tmp_path)):
        with pytest.raises(UserError, match=facts(str(path))):
            TAN(**{**TAN.tiny_kwargs, **change}, init=str(path))


def test_of_policy_bce_the_head_alone_is_trained():
    net = small(policy="bce", alignability=True)
    loss = net(batch_of(net))
    loss.total.backward()
    assert {n for n, p in net.named_parameters() if p.grad is not None} == {
        "aligner.head.weight",
        "aligner.head.bias",
    }
    assert torch.equal(loss.total.detach(), loss.parts["bce"])


def test_similarities_of_a_window_and_of_a_long_video():
    net = small(alignability=True).eval()
    said, features = ["a b", "c"], torch.randn(1, net.seconds, 8)
    found = net.similarities(features, said)
    K, T = 2, net.seconds
    assert (
        found.joint.shape == (3, K, T)
        and found.dual.shape == (2, K, T)
        and found.alignable.shape == (3, K)
    )
    hidden = torch.zeros(1, T, dtype=torch.bool), torch.zeros(1, K, dtype=torch.bool)
    seen = net.aligner(features, hidden[0], net.embed_sentences([said], K), hidden[1])
    cosine = torch.cosine_similarity(seen.joint_video[0, 1, 3], seen.joint_text[0, 1, 1], dim=0)
    torch.testing.assert_close(found.joint[1, 1, 3], cosine / 0.07)
    cosine = torch.cosine_similarity(seen.video[0, 0, 3], seen.text[0, 1], dim=0)
    torch.testing.assert_close(found.dual[0, 1, 3], cosine / 0.07)
    torch.testing.assert_close(
        found.alignable[STAGE], net.aligner.head(seen.joint_text[0, STAGE])[..., 0]
    )
    long = torch.randn(1, 3 * T, 8)
    stretched = net.similarities(long, said)
    assert torch.equal(stretched.dual, net.similarities(long, said, interpolate_from=T).dual)
    assert not torch.allclose(
        stretched.dual, net.similarities(long, said, interpolate_from=3 * T).dual
    )
    assert net.training is False
    for features, said in ((torch.randn(1, T, 9), ["a"]), (long, [])):
        with pytest.raises(UserError, match=facts("8")):
            net.similarities(features, said)


def test_positions_past_the_table_are_a_sentence():
    table = torch.arange(6.0)[:, None]
    assert select_positions(table, 3, 2).flatten().tolist() == [2, 3, 4]
    assert select_positions(table, 4, interpolate_from=2).flatten().tolist() == [0, 0.25, 0.75, 1]
    with pytest.raises(UserError, match=facts("6")):
        select_positions(table, 5, 2)
    with pytest.raises(UserError, match=facts("10", "4")):
        Timeline(10, 4, 1)


def test_the_picture_frames_what_is_said_and_marks_the_best():
    net = small().eval()
    batch = batch_of(net, 2)
    picture = net.visualize(batch)["alignment"]
    K = len(batch["sentences"][0])
    assert picture.shape == (3, 8 * K, 8 * net.seconds)
    best = net.similarities(batch["features"][:1], batch["sentences"][0]).joint[-1].argmax(1)
    for k in range(K):
        red = picture[:, 8 * k + 4, 4::8] == torch.tensor([230, 30, 30], dtype=torch.uint8)[:, None]
        assert red.all(0).nonzero().flatten().tolist() == [int(best[k])]
        first = int(batch["spans_s"][0, k, 0])
        assert picture[:, 8 * k + 3, 8 * first].tolist() == [40, 200, 80]


def test_what_it_cannot_be_built_with_is_a_sentence():
    for change, words in (
        ({"joint_layers": 2, "alignability": True}, ("3",)),
        ({"tower": "bert"}, ("--objective.text",)),
        ({"tower": "bert", "words": "a.txt"}, ("bert", "a.txt")),
        ({"momentum": 2.0}, ("--momentum",)),
        ({"dim": 15}, ("15",)),
    ):
        with pytest.raises(UserError, match=facts(*words)):
            small(**change)
    with pytest.raises(UserError, match=facts("--encoder")):
        TAN(create_encoder("vit", dim=8, depth=1, heads=1), **TAN.tiny_kwargs)


if __name__ == "__main__":
    leave(one_step, sys.argv[1:])
