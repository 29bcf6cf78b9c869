import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.probes import attentive_math, attentive_presets
from benchmarks.probes.attentive import (
    Attentive,
    clip_gradients,
    draw_dropout_mask,
    list_heads,
    schedule_rate,
)
from benchmarks.probes.attentive_math import Form, compute_logits, initialise
from benchmarks.probes.attentive_presets import PRESETS
from ssvid.errors import UserError
from ssvid.randomness import permutation
from ssvid.registry import probes
from ssvid.shapes import Frozen
from tests.helpers import facts, find_wilson

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


def make_split(rows, seed, scale=6.0):
    """The class stands in one token of a clip, in a place of its own; the others are noise."""
    centres = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(9)) * scale
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(rows) % CLASSES
    x = torch.randn(rows, TOKENS, DIM, generator=draw)
    position = torch.randint(TOKENS, (rows,), generator=draw)
    x[torch.arange(rows), position] += centres[y]
    return Frozen({"tokens@last": x}, y, [str(i) for i in range(rows)])


def make_splits(scale=6.0, train=240):
    return make_split(train, 0, scale), make_split(80, 1, scale), make_split(400, 2, scale)


@pytest.mark.parametrize("preset", PRESETS)
def test_separable_is_solved_and_attention_is_where_the_class_stands(preset):
    train, val, test = make_splits()
    result = Attentive(preset=preset, **SMALL[preset]).run(train, val, test, 0)
    assert result.metrics["test/top1"] >= 0.99
    assert result.chosen["val/top1"] == max(setting["val/top1"] for setting in result.grid)
    assert len(result.grid) == len(Attentive(preset=preset, **SMALL[preset]).grid)
    torch.testing.assert_close(result.attention.sum(1), torch.ones(400))
    loud = test.feats["tokens@last"].norm(dim=-1).argmax(1)
    assert preset == "blocks4" or (result.attention.argmax(1) == loud).float().mean() > 0.8


def shuffle_labels(i, split):
    return split._replace(labels=split.labels[permutation(7, i, len(split.labels))])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("spoil", ["noise", "labels"])
def test_chance_on_noise_and_on_shuffled_labels(preset, spoil):
    train, val, test = make_splits(0.0 if spoil == "noise" else 6.0, train=160)
    if spoil == "labels":
        train, val, test = map(shuffle_labels, range(3), (train, val, test))
    settings = SMALL[preset] | {"min_steps": 40}
    low, high = find_wilson(1 / CLASSES, 400, 0.999)
    assert (
        low
        < Attentive(preset=preset, **settings).run(train, val, test, 0).metrics["test/top1"]
        < high
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_heads_trained_together_are_those_that_torch_trains_alone(preset):
    """Each head of a grid against the same head alone, with autograd and torch's own AdamW.

    Dropout, clipping, decay and warm-up are covered.
    """
    settings = SMALL[preset] | {
        "rates": (1e-3, 1e-2),
        "weight_decays": (0.0, 0.5),
        "min_steps": 6,
        "batch": 50,
        "warmup": 0.3,
    }
    probe, x, y = Attentive(preset=preset, **settings), *make_split(90, 0)[:2]
    x = (x["tokens@last"],)
    form = probe.build_form(x, CLASSES)
    stacks = probe.fit(x, y, form, 3)
    heads = list_heads(stacks)
    assert len(stacks) == (1 if form.depth == 1 else 4) and len(heads) == len(probe.grid) == 4
    protocol = probe.protocol
    for (stack, r), (rate, decay) in zip(heads, probe.grid, strict=True):
        alone = {name: value.requires_grad_() for name, value in initialise(form, 1, 3).items()}
        decayed, constant = [], []
        for name, value in alone.items():
            decays = protocol["decay_all"] or name in ("token", "wq", "wk", "wv", "wo", "wc")
            (decayed if decays else constant).append(value)
        groups = [
            {"params": decayed, "weight_decay": decay},
            {"params": constant, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], eps=protocol["adam_eps"])
        for step in range(6):
            epoch, i = divmod(step, 2)
            rows = permutation(3, epoch, 90)[i * 50 : (i + 1) * 50]
            mask = draw_dropout_mask(3, epoch, rows, DIM, protocol["dropout"], y.device)
            scores, _ = compute_logits(alone, x, rows, form, mask)
            optimizer.zero_grad()
            F.cross_entropy(scores[0], y[rows], label_smoothing=protocol["smoothing"]).backward()
            if protocol["clip"]:
                torch.nn.utils.clip_grad_norm_(alone.values(), protocol["clip"])
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
    probe, x, y = Attentive(preset=preset, **SMALL[preset]), *make_split(30, 0)[:2]
    x, rows = (x["tokens@last"],), torch.arange(20)
    form, gradients = probe.build_form(x, CLASSES), []
    for numbers in (2**26, 17 * DIM * 3 * TOKENS * 3):  # three clips of blocks at a time
        monkeypatch.setattr(attentive_math, "SAVED_NUMBERS", numbers)
        monkeypatch.setattr(attentive_math, "AT_ONCE", numbers // 2000)
        stack = probe.create_heads(form, 0, 2)
        probe.compute_gradients([stack], x, y, rows, form, 0, 0)
        gradients.append({name: value.grad for name, value in stack.items()})
    for name, whole in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], whole, rtol=1e-4, atol=1e-6)


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

    pairs = [stored(split, str(i)) for i, split in enumerate(make_splits())]
    disk, memory = zip(*pairs, strict=True)
    assert disk[0].feats["tokens@last"].dtype == torch.float16
    from_disk = Attentive(**SMALL["house"]).run(*disk, 0)
    from_memory = Attentive(**SMALL["house"]).run(*memory, 0)
    assert torch.equal(from_disk.scores, from_memory.scores) and from_disk.grid == from_memory.grid


