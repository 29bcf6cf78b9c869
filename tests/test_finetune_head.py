"""Fine-tuning under an attention pooler: where it begins, how it resumes, what is saved."""

import logging
from pathlib import Path

import pytest
import torch
import yaml

from ssvid.errors import UserError
from ssvid.nn.heads import classifier
from ssvid.nn.prism import AttentionPooler
from ssvid.results.provenance import read_yaml_mapping
from ssvid.weights.encoders import hash_encoder, load_encoder
from ssvid.weights.npz import write_npz
from ssvid.weights.videoprism import LAYOUTS
from tests.helpers import facts, for_each
from tests.test_finetune import run, same, save_start, weights, write_data
from tests.test_videoprism import create_net

ATTENTION = ("--head", "attention")
STILL = ("--lr", "0", "--min_lr", "0", "--steps", "1")  # the weights stay where they begin
SIZES = {"dim": 24, "heads": 2, "hidden": 24}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    return save_start(tmp_path_factory.mktemp("start") / "mine")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("labelled"))


def write_classifier(path: Path, classes: int, queries: int = 1) -> dict[str, torch.Tensor]:
    """A published classifier of a small VideoPrism: its pooler and head in our names."""
    torch.manual_seed(1)
    parts = {"pooler": AttentionPooler(**SIZES, queries=queries)}
    parts["head"] = classifier(24, classes, scale=1.0)
    ours = {f"encoder.{key}": x for key, x in create_net().state_dict().items()}
    for name, part in parts.items():
        for key, x in part.state_dict().items():
            ours[f"{name}.{key}"] = x + 0.1 * torch.randn_like(x)
    layout = next(layout for layout in LAYOUTS if layout.name == "videoprism-classifier")
    theirs = layout.to_theirs(ours)
    write_npz(path, {layout.prefix + key: x for key, x in theirs.items()})
    for key in list(ours):
        if key.startswith("encoder."):
            del ours[key]
    return ours


def test_a_run_goes_on_bit_for_bit_and_its_encoder_is_loaded_again(start, data, tmp_path):
    result = run(start, data, tmp_path / "t", *ATTENTION)
    before, after = weights(tmp_path / "t", 3), weights(tmp_path / "t")
    for key in ("pooler.queries", "pooler.k.weight", "head.weight", "encoder.patch.weight"):
        assert not torch.equal(before[key], after[key]), key
    (tmp_path / "t" / "checkpoints" / "step_00000006.pt").unlink()
    again = run(start, data, tmp_path / "t", *ATTENTION)
    assert same(weights(tmp_path / "t"), after) and again["top1"] == result["top1"]
    card = read_yaml_mapping(tmp_path / "t" / "result.json", "result")
    assert card["tuned"] == hash_encoder(load_encoder(tmp_path / "t"))
    assert card["protocol"]["training"]["head"] == "attention"
    assert run(tmp_path / "t", data, tmp_path / "next", *STILL)["step"] == 1


def test_a_run_from_before_the_flag_goes_on(start, data, tmp_path):
    run(start, data, tmp_path / "t", "--steps", "3")
    file = tmp_path / "t" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    del config["head"], config["new_rate"]
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=facts("head", "linear", "attention")):
        run(start, data, tmp_path / "t", "--steps", "3", *ATTENTION)
    assert run(start, data, tmp_path / "t", "--steps", "3")["step"] == 3


@for_each("classes, parts", [(2, ("pooler", "head")), (5, ("pooler",))])
def test_the_head_of_a_published_classifier_is_the_start(classes, parts, data, tmp_path, caplog):
    file = tmp_path / "net.npz"
    ours = write_classifier(file, classes)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="ssvid"):
        run(file, data, tmp_path / "t", *ATTENTION, *STILL)
    tuned = weights(tmp_path / "t", 1)
    for key, x in ours.items():
        is_begun = key.startswith(parts)
        assert (tuned[key].shape == x.shape and torch.equal(tuned[key], x)) == is_begun, key
    assert caplog.text.count("Fine-tuning begins") == 1
    assert ("so the head is new" in caplog.text) == (classes == 5)
    assert ("in their order (first a, b)" in caplog.text) == (classes == 2)


def test_a_twin_has_the_sizes_of_the_file_and_none_of_its_weights(data, tmp_path):
    ours = write_classifier(tmp_path / "net.npz", 2)
    run(tmp_path / "net.npz", data, tmp_path / "t", *ATTENTION, *STILL, "--twins", "1")
    twin = weights(tmp_path / "t" / "twin0", 1)
    for key, x in ours.items():
        assert twin[key].shape == x.shape
        assert not torch.equal(twin[key], x), key


def test_what_cannot_be_is_one_sentence(start, data, tmp_path):
    write_classifier(tmp_path / "net.npz", 2, queries=3)
    with pytest.raises(UserError, match=facts("net.npz", "3 queries", "--head linear")):
        run(tmp_path / "net.npz", data, tmp_path / "t", *ATTENTION)
    with pytest.raises(UserError, match=facts("--head", "middle")):
        run(start, data, tmp_path / "t", "--head", "middle")
    assert not (tmp_path / "t").exists()
