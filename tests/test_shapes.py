"""ClipSpec: one of three ways to space its frames, and what files and hashes hold of it."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.features.evaluated_encoder import EvaluatedEncoder
from benchmarks.features.late_fusion import describe_protocol
from benchmarks.features.options import FeatureOptions
from ssvid.data.store import make_card
from ssvid.encoder import Encoder
from ssvid.engine.train_flags import ClipChange
from ssvid.errors import UserError
from ssvid.registry import encoders
from ssvid.results import digest
from ssvid.results.provenance import describe_encoder
from ssvid.shapes import ClipSpec, Features, Grid, Views
from ssvid.weights.encoders import hash_encoder, load_encoder, save_encoder
from tests.helpers import facts, for_each

STRIDE = ClipSpec(frames=8, stride=4, size=112)
FPS = ClipSpec(frames=16, fps=5.0, modality="flow")
WHOLE = ClipSpec(frames=8, whole=True, size=112)


@encoders.register("test_dot")
class Dot(Encoder):
    """One weight, whose hash no change of a real encoder moves."""

    dim = 1

    def __init__(self, *, spec: int = 1) -> None:
        super().__init__()
        self.name, self.kwargs, self.spec = "dot", {"spec": spec}, STRIDE
        self.scale = nn.Parameter(torch.ones(2))

    def grid(self, T: int, H: int, W: int) -> Grid:
        return Grid(1, 1, 1)

    def forward(self, clip, visible=None, layers=None) -> Features:
        raise NotImplementedError


def dot(spec: ClipSpec) -> Dot:
    net = Dot()
    net.spec = spec
    return net


@for_each(
    "spaced",
    [{}, {"fps": 5.0, "stride": 2}, {"fps": 5.0, "whole": True}, {"stride": 2, "whole": True}],
)
def test_frames_are_spaced_in_exactly_one_way(spaced):
    with pytest.raises(UserError, match=facts("fps", "stride", "whole")):
        ClipSpec(**spaced)


# Of the commit before ClipSpec had a `whole`: what is stored under these names must be found again.
RGB = "ClipSpec(frames=8, fps=None, stride=4, size=112, modality='rgb')"
FLOW = "ClipSpec(frames=16, fps=5.0, stride=None, size=224, modality='flow')"


@for_each(
    "spec, text, net, protocol, card",
    [
        (STRIDE, RGB, "2c5fae129c7ef20a", "a110c7d8be784915", "f9b8bff11d6bef7b"),
        (FPS, FLOW, "afaf1b323b2e8e66", "73349214ab46c063", "2d08c1e1b89ab054"),
    ],
)
def test_hashes_of_clips_that_are_not_whole_stay(spec, text, net, protocol, card):
    assert repr(spec) == text and hash_encoder(dot(spec)) == net
    assert list(vars(spec)) == ["frames", "fps", "stride", "size", "modality"]
    assert digest({"clip": vars(spec) | {"clips": 1}}) == protocol
    views = f"Views(clips=({text},), augment='none'"  # of cached features
    assert views in repr(Views(clips=(spec,), augment="none"))
    assert digest(make_card(1, "dot", "", spec)) == card
    for copy in (
        pickle.loads(pickle.dumps(spec)),
        replace(spec),
        replace(spec, whole=False),
        ClipSpec(**vars(spec)),
    ):
        assert (
            copy == spec
            and hash(copy) == hash(spec)
            and vars(copy) == vars(spec)
            and copy.whole is False
        )


def test_hashes_of_whole_clips_are_their_own():
    others = [STRIDE, replace(STRIDE, stride=1), ClipSpec(frames=8, fps=5.0, size=112)]
    for make_name in (repr, lambda spec: hash_encoder(dot(spec))):
        assert make_name(WHOLE) not in map(make_name, others)
    assert all(vars(WHOLE) != vars(other) and WHOLE != other for other in others)
    info = describe_encoder("dot", "dot", dot(WHOLE))
    told = [
        describe_protocol(
            EvaluatedEncoder("dot", "dot", dot(s), s, (), info), FeatureOptions(), "clips"
        )
        for s in (WHOLE, *others)
    ]
    assert told[0]["clip"]["whole"] is True and not any("whole" in one["clip"] for one in told[1:])
    assert len({digest(one) for one in told}) == 4
    copy = pickle.loads(pickle.dumps(WHOLE))
    assert copy == WHOLE and copy.whole and ClipSpec(**vars(WHOLE)) == WHOLE


@for_each("spec", [STRIDE, FPS, WHOLE])
def test_an_exported_encoder_keeps_its_clip(spec, tmp_path: Path):
    net = dot(spec)
    net.name = "test_dot"
    file = save_encoder(net, tmp_path, "encoder", {})
    card = json.loads(file.with_suffix(".json").read_text())
    assert (
        card["spec"] == vars(spec) and ("whole" in card["spec"]) == spec.whole
    )  # older code reads the others
    assert load_encoder(tmp_path).spec == spec


def test_frames_that_are_drawn_apart_need_a_whole_clip_and_change_no_name():
    views = Views(clips=(WHOLE,), independent_frames=True)
    assert repr(views) == repr(Views(clips=(WHOLE,))) and views != Views(clips=(WHOLE,))
    for make in (
        lambda: replace(views, clips=(WHOLE, STRIDE)),
        lambda: ClipChange(fps=5.0).views(views),
    ):
        with pytest.raises(UserError, match=facts("--clip.fps", "--clip.stride", "--clip.whole")):
            make()
    with pytest.raises(UserError, match="gap"):
        replace(views, max_gap_s=1.0)
    assert ClipChange(frames=4).views(views).independent_frames


def test_one_way_to_space_undoes_the_others():
    def changed(spec: ClipSpec, **given) -> ClipSpec:
        return replace(spec, **ClipChange(**given).settings())

    assert (
        changed(STRIDE, whole=True)
        == changed(replace(FPS, modality="rgb", frames=8, size=112), whole=True)
        == WHOLE
    )
    assert changed(WHOLE, stride=4) == changed(WHOLE, stride=4, whole=False) == STRIDE
    assert changed(WHOLE, fps=5.0) == ClipSpec(frames=8, fps=5.0, size=112)
    assert (
        changed(WHOLE, frames=64) == replace(WHOLE, frames=64)
        and changed(STRIDE, whole=False) == STRIDE
    )
    with pytest.raises(UserError, match=facts("fps", "stride", "whole")):
        changed(WHOLE, whole=False)  # what instead?
    with pytest.raises(UserError, match=facts("fps", "0")):
        changed(WHOLE, fps=0.0)
    for two in ({"fps": 5.0}, {"stride": 2}):
        with pytest.raises(UserError, match=facts("--clip.fps", "--clip.stride", "--clip.whole")):
            changed(STRIDE, whole=True, **two)
    net = dot(STRIDE)
    ClipChange(whole=True).apply_to(net)
    assert net.spec == WHOLE
    views = ClipChange(whole=True).views(Views(clips=(STRIDE, replace(STRIDE, modality="flow"))))
    assert views.clips == (WHOLE, replace(WHOLE, modality="flow"))


def test_an_encoder_of_fixed_frames_takes_no_other_number():
    net = dot(WHOLE)
    ClipChange(frames=4).apply_to(net)
    net.fixed_frames = True
    with pytest.raises(UserError, match=facts("--clip.frames 2", "4")):
        ClipChange(frames=2).apply_to(net)
    ClipChange(frames=4, size=64).apply_to(net)
    assert net.spec == replace(WHOLE, frames=4, size=64)
