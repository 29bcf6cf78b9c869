import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.probes import attentive, attentive_math
from benchmarks.probes.attentive import (
    PRESETS,
    Attentive,
    clip_gradients,
    draw_dropout_mask,
    schedule_rate,
)
from benchmarks.probes.attentive_math import Form, compute_logits, initialise
from ssvid.errors import UserError
from ssvid.randomness import permutation
from ssvid.registry import probes
from ssvid.shapes import Frozen
from ssvid.statistics import wilson
from tests.helpers import facts

DIM, TOKENS, CLASSES = 16, 5, 4
SMALL = {
    "videoglue": {"width": 16, "heads": 4, "min_steps": 150, "epochs": 1, "batch": 64},
    "blocks4": {
        "heads": 4,
        "rates": (1e-3, 3e-3),
        "weight_decays": (0.01,),
        "min_steps": 80,
        "batch": 64,
        "epochs": 1,
    },
    "house": {"min_steps": 150, "epochs": 1},
}


def task(rows, seed, apart=6.0):
    """The class stands in one token of a clip, in a place of its own; the others are noise."""
    centres = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(9)) * apart
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(rows) % CLASSES
    x = torch.randn(rows, TOKENS, DIM, generator=draw)
    place = torch.randint(TOKENS, (rows,), generator=draw)
    x[torch.arange(rows), place] += centres[y]
    return Frozen({"tokens@last": x}, y, [str(i) for i in range(rows)])


def splits(apart=6.0, train=240):
    return task(train, 0, apart), task(80, 1, apart), task(400, 2, apart)


