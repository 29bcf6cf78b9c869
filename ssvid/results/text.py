"""Result -> short texts. The terminal, tables and pages share them."""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ssvid.results.schema import OLD_INFERENCE, TUNED, Gain, Result, Score

ROW_NAMES = {  # row of a result (the encoder, a control) or gain of it -> its name in tables
    "encoder": "encoder",
    "random": "same net, untrained",
    "floor": "pixel floor",
    "single_frame": "one frame repeated",
    "bag": "single frames, averaged",
    "shuffled": "frames shuffled",
    "random_single_frame": "untrained, one frame repeated",
    "random_shuffled": "untrained, frames shuffled",
    "time": "use of time, beyond the untrained net's",
}
TUNED_ROW_NAMES = {"random": "same net, from random weights"}  # of a fine-tuning
PROBE_NAMES = {
    "attentive": "attentive probe",
    "coclr": "linear probe of CoCLR",
    "knn": "nearest neighbours",
    "linear": "linear probe",
    "perceptron": "small perceptron",
    "prototypes": "class means",
}
DESCRIPTOR_NAMES = {  # of the pixel floor
    "colour8": "mean colours",
    "first32": "first frame",
    "motion": "summed frame differences",
    "cube8": "grey pixels over time",
    "differences": "ordered frame differences",
    "phase": "phase correlation",
}
TOO_FEW = "too few groups to show anything"
# There are few nets, or many differences.
NOT_ANY = "not even a gain of 100 points would be shown in four of five tests"
UNKNOWN_LEAST = "old inference does not tell which gain could have been shown"
NOT_VALID = "NOT VALID"  # of a score: pretraining read test clips
WIDE = "wide, few sources"
LEAST_P = 0.0001  # a smaller p is written as "p < 0.0001"


def name_row(result: Result, row: str) -> str:
    """A row's name in tables."""
    if result.kind == TUNED and row in TUNED_ROW_NAMES:
        return TUNED_ROW_NAMES[row]
    return ROW_NAMES.get(row, row)


def format_leak(result: Result) -> str:
    """The sentence that stands before all others, or empty."""
    if not result.leak.clips:
        return ""
    return f"pretraining read {result.leak.clips} of the test clips; the score is not valid."


def format_percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def format_points(difference: float) -> str:
    """The size of a difference."""
    return f"{abs(100 * difference):.1f} points"


def format_interval(interval: Sequence[float], scale: str = "") -> str:
    low, high = (100 * end for end in interval)
    return f"{low:{scale}.1f} to {high:{scale}.1f}"


def format_score_interval(score: Score) -> str:
    return format_interval(score.interval) + (f" ({WIDE})" if score.wide else "")


def format_test(gain: Gain) -> str:
    """The interval of a difference with its level, and p."""
    text = f"{100 * gain.level:.4g} %: {format_interval(gain.interval, '+')}"
    return f"{text}, {format_p(gain.p)}" if gain.p is not None else text


def format_p(p: float) -> str:
    return f"p < {LEAST_P}" if p < LEAST_P else f"p = {p:.2g}"


def format_least(gain: Gain) -> str:
    """What has to follow "no difference shown"."""
    if is_beyond_all(gain):
        return NOT_ANY
    if gain.least is not None:
        return f"only a gain of {format_points(gain.least)} would be shown in four of five tests"
    return UNKNOWN_LEAST if gain.p is None else TOO_FEW


def is_beyond_all(gain: Gain) -> bool:
    """The test is so weak that no possible difference would be shown."""
    return gain.least is not None and gain.least >= 1


def format_gain(gain: Gain) -> str:
    """The gain of the encoder in percentage points, or that no difference is shown."""
    if not gain.shown:
        return f"no difference shown ({format_test(gain)}); {format_least(gain)}"
    return f"{100 * gain.difference:+.1f} ({format_test(gain)})"


def format_score(result: Result) -> str:
    """The main number, with its standard deviation if it is a mean."""
    spread, over = result.score.spread, describe_mean(result)
    if spread is None or not over:
        return format_percent(result.score.value)
    return f"{100 * result.score.value:.1f} +- {100 * spread:.1f} % ({over})"


def describe_mean(result: Result) -> str:
    """What the numbers are means over, such as "3 seeds"; empty if they are no means."""
    seeds = len(result.seeds or ())
    return result.over or (f"{seeds} seeds" if seeds > 1 else "")


def is_old(result: Result) -> bool:
    return result.inference == OLD_INFERENCE


def find_spread(score: Score) -> float | None:
    """The standard deviation over untrained nets where there are several, else over seeds."""
    nets = score.of_nets or ()
    return statistics.stdev(nets) if len(nets) > 1 else score.spread


