"""Untrained twins: shared by all weights of an architecture, built when needed, within a budget."""

import sys
from dataclasses import replace

import pytest
import torch

from benchmarks.features import nets
from benchmarks.features.bench import Bench, extract_bench
from benchmarks.features.cost import Missing, count_affordable_twins
from benchmarks.features.evaluated_encoder import (
    EvaluatedEncoder,
    describe_protocol,
    open_evaluated_encoder,
)
from benchmarks.features.nets import CalibrationClips, hash_architecture, make_twin, prepare_nets
from benchmarks.features.options import FeatureOptions
from benchmarks.features.sources import CONTROLS, FrozenNet, SourceMaker, list_sources
from ssvid import registry
from ssvid.data.manifest import Manifest
from ssvid.engine.train_flags import UNCHANGED
from ssvid.hub import create_encoder
from ssvid.nn.batchnorm import calibrate
from ssvid.registry import probes, tasks
from ssvid.results import digest
from tests.helpers import tells
from tests.nn.test_batchnorm import clips  # which registers test_norms

VIT = {"dim": 24, "depth": 2, "heads": 2, "patch": 8, "frames": 4, "stride": 1, "size": 16}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = str(tmp_path_factory.mktemp("tours"))
    return registry.datasets["synthetic"](root, train=8, val=4, test=4)


def open_norms(weight: float = 1.0) -> EvaluatedEncoder:
    encoder = open_evaluated_encoder("test_norms", "norms", UNCHANGED, "auto")
    with torch.no_grad():
        encoder.net.net[0].weight.mul_(weight)
    return encoder


def extract(encoder: EvaluatedEncoder, data: Manifest, cache: str, **options: object) -> Bench:
    settings = FeatureOptions(cache=cache, workers=0, twins=3, **options)
    return extract_bench(encoder, data, settings, ["encoder", *list_sources("random", 3)])


def list_vectors(bench: Bench) -> list[torch.Tensor]:
    return [bench.features[f"twin{number}"]["mean@last"] for number in range(3)]


def test_sources_of_rows():
    assert list_sources("random", 3) == ["twin0", "twin1", "twin2"]
    assert list_sources("random_shuffled", 3) == ["twin0/shuffled", "twin1/shuffled"]
    assert list_sources("floor", 3) == ["pixels"] and list_sources("encoder", 3) == ["encoder"]
    assert list_sources("bag", 3) == ["encoder/bag"]
    pooled, tokens = tasks["classify"](probes["knn"]()), tasks["classify"](probes["attentive"]())
    assert pooled.list_rows() == ("encoder", *CONTROLS)
    assert tokens.list_rows() == ("encoder", "random", "floor", "single_frame", "shuffled")
    assert len(pooled.list_row_sources("random", 8)) == 8
    assert tokens.list_row_sources("random", 8)[-1] == "twin3:tokens"
    assert tokens.list_row_sources("floor", 8) == ["pixels"]
    order = tasks["order"](probes["knn"]()).list_source_names(8)
    assert (
        "twin3/reversed" in order and "pixels/shuffled" in order and len(order) == 3 * (1 + 4 + 1)
    )


def test_twins_are_shared_and_built_only_when_needed(data, tmp_path, monkeypatch):
    """Another encoder of the same architecture finds the features of its twins in the cache."""
    first = extract(open_norms(), data, str(tmp_path))
    vectors = list_vectors(first)
    assert first.twins == 3 and not first.notes
    assert not any(torch.equal(vectors[0], other) for other in vectors[1:])
    encoder, options = open_norms(2.0), FeatureOptions(workers=0, twins=3)
    # By hand: the batch norm of a twin is measured on the train clips.
    twin = make_twin(encoder.net, 1, CalibrationClips.choose(data, options)).net
    shown = calibrate(twin, CalibrationClips.choose(data, options).read(twin))
    pixels = next(CalibrationClips(data, len(data), options).read(shown))
    with torch.no_grad():
        rows = shown(shown.normalise(pixels)).tokens.mean(1)
    assert torch.cdist(rows, vectors[1]).min(1).values.max() < 1e-4  # in another order

    monkeypatch.setattr(nets, "create_twin", None)  # a call would fail
    second = extract(encoder, data, str(tmp_path))
    for ours, theirs in zip(list_vectors(second), vectors, strict=True):
        assert torch.equal(ours, theirs)
    ours, theirs = first.features["encoder"], second.features["encoder"]
    assert not torch.equal(ours["mean@last"], theirs["mean@last"])


