"""What a result holds. `json_form.py` says how it stands in a file.

A field that has a default is left out of the file where it has that default; a field made by
`nullable()` is then null.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 3  # of the files that are written; a reader takes this one and all before it
BENCH, TUNED = "benchmark", "fine-tuning"  # kinds of results
OLD_INFERENCE = "old"  # before schema 3: percentile bootstraps, one untrained twin, weak floor
Json = dict[str, Any]
Interval = tuple[float, float]  # 95 %


def nullable() -> Any:
    return field(default=None, metadata={"null": True})


def digest(content: Json) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Score:
    """The numbers of one row: of the encoder or of a control."""

    value: float  # of the result's metric
    interval: Interval
    # The metrics of the task, and the settings that val chose.
    details: Json = field(default_factory=dict)
    per_class: dict[str, float | None] | None = None
    of_seeds: Sequence[float] | None = None  # of the probe
    std_over_seeds: float | None = None
    # Of several nets: the untrained twins, or the pretraining runs of a mean.
    of_nets: Sequence[float] | None = None
    # The part of the variance between these nets that the choice of the test groups explains.
    noise_of_nets: float | None = None
    of_draws: Sequence[float] | None = None  # of the few labels
    wide: bool | None = None  # the interval rests on few sources
    std: float | None = None  # of a mean over results, which stands in no file

    @property
    def spread(self) -> float | None:
        return self.std if self.std_over_seeds is None else self.std_over_seeds


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What the encoder has more than a control, paired by test clip.

    The interval is the inverted test, at the level at which Holm's rule tests this difference
    among all that stand with it. So it leaves out zero where, and only where, `shown` is true.
    """

    difference: float
    interval: Interval
    shown: bool
    level: float = 0.95  # of the interval
    p: float | None = None  # of no difference, before Holm's rule
    # The least gain that would have been shown in 80 % of such tests; None: there is no such gain.
    least: float | None = None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers on the test split: of each clip, or of a ranking the part of each group."""

    paths: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    units: int | None = None  # seconds or boxes, of a ranking
    labels: list[Any] | None = None  # a class number, or a list of them
    correct: dict[str, list[float]] | None = None  # row -> share of right answers to each clip
    predictions: dict[str, list[int]] | None = None  # row -> class number of each clip
    # Row -> what each group, sorted by name, says of the main number of a ranking (jackknife).
    of_groups: dict[str, list[float]] | None = None
    weights: list[float] | None = None  # of these groups, in a mean over folds; else all alike
    # Row -> the main number in each redrawing of the groups; before schema 3.
    draws: dict[str, list[float]] | None = None


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    title: str
    argument: str  # the encoder as the user named it; `given` before schema 2
    weights: str  # "trained", or what they are instead
    name: str
    kwargs: Json
    parameters: int
    licence: str | None = nullable()
    hash: str
    recipe: str | None = None  # hash of what its run was asked for, but for the seed
    pretraining_seed: int | None = None
    streams: tuple["EncoderInfo", ...] = ()  # of several encoders that answer together


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    set: Json | None = None  # name and settings of the data set
    hash: str
    classes: list[str]
    clips: dict[str, int]  # split -> number
    groups: dict[str, int]
    listed: dict[str, int]
    bad_files: int
    bad: list[str]


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Test clips that an earlier training of the encoder read."""

    checked: bool
    clips: int | None = None
    first: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    cpu_s: float | None = None
    extract_cpu_s: float | None = None
    gflops_per_clip: float | None = None
    probe_cpu_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Fold:
    cell: str  # the cell whose score is the mean over the folds; `of` before schema 2
    number: int
    folds: list[int]


@dataclass(frozen=True, kw_only=True)
class Result:
    """An encoder's answers to one cell: a task, a probe and a data set."""

    kind: str
    cell: str
    cell_hash: str | None = None  # of the task, the probe and their settings
    fold: Fold | None = None
    metric: str
    score: Score
    chance: float | None = None
    majority: float | None = None  # score of the largest class
    rank: int | None = None  # of the encoder among itself and its untrained twins; 1 is the best
    ledger: int | None = None  # distinct encoders that have read this test set
    notes: list[str] = field(default_factory=list)  # sentences that every table has to say
    inference: str | None = None  # OLD_INFERENCE for a file of before schema 3
    confusion: list[list[int]] | None = None  # label x prediction
    controls: dict[str, Score]
    gains: dict[str, Gain]
    seeds: Sequence[int] | None = None  # of the probe
    strips: list[Json] | None = None  # test clips beside their nearest train clips
    attention: Json | None = None  # over time
    test: Answers
    encoder: EncoderInfo
    data: DataInfo
    protocol: Json  # what two results share that can be compared
    protocol_hash: str
    tuned: str | None = None  # hash of the encoder after fine-tuning
    leak: Leak
    cost: Cost
    seed: int
    git: str | None = nullable()
    text: str | None = None  # hash of the encoder's text side
    config: Json | None = nullable()
    command: str | None = nullable()
    over: str | None = None  # what a mean is over; such a result stands in no file
    member_count: int | None = None  # number of results of a mean

    @property
    def rows(self) -> dict[str, Score]:
        return {"encoder": self.score, **self.controls}

    @property
    def is_ungrouped(self) -> bool:
        """Whether every test clip is a group of its own."""
        groups = self.test.groups
        return bool(self.test.paths) and len(set(groups)) == len(groups) == len(self.test.paths) > 1

    @property
    def val(self) -> float | None:
        return self.score.details.get(f"val_{self.metric}")

    @property
    def question(self) -> Json:
        """The task, the probe and their settings, or the settings of a fine-tuning but for its
        encoder.
        """
        if self.kind == TUNED:
            return {
                key: value for key, value in self.protocol["training"].items() if key != "encoder"
            }
        return dict(self.protocol["cell"])
