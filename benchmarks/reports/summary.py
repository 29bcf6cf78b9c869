"""results -> the sentences that sum up a whole page."""

from collections.abc import Sequence

from benchmarks.reports.cell_titles import group_cells
from benchmarks.reports.named_probes import PROBES, compare_named, find_named, kind_of, list_missing
from benchmarks.reports.page_heads import title_of
from benchmarks.reports.verdict import above_or_below, name_untrained
from ssvid.results import Gain, Result
from ssvid.results.text import (
    format_least,
    format_percent,
    format_points,
    format_test,
    is_beyond_all,
)


def summarise(results: list[Result]) -> list[str]:
    """The best encoder and its gain over untrained nets; then what the two named probes say of it.

    Means over folds or seeds are left out, and so are scores that a leak makes invalid.
    """
    valid = list(filter(is_valid, results))
    if not valid:
        return ["No score here is valid: pretraining read test clips of every one."]
    titles, cells = list(dict.fromkeys(map(title_of, valid))), group_cells(valid)
    if len(cells) == 1:
        best = max(valid, key=value_of)
        return [summarise_score(best, len(titles)), *ask_named(best, valid)]
    if len(titles) == 1:
        title, lead = titles[0], titles[0]
    else:
        wins = dict.fromkeys(titles, 0)
        for members in cells.values():
            wins[title_of(max(members, key=value_of))] += 1
        title = max(wins, key=wins.__getitem__)
        lead = f"{title} has the highest score in {wins[title]} of {len(cells)} tasks and"
    members = [result for result in valid if title_of(result) == title]
    if members[0].encoder.weights != "trained":
        return [f"{lead} has random weights: other random draws stand beside it."]
    return [f"{lead} {summarise_gains(members)}", *summarise_named(members)]


def is_valid(result: Result) -> bool:
    """It is no mean, and pretraining read none of its test clips."""
    return result.over is None and not result.leak.clips


def value_of(result: Result) -> float:
    return result.score.value


def summarise_score(best: Result, encoders: int) -> str:
    score = f"{format_percent(best.score.value)} ({best.metric})"
    name = f"{best.encoder.title} has {'the highest score, ' if encoders > 1 else ''}{score}"
    if best.encoder.weights != "trained":
        return f"{name}; it has random weights."
    if "random" not in best.gains:
        return f"{name}; no untrained net stands beside it."
    return f"{name}; it {compare_briefly(best)}."


def compare_briefly(result: Result) -> str:
    """How a sentence about the encoder goes on."""
    gain = result.gains["random"]
    if not gain.shown:
        return f"is not shown to differ from {name_untrained(result)} ({format_least(gain)})"
    points = f"{format_points(gain.difference)} {above_or_below(gain)}"
    return f"is {points} {name_untrained(result)} ({format_test(gain)})"


def ask_named(best: Result, results: list[Result]) -> list[str]:
    """Of a page of one cell: the probe that it lacks."""
    missing = list_missing(find_named(best, results))
    return [f"Not asked: {missing[0]}."] if len(missing) == 1 else []


def summarise_gains(members: list[Result]) -> str:
    """How the sentence about an encoder goes on."""
    gains = list_gains(members)
    if not gains:
        return "has no untrained net beside it."
    kinds = list(map(kind_of, gains))
    better, worse, unclear = map(kinds.count, ("better", "worse", ""))
    least = describe_least(gains)
    if not better + worse:
        return (
            f"is not shown to differ from the same net untrained in any of {len(gains)} tasks "
            f"({least})."
        )
    text = f"is shown to be above the same net untrained in {better} of {len(gains)} tasks"
    if worse:
        text += f" and BELOW it in {worse}"
    return f"{text}; no difference is shown in {unclear} ({least})." if unclear else f"{text}."


def list_gains(members: list[Result]) -> list[Gain]:
    """Over the same nets untrained."""
    return [result.gains["random"] for result in members if "random" in result.gains]


def describe_least(gains: Sequence[Gain]) -> str:
    """The least gains that could have been shown, of those differences that are not shown."""
    points: list[float] = []
    others: dict[str, None] = {}
    for gain in gains:
        if gain.shown:
            continue
        if gain.least is None or is_beyond_all(gain):
            others[format_least(gain)] = None
        else:
            points.append(100 * gain.least)
    if not points:
        return "; ".join(others)  # empty where all are shown
    first, last = f"{min(points):.1f}", f"{max(points):.1f}"
    span = first if first == last else f"{first} to {last}"
    parts = [f"only gains of {span} points would be shown in four of five tests"]
    return "; ".join([*parts, *map("in some: {}".format, others)])


def summarise_named(members: list[Result]) -> list[str]:
    """What the two probes say of one encoder that were named beforehand."""
    sets = {result.data.hash: find_named(result, members) for result in members}
    named = list(filter(None, sets.values()))
    if not named:
        return []
    if len(named) == 1:
        return [compare_named("The probes named beforehand", named[0], compare_briefly)]
    kinds: dict[str, list[str]] = {}
    for pair in named:
        for probe, result in pair:
            kinds.setdefault(probe, []).append(kind_of(result.gains["random"]))
    clauses = []
    for probe, answers in kinds.items():
        better, worse = answers.count("better"), answers.count("worse")
        below = f" and BELOW in {worse}" if worse else ""
        clauses.append(f"by {PROBES[probe]} it is shown above in {better}{below} of {len(answers)}")
    return [f"The probes named beforehand, by data set: {'; '.join(clauses)}."]
