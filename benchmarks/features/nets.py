"""encoder, train clips -> the frozen nets of a result: the encoder and its untrained twins.

A twin is built, and its batch norm is measured, when a clip is first run through it. So a run whose
features are all in the cache builds no twin, and holds none in memory.
"""

import copy
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.features.controls import create_twin
from benchmarks.features.evaluated_encoder import EvaluatedEncoder
from benchmarks.features.options import FeatureOptions
from benchmarks.features.sources import FrozenNet
from ssvid import registry
from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.engine.features import describe_some_clips, some_clips
from ssvid.nn.batchnorm import calibrate, ensure_statistics, lacks_statistics, list_batch_norms
from ssvid.weights.encoders import hash_encoder

CALIBRATION_CLIPS = 256  # train clips on which batch norm is measured, if the user names no number


class CalibrationClips(NamedTuple):
    """Train clips on which batch norm is measured. A set without train clips gives any clips."""

    data: Manifest
    number: int
    options: FeatureOptions

    @classmethod
    def choose(cls, data: Manifest, options: FeatureOptions) -> "CalibrationClips":
        train = data.split("train")
        number = options.calibrate_bn or CALIBRATION_CLIPS
        return cls(train if len(train) else data, number, options)

    def read(self, net: Encoder) -> Iterator[Tensor]:
        seed, batch_size = self.options.seed, self.options.batch_size
        return some_clips(self.data, net.spec, self.number, seed, batch_size, self.options.workers)

    def describe(self, net: Encoder) -> str:
        """All that the statistics of a net depend on; the same for every net without batch norm."""
        if not list_batch_norms(net):
            return "no batch norm"
        clips = describe_some_clips(self.data, net.spec, self.number, self.options.seed)
        return f"{clips} in batches of {self.options.batch_size}"


def prepare_nets(
    encoder: EvaluatedEncoder, data: Manifest, options: FeatureOptions
) -> tuple[dict[str, FrozenNet], list[str]]:
    """(name -> net, notes): the encoder and `options.twins` untrained twins, on the device.

    Raises a UserError where the encoder has no batch-norm statistics and none shall be measured.
    """
    clips = CalibrationClips.choose(data, options)
    encoder.net.to(options.device)
    net, notes = prepare_encoder(encoder, clips)
    nets = {"encoder": FrozenNet(hash_encoder(net), lambda: net)}
    for number in range(options.twins):
        nets[f"twin{number}"] = make_twin(net, number, clips)
    return nets, notes


def prepare_encoder(
    encoder: EvaluatedEncoder, clips: CalibrationClips
) -> tuple[Encoder, list[str]]:
    """(net, notes). What is measured is measured on a copy, since the next data set has others."""
    options, net = clips.options, encoder.net
    if options.recalibrate_bn:
        if not list_batch_norms(net):
            return net, ["The encoder has no batch norm, so --recalibrate_bn changes nothing."]
        net = calibrate(copy.deepcopy(net), clips.read(net))
        note = "The encoder's batch norm was measured anew on the train clips that its untrained "
        return net, [f"{note}twins are measured on ({min(clips.number, len(clips.data))} clips)."]
    if lacks_statistics(net):
        net = copy.deepcopy(net)
        may_measure = bool(options.calibrate_bn)
        ensure_statistics(net, encoder.argument, clips.read(net) if may_measure else None)
    return net, []


def make_twin(net: Encoder, number: int, clips: CalibrationClips) -> FrozenNet:
    def build() -> Encoder:
        twin = create_twin(net, number)
        return calibrate(twin, clips.read(twin))

    key = f"untrained {hash_architecture(net)} twin {number} {clips.describe(net)}"
    return FrozenNet(key, build)


def hash_architecture(net: Encoder) -> str:
    """Hash of all that the features of an untrained twin depend on, but for seed and batch norm.

    It does not depend on the weights of `net`, so all runs of an architecture share twins. The code
    that draws weights is a part of it, because a plug-in may change between two runs.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    settings = (net.name, net.spec, net.mean, net.std, torch.__version__, sorted(shapes.items()))
    arguments = json.dumps(net.kwargs, sort_keys=True, default=str)
    digest = hashlib.sha256(f"{settings!r} {arguments}".encode())
    for source in list_source_files(net):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def list_source_files(net: Encoder) -> list[Path]:
    """The files of the net's modules and of the function that builds it, without torch's own."""
    modules = {type(module).__module__ for module in net.modules()}
    modules.add(registry.encoders[net.name].__module__)
    files = set()
    for name in modules:
        file = getattr(sys.modules.get(name), "__file__", None) or ""
        if file.endswith(".py") and name.partition(".")[0] != "torch":
            files.add(Path(file))
    return sorted(files)
