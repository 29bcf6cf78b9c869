"""`RGB+FLOW` -> one EvaluatedEncoder and one Bench of several encoders: late fusion of streams.

Each encoder has its own clips. A task that `fuses_encoders` asks each encoder by itself and adds
up their scores. It does the same with the controls, row by row.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from benchmarks.features import bench as single_bench
from benchmarks.features import evaluated_encoder as single
from benchmarks.features.bench import Bench
from benchmarks.features.evaluated_encoder import EvaluatedEncoder
from benchmarks.features.options import FeatureOptions
from ssvid.data.manifest import SPLITS, Manifest
from ssvid.engine.train_flags import ClipChange
from ssvid.errors import UserError
from ssvid.results import EncoderInfo, Leak, digest
from ssvid.results.provenance import check_leak, split_streams


def open_evaluated_encoder(
    argument: str, name: str, clip: ClipChange, layers: Literal["auto", "last"] | list[int]
) -> EvaluatedEncoder:
    """Open one encoder, or several whose names are joined by a +. Raises a UserError."""
    arguments = split_streams(argument)
    if len(arguments) == 1:
        return single.open_evaluated_encoder(argument, name, clip, layers)
    if not all(arguments):
        raise UserError(f"--encoder {argument}: there is nothing on one side of the +.")
    if clip.modality is not None:
        raise UserError(
            f"--clip.modality is for a single encoder: each encoder of {argument} has its own."
        )
    streams = [single.open_evaluated_encoder(part, name, clip, layers) for part in arguments]
    info = describe_streams(streams, argument, name)
    return streams[0]._replace(argument=argument, info=info, fused=tuple(streams))


def describe_streams(streams: Sequence[EvaluatedEncoder], argument: str, name: str) -> EncoderInfo:
    """What a result says about several encoders together, and about each by itself."""
    infos = tuple(stream.info for stream in streams)
    names, hashes, licences = [], [], []
    weights, parameters = "trained", 0
    for info in infos:
        names.append(info.name)
        hashes.append(info.hash)
        parameters += info.parameters
        if weights == "trained":  # else it says what the weights of an earlier encoder are
            weights = info.weights
        if info.licence and info.licence not in licences:
            licences.append(info.licence)
    return EncoderInfo(
        title=name,
        argument=argument,
        weights=weights,
        name="+".join(names),
        kwargs={},
        parameters=parameters,
        licence=", ".join(licences) or None,
        hash=digest({"streams": hashes}),
        streams=infos,
    )


def describe_protocol(
    encoder: EvaluatedEncoder, options: FeatureOptions, kind: str
) -> dict[str, Any]:
    """What two results must share to be compared. Of further encoders it holds the clips."""
    protocol = single.describe_protocol(encoder.streams[0], options, kind)
    others = []
    for stream in encoder.streams[1:]:
        described = single.describe_protocol(stream, options, kind)
        others.append({"clip": described["clip"], "layers": described["layers"]})
    return protocol | ({"others": others} if others else {})


def extract_bench(
    encoder: EvaluatedEncoder,
    data: Manifest,
    options: FeatureOptions,
    names: Sequence[str],
    kind: str,
) -> Bench:
    """The features of each encoder, for the videos that all encoders could read."""
    extract = partial(
        single_bench.extract_bench, data=data, options=options, names=names, kind=kind
    )
    benches = list(map(extract, encoder.streams))
    if len(benches) == 1:
        return benches[0]
    common_rows = set.intersection(*map(list_readable_rows, benches))
    benches = [restrict_to_rows(bench, common_rows) for bench in benches]
    unreadable: dict[str, None] = {}
    for bench in benches:
        unreadable |= dict.fromkeys(bench.unreadable_files)
    cost = dict.fromkeys(benches[0].cost, 0.0)
    for key in cost:
        for bench in benches:
            cost[key] += bench.cost[key]
    notes: dict[str, None] = {}
    twins = benches[0].twins
    for bench in benches:
        notes |= dict.fromkeys(bench.notes)
        twins = min(twins, bench.twins)
    return benches[0]._replace(
        unreadable_files=list(unreadable),
        cost=cost,
        other_streams=tuple(benches[1:]),
        twins=twins,
        notes=list(notes),
    )


def list_readable_rows(bench: Bench) -> set[int]:
    """The rows of the data set that have a unit in any split."""
    rows: set[int] = set()
    for split in SPLITS:
        for unit in bench.splits[split]:
            rows.add(bench.row_of_unit[unit])
    return rows


def restrict_to_rows(bench: Bench, rows: set[int]) -> Bench:
    """The same Bench, whose splits hold only units of these rows."""
    folds = [restrict_splits(bench, splits, rows) for splits in bench.folds]
    return bench._replace(splits=restrict_splits(bench, bench.splits, rows), folds=tuple(folds))


def restrict_splits(
    bench: Bench, splits: dict[str, list[int]], rows: set[int]
) -> dict[str, list[int]]:
    restricted = {}
    for split, units in splits.items():
        restricted[split] = [unit for unit in units if bench.row_of_unit[unit] in rows]
    return restricted


def find_leak(encoder: EvaluatedEncoder, test: Manifest) -> Leak:
    """The leak of the first encoder that read test clips.

    Where no encoder did, it says whether all of them record what they read.
    """
    leaks = [check_leak(stream.argument, test) for stream in encoder.streams]
    for stream_leak in leaks:
        if stream_leak.clips:
            return stream_leak
    for stream_leak in leaks:
        if not stream_leak.checked:
            return stream_leak
    return leaks[0]
