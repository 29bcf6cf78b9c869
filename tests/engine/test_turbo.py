"""Dropped tokens: how many, which, when; that nothing of them is seen; and blocks that are run
again.
"""

import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.profiling.speed.pairs import saved_bytes
from ssvid import create_encoder
from ssvid.cli import parse
from ssvid.encoder import Encoder, evaluating
from ssvid.engine.classify import Classify
from ssvid.engine.mix import Mix
from ssvid.engine.token_dropping import Turbo, list_pooled_only
from ssvid.errors import UserError
from ssvid.nn.transformer import Block, recompute_blocks
from ssvid.objective import Objective
from ssvid.pretrain import pretrain
from ssvid.randomness import prepare_for_compile
from ssvid.shapes import Batch
from tests.engine.test_classify import TINY, batch_of, classifier
from tests.engine.test_run import same, weights
from tests.helpers import TINY as VIT
from tests.helpers import command, facts, for_each, metrics, run_pretrain, sentence, tells
from tests.objectives.test_contract import batch_for, build

N = 8  # tokens of a clip of 4 frames, 16 pixels


def turbo_of(objective: Objective, drop: float, *more: Any) -> Turbo:
    return Turbo(objective, objective.views, drop, *more)


def loss_of(objective: Objective, turbo: Turbo | None, batch: Batch, step: int = 0) -> Tensor:
    if turbo:
        turbo.begin(batch, step)
    return objective(batch).total.detach()


