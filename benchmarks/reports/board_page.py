"""results -> the HTML page of a report: one table, cost, then each cell and what explains it.

This file prepares what stands on the page; templates/board.html says where it stands.
"""

from typing import NamedTuple
from urllib.parse import quote

from benchmarks.reports.bars import per_cent
from benchmarks.reports.board_sections import make_sections
from benchmarks.reports.cell_titles import group_cells, title_cell
from benchmarks.reports.citation import cite
from benchmarks.reports.figure_style import COLOURS, RED
from benchmarks.reports.figures import COMPARED, draw_cost
from benchmarks.reports.page import draw_sharp, render_page
from benchmarks.reports.page_heads import (
    count,
    head_of_results,
    list_data,
    name_data,
    print_text,
    title_of,
)
from benchmarks.reports.summary import summarise
from benchmarks.reports.verdict import WARNING, is_worse, select_warnings
from ssvid.results import TUNED, Gain, Result
from ssvid.results.text import (
    WIDE,
    format_control_score,
    format_interval,
    format_least,
    format_percent,
    format_rank,
    format_score,
    format_test,
    format_untrained,
    is_old,
    name_floor,
)

DARK = "#57606a"  # of means


class GainText(NamedTuple):
    text: str
    interval: str  # empty: the text says it all
    kind: str  # "better" or "worse" where it is shown, else empty
    least: str  # which gain could not have been shown, where no difference is


class Dots(NamedTuple):
    """The score on a line from 0 to 100 %: all are places in per cent."""

    low: str
    width: str
    score: str
    untrained: str | None
    chance: str | None


class OverviewRow(NamedTuple):
    encoder: str
    colour: str
    dots: Dots
    score: str
    mean_over: str
    is_old: bool  # of a file of before schema 3
    interval: str
    is_wide: bool  # the interval rests on few sources
    untrained: str
    nets: str  # number of untrained nets, and the rank of the encoder among them
    gain: GainText | None
    floor: str
    floor_name: str
    floor_leads: bool  # the pixel floor is shown to be better
    leak: int  # test clips that pretraining read


class Heads(NamedTuple):
    """Heads of the main table's columns."""

    first: str
    untrained: str
    gain: str
    floor: str  # empty: no row has a pixel floor


class OverviewCell(NamedTuple):
    anchor: str
    title: str
    code: str  # its name in the files; empty: the title says it
    about: str
    rows: list[OverviewRow]


def render_board(
    results: list[Result], notes: list[str], baseline: str, pages: dict[str, str], date: str
) -> str:
    """`pages`: title of an encoder -> the page of its run. `date`: of the newest result."""
    single = [result for result in results if result.over is None]
    titles = sorted(set(map(title_of, single)))
    colours = colour_encoders(results, titles)
    cost = draw_cost(single, colours)
    cells = group_cells(results)
    return render_page(
        "board.html",
        head=head_of_results(results, date),
        counts=describe_counts(len(titles), len(cells)),
        summary=list(map(print_text, summarise(results))),
        warnings=select_warnings(notes),
        notes=[note for note in notes if not note.startswith(WARNING)],
        links=[(title, quote(page)) for title, page in sorted(pages.items())],
        one_encoder=len(colours) == 1,
        heads=name_heads(results, len(colours) == 1),
        overview=make_overview(results, colours),
        wide=WIDE,
        cost=draw_sharp(cost, "Accuracy against cost") if cost else None,
        compared=COMPARED,
        citation=cite(results),
        sections=make_sections(results, colours, baseline),
    )


def describe_counts(encoders: int, tasks: int) -> str:
    """Empty where the head says it already."""
    if encoders == tasks == 1:
        return ""
    return f"{count(encoders, 'encoder')} on {count(tasks, 'task')}."


