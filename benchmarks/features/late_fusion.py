"""`RGB+FLOW` -> one Subject and one Bench of several encoders, each with its own clips: late fusion of two streams.

A task that `fuses` asks each encoder by itself and adds up what they say; of the controls too, row by row.
"""

from collections.abc import Sequence
from typing import Any, Literal

from benchmarks.features import bench as single
from benchmarks.features.bench import Bench, FeatureOptions, Subject
from ssvid.data.manifest import SPLITS, Manifest
from ssvid.engine.train_flags import ClipChange
from ssvid.errors import UserError
from ssvid.results import EncoderInfo, Leak, digest
from ssvid.results.provenance import leak, split_streams


def subject(
    text: str, name: str, clip: ClipChange, layers: Literal["auto", "last"] | list[int]
) -> Subject:
    parts = split_streams(text)
    if len(parts) == 1:
        return single.subject(text, name, clip, layers)
    if not all(parts):
        raise UserError(f"--encoder {text}: there is nothing on one side of the +.")
    if clip.modality is not None:
        raise UserError(f"--clip.modality is of one encoder alone: {text} keep each their own.")
    each = tuple(single.subject(part, name, clip, layers) for part in parts)
    return each[0]._replace(given=text, encoder=described(each, text, name), parts=each)


def described(streams: Sequence[Subject], text: str, name: str) -> EncoderInfo:
    """What a result says of several encoders, and each of them by itself."""
    each = tuple(one.encoder for one in streams)
    untrained = [one.weights for one in each if one.weights != "trained"]
    licences = dict.fromkeys(one.licence for one in each if one.licence)
    return EncoderInfo(
        title=name,
        given=text,
        weights=untrained[0] if untrained else "trained",
        name="+".join(one.name for one in each),
        kwargs={},
        parameters=sum(one.parameters for one in each),
        licence=", ".join(licences) or None,
        hash=digest({"streams": [one.hash for one in each]}),
        streams=each,
    )


def agreed(of: Subject, options: FeatureOptions, kind: str) -> dict[str, Any]:
    """What two results must share; of several encoders the clips of each."""
    first, *others = (single.agreed(one, options, kind) for one in of.streams)
    return first | (
        {"others": [{key: one[key] for key in ("clip", "layers")} for one in others]}
        if others
        else {}
    )


def bench(
    of: Subject, data: Manifest, options: FeatureOptions, wanted: Sequence[str], kind: str
) -> Bench:
    """Each encoder's features; of videos that one of them could not read there are none."""
    first, *others = (single.bench(one, data, options, wanted, kind) for one in of.streams)
    if not others:
        return first
    known = [
        {one.row[i] for split in SPLITS for i in one.splits[split]} for one in (first, *others)
    ]
    both = set.intersection(*known)
    first, *others = (only(one, both) for one in (first, *others))
    lost = dict.fromkeys(path for one in (first, *others) for path in one.lost)
    cost = {key: sum(one.cost[key] for one in (first, *others)) for key in first.cost}
    return first._replace(lost=list(lost), cost=cost, others=tuple(others))


def only(bench: Bench, rows: set[int]) -> Bench:
    splits = {
        split: [unit for unit in units if bench.row[unit] in rows]
        for split, units in bench.splits.items()
    }
    return bench._replace(splits=splits)


def leaks(of: Subject, test: Manifest) -> Leak:
    """The first encoder that read test clips; else whether all of them tell what they read."""
    each = [leak(one.given, test) for one in of.streams]
    bad = [one for one in each if one.clips]
    unknown = [one for one in each if not one.checked]
    return (bad or unknown or each)[0]