class Spy:
    """What the encoders of an objective are given: kept tokens, or None."""

    def __init__(self, objective: Objective) -> None:
        self.keeps: list[Tensor | None] = []
        for net in objective.modules():
            if isinstance(net, Encoder):
                net.register_forward_pre_hook(self.look, with_kwargs=True)

    def look(self, net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.keeps.append(kwargs.get("visible"))

    def take(self) -> list[Tensor | None]:
        taken, self.keeps = self.keeps, []
        return taken


@pytest.fixture(params=[*list_pooled_only(), "classify"])
def objective(request: pytest.FixtureRequest) -> Objective:
    return classifier() if request.param == "classify" else build(request.param)


def batch_like(objective: Objective, clips: int = 2) -> Batch:
    return {**batch_for(objective, clips), "label": torch.arange(clips) % 3}


# --- how many and which ---


@settings(deadline=None)
@given(drop=st.decimals(0, Decimal("0.9999"), places=4), n=st.integers(1, 50_000))
@example(Decimal("0.7"), 10)  # as floats (1 - 0.7) * 10 is more than 3
@example(Decimal("0.9"), 10)  # and (1 - 0.9) * 10 less than 1
def test_the_count_is_exact(drop: Decimal, n: int):
    net = classifier()
    turbo = turbo_of(net, float(drop))
    assert turbo.count_visible(n) == n - int(drop * n) >= 1  # ceil((1 - R) n) = n - floor(R n)


def test_tokens_are_distinct_and_each_clip_has_its_own():
    net = classifier(repeat=2)
    turbo, batch = turbo_of(net, 0.4), batch_of(3)
    clips, grid = torch.zeros(6, 3, 8, 32, 32), net.encoder.grid(8, 32, 32)
    turbo.begin(batch, 0)
    visible, other = turbo.choose_visible(clips, grid), turbo.choose_visible(clips, grid)
    assert visible.shape == (6, turbo.count_visible(64)) == (6, 39)
    rows = [*visible, *other]
    assert all(len(set(row.tolist())) == 39 and 0 <= row.min() and row.max() < 64 for row in rows)
    assert len({tuple(sorted(row.tolist())) for row in rows}) == 12, (
        "views, samples and calls lose the same tokens"
    )


def test_a_sample_loses_the_same_tokens_wherever_it_stands():
    """In another batch, at another place of it: so 1 and n processes see the same."""
    net, batch = classifier(repeat=2), batch_of(4)
    turbo, grid = turbo_of(net, 0.5), net.encoder.grid(4, 16, 16)
    turbo.begin(batch, 0)
    whole = turbo.choose_visible(torch.zeros(8, 3, 4, 16, 16), grid)
    part: Batch = {**batch, "index": torch.tensor([3, 1]), "epoch": torch.tensor([0, 0])}
    turbo.begin(part, 5)
    assert torch.equal(
        turbo.choose_visible(torch.zeros(4, 3, 4, 16, 16), grid), whole[[6, 7, 2, 3]]
    )
    for change in ({"seed": 1}, {"epoch": torch.ones(4, dtype=torch.int64)}):
        turbo.begin({**batch, **change}, 0)
        assert not torch.equal(turbo.choose_visible(torch.zeros(8, 3, 4, 16, 16), grid), whole)


# --- every objective of pooled features ---


def test_encoders_in_training_see_a_part_and_in_evaluation_all(objective: Objective):
    turbo = turbo_of(objective, 0.7)
    spy, batch = Spy(objective), batch_like(objective)
    with evaluating(objective):
        loss_of(objective, turbo, batch)
    dense = spy.take()
    assert dense and all(visible is None for visible in dense)
    loss_of(objective, turbo, batch)
    given = [visible for visible in spy.take() if visible is not None]
    never = type(objective).__name__ == "CoCLR"  # its sampler does not train
    assert len(given) == len(dense) - never
    assert all(visible.shape == (2, 3) for visible in given)
    assert len({str(visible.tolist()) for visible in given}) == len(given)


@pytest.mark.parametrize("of", ["dropped", "kept"])
def test_no_pixel_of_a_dropped_token_is_seen(of: str, objective: Objective):
    turbo, batch = turbo_of(objective, 0.5), batch_like(objective)
    plain = loss_of(objective, turbo, batch)

    def spoil(
        net: Encoder, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        if kwargs.get("visible") is None:
            return None
        hit = torch.zeros(len(kwargs["clip"]), N).scatter(1, kwargs["visible"], 1.0) == (
            of == "kept"
        )
        pixels = hit.view(-1, 1, 2, 2, 2).float()
        for axis, length in zip((2, 3, 4), net.tubelet, strict=True):
            pixels = pixels.repeat_interleave(length, axis)
        return args, {
            **kwargs,
            "clip": kwargs["clip"] + 7 * pixels * torch.randn(kwargs["clip"].shape),
        }

    for net in objective.modules():
        if isinstance(net, Encoder):
            net.register_forward_pre_hook(spoil, with_kwargs=True)
    assert torch.equal(loss_of(objective, turbo, batch), plain) == (of == "dropped")


def test_nothing_dropped_is_the_objective_as_it_is(objective: Objective):
    plain = loss_of(objective, None, batch_like(objective))
    turbo = turbo_of(objective, 0.0)
    assert turbo.summary == "" and not any(net._forward_pre_hooks for net in objective.modules())
    assert torch.equal(loss_of(objective, turbo, batch_like(objective)), plain)


# --- when ---


def test_evaluation_is_dense_and_knows_no_seed():
    net, batch = classifier(), batch_of(4)
    with evaluating(net):
        plain = net.logits(batch["clips"][:, 0])
    turbo = turbo_of(net, 0.5)
    losses = set()
    for seed in (0, 1):
        losses.add(float(loss_of(net, turbo, {**batch, "seed": seed})))
        with evaluating(net):
            assert torch.equal(net.logits(batch["clips"][:, 0]), plain)
    assert len(losses) == 2


def test_the_last_steps_are_dense():
    net, batch = classifier(), batch_of(2)
    plain = loss_of(net, None, batch)
    turbo = turbo_of(net, 0.5, 0.25, 10)
    assert [torch.equal(loss_of(net, turbo, batch, step), plain) for step in range(10)] == [
        False
    ] * 7 + [True] * 3
    assert tells(turbo.summary, "4", "8", "7")
    always = turbo_of(classifier(), 0.5)
    always.begin(batch, 10**9)
    assert not always.dense


def test_what_an_objective_keeps_itself_stays():
    net, batch = classifier(), batch_of(2)
    turbo, spy = turbo_of(net, 0.5), Spy(net)
    turbo.begin(batch, 0)
    own = torch.tensor([[1, 5], [0, 7]])
    net.encoder(batch["clips"][:, 0], own)
    net.encoder(batch["clips"][:, 0], None)
    net.encoder(visible=None, clip=batch["clips"][:, 0])
    assert spy.keeps[0] is None and turbo.calls == 2  # given by place, as it was
    assert all(visible is not None and visible.shape == (2, 4) for visible in spy.keeps[1:])


def test_a_forward_that_nobody_announced_is_no_dense_one():
    net, batch = classifier(), batch_of(2)
    turbo = turbo_of(net, 0.5)
    with pytest.raises(AssertionError, match=facts("begin")):
        net(batch)
    turbo.begin(batch_of(3), 0)
    with pytest.raises(AssertionError):
        net(batch)


def test_pixels_are_mixed_before_tokens_are_dropped():
    net, batch = classifier(mix=Mix(0.8, 1.0, 1.0, 0.5), smoothing=0.0), batch_of(4)
    turbo, spy = turbo_of(net, 0.5), Spy(net)
    found = loss_of(net, turbo, batch)
    targets = nn.functional.one_hot(batch["label"], 3).float()
    clips, targets = net.mix(batch["clips"][:, 0], targets, batch)
    logits = net.head(net.encoder(clips, spy.keeps[0]).pooled)
    torch.testing.assert_close(found, nn.functional.cross_entropy(logits, targets.float()).detach())


# --- in a compiled graph: run as a program, because the checks of shapes break graphs ---


def graphs() -> dict[str, Any]:
    """Fine-tuning with dropped tokens, compiled: broken graphs, and losses beside those of the
    plain objective.
    """
    torch.manual_seed(0)
    mix, losses = Mix(0.8, 1.0, 1.0, 0.5), []
    net = Classify(create_encoder("vit", **TINY), classes=3, mix=mix, head_scale=50.0, repeat=2)
    turbo, batch = turbo_of(net, 0.7, 0.5, 4), batch_of(4)
    batch["clips"] = batch["clips"].repeat(1, 2, 1, 1, 1, 1)
    prepare_for_compile()
    compiled = torch.compile(net, backend="eager")
    for step in range(4):
        batch = {**batch, "epoch": torch.full((4,), step)}
        plain = loss_of(net, turbo, batch, step)
        turbo.begin(batch, step)
        losses.append((float(plain), float(compiled(batch).total.detach())))
    found = torch._dynamo.utils.counters
    return {
        "broken": dict(found["graph_break"]),
        "graphs": found["stats"]["unique_graphs"],
        "losses": losses,
    }


@pytest.mark.slow
def test_it_breaks_no_graph_and_draws_the_same_compiled():
    ended = command("tests.engine.test_turbo")
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert (
        found["broken"] == {} and found["graphs"] == 2
    )  # with and, in the last steps, without dropping
    assert all(plain == compiled for plain, compiled in found["losses"])
    assert len({plain for plain, _ in found["losses"]}) == 4


# --- blocks run again ---


def test_blocks_run_again_change_no_number_and_keep_little():
    """Dropout too is as it was.

    What is kept is each block's input; hooks do not count the one block run again.
    """
    sides = []
    for again in (False, True):
        net = Classify(
            create_encoder("vit", **{**TINY, "depth": 6, "dropout": 0.2}),
            **{"classes": 3, "mix": Mix(0.0, 0.0, 0.0, 0.0), "head_scale": 50.0},
        )
        torch.manual_seed(0)
        for p in net.parameters():
            nn.init.normal_(p, std=0.1)
        turbo, batch = turbo_of(net, 0.25), batch_of(4)
        if again:
            recompute_blocks(net)
        torch.manual_seed(3)
        turbo.begin(batch, 0)
        loss = net(batch).total
        loss.backward()
        found = [loss.detach(), torch.rand(1), *(p.grad for p in net.parameters())]
        turbo.begin(batch, 0)
        sides.append((found, saved_bytes(lambda net=net, batch=batch: net(batch).total.backward())))
    (plain, kept), (again_, less) = sides
    assert all(torch.equal(a, b) for a, b in zip(plain, again_, strict=True))
    inputs = 6 * 4 * 6 * 24 * 4  # blocks, clips, tokens, width, bytes
    assert inputs < less < 0.25 * kept


def test_all_blocks_are_run_again():
    objective = build("infonce")
    recompute_blocks(objective)
    blocks = [part for part in objective.modules() if isinstance(part, Block)]
    assert len(blocks) == 4 and all(
        block.recompute for block in blocks
    )  # the encoder's and that of keys
    assert not Block(8, 2).recompute


# --- runs ---

TURBO = (
    "--objective",
    "two_view",
    "--objective.dim",
    "8",
    "--objective.hidden",
    "16",
    "--drop_tokens",
    "0.4",
)


def two_view(videos: Path, out: Path, *more: str) -> dict[str, Any]:
    argv = [
        "--encoder",
        "vit",
        *VIT,
        "--data",
        "folder",
        "--data.root",
        str(videos),
        "--out",
        str(out),
    ]
    argv += [
        "--steps",
        "6",
        "--batch_size",
        "4",
        "--lr",
        "0.01",
        "--lr_batch",
        "4",
        "--workers",
        "0",
    ]
    argv += ["--threads", "1", "--log_every", "1", "--checkpoint_every", "3", *more]
    return pretrain(**parse(pretrain, [*TURBO, *argv]))


@pytest.fixture(scope="module")
def done(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("turbo") / "a"
    two_view(videos, out, "--dense_last", "0.3")
    return out


@for_each("more", [(), ("--recompute", "true")])
def test_a_run_goes_on_bit_for_bit(
    done: Path, videos: Path, tmp_path: Path, capsys, more: tuple[str, ...]
):
    """Blocks may be run again from any step on."""
    copy = Path(shutil.copytree(done, tmp_path / "copy"))
    (copy / "checkpoints" / "step_00000006.pt").unlink()
    two_view(videos, copy, "--dense_last", "0.3", *more)
    assert same(weights(copy), weights(done))
    assert tells(
        capsys.readouterr().err, "5", "8", "4"
    )  # of 8 tokens an encoder sees 5, and all from step 4 on
    config = yaml.safe_load((done / "config.yaml").read_text())
    assert (config["drop_tokens"], config["dense_last"]) == (0.4, 0.3) and "recompute" not in config
    with pytest.raises(UserError, match=facts("drop_tokens", "0.4", "0.5")):
        two_view(videos, copy, "--dense_last", "0.3", "--drop_tokens", "0.5")


def test_flags_that_are_off_are_no_part_of_a_run(videos: Path, tmp_path: Path):
    """So a run begun before there were such flags goes on, and its protocol keeps its hash."""
    off = ("--drop_tokens", "0", "--dense_last", "0", "--recompute", "false")
    run_pretrain(videos, tmp_path / "a", "--steps", "2", *off)
    run_pretrain(videos, tmp_path / "b", "--steps", "2")
    a, b = (yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in "ab")
    assert (
        a.pop("out") != b.pop("out")
        and a == b
        and not {"drop_tokens", "dense_last", "recompute"} & a.keys()
    )
    a, b = ([m["loss"] for m in metrics(tmp_path / name) if "loss" in m] for name in "ab")
    assert a == b


# --- refusals ---

RESNET = (
    "--encoder",
    "resnet18_2d3d",
    "--encoder.width",
    "8",
    "--encoder.frames",
    "4",
    "--encoder.size",
    "32",
)


@for_each(
    "flags, said",
    [
        (("--drop_tokens", "1"), "--drop_tokens | 1.0 | 1"),
        (("--drop_tokens", "-0.1"), "--drop_tokens | -0.1 | 0 | 1"),
        (("--drop_tokens", "75"), "--drop_tokens | 75.0 | 0 | 1"),
        (("--dense_last", "1.5"), "--dense_last | 1.5 | 0 | 1"),
        (("--dense_last", "0.1", "--drop_tokens", "0"), "--dense_last | 0.1 | --drop_tokens"),
        (("--clip.size", "20"), "--clip.size | 20 | vit | 8 | 16 | 24"),
        (("--clip.frames", "5"), "--clip.frames | 5 | vit | 2 | 4 | 6"),
        (("--clip.frames", "1"), "--clip.frames | 1 | 2"),
    ],
)
def test_flags_that_cannot_be(flags: tuple[str, ...], said: str, videos: Path, tmp_path: Path):
    with pytest.raises(UserError, match=facts(*said.split(" | "))) as error:
        two_view(videos, tmp_path / "o", *flags)
    assert "\n" not in str(error.value) and not (tmp_path / "o" / "config.yaml").exists()


def test_objectives_that_need_all_tokens(videos: Path, tmp_path: Path):
    words = ("mae", "pooled_only", "coclr", "infonce", "mil_nce", "two_view", "ssvid.finetune")
    with pytest.raises(UserError, match=facts(*words)):
        run_pretrain(videos, tmp_path / "o", "--drop_tokens", "0.5")


def test_encoders_that_cannot_skip(videos: Path, tmp_path: Path):
    argv = [
        *TURBO,
        *RESNET,
        "--data",
        "folder",
        "--data.root",
        str(videos),
        "--out",
        str(tmp_path / "o"),
    ]
    said = sentence(
        command("ssvid.pretrain", *argv, "--steps", "1", "--batch_size", "4", "--workers", "0")
    )
    assert tells(said, "--drop_tokens", "can_skip", "resnet18_2d3d", "vit", "vit_base")
    assert not (tmp_path / "o" / "config.yaml").exists()


def test_objectives_without_blocks():
    torch.manual_seed(0)
    net = create_encoder("resnet18_2d3d", width=8, frames=4, size=32)
    with pytest.raises(UserError, match=facts("--recompute", "videoprism")):
        recompute_blocks(Classify(net, classes=2, mix=Mix(0.0, 0.0, 0.0, 0.0)))
    with pytest.raises(UserError, match=facts("--drop_tokens", "0", "1")):
        turbo_of(classifier(), float("nan"))


def test_shuffled_clips_would_lose_the_tokens_of_others(monkeypatch: pytest.MonkeyPatch):
    net = classifier()
    net.encoder.extra = nn.BatchNorm1d(3)
    turbo_of(net, 0.5)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(UserError, match=facts("--sync_bn")):
        turbo_of(net, 0.5)


if __name__ == "__main__":
    print(json.dumps(graphs()))
