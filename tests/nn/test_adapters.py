"""Adapters of every transformer encoder: they begin as nothing, and alone learn what is saved."""

import copy
from pathlib import Path

import pytest
import torch

from ssvid import list_encoders, load_encoder, registry
from ssvid.encoder import Encoder
from ssvid.errors import UserError
from ssvid.files import read_json_mapping, write_json_whole
from ssvid.nn.adapters import add_adapters, list_adapter_names, read_merged_state
from ssvid.weights.encoders import hash_encoder, save_encoder
from tests.helpers import facts, for_each
from tests.test_encoders import FAST, clip_for, full, tiny

ADAPTABLE = []
for name in sorted(FAST):
    if full(name).takes_adapters:
        ADAPTABLE.append(name)
CASES = []
for name in ADAPTABLE:
    CASES += [(name, "bottleneck"), (name, "lora")]


def adapt(name: str, kind: str) -> tuple[Encoder, Encoder]:
    """(the encoder, a copy with adapters)."""
    adapted = copy.deepcopy(tiny(name))
    add_adapters(adapted, kind, 4)
    return tiny(name), adapted


def move_adapters(encoder: Encoder) -> None:
    """As training would: the second maps are no zero any more."""
    draw = torch.Generator().manual_seed(3)
    parameters = dict(encoder.named_parameters())
    with torch.no_grad():
        for name in list_adapter_names(encoder):
            noise = torch.randn(parameters[name].shape, generator=draw)
            parameters[name].add_(0.1 * noise)


def test_the_registry_declares_its_transformers():
    assert {"vit", "clip_vit", "xclip", "swin3d_t", "mvit_v2_s"} <= set(ADAPTABLE)
    for name in FAST:
        assert full(name).takes_adapters == bool(full(name).block_dims)


@for_each("name, kind", CASES)
def test_adapters_begin_as_nothing_and_alone_learn(name, kind):
    plain, adapted = adapt(name, kind)
    clip = clip_for(plain)
    before, after = plain(clip), adapted(clip)
    assert torch.equal(before.tokens, after.tokens) and torch.equal(before.pooled, after.pooled)
    move_adapters(adapted)  # where the second map is zero, the first has no gradient
    adapted.zero_grad()
    features = adapted(clip)
    # X-CLIP's pooled features pass the last block by their class token alone.
    (features.pooled.square().sum() + features.tokens.square().sum()).backward()
    names = list_adapter_names(adapted)
    with_gradient = []
    for key, parameter in adapted.named_parameters():
        assert parameter.requires_grad == (key in names)
        if parameter.grad is not None and parameter.grad.abs().sum() > 0:
            with_gradient.append(key)
    assert with_gradient == names and names
    if kind == "bottleneck":
        assert len(adapted.adapters) == len(adapted.block_dims)


@for_each("name, kind", CASES)
def test_what_was_learnt_is_saved_and_loaded(name, kind, tmp_path):
    plain, adapted = adapt(name, kind)
    move_adapters(adapted)
    clip = clip_for(plain)
    learnt = adapted(clip)
    assert not torch.equal(learnt.pooled, plain(clip).pooled)
    save_encoder(adapted, tmp_path, "encoder", {})
    loaded = load_encoder(tmp_path)
    assert torch.equal(loaded(clip).tokens, learnt.tokens)
    assert torch.equal(loaded(clip).pooled, learnt.pooled)
    assert hash_encoder(loaded) == hash_encoder(adapted) != hash_encoder(plain)
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    if kind == "lora":  # it is an encoder like any other
        assert loaded.state_dict().keys() == plain.state_dict().keys()
        assert "adapter_dim" not in read_json_mapping(tmp_path / "encoder.json", "card")


def test_a_copy_with_adapters_is_one_of_its_own():
    """Commands copy encoders, and torch's parametrizations share a class among copies."""
    _, adapted = adapt("vit", "lora")
    other = copy.deepcopy(adapted)
    move_adapters(other)
    here, there = read_merged_state(adapted), read_merged_state(other)
    changed = {key for key in here if not torch.equal(here[key], there[key])}
    assert len(changed) == 4 * len(adapted.block_dims)
    assert all(torch.equal(x, here[key]) for key, x in tiny("vit").state_dict().items())


def test_adapters_count_as_no_layer():
    plain, adapted = adapt("vit", "bottleneck")
    above = plain.count_layers_above()
    adapted_above = adapted.count_layers_above()
    assert {name: adapted_above[name] for name in above} == above


@for_each("name", ["s3d", "resnet18_2d3d"])
def test_a_net_without_blocks_is_refused(name):
    with pytest.raises(UserError, match=facts(name, "vit_base", "swin3d_t")):
        add_adapters(copy.deepcopy(tiny(name)), "lora")


def test_settings_that_make_no_sense_are_refused():
    net = copy.deepcopy(tiny("vit"))
    with pytest.raises(UserError, match=facts("prefix", "bottleneck", "lora")):
        add_adapters(net, "prefix")
    with pytest.raises(UserError, match=facts("--adapter_dim", "0")):
        add_adapters(net, "lora", 0)
    add_adapters(net, "bottleneck", 4)
    with pytest.raises(UserError, match=facts("adapters already")):
        add_adapters(net, "bottleneck", 4)


@for_each("width", [0, 10**9, True, "4"])
def test_a_card_of_no_adapter_is_one_sentence(width, tmp_path: Path):
    _, adapted = adapt("vit", "bottleneck")
    save_encoder(adapted, tmp_path, "encoder", {})
    card = read_json_mapping(tmp_path / "encoder.json", "card")
    write_json_whole(tmp_path / "encoder.json", {**card, "adapter_dim": width})
    with pytest.raises(UserError, match=facts("encoder.json", "adapters")):
        load_encoder(tmp_path)


def test_the_names_of_the_sentence_are_those_of_the_registry():
    declared = {name for name in ADAPTABLE if name in list_encoders(takes_adapters=True)}
    assert declared == set(ADAPTABLE) and registry.encoders["vit"].takes_adapters