def test_selection_never_sees_test():
    train, val, test = make_splits()
    lied = test._replace(
        labels=test.labels.roll(1), feats={"tokens@last": -test.feats["tokens@last"]}
    )
    honest = Attentive(**SMALL["house"]).run(train, val, test, 0)
    other = Attentive(**SMALL["house"]).run(train, val, lied, 0)
    assert (honest.chosen, honest.grid) == (other.chosen, other.grid)
    assert honest.metrics["test/top1"] > other.metrics["test/top1"] + 0.3


def test_same_seed_same_result_and_pooled_vectors_are_one_token():
    pooled = [Frozen({"mean@last": s.feats["tokens@last"].sum(1)}, *s[1:]) for s in make_splits()]
    first, again, other = (Attentive(**SMALL["house"]).run(*pooled, seed) for seed in (5, 5, 6))
    assert torch.equal(first.scores, again.scores) and not torch.equal(first.scores, other.scores)
    assert first.attention.shape == (400, 1) and first.metrics["test/top1"] > 0.9


def test_a_diverged_head_scores_nothing_and_is_not_chosen():
    train, val, test = make_splits()
    result = Attentive(**SMALL["house"] | {"rates": (1e38, 3e-3)}).run(train, val, test, 0)
    assert result.chosen["rate"] == 3e-3 and result.grid[0]["val/top1"] == 0.0
    assert result.metrics["test/top1"] > 0.9


def test_what_cannot_be_probed_is_refused():
    train, val, test = make_splits()
    for split in range(3):
        frozen = [train, val, test]
        broken = frozen[split].feats["tokens@last"].clone()
        broken[7, 2, 3] = float("nan")
        frozen[split] = frozen[split]._replace(feats={"tokens@last": broken})
        with pytest.raises(UserError, match=f"{('train', 'val', 'test')[split]} split.*NaN"):
            Attentive().run(*frozen, 0)
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
        Attentive(preset="blocks4").protocol == attentive_presets.BLOCKS4
        and len(Attentive(preset="blocks4").grid) == 20
    )
    changed = Attentive(preset="videoglue", dropout=0.0, epochs=3).protocol
    assert changed == attentive_presets.VIDEOGLUE | {"dropout": 0.0, "epochs": 3}
    with pytest.raises(UserError, match=facts("blocks4")):
        Attentive(preset="videoglu")
    assert Form(768, 5, 12, 768, 1, False, 1e-6).tokens_at_once > 1e9


def make_halves(rows, seed):
    """Two layers, in each of which half of the classes look alike."""
    split = make_split(rows, seed)
    x, y = split.feats["tokens@last"], split.labels
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 50))
    is_low = (y < 2)[:, None, None]
    feats = {
        "tokens@1": torch.where(is_low, x, noise),
        "tokens@last": torch.where(is_low, noise, x),
    }
    return split._replace(feats=feats)


def test_layers_together_know_what_no_layer_knows_alone():
    splits = make_halves(240, 0), make_halves(80, 1), make_halves(400, 2)
    settings = {"heads": 4, "rates": (3e-3,), "min_steps": 150, "epochs": 1}
    best = Attentive(**settings).run(*splits, 0)
    together = Attentive(layers="together", **settings).run(*splits, 0)
    assert best.metrics["test/top1"] < 0.85 < 0.97 < together.metrics["test/top1"]
    assert together.chosen["pooling"] == "tokens@1 + tokens@last" and len(together.grid) == 1
    again = Attentive(layers="together", **settings).refit(splits[0], splits[2], together.chosen, 0)
    assert torch.equal(again.scores, together.scores)


def test_one_layer_together_is_the_layer_alone():
    splits = make_splits()
    settings = {"heads": 4, "rates": (3e-3,), "min_steps": 5, "epochs": 1}
    alone = Attentive(**settings).run(*splits, 0)
    together = Attentive(layers="together", **settings).run(*splits, 0)
    assert torch.equal(alone.scores, together.scores)
    assert vars(Attentive()).keys() & {"layers"} == set(), "the hash of results that exist"


def test_layers_that_do_not_fit_together_are_refused():
    with pytest.raises(UserError, match=facts("depth", "videoglue")):
        Attentive(preset="blocks4", layers="together")
    train, val, test = make_splits()
    wide = [
        s._replace(feats={**s.feats, "tokens@1": s.feats["tokens@last"].repeat(1, 1, 2)})
        for s in (train, val, test)
    ]
    with pytest.raises(UserError, match=facts("(5, 16)", "best")):
        Attentive(layers="together").run(*wide, 0)


def test_the_head_of_the_papers_figure():
    """VideoGLUE's settings with the residual and the MLP that its figure draws."""
    settings = SMALL["videoglue"] | {"rates": (2.5e-3,)}
    probe = Attentive(preset="videoglue", complete=True, **settings)
    result = probe.run(*make_splits(), 0)
    assert result.metrics["test/top1"] >= 0.99
    form = probe.build_form((make_split(4, 0).feats["tokens@last"],), CLASSES)
    assert form.complete and form.depth == 1 and "w1" in initialise(form, 1, 0)