@pytest.mark.parametrize("preset", PRESETS)
def test_separable_is_solved_and_attention_is_where_the_class_stands(preset):
    train, val, test = splits()
    got = Attentive(preset=preset, **SMALL[preset]).run(train, val, test, 0)
    assert got.metrics["test/top1"] >= 0.99
    assert got.chosen["val/top1"] == max(setting["val/top1"] for setting in got.grid)
    assert len(got.grid) == len(Attentive(preset=preset, **SMALL[preset]).grid)
    torch.testing.assert_close(got.attention.sum(1), torch.ones(400))
    loud = test.feats["tokens@last"].norm(dim=-1).argmax(1)
    assert preset == "blocks4" or (got.attention.argmax(1) == loud).float().mean() > 0.8


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("spoil", ["noise", "labels"])
def test_chance_on_noise_and_on_shuffled_labels(preset, spoil):
    train, val, test = splits(0.0 if spoil == "noise" else 6.0, train=160)
    if spoil == "labels":
        train, val, test = (
            split._replace(labels=split.labels[permutation(7, i, len(split.labels))])
            for i, split in enumerate((train, val, test))
        )
    how = SMALL[preset] | {"min_steps": 40}
    low, high = wilson(1 / CLASSES, 400, 0.999)
    assert (
        low < Attentive(preset=preset, **how).run(train, val, test, 0).metrics["test/top1"] < high
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_heads_trained_together_are_those_that_torch_trains_alone(preset):
    """Each head of a grid against autograd on it alone and torch's own AdamW: dropout, clipping, decay, warm-up."""
    how = SMALL[preset] | {
        "rates": (1e-3, 1e-2),
        "weight_decays": (0.0, 0.5),
        "min_steps": 6,
        "batch": 50,
        "warmup": 0.3,
    }
    probe, x, y = Attentive(preset=preset, **how), *task(90, 0)[:2]
    x = x["tokens@last"]
    form = probe.build_form(x, CLASSES)
    stacks = probe.fit(x, y, form, 3)
    places = [(stack, r) for stack in stacks for r in range(len(stack["token"]))]
    assert len(stacks) == (1 if form.depth == 1 else 4) and len(places) == len(probe.grid) == 4
    told = probe.protocol
    for (stack, r), (rate, decay) in zip(places, probe.grid, strict=True):
        alone = {name: value.requires_grad_() for name, value in initialise(form, 1, 3).items()}
        shrink = [
            v
            for n, v in alone.items()
            if told["decay_all"] or n in ("token", "wq", "wk", "wv", "wo", "wc")
        ]
        rest = [v for v in alone.values() if not any(v is s for s in shrink)]
        groups = [{"params": shrink, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], eps=told["adam_eps"])
        for step in range(6):
            epoch, i = divmod(step, 2)
            rows = permutation(3, epoch, 90)[i * 50 : (i + 1) * 50]
            mask = draw_dropout_mask(3, epoch, rows, DIM, told["dropout"], x.device)
            scores, _ = compute_logits(alone, x, rows, form, mask)
            optimizer.zero_grad()
            F.cross_entropy(scores[0], y[rows], label_smoothing=told["smoothing"]).backward()
            if told["clip"]:
                torch.nn.utils.clip_grad_norm_(alone.values(), told["clip"])
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule_rate(step, 6, 0.3)
            optimizer.step()
        for name, value in alone.items():
            torch.testing.assert_close(
                stack[name][r], value[0], rtol=1e-4, atol=2e-5, msg=f"{name} {rate} {decay}"
            )


def test_the_schedule_and_the_clipping_are_those_of_the_text():
    assert [schedule_rate(s, 100, 0.0) for s in (0, 50)] == [1.0, 0.5]
    top = 0.5 + 0.5 * math.cos(math.pi * 0.1)
    assert (
        schedule_rate(0, 100, 0.1) == 0
        and schedule_rate(5, 100, 0.1) == top / 2
        and schedule_rate(10, 100, 0.1) == top
    )
    stack = {"a": torch.zeros(2, 3, requires_grad=True), "b": torch.zeros(2, 1, requires_grad=True)}
    stack["a"].grad, stack["b"].grad = (
        torch.tensor([[3.0, 0, 0], [0.3, 0, 0]]),
        torch.tensor([[4.0], [0.4]]),
    )
    clip_gradients(stack, 1.0)
    torch.testing.assert_close(stack["a"].grad, torch.tensor([[0.6, 0, 0], [0.3, 0, 0]]))
    torch.testing.assert_close(stack["b"].grad, torch.tensor([[0.8], [0.4]]))


def test_dropout_is_a_clips_own_and_anew_each_epoch():
    rows = torch.arange(200)
    mask = draw_dropout_mask(0, 1, rows, 50, 0.25, rows.device)
    assert torch.equal(mask[30:40], draw_dropout_mask(0, 1, rows[30:40], 50, 0.25, rows.device))
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert mask.mean() == pytest.approx(1.0, abs=0.03)
    assert not torch.equal(mask, draw_dropout_mask(0, 2, rows, 50, 0.25, rows.device))


@pytest.mark.parametrize("preset", ["house", "blocks4"])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(preset, monkeypatch):
    probe, x, y = Attentive(preset=preset, **SMALL[preset]), *task(30, 0)[:2]
    x, rows = x["tokens@last"], torch.arange(20)
    form, found = probe.build_form(x, CLASSES), []
    for kept in (2**26, 17 * DIM * 3 * TOKENS * 3):  # three clips of blocks at a time
        monkeypatch.setattr(attentive_math, "SAVED_NUMBERS", kept)
        monkeypatch.setattr(attentive_math, "AT_ONCE", kept // 2000)
        stack = probe.create_heads(form, 0, 2)
        probe.compute_gradients([stack], x, y, rows, form, 0, 0)
        found.append({name: value.grad for name, value in stack.items()})
    for name, whole in found[0].items():
        torch.testing.assert_close(found[1][name], whole, rtol=1e-4, atol=1e-6)


def test_half_precision_on_disk_is_the_same_as_its_values_in_memory(tmp_path):
    def stored(split, name):
        half = split.feats["tokens@last"].half().numpy()
        half.tofile(tmp_path / name)
        mapped = torch.from_numpy(
            np.memmap(tmp_path / name, dtype=np.float16, mode="r+", shape=half.shape)
        )
        return split._replace(feats={"tokens@last": mapped}), split._replace(
            feats={"tokens@last": mapped.float()}
        )

    disk, memory = zip(*(stored(split, str(i)) for i, split in enumerate(splits())), strict=True)
    assert disk[0].feats["tokens@last"].dtype == torch.float16
    one, two = (Attentive(**SMALL["house"]).run(*three, 0) for three in (disk, memory))
    assert torch.equal(one.scores, two.scores) and one.grid == two.grid


def test_selection_never_sees_test():
    train, val, test = splits()
    lied = test._replace(
        labels=test.labels.roll(1), feats={"tokens@last": -test.feats["tokens@last"]}
    )
    honest, other = (Attentive(**SMALL["house"]).run(train, val, each, 0) for each in (test, lied))
    assert (honest.chosen, honest.grid) == (other.chosen, other.grid)
    assert honest.metrics["test/top1"] > other.metrics["test/top1"] + 0.3


def test_same_seed_same_result_and_pooled_vectors_are_one_token():
    train, val, test = (
        Frozen({"mean@last": s.feats["tokens@last"].sum(1)}, *s[1:]) for s in splits()
    )
    one, two, other = (
        Attentive(**SMALL["house"]).run(train, val, test, seed) for seed in (5, 5, 6)
    )
    assert torch.equal(one.scores, two.scores) and not torch.equal(one.scores, other.scores)
    assert one.attention.shape == (400, 1) and one.metrics["test/top1"] > 0.9


def test_a_diverged_head_scores_nothing_and_is_not_chosen():
    train, val, test = splits()
    got = Attentive(**SMALL["house"] | {"rates": (1e38, 3e-3)}).run(train, val, test, 0)
    assert got.chosen["rate"] == 3e-3 and got.grid[0]["val/top1"] == 0.0
    assert got.metrics["test/top1"] > 0.9


def test_what_cannot_be_probed_is_refused():
    train, val, test = splits()
    for split in range(3):
        three = [train, val, test]
        broken = three[split].feats["tokens@last"].clone()
        broken[7, 2, 3] = float("nan")
        three[split] = three[split]._replace(feats={"tokens@last": broken})
        with pytest.raises(UserError, match=f"{('train', 'val', 'test')[split]} split.*NaN"):
            Attentive().run(*three, 0)
    with pytest.raises(UserError, match="val split should hold features"):
        Attentive().run(train, val._replace(feats={"other": val.feats["tokens@last"]}), test, 0)
    with pytest.raises(UserError, match="do not divide"):
        Attentive(heads=5).run(train, val, test, 0)
    with pytest.raises(UserError, match="as wide as its tokens"):
        Attentive(preset="blocks4", width=32).run(train, val, test, 0)
    with pytest.raises(UserError, match="at least one rate"):
        Attentive(rates=())
    maps = Frozen({"map": torch.zeros(240, 2, 2, DIM)}, train.labels, train.groups)
    with pytest.raises(UserError, match="tokens S N D"):
        Attentive().run(*[maps._replace(labels=train.labels)] * 3, 0)


def test_presets_are_named_and_every_value_can_be_given():
    assert probes["attentive"] is Attentive
    assert (
        Attentive(preset="blocks4").protocol == attentive.BLOCKS4
        and len(Attentive(preset="blocks4").grid) == 20
    )
    changed = Attentive(preset="videoglue", dropout=0.0, epochs=3).protocol
    assert changed == attentive.VIDEOGLUE | {"dropout": 0.0, "epochs": 3}
    with pytest.raises(UserError, match=facts("blocks4")):
        Attentive(preset="videoglu")
    assert Form(768, 5, 12, 768, 1, False, 1e-6).tokens_at_once > 1e9