def name_heads(results: list[Result], one_encoder: bool) -> Heads:
    """A fine-tuning stands beside the same training from random weights, and has no floor."""
    first = "task" if one_encoder else "encoder"
    floor = "pixel floor" if any("floor" in result.controls for result in results) else ""
    if all(result.kind == TUNED for result in results):
        return Heads(first, "from random weights", "more than from random weights", floor)
    return Heads(first, "untrained", "more than untrained", floor)


def colour_encoders(results: list[Result], titles: list[str]) -> dict[str, str]:
    """Title -> colour. `titles`: of encoders; means over several of them have none."""
    colours = dict.fromkeys(map(title_of, results), DARK)
    for i, title in enumerate(titles):
        colours[title] = COLOURS[i % len(COLOURS)]
    return colours


def make_overview(results: list[Result], colours: dict[str, str]) -> list[OverviewCell]:
    """The main table, a block for each cell."""
    several_sets = len(list_data(results)) > 1
    blocks = []
    for i, (name, members) in enumerate(group_cells(results).items()):
        title = title_cell(members[0])
        facts = describe_cell(members[0])
        if several_sets and name_data(members[0].data.set):
            facts = [name_data(members[0].data.set), *facts]
        rows = [make_row(result, colour_row(result, colours)) for result in members]
        code = name if name != title else ""
        about = print_text(", ".join(facts))
        blocks.append(OverviewCell(f"cell{i}", title, code, about, rows))
    return blocks


def colour_row(result: Result, colours: dict[str, str]) -> str:
    """The encoder's colour, but red where a leak makes its score invalid."""
    return RED if result.leak.clips else colours[title_of(result)]


def describe_cell(result: Result) -> list[str]:
    clips = count(result.data.clips["test"], "test clip")
    if result.test.units is not None:
        clips = f"{result.test.units} answers in {clips}"
    if result.test.groups:
        clips += f" of {count(len(set(result.test.groups)), 'group')}"
    facts = [result.metric, clips]
    for name, share in (("chance", result.chance), ("largest class", result.majority)):
        if share is not None:
            facts.append(f"{name} {format_percent(share)}")
    draws = len(result.score.of_draws or ())
    if draws:
        facts.append(f"mean over {count(draws, 'draw')} of the labels")
    return facts


def make_row(result: Result, colour: str) -> OverviewRow:
    score, _, mean_over = print_text(format_score(result)).partition(" (")
    untrained, _, nets = print_text(format_untrained(result)).partition(" (")
    rank = format_rank(result)
    return OverviewRow(
        encoder=result.encoder.title,
        colour=colour,
        dots=make_dots(result),
        score=score,
        mean_over=mean_over.removesuffix(")"),
        is_old=is_old(result),
        interval=format_interval(result.score.interval),
        is_wide=bool(result.score.wide),
        untrained=untrained,
        nets=", ".join(filter(None, (nets.removesuffix(")"), f"rank {rank}" if rank else ""))),
        gain=describe_gain_of(result),
        floor=format_control_score(result, "floor"),
        floor_name=name_floor(result),
        floor_leads="floor" in result.gains and is_worse(result.gains["floor"]),
        leak=result.leak.clips or 0,
    )


def describe_gain_of(result: Result) -> GainText | None:
    """Over the same net untrained. A gain of a score that is not valid is not marked."""
    if "random" not in result.gains:
        return None
    gain = describe_gain(result.gains["random"])
    return gain._replace(kind="") if result.leak.clips else gain


def describe_gain(gain: Gain) -> GainText:
    test = print_text(format_test(gain))
    if not gain.shown:
        return GainText("no difference shown", test, "", format_least(gain))
    kind = "better" if gain.difference > 0 else "worse"
    return GainText(f"{100 * gain.difference:+.1f}", test, kind, "")


def make_dots(result: Result) -> Dots:
    low, high = result.score.interval
    untrained = result.controls.get("random")
    return Dots(
        low=per_cent(low),
        width=per_cent(high - low),
        score=per_cent(result.score.value),
        untrained=per_cent(untrained.value) if untrained else None,
        chance=per_cent(result.chance) if result.chance is not None else None,
    )
