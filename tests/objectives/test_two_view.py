"""`two_view` beyond the contract: its nine losses by their papers' formulas, its teachers, queue
and centre.
"""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from objectives.two_view.objective import METHODS, TwoView
from ssvid import create_encoder
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.shapes import Batch, Row
from tests.helpers import facts, for_each
from tests.objectives.test_contract import LOSSES, batch_for

SMALL = {"dim": 24, "depth": 2, "heads": 2, "patch": 8, "frames": 4, "size": 16}
TAUGHT = sorted(name for name, method in METHODS.items() if "momentum" in method.numbers)


def build(name: str, seed: int = 0, **more) -> TwoView:
    torch.manual_seed(seed)
    small = {"dim": 8, "hidden": 16, **LOSSES.get(name, {})}
    return TwoView(create_encoder("vit", **SMALL), loss=name, **{**small, **more})


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


# --- the losses, of fixed rows: `a`, `b` predictions of the two clips, `s`, `t` what the other
# clip's should be


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(1, keepdim=True).sqrt()


def ntxent(a: Tensor, b: Tensor, *_) -> Tensor:
    """SimCLR's equation 1 over all 2B rows."""
    z = unit(torch.cat([a, b]))
    B, total = len(a), 0.0
    for i in range(2 * B):
        others = sum((z[i] @ z[k] / 0.1).exp() for k in range(2 * B) if k != i)
        total = total - ((z[i] @ z[(i + B) % (2 * B)] / 0.1).exp() / others).log()
    return total / (2 * B)


def dcl(a: Tensor, b: Tensor, *_) -> Tensor:
    """Its equation 6: the positive is not in the denominator."""
    z = unit(torch.cat([a, b]))
    B, total = len(a), 0.0
    for i in range(2 * B):
        others = sum((z[i] @ z[k] / 0.1).exp() for k in range(2 * B) if k % B != i % B)
        total = total - z[i] @ z[(i + B) % (2 * B)] / 0.1 + others.log()
    return total / (2 * B)


def moco(a: Tensor, b: Tensor, s: Tensor, t: Tensor, net: TwoView) -> Tensor:
    """Its equation 1, either clip the query."""
    total = 0.0
    for query, key in ((unit(a), unit(t)), (unit(b), unit(s))):
        own = ((query * key).sum(1) / 0.2).exp()
        total = (
            total
            - (own / (own + (query @ net.loss.queue.keys.T / 0.2).exp().sum(1))).log().mean() / 2
        )
    return total


def cosine(a: Tensor, b: Tensor, s: Tensor, t: Tensor, _) -> Tensor:
    """SimSiam's equation 2; BYOL's is 4 + 4 times it."""
    return -(unit(a) * unit(t)).sum(1).mean() / 2 - (unit(b) * unit(s)).sum(1).mean() / 2


