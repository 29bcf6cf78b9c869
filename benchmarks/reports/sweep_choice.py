"""cells of a sweep -> the best of them, by val and never by test; and the sentences that say so."""

import statistics
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from benchmarks.reports.page_heads import count
from benchmarks.reports.summary import describe_least
from benchmarks.reports.sweep_rows import SEED, Cell, Sweep, deciding_cell
from benchmarks.reports.verdict import WARNING, above_or_below, is_better
from ssvid.results import Gain
from ssvid.results.text import (
    NOT_VALID,
    format_interval,
    format_least,
    format_percent,
    format_points,
    format_test,
)

SAME = 1e-9  # of val scores that tie
TIES = 5  # that are named


class Group(NamedTuple):
    """Cells with a val score that differ in seed alone; without such an axis it is one cell."""

    axes: dict[str, str]  # without the seed
    cells: list[Cell]
    planned: int  # how many the sweep has of it
    val: float
    seeds: bool

    @property
    def name(self) -> str:
        if not self.seeds:
            return self.cells[0].name
        return ", ".join(map(" ".join, self.axes.items())) or "all seeds"


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
    ranked.remove(ties[0])
    return Choice(decider, [ties[0], *ranked], ties[1:], "")


def _reason_of_none(sweep: Sweep) -> str:
    if not sweep.finished:
        return "no cell has finished"
    if not sweep.suite:
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
    planned: dict[Any, list[Cell]] = {}
    for cell in sweep.cells:
        key = tuple(without_seed(cell).items()) if seeds else cell.hash
        planned.setdefault(key, []).append(cell)
    groups = []
    for members in planned.values():
        cells = [cell for cell in members if has_val(cell, decider)]
        if cells:
            val = statistics.fmean(scores_of(cells, decider, "val"))
            axes = without_seed(cells[0])
            groups.append(Group(axes, cells, len(members), val, seeds))
    return groups


def without_seed(cell: Cell) -> dict[str, str]:
    return {axis: value for axis, value in cell.axes.items() if axis != SEED}


def has_val(cell: Cell, suite_cell: str) -> bool:
    """It has finished with a val score."""
    score = cell.scores.get(suite_cell)
    return cell.row is not None and score is not None and score.val is not None


def scores_of(cells: Sequence[Cell], suite_cell: str, key: str) -> list[float]:
    """Of the cells that have such a score."""
    values = [getattr(cell.scores[suite_cell], key) for cell in cells]
    return [value for value in values if value is not None]


def describe_best(choice: Choice) -> Lead:
    """The sentence that sums up: the best cell, its scores, its gain over the net untrained."""
    best = choice.best
    if best is None:
        return Lead(f"No best cell is named: {choice.reason}.", "", "")
    means = "mean val over seeds" if best.seeds else "val"
    before = f"Best by {means} on {choice.decider}: "
    return Lead(before, best.name, f". {describe_scores(best, choice)}")


def describe_scores(best: Group, choice: Choice) -> str:
    decider = choice.decider or ""
    first = best.cells[0].scores[decider]
    metric, interval = first.metric, first.interval
    scores = [cell.scores[decider] for cell in best.cells]
    gains = [score.gain for score in scores if score.gain is not None]
    closing = describe_gains(gains)
    if any(map(attrgetter("leak"), scores)):
        closing = f" Its test is {NOT_VALID}: pretraining read test clips."
    if best.seeds:
        val, test = scores_of(best.cells, decider, "val"), scores_of(best.cells, decider, "test")
        over = count(len(scores), "seed")
        numbers = f"Val {spread(val)} % ({metric}, {over}); test {spread(test)} %."
        return f"{numbers}{closing}"
    within = f" (95 % interval {format_interval(interval)})" if interval else ""
    val_text, test_text = format_percent(best.val), format_percent(first.test)
    numbers = f"Its val is {val_text} ({metric}); its test is {test_text}"
    return f"{numbers}{within}.{closing}"


def describe_gains(gains: Sequence[Gain]) -> str:
    """Over the same net untrained: of one cell, or of the seeds of a group; may be empty."""
    if not gains:
        return ""
    if len(gains) > 1:
        mean = 100 * statistics.fmean([gain.difference for gain in gains])
        better, least = sum(map(is_better, gains)), describe_least(gains)
        return (
            f" Its mean gain over the same net untrained is {mean:+.1f} points, "
            f"shown in {better} of {len(gains)} seeds{f' ({least})' if least else ''}."
        )
    (gain,) = gains
    if not gain.shown:
        return f" No difference from the same net untrained is shown ({format_least(gain)})."
    points = f"{format_points(gain.difference)} {above_or_below(gain)}"
    return f" It is {points} the same net untrained ({format_test(gain)})."


def warn_of_leaks(sweep: Sweep) -> list[str]:
    """The sentence on cells whose scores are not valid; it stands before all others."""
    leaky = sum(map(has_leak, sweep.finished))
    if not leaky:
        return []
    have = "has" if leaky == 1 else "have"
    return [
        f"{WARNING}: the pretraining of {count(leaky, 'cell')} read test clips, so what {have} "
        f"{NOT_VALID} beside it is no score."
    ]


def has_leak(cell: Cell) -> bool:
    return any(map(attrgetter("leak"), cell.scores.values()))


def explain_choice(sweep: Sweep, choice: Choice) -> list[str]:
    """What a reader must know of the choice; the first sentence names the best."""
    sentences = [describe_best(choice).text]
    if choice.best is None:
        return sentences
    if choice.ties:
        names = "; ".join(map(attrgetter("name"), choice.ties[:TIES]))
        if len(choice.ties) > TIES:
            names += f" and {len(choice.ties) - TIES} more"
        sentences.append(f"It ties with {names}: the first in the order of the sweep is named.")
    elif len(choice.groups) > 1:
        second = choice.groups[1]
        sentences.append(f"The next by val: {second.name}, {format_percent(second.val)}.")
    sentences.append(
        "Val alone chooses; test is read afterwards. Val has no interval here, so how many others "
        "do as well is not known: differences of a few val clips mean little."
    )
    sentences += note_correction(sweep)
    return sentences + list_missing(sweep, choice, choice.best)


def note_correction(sweep: Sweep) -> list[str]:
    """Rows hold no answers, so their tests cannot be made again at a level for the whole sweep."""
    gains = 0
    for cell in sweep.finished:
        for score in cell.scores.values():
            gains += score.gain is not None
    if gains < 2:
        return []
    return [
        f"A gain is corrected for the rows of its own suite cell, not for the {gains} gains of "
        "this sweep: some are shown by chance. A report of the cells' bench folders corrects for "
        "all."
    ]


def list_missing(sweep: Sweep, choice: Choice, best: Group) -> list[str]:
    sentences = []
    if len(best.cells) < best.planned:
        sentences.append(f"Only {len(best.cells)} of its {best.planned} seeds have a score.")
    without = len(sweep.finished)
    for group in choice.groups:
        without -= len(group.cells)
    if without:
        have = "has" if without == 1 else "have"
        cells = count(without, "finished cell")
        sentences.append(f"{cells} {have} no val score on {choice.decider} and cannot be the best.")
    return sentences


def spread(values: Sequence[float]) -> str:
    """In per cent: mean, and standard deviation over seeds where there are several."""
    if not values:
        return ""
    text = f"{100 * statistics.fmean(values):.1f}"
    return f"{text} +- {100 * statistics.stdev(values):.1f}" if len(values) > 1 else text
