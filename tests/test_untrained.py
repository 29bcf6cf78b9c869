"""`NAME@random`: the untrained twin of a run, a published file or a registered name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.features.controls import create_twin
from benchmarks.features.text_side import open_text_side
from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.errors import UserError
from ssvid.hub import create_encoder, create_untrained, open_encoder
from ssvid.results import Leak
from ssvid.results.provenance import check_leak, describe_encoder, make_titles
from ssvid.weights.encoders import load_encoder, save_encoder
from tests.helpers import facts

TINY = {"dim": 24, "depth": 1, "heads": 2, "patch": 8, "frames": 4, "stride": 1, "size": 16}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose encoder sees clips of its own, and which read two clips."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    net = create_encoder("vit", **TINY)
    net.spec = replace(net.spec, frames=2)
    net.mean = (0.1, 0.2, 0.3)
    save_encoder(net, folder, "encoder", {})
    rows = [["a.mp4", None, "train", "", ""]]
    (folder / "provenance.json").write_text(json.dumps({"root": "/", "rows": rows}))
    return folder


def weights_differ(a: Encoder, b: Encoder) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    return any(not torch.equal(ours[key], theirs[key]) for key in ours)


def test_it_is_the_same_net_with_other_weights(run):
    trained, untrained = load_encoder(run), open_encoder(f"{run}@random")
    assert (untrained.name, untrained.kwargs) == (trained.name, trained.kwargs)
    assert (untrained.spec, untrained.mean) == (trained.spec, trained.mean)
    assert weights_differ(trained, untrained) and not untrained.training
    assert untrained.licence is None


def test_a_number_is_a_draw(run):
    first, state = open_encoder(f"{run}@random7"), torch.get_rng_state()
    create_untrained(first, 7)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's own draws stay as they are
    assert not weights_differ(first, open_encoder(f"{run}@random7"))
    others = [open_encoder(f"{run}@random"), open_encoder(f"{run}@random8")]
    others += [create_twin(first, number) for number in (0, 1, 7)]
    for other in others:
        assert weights_differ(first, other)
    assert not weights_differ(open_encoder(f"{run}@random"), open_encoder(f"{run}@random0"))


def test_a_name_and_an_exported_file_have_draws_too(run):
    file = f"{run}/encoder.safetensors"
    assert not weights_differ(open_encoder(f"{file}@random"), open_encoder(f"{run}@random"))
    names = open_encoder("vit_tiny@random"), open_encoder("vit_tiny@random1")
    assert weights_differ(*names)


def test_its_results_say_what_it_is(run):
    argument = f"{run}@random2"
    info = describe_encoder(argument, "t", open_encoder(argument))
    assert info.weights.startswith("random") and str(run) in info.weights
    assert info.recipe is None and info.licence is None
    assert check_leak(argument, Manifest((), run)) == Leak(checked=False)
    titles = make_titles([str(run), f"{run}@random", argument, f"{run}/encoder.safetensors@random"])
    assert titles == ["mine", "untrained_mine", "untrained2_mine", "untrained_mine_2"]


def test_what_is_no_draw_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=facts(f"{tmp_path}/gone")):
        open_encoder(f"{tmp_path}/gone@random")
    with pytest.raises(UserError, match=facts("untrained", "text")):
        open_text_side(f"{run}@random", None)
    named = tmp_path / "odd@random"  # a folder of this very name is what it says
    save_encoder(load_encoder(run), named, "encoder", {})
    assert not weights_differ(open_encoder(str(named)), load_encoder(run))