def barlow(a: Tensor, b: Tensor, *_) -> Tensor:
    a, b = ((x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in (a, b))
    c = a.T @ b / len(a)
    off = c.square().sum() - c.diagonal().square().sum()
    return (1 - c.diagonal()).square().sum() + 5e-3 * off


def vicreg(a: Tensor, b: Tensor, *_) -> Tensor:
    """As the authors' code weighs it: the distance is a mean over dimensions too, the variance of
    the two a mean.
    """
    total = 25 * (a - b).square().mean()
    for x in (a, b):
        cov = (x - x.mean(0)).T @ (x - x.mean(0)) / (len(x) - 1)
        total = total + 25 / 2 * (1 - (cov.diagonal() + 1e-4).sqrt()).clamp_min(0).mean()
        total = total + (cov.square().sum() - cov.diagonal().square().sum()) / len(cov)
    return total


def dino(a: Tensor, b: Tensor, s: Tensor, t: Tensor, net: TwoView) -> Tensor:
    total = 0.0
    for pred, target in ((a, t), (b, s)):
        sharp = ((target - net.loss.loss.center[0]) / 0.04).softmax(1)
        total = total - (sharp * (pred / 0.1).log_softmax(1)).sum(1).mean() / 2
    return total


def swav(a: Tensor, b: Tensor, s: Tensor, t: Tensor, net: TwoView) -> Tensor:
    scores = [unit(x) @ net.loss.prototypes.weight.T for x in (a, b)]
    total = 0.0
    for pred, other in (scores, scores[::-1]):
        codes = (other.detach() / 0.05).exp()  # B K
        for _ in range(3):  # every prototype as much, then every clip as much
            codes = codes / codes.sum(0, keepdim=True)
            codes = codes / codes.sum(1, keepdim=True)
        total = total - (codes * (pred / 0.1).log_softmax(1)).sum(1).mean() / 2
    return total


FORMULAS = {"byol": cosine, "simsiam": cosine, "ntxent": ntxent, "dcl": dcl, "moco": moco}
FORMULAS |= {"barlow": barlow, "vicreg": vicreg, "dino": dino, "swav": swav}


def test_the_loss_is_the_papers(name: str):
    net = build(name).double()
    if name == "dino":
        net.loss.loss.center.copy_(torch.linspace(-1, 1, 12, dtype=torch.float64)[None, None])
    a, b, s, t = torch.randn(4, 6, 12 if name == "dino" else 8, dtype=torch.float64)
    a.requires_grad_()
    got, want = net.loss((a, b), (s, t), torch.arange(6)), FORMULAS[name](a, b, s, t, net)
    torch.testing.assert_close(
        got, want, rtol=1e-5, atol=1e-9
    )  # lightly keeps dino's 0.04 in float32
    for left, right in zip(*(torch.autograd.grad(loss, a) for loss in (got, want)), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-9)


@for_each("name", ["ntxent", "dcl"])
def test_a_video_that_is_twice_in_a_batch_is_no_negative_of_itself(name: str):
    a, b = torch.randn(2, 4, 8, requires_grad=True)
    compare = build(name).loss
    loss = compare((a, b), (b, a), torch.tensor([5, 8, 5, 9]))
    first = torch.tensor([0, 1, 3])
    distinct = (a[first], b[first])
    torch.testing.assert_close(loss, compare(distinct, distinct, torch.arange(3)))
    alone = compare((a, b), (b, a), torch.tensor([5, 5, 5, 5]))
    (gradient,) = torch.autograd.grad(alone, a)
    assert alone == 0 and not gradient.any()


def test_a_batch_of_more_clips_than_videos_needs_a_loss_without_negatives(name: str):
    data = Manifest(tuple(Row(f"{i}.mp4", video_id=str(i)) for i in range(3)), Path("clips"))
    net = build(name)
    if name in ("ntxent", "dcl"):
        net.check_data(data, net.views, 3)
        with pytest.raises(UserError, match=facts("--batch_size", "4", "3", name)):
            net.check_data(data, net.views, 4)
    elif name == "moco":
        with pytest.raises(UserError, match=facts("--objective.queue", "3")):
            net.check_data(data, net.views, 4)
    else:
        net.check_data(data, net.views, 4)


def test_no_gradient_reaches_what_simsiam_aims_at():
    a, b, s, t = torch.randn(4, 6, 8, requires_grad=True)
    assert torch.autograd.grad(
        build("simsiam").loss((a, b), (s, t), torch.arange(6)), (s, t), allow_unused=True
    ) == (None, None)


def test_numbers_are_the_published_ones_or_the_users():
    shapes = {}
    for name in (
        "ntxent",
        "moco",
        "byol",
        "simsiam",
        "swav",
        "dino",
    ):  # barlow and vicreg: 200 million weights
        net = build(name, dim=None, hidden=None)
        shapes[name] = [
            tuple(p.shape)
            for part in (net.project, net.predict)
            for p in part.parameters()
            if p.ndim > 1
        ]
    assert shapes["ntxent"] == [(24, 24), (128, 24)] == shapes["moco"]
    assert shapes["byol"] == [(4096, 24), (256, 4096), (4096, 256), (256, 4096)]
    assert shapes["simsiam"] == [(24, 24), (24, 24), (2048, 24), (512, 2048), (2048, 512)]
    assert shapes["swav"] == [(2048, 24), (128, 2048)]
    assert shapes["dino"] == [(2048, 24), (2048, 2048), (256, 2048), (12, 1), (12, 256)]
    length = [n for n, p in build("dino").project.named_parameters() if not p.requires_grad]
    assert length == ["last_layer.parametrizations.weight.original0"]
    assert METHODS["barlow"].numbers == METHODS["vicreg"].numbers == {"hidden": 8192, "dim": 8192}
    assert build("moco", temperature=0.3).loss.loss.temperature == 0.3


@for_each(
    "wrong, said",
    [
        ({"name": "ntxnet"}, "two_view | ntxnet | ntxent | SimCLR | dcl"),
        ({"name": "x"}, "ntxent | SimCLR | dcl | moco | byol"),
        ({"name": "byol", "temperature": 0.1}, "byol"),
        ({"name": "ntxent", "momentum": 0.9}, "ntxent | momentum"),
        ({"name": "dino", "queue": 8}, "dino | queue"),
        ({"name": "moco", "momentum": 1.5}, "--momentum | 1.5"),
        ({"name": "moco", "dim": 0}, "--dim | 0"),
        ({"name": "moco", "max_gap_s": -1.0}, "--max_gap_s | -1"),
    ],
)
def test_what_a_loss_has_not_is_refused(wrong: dict, said: str):
    with pytest.raises(UserError, match=facts(*said.split(" | "))):
        build(**wrong)


def test_one_clip_alone_is_refused(name: str):
    with pytest.raises(UserError, match=facts("two_view")):
        net = build(name)
        net(batch_for(net, clips=1))


def test_distance_of_the_clips_goes_to_the_loader():
    assert (
        build("ntxent").views.max_gap_s is None
        and build("ntxent", max_gap_s=0.5).views.max_gap_s == 0.5
    )
    assert len(build("ntxent").views.clips) == 2 and build("ntxent").views.group_of_clip == (0, 1)


def test_either_clip_matters_alike(name: str):
    """Both ways: with the clips exchanged the loss is the same."""
    net = build(name)
    batch = batch_for(net)
    exchanged = {**batch, "clips": batch["clips"].flip(1)}
    torch.testing.assert_close(net(exchanged).total, net(batch).total)
    other = {
        **batch,
        "clips": torch.cat([batch["clips"][:, :1], batch["clips"][:, 1:].roll(1, 0)], 1),
    }
    assert not torch.allclose(net(other).total, net(batch).total)


def step(net: TwoView, batches: list[Batch], progress: float = 0.5, rate: float = 0.05) -> None:
    net.zero_grad()
    for batch in batches:
        (net(batch).total / len(batches)).backward()
    with torch.no_grad():
        for p in net.parameters():
            p -= rate * (0 if p.grad is None else p.grad)
    net.after_step(progress)


def pairs(net: TwoView) -> list[tuple[Tensor, Tensor]]:
    assert net.teacher
    mine = [*net.encoder.parameters(), *net.project.parameters()]
    return list(
        zip(
            mine,
            [*net.teacher.encoder.parameters(), *net.teacher.project.parameters()],
            strict=True,
        )
    )


@for_each("name", TAUGHT)
def test_the_teacher_follows_once_a_step(name: str):
    """Of a momentum m, moco's share of the student is 1 - m, the others' falls to none. --init
    restarts it.
    """
    net = build(name, momentum=0.9)
    batch = batch_for(net)
    with torch.no_grad():
        net.encoder.load_state_dict(build(name, seed=3).encoder.state_dict())  # as --init does
    net.on_weights_loaded()
    assert all(torch.equal(student, teacher) for student, teacher in pairs(net))
    assert not any(p.requires_grad for p in net.teacher.parameters())
    before = [teacher.clone() for _, teacher in pairs(net)]
    step(net, [batch, batch], progress=0.25)
    share = 0.1 if name == "moco" else 0.1 * (1 + math.cos(math.pi * 0.25)) / 2
    assert any(not torch.equal(student, teacher) for student, teacher in pairs(net))
    for (student, teacher), old in zip(pairs(net), before, strict=True):
        torch.testing.assert_close(teacher, (1 - share) * old + share * student)
    before = [teacher.clone() for _, teacher in pairs(net)]
    step(net, [batch], progress=1.0)
    still = [
        torch.equal(teacher, old) for (_, teacher), old in zip(pairs(net), before, strict=True)
    ]
    assert all(still) == (name != "moco")


@for_each("name", TAUGHT)
def test_the_target_is_the_teachers(name: str):
    net = build(name)
    before = net(batch_for(net)).total
    with torch.no_grad():
        [p.normal_() for p in net.teacher.encoder.parameters()]
    assert not torch.allclose(net(batch_for(net)).total, before)


def test_keys_are_queued_when_the_step_is_done():
    net = build("moco")
    batch = batch_for(net)
    before = net.loss.queue.keys.clone()
    keys = F.normalize(net.teacher(batch["clips"][:, 1]), dim=1)
    step(net, [batch, batch])
    assert int(net.loss.queue.pushed) == 4 and not net.loss.pending_keys
    torch.testing.assert_close(net.loss.queue.keys, torch.cat([keys, keys, before[4:]]))
    net.eval()
    net(batch)
    with torch.no_grad():
        net.train()(batch)
    assert not net.loss.pending_keys  # a look at the loss is no step


def test_the_centre_is_moved_when_the_step_is_done():
    net = build("dino")
    one, two = batch_for(net), batch_for(net)
    two["clips"] = two["clips"].flip(-1)
    old = torch.rand(1, 1, 12)
    net.loss.loss.center.copy_(old)
    outs = torch.cat(
        [net.teacher(batch["clips"][:, view]) for batch in (one, two) for view in (0, 1)]
    )
    net(one)
    assert torch.equal(net.loss.loss.center, old)
    net.loss.pending_centres.clear()
    step(net, [one, two])
    torch.testing.assert_close(net.loss.loss.center[0, 0], 0.9 * old[0, 0] + 0.1 * outs.mean(0))


def test_prototypes_are_of_length_one():
    net = build("swav")
    for _ in range(2):
        torch.testing.assert_close(net.loss.prototypes.weight.norm(dim=1), torch.ones(6))
        step(net, [batch_for(net)], rate=1.0)


def test_dino_keeps_its_teacher_too(name: str):
    assert list(build(name).exported_encoders()) == (
        ["encoder", "teacher"] if name == "dino" else ["encoder"]
    )


def test_mixed_precision_compares_in_float32(name: str):
    net, seen = build(name), []
    net.loss.register_forward_hook(lambda module, args, out: seen.extend([*args[0], *args[1], out]))
    with torch.autocast("cpu", torch.bfloat16):
        assert net(batch_for(net)).total.isfinite()
    assert {x.dtype for x in seen} == {torch.float32}
