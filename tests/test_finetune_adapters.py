"""Fine-tuning with adapters: what learns, what is saved, how it resumes, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from ssvid.errors import UserError
from ssvid.weights.encoders import hash_encoder, load_encoder
from tests.helpers import facts, for_each
from tests.test_finetune import run, same, save_start, weights, write_data


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    return save_start(tmp_path_factory.mktemp("start") / "mine")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("labelled"))


@for_each("kind", ["bottleneck", "lora"])
def test_adapters_and_head_alone_learn_and_are_loaded_again(kind, start, data, tmp_path):
    flags = ("--adapter", kind, "--adapter_dim", "4")
    run(start, data, tmp_path / "t", *flags)
    before, after = weights(tmp_path / "t", 3), weights(tmp_path / "t")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    learnt = {"head.weight", "head.bias"}
    for key in before:
        if key.startswith("encoder.adapters.") or key.endswith((".0.up", ".0.down")):
            learnt.add(key)
    assert changed == learnt and len(learnt) > 4
    untouched = load_encoder(start).state_dict()
    for key, value in after.items():
        plain = key.removeprefix("encoder.").replace("parametrizations.weight.original", "weight")
        assert plain not in untouched or torch.equal(value, untouched[plain])

    loaded = load_encoder(tmp_path / "t")
    result = json.loads((tmp_path / "t" / "result.json").read_text())
    assert hash_encoder(loaded) == result["tuned"] != result["encoder"]["hash"]
    assert (loaded.adapter_dim == 4) == (kind == "bottleneck")
    config = result["protocol"]["training"]
    assert (config["adapter"], config["adapter_dim"]) == (kind, 4)


def test_a_run_with_adapters_goes_on_bit_for_bit(start, data, tmp_path):
    flags = ("--adapter", "lora", "--adapter_dim", "2")
    run(start, data, tmp_path / "whole", *flags)
    run(start, data, tmp_path / "parts", *flags)
    (tmp_path / "parts" / "checkpoints" / "step_00000006.pt").unlink()
    run(start, data, tmp_path / "parts", *flags)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    with pytest.raises(UserError, match=facts("adapter_dim", "2", "4")):
        run(start, data, tmp_path / "parts", "--adapter", "lora", "--adapter_dim", "4")


def test_a_run_without_adapters_does_not_name_them(start, data, tmp_path):
    """So it is the same run, and the same protocol, as before there were adapters."""
    run(start, data, tmp_path / "t")
    result = json.loads((tmp_path / "t" / "result.json").read_text())
    assert not {"adapter", "adapter_dim"} & result["protocol"]["training"].keys()


@for_each(
    "encoder, flags, words",
    [
        (None, ("--adapter_dim", "4"), ("--adapter",)),
        (None, ("--adapter", "lora", "--adapter_dim", "0"), ("--adapter_dim", "0")),
        ("resnet18_2d3d", ("--adapter", "lora"), ("resnet18_2d3d", "vit_base")),
    ],
)
def test_adapters_that_cannot_be(encoder, flags, words, start, data, tmp_path):
    with pytest.raises(UserError, match=facts(*words)):
        run(encoder or start, data, tmp_path / "t", *flags)
    assert not (tmp_path / "t").exists()
