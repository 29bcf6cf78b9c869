"""A table of scores by adaptation -> one number: `python -m benchmarks.vgs TABLE.yaml`.

The score of VideoGLUE (arXiv:2307.03166) weighs what an encoder reaches in each adaptation (a
frozen probe, adapters, end to end) against what that adaptation has to train.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

from ssvid.errors import UserError
from ssvid.files import read_yaml_mapping
from ssvid.log import log
from ssvid.results import read_result

# Groups of tasks: appearance, motion, several labels, temporal and spatiotemporal localisation.
GROUPS = ("A", "M", "ML", "TAL", "STAL")
FORM = "NAME: {gflops: NUMBER, scores: {A: {SET: RESULT_FILE or percentage}, M: ..., ...}}"


class Adaptation(NamedTuple):
    """One way of using an encoder, and its scores in percent."""

    name: str
    gflops: float  # that are trained, for one clip
    groups: dict[str, dict[str, float]]  # group -> data set -> percentage

    @property
    def score(self) -> float:
        """The mean over the groups of the mean of each group. A missing group does not count."""
        means = [sum(scores.values()) / len(scores) for scores in self.groups.values()]
        return sum(means) / len(means)


def vgs(
    # YAML: the adaptations by name; each has `gflops`, that it trains, and `scores` by group
    table: str,
) -> dict[str, Any]:
    """Compute the VideoGLUE score of an encoder from result files or percentages.

    A path of a result file is relative to the folder of the table.
    """
    adaptations = read_adaptations(Path(table))
    rows = {}
    for adaptation in adaptations:
        missing = [group for group in GROUPS if group not in adaptation.groups]
        rows[adaptation.name] = {
            "score": adaptation.score,
            "gflops": adaptation.gflops,
            "missing": missing,
        }
        text = f"{adaptation.name}: {adaptation.score:.2f} at {adaptation.gflops:g} GFLOPs trained"
        if missing:
            text += f"; without {', '.join(missing)}, so it is no mean over all five groups"
        log.info(text)
    return {"vgs": compute_vgs(adaptations), "adaptations": rows}


def compute_vgs(adaptations: list[Adaptation]) -> float:
    """The mean of the scores, weighted by one over the logarithm of the trained GFLOPs."""
    total = weights = 0.0
    for adaptation in adaptations:
        weight = 1 / math.log10(adaptation.gflops)
        total += weight * adaptation.score
        weights += weight
    return total / weights


def read_adaptations(path: Path) -> list[Adaptation]:
    content = read_yaml_mapping(path, "table")
    if not content:
        raise UserError(f"The table {path} has no adaptation; one is {FORM}.")
    return [read_adaptation(path, str(name), entry) for name, entry in content.items()]


def read_adaptation(path: Path, name: str, entry: Any) -> Adaptation:
    if not isinstance(entry, dict) or entry.keys() != {"gflops", "scores"}:
        raise UserError(f"The table {path}: {name} should have the form {FORM}.")
    gflops, scores = entry["gflops"], entry["scores"]
    if not is_number(gflops) or not 1 < gflops < math.inf:
        raise UserError(
            f"The table {path}: gflops of {name} is {gflops!r}, and the score divides by its "
            "logarithm: it must be a number above 1."
        )
    if not isinstance(scores, dict) or not scores or set(scores) - set(GROUPS):
        raise UserError(
            f"The table {path}: scores of {name} are by group, of {', '.join(GROUPS)}; there are "
            f"{', '.join(map(str, scores)) if isinstance(scores, dict) else scores!r}."
        )
    groups = {}
    for group, of_sets in scores.items():
        if not isinstance(of_sets, dict) or not of_sets:
            raise UserError(f"The table {path}: {group} of {name} names no data set.")
        groups[group] = {
            str(data): read_percentage(path, value, f"{data} of {name}")
            for data, value in of_sets.items()
        }
    return Adaptation(name, float(gflops), groups)


def read_percentage(path: Path, value: Any, what: str) -> float:
    """A percentage as it is, or the score of a result file in percent."""
    if isinstance(value, str):
        file = path.parent / value
        if not file.is_file():
            raise UserError(f"The table {path}: {what} is {value!r}, and there is no such file.")
        result = read_result(file)
        if result is None:
            raise UserError(f"The table {path}: {what} is {value!r}, which is no result.")
        if result.leak.clips:
            log.warning(f"{what}: pretraining read {result.leak.clips} test clips of {value}.")
        value = 100 * result.score.value
    if not is_number(value) or not 0 <= value <= 100:
        raise UserError(f"The table {path}: {what} is {value!r}, which is no percentage.")
    return float(value)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("vgs")
