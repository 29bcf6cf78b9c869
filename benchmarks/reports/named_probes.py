"""results -> what the two probes say that were named beforehand, before any number was seen.

A reader who may pick among many probes finds one that pleases. So every verdict holds the linear
probe and the nearest neighbours, and says where they disagree.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ssvid.results import Gain, Result

PROBES = {"linear": "the linear probe", "knn": "nearest neighbours"}  # probe -> its name
TASK = "classify"


class Named(NamedTuple):
    probe: str
    result: Result


def find_named(result: Result, others: Iterable[Result]) -> list[Named]:
    """The results of the two probes on the encoder, data and clips of `result`."""
    named: dict[str, Result] = {}
    for other in others:
        probe = other.question.get("probe")
        if probe in PROBES and is_named(other) and is_same_source(other, result):
            named.setdefault(probe, other)
    return [Named(probe, named[probe]) for probe in PROBES if probe in named]


def is_named(result: Result) -> bool:
    """A result of classification with a gain over untrained nets."""
    task = result.question.get("task")
    return task == TASK and result.over is None and "random" in result.gains


def is_same_source(a: Result, b: Result) -> bool:
    """Of the same encoder, data and clips. Each fold of a data set has a hash of its own."""
    hashes = (a.encoder.hash, a.data.hash) == (b.encoder.hash, b.data.hash)
    return hashes and a.protocol.get("clip") == b.protocol.get("clip")


def compare_named(title: str, named: Sequence[Named], compare: Callable[[Result], str]) -> str:
    """`compare`: result -> how a sentence about its encoder goes on."""
    clauses = []
    for probe, result in named:
        clauses.append(f"by {PROBES[probe]} it {compare(result)}")
    missing = list_missing(named)
    text = f"{title}: {'; '.join(clauses)}."
    if missing:
        return f"{text} Not asked: {missing[0]}."
    if len(set(map(kind_of_named, named))) > 1:
        return f"{text} The two probes DISAGREE, so neither alone is an answer."
    return text


def list_missing(named: Sequence[Named]) -> list[str]:
    """The names of the probes that were not asked."""
    return [PROBES[probe] for probe in PROBES if probe not in dict(named)]


def kind_of_named(named: Named) -> str:
    return kind_of(named.result.gains["random"])


def kind_of(gain: Gain) -> str:
    """`better`, `worse`, or empty where no difference is shown."""
    if not gain.shown:
        return ""
    return "better" if gain.difference > 0 else "worse"