def test_the_key_of_a_twin_holds_all_that_its_features_depend_on(data):
    options = FeatureOptions()
    norms, vit = create_encoder("test_norms"), create_encoder("vit", **VIT)

    def make_key(net, options=options, data=data, number=0) -> str:
        return make_twin(net, number, CalibrationClips.choose(data, options)).key

    other_net, other_mean = create_encoder("test_norms"), create_encoder("test_norms")
    other_net.spec = replace(other_net.spec, size=12)
    other_mean.mean = (0.0, 0.0, 0.0)
    keys = {
        make_key(norms),
        make_key(norms, number=1),
        make_key(other_net),
        make_key(other_mean),
        make_key(norms, replace(options, calibrate_bn=4)),
        make_key(norms, replace(options, calibrate_bn=4, batch_size=2)),
        make_key(norms, data=data.take(range(1, len(data)))),
        make_key(vit),
    }
    assert len(keys) == 8
    assert make_key(norms) == make_key(create_encoder("test_norms"))
    # Without batch norm nothing is measured, so all data sets share the twin.
    assert make_key(vit) == make_key(create_encoder("vit", **VIT), data=data.take(range(9)))
    assert hash_architecture(vit) != hash_architecture(create_encoder("vit", **{**VIT, "depth": 3}))


def test_code_that_draws_weights_is_a_part_of_the_key(tmp_path, monkeypatch):
    """Somebody edits a plug-in between two runs: its twins are computed again."""
    net, file = create_encoder("test_norms"), tmp_path / "plugin.py"
    hashes = set()
    for code in ("scale = 1", "scale = 2", "scale = 1"):
        file.write_text(code)
        monkeypatch.setattr(sys.modules[type(net).__module__], "__file__", str(file))
        hashes.add(hash_architecture(net))
    assert len(hashes) == 2


@pytest.mark.parametrize("lacking, twins", [(10, 8), (100, 4), (10_000, 2)])
def test_as_many_twins_as_five_minutes_allow(lacking: int, twins: int):
    """A clip takes 0.1 s a pass, and a twin has one source; twin 0 is in the cache."""
    names = [*list_sources("random", 8), "twin1:tokens", "encoder"]
    rows = dict.fromkeys(names, lacking) | {"twin0": 0, "encoder": 10**6}
    assert count_affordable_twins(Missing(rows, 10), names, 8, 0.1) == twins


def test_fewer_twins_are_said(data, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.features.cost.TWINS_MINUTES", 0.0)
    bench = extract(open_norms(), data, str(tmp_path))
    assert bench.twins == 2 and set(bench.features) == {"encoder", "twin0", "twin1"}
    (note,) = bench.notes
    assert tells(note, "2", "3")


def test_batch_norm_is_measured_anew(data, tmp_path):
    """On the clips of the twins; the encoder itself stays as it is for the next data set."""
    encoder = open_norms()
    before = encoder.net.net[1].running_mean.clone()
    plain = extract(encoder, data, str(tmp_path))
    anew = extract(encoder, data, str(tmp_path), recalibrate_bn=True)
    assert torch.equal(encoder.net.net[1].running_mean, before)
    tables = [bench.features["encoder"]["mean@last"] for bench in (plain, anew)]
    assert not torch.allclose(*tables) and list_vectors(plain)[0].equal(list_vectors(anew)[0])
    # Over the train clips each channel now has the mean 0.
    assert (
        tables[1][anew.splits["train"]].mean(0).abs().max() < 0.05 < tables[0].mean(0).abs().max()
    )
    assert len(anew.notes) == 1 and tells(anew.notes[0], "8")
    vit = open_evaluated_encoder("vit_tiny", "vit", UNCHANGED, "auto")
    prepared, notes = prepare_nets(vit, data, FeatureOptions(recalibrate_bn=True))
    assert prepared["encoder"].net is vit.net and tells(notes[0], "--recalibrate_bn")


def test_protocols_tell_what_the_user_chose():
    hashes = set()
    for layers, options in (
        ("auto", {}),
        ([6], {}),
        ("last", {}),
        ("auto", {"twins": 4}),
        ("auto", {"recalibrate_bn": True}),
    ):
        encoder = open_evaluated_encoder("vit_tiny", "a", UNCHANGED, layers)
        protocol = describe_protocol(encoder, FeatureOptions(**options))
        assert protocol["layers_choice"] == layers
        assert list(protocol["layers"]) == ([] if layers == "last" else [6])  # the middle one
        hashes.add(digest(protocol))
    assert len(hashes) == 5


@pytest.mark.parametrize("form", ["", ":tokens"])
def test_a_bag_is_the_average_of_its_still_clips(form: str):
    net = create_encoder("vit", **VIT).eval()
    maker = SourceMaker({"encoder": FrozenNet("a", lambda: net)}, (1,), ("mean", "grid"), 0)
    clip, index = clips(2, frames=4, size=16), torch.arange(2)
    with torch.inference_mode():
        bag = maker.make(f"encoder/bag{form}").run(clip, index)
        stills = []
        for t in range(4):
            still = clip[:, :, t : t + 1].expand_as(clip).contiguous()
            stills.append(maker.make(f"encoder{form}").run(still, index))
    assert len(bag) == (2 if form else 4)
    for name, table in bag.items():
        mean = torch.stack([of_frame[name].float() for of_frame in stills]).mean(0)
        torch.testing.assert_close(table.float(), mean, rtol=1e-2, atol=2e-3)
