"""cells of a sweep -> the best of them, by val and never by test; and the sentences that say so."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.reports.page_heads import count
from benchmarks.reports.sweep_rows import SEED, Cell, Sweep, deciding_cell
from benchmarks.reports.verdict import above_or_below
from ssvid.results import Gain
from ssvid.results.text import between, percent

SAME = 1e-9  # of val scores that tie
TIES = 5  # that are named
PLUS = "+-"  # in text; a page has the sign


class Group(NamedTuple):
    """Cells that differ in seed alone, of those with a val score; without such an axis it is one cell."""

    axes: dict[str, str]  # without the seed
    cells: list[Cell]
    planned: int  # how many the sweep has of it
    val: float
    seeds: bool

    @property
    def name(self) -> str:
        if not self.seeds:
            return self.cells[0].name
        return ", ".join(f"{axis} {value}" for axis, value in self.axes.items()) or "all seeds"


class Choice(NamedTuple):
    decider: str | None  # the cell of the suite that chooses
    groups: list[Group]  # the best first
    ties: list[Group]  # others with the same val
    reason: str  # why no best is named

    @property
    def best(self) -> Group | None:
        return self.groups[0] if self.groups else None


class Lead(NamedTuple):
    """The sentence on the best cell, cut where a page links its name."""

    before: str
    name: str
    after: str

    @property
    def text(self) -> str:
        return self.before + self.name + self.after


def choose(sweep: Sweep) -> Choice:
    """By val alone: nothing here reads a test score."""
    decider = deciding_cell(sweep)
    candidates = group_seeds(sweep, decider) if decider is not None else []
    if not candidates:
        return Choice(decider, [], [], _reason_of_none(sweep))
    # The sort is stable: ties stay in the order of the sweep.
    ranked = sorted(candidates, key=lambda group: -group.val)
    ties = [group for group in candidates if ranked[0].val - group.val < SAME]
    best = ties[0]
    others = [group for group in ranked if group is not best]
    return Choice(decider, [best, *others], ties[1:], "")


def _reason_of_none(sweep: Sweep) -> str:
    if not sweep.finished:
        return "no cell has finished"
    if not any(cell.scores for cell in sweep.finished):
        return "no finished cell has scores (is there a suite?)"
    if sweep.decider is not None:
        return (
            f"the sweep names {sweep.decider} as what decides, "
            "and no finished cell has a val score on it"
        )
    return "no finished cell has a val score on any cell of the suite, and test is not for choosing"


def group_seeds(sweep: Sweep, decider: str) -> list[Group]:
    """In the order of the sweep, whichever cell finished first."""
    seeds = len(sweep.axes.get(SEED, [])) > 1
    planned: dict[Any, int] = {}
    members: dict[Any, list[Cell]] = {}
    for cell in sweep.cells:
        key: Any = cell.hash
        if seeds:
            key = tuple((axis, value) for axis, value in cell.axes.items() if axis != SEED)
        planned[key] = planned.get(key, 0) + 1
        if cell.row is not None and decider in cell.scores:
            if cell.scores[decider].val is not None:
                members.setdefault(key, []).append(cell)
    groups = []
    for key in planned:
        if key in members:
            cells = members[key]
            val = statistics.fmean(cell.scores[decider].val or 0.0 for cell in cells)
            axes = {axis: value for axis, value in cells[0].axes.items() if axis != SEED}
            groups.append(Group(axes, cells, planned[key], val, seeds))
    return groups


def describe_best(choice: Choice) -> Lead:
    """The sentence that sums up: the best cell, its scores, and its gain over the same net untrained."""
    best = choice.best
    if best is None:
        return Lead(f"No best cell is named: {choice.reason}.", "", "")
    means = "mean val over seeds" if best.seeds else "val"
    before = f"Best by {means} on {choice.decider}: "
    return Lead(before, best.name, f". {describe_scores(best, choice)}")


def describe_scores(best: Group, choice: Choice) -> str:
    scores = [cell.scores[choice.decider or ""] for cell in best.cells]
    metric = scores[0].metric
    gains = [score.gain for score in scores if score.gain is not None]
    if best.seeds:
        val, test = ([getattr(score, key) for score in scores] for key in ("val", "test"))
        over = count(len(scores), "seed")
        numbers = f"Val {spread(val)} % ({metric}, {over}); test {spread(test)} %."
        return f"{numbers}{describe_gains(gains)}"
    interval = scores[0].interval
    within = f" (95 % interval {between(interval)})" if interval else ""
    numbers = (
        f"Its val is {percent(best.val)} ({metric}); its test is {percent(scores[0].test)}{within}."
    )
    return f"{numbers}{describe_gains(gains)}"


def describe_gains(gains: Sequence[Gain]) -> str:
    """Over the same net untrained: of one cell, or of the seeds of a group. Empty without a gain."""
    if not gains:
        return ""
    if len(gains) > 1:
        mean = 100 * statistics.fmean(gain.difference for gain in gains)
        better = sum(gain.shown and gain.difference > 0 for gain in gains)
        return (
            f" Its mean gain over the same net untrained is {mean:+.1f} points, "
            f"shown in {better} of {len(gains)} seeds."
        )
    (gain,) = gains
    if not gain.shown:
        return " No difference from the same net untrained is shown."
    points = f"{abs(100 * gain.difference):.1f} points {above_or_below(gain)}"
    return f" It is {points} the same net untrained (95 %: {between(gain.interval, '+')})."


def explain_choice(sweep: Sweep, choice: Choice) -> list[str]:
    """What a reader must know of the choice; the first sentence names the best."""
    sentences = [describe_best(choice).text]
    if choice.best is None:
        return sentences
    if choice.ties:
        names = "; ".join(group.name for group in choice.ties[:TIES])
        more = f" and {len(choice.ties) - TIES} more" if len(choice.ties) > TIES else ""
        sentences.append(
            f"It ties with {names}{more}: the first in the order of the sweep is named."
        )
    elif len(choice.groups) > 1:
        second = choice.groups[1]
        sentences.append(f"The next by val: {second.name}, {percent(second.val)}.")
    sentences.append(
        "Val alone chooses; test is read afterwards. Val has no interval here, so how many others "
        "do as well is not known: differences of a few val clips mean little."
    )
    return sentences + list_missing(sweep, choice, choice.best)


def list_missing(sweep: Sweep, choice: Choice, best: Group) -> list[str]:
    sentences = []
    if len(best.cells) < best.planned:
        sentences.append(f"Only {len(best.cells)} of its {best.planned} seeds have a score.")
    compared = sum(len(group.cells) for group in choice.groups)
    without = len(sweep.finished) - compared
    if without:
        have = "has" if without == 1 else "have"
        cells = count(without, "finished cell")
        sentences.append(f"{cells} {have} no val score on {choice.decider} and cannot be the best.")
    return sentences


def spread(values: Sequence[float | None]) -> str:
    """In per cent: mean, and standard deviation over seeds where there are several."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return ""
    text = f"{100 * statistics.fmean(numbers):.1f}"
    return f"{text} {PLUS} {100 * statistics.stdev(numbers):.1f}" if len(numbers) > 1 else text