def format_control_score(result: Result, row: str) -> str:
    return format_percent(result.controls[row].value) if row in result.controls else ""


def format_untrained(result: Result) -> str:
    """The mean of the untrained nets with its standard deviation, and how many nets there are."""
    if "random" not in result.controls:
        return ""
    score = result.controls["random"]
    nets, spread = len(score.of_nets or ()), find_spread(score)
    if nets < 2 or spread is None:
        return format_percent(score.value)
    return f"{100 * score.value:.1f} +- {100 * spread:.1f} % ({nets} nets)"


def format_rank(result: Result) -> str:
    """The place of the encoder among itself and its untrained nets, such as "1 of 9"."""
    nets = result.controls["random"].of_nets if "random" in result.controls else None
    return f"{result.rank} of {len(nets) + 1}" if result.rank is not None and nets else ""


def name_floor(result: Result) -> str:
    """Descriptor and probe of the pixel floor, as val chose them; empty where it is not told."""
    if "floor" not in result.controls:
        return ""
    details = result.controls["floor"].details
    if "chosen_by_fold" in details:
        return name_floors_of_folds(details["chosen_by_fold"])
    return name_choice(find_choice(details))


def name_floors_of_folds(choices: Sequence[dict[str, Any]]) -> str:
    """The choice of most folds, and of how many."""
    names = Counter(map(name_choice, choices))
    (name, number), *_ = names.most_common()
    return f"{name}, in {number} of {len(choices)} folds"


def name_choice(chosen: dict[str, Any]) -> str:
    """Descriptor and probe of one choice."""
    descriptor, probe = str(chosen.get("pooling", "")), str(chosen.get("probe", ""))
    names = (DESCRIPTOR_NAMES.get(descriptor, descriptor), PROBE_NAMES.get(probe, probe))
    return ", ".join(filter(None, names))


def find_choice(details: dict[str, Any]) -> dict[str, Any]:
    """What val chose, wherever a task puts it; empty if it is nowhere."""
    if isinstance(details.get("chosen"), dict):
        return dict(details["chosen"])
    for part in details.values():
        if isinstance(part, dict) and isinstance(part.get("chosen"), dict):
            return dict(part["chosen"])
    return {}


def format_floor(result: Result) -> str:
    if "floor" not in result.controls:
        return ""
    score, name = format_control_score(result, "floor"), name_floor(result)
    return f"{score} ({name})" if name else score


def format_gain_over_untrained(result: Result) -> str:
    return format_gain(result.gains["random"]) if "random" in result.gains else ""


def find_mean_class(result: Result) -> float | None:
    """The mean over classes of the accuracy in each class."""
    share = result.score.details.get("mean_class")
    return float(share) if isinstance(share, int | float) else None


def format_line(result: Result) -> str:
    """One line about the result: its score, its controls and chance, and the gain."""
    references = []
    if "random" in result.controls:
        rank = format_rank(result)
        suffix = f", rank {rank}" if rank else ""
        references.append(f"untrained {format_untrained(result)}{suffix}")
    if "floor" in result.controls:
        references.append(f"pixel floor {format_floor(result)}")
    for name, share in (("chance", result.chance), ("largest class", result.majority)):
        if share is not None:
            references.append(f"{name} {format_percent(share)}")
    name = f"{result.encoder.title}, {result.cell}"
    mark = f" {NOT_VALID}" if result.leak.clips else ""
    clauses = [
        f"{name}: {format_score(result)}{mark} ({format_score_interval(result.score)})",
        ", ".join(references),
        format_gain_over_untrained(result),
        "old inference" if is_old(result) else "",
    ]
    return "; ".join(clause for clause in clauses if clause)


def format_table(result: Result) -> str:
    """The rows of a result for a terminal: scores, intervals, and what the encoder has more."""
    lines = [("", f"{result.metric} on test", "95 % interval", "the encoder has more")]
    for row, score in result.rows.items():
        name, mark = name_row(result, row), ""
        if row == "encoder":
            name, mark = result.encoder.title, f" {NOT_VALID}" if result.leak.clips else ""
        gain = result.gains.get(row)
        value = f"{format_percent(score.value)}{mark}"
        lines.append((name, value, format_score_interval(score), gain_cell(gain)))
    for name, share in (("chance", result.chance), ("largest class", result.majority)):
        if share is not None:
            lines.append((name, format_percent(share), "", ""))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = []
    for line in lines:
        texts.append("  ".join(map(str.ljust, line, widths)).rstrip())
    return "\n".join(texts)


def gain_cell(gain: Gain | None) -> str:
    """A gain in a table: what is not shown is no number."""
    if gain is None:
        return ""
    points = f"{100 * gain.difference:+.1f}" if gain.shown else "no difference shown"
    return f"{points} ({format_test(gain)})"
