"""an encoder's name, file or run folder -> EvaluatedEncoder, with all that is known of it."""

from typing import Any, Literal, NamedTuple

import torch

from benchmarks.features.descriptors import VERSION as PIXELS_VERSION
from benchmarks.features.options import FeatureOptions
from benchmarks.features.sources import CONTROLS, VERSION, choose_layers
from benchmarks.features.units import get_kind
from ssvid.encoder import Encoder
from ssvid.engine.train_flags import ClipChange
from ssvid.hub import open_encoder
from ssvid.results import EncoderInfo
from ssvid.results.provenance import describe_encoder
from ssvid.shapes import ClipSpec

# Seed of the weights of an encoder that is only a name. They are the same in every run, and differ
# from those of its untrained twin.
NAME_SEED = 1


class EvaluatedEncoder(NamedTuple):
    """An encoder to evaluate, with all that is known of it before any work."""

    argument: str  # as the user named it
    name: str  # of its results
    net: Encoder
    spec: ClipSpec  # as the user wants it; a suite may shrink the clip of `net`
    layers: tuple[int, ...]
    info: EncoderInfo
    fused: tuple["EvaluatedEncoder", ...] = ()  # the encoders of late_fusion.py, if several
    layers_choice: Literal["auto", "last"] | list[int] = "auto"  # what the user wanted

    @property
    def streams(self) -> tuple["EvaluatedEncoder", ...]:
        return self.fused or (self,)


def open_evaluated_encoder(
    argument: str, name: str, clip: ClipChange, layers: Literal["auto", "last"] | list[int]
) -> EvaluatedEncoder:
    """Open the encoder that the user named. Its clip is changed as the user wants.

    Raises a UserError where there is no such encoder, clip or layer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(NAME_SEED)
        net = open_encoder(argument).eval()
    clip.apply_to(net)
    info = describe_encoder(argument, name, net)
    numbers = choose_layers(net, layers)
    return EvaluatedEncoder(argument, name, net, net.spec, numbers, info, layers_choice=layers)


def describe_protocol(
    encoder: EvaluatedEncoder, options: FeatureOptions, kind: str = "clips"
) -> dict[str, Any]:
    """What two results must share to be compared, apart from the probe. Hashed and written."""
    clip = vars(encoder.net.spec)
    views = {"clips": options.clips, "crops": options.crops, "average": options.average}
    unit_kind = get_kind(kind)
    return {
        "clip": clip | views,
        "layers": () if unit_kind.last_layer_only else encoder.layers,
        "layers_choice": encoder.layers_choice,
        "poolings": unit_kind.poolings or options.poolings,
        "calibrate_bn": options.calibrate_bn,
        "recalibrate_bn": options.recalibrate_bn,
        "twins": options.twins,
        "folds": options.folds,
        "selection": "setting and pooling by val; test read once",
        "controls": CONTROLS,
        "seed": options.seed,
        "version": VERSION,
        "pixels_version": PIXELS_VERSION,
    }
