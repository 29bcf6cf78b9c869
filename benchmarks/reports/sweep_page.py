"""folder of a sweep -> report.html, rows.csv and rows.md: which cell is best by val, every row, each axis, loss curves.

Only this file says what stands where on that page; sweep_rows.py reads and chooses, sweep_figures.py draws.
"""

import html
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.reports import page, sweep_figures, sweep_rows
from benchmarks.reports.board_page import counted
from benchmarks.reports.page import PALE, folded, html_table
from benchmarks.reports.sweep_rows import Cell, Choice, Column, Group, Sweep
from ssvid.files import write_text_whole
from ssvid.results.rows import RowScore
from ssvid.results.text import between, percent

PLUS = "+-"  # in text; a page has the sign
PANELS = 24  # charts of axes; more only make the page slow
PAIRS = 3  # tables of pairs of axes that stand open
TIES = 5  # that are named
FAULTS = 10  # that are named
TALL = 40  # rows: a longer table scrolls inside its own frame
STYLE = f"""
{sweep_figures.STYLE}
body {{ max-width: 68rem; overflow-wrap: break-word; }} a {{ color: inherit; }}
.sub, .legend, figcaption {{ color: #59636e; font-size: .85rem; margin: .2rem 0 .6rem; }}
summary {{ cursor: pointer; }} details {{ margin: .5rem 0; }} .lead {{ font-weight: 600; }}
.wide {{ overflow-x: auto; }} .tall {{ max-height: 44rem; overflow-y: auto; }}
table.rows {{ font-size: .85rem; font-variant-numeric: tabular-nums; }}
table.rows th, table.rows td {{ padding: .2rem .8rem .2rem 0; white-space: nowrap; vertical-align: top; }}
table.rows th {{ vertical-align: bottom; }} table.rows td.why {{ white-space: normal; min-width: 16rem; }}
table.rows th.of {{ font-weight: 600; color: inherit; border: 0; }}
table.rows tr > :first-child {{ padding-left: .4rem; }} table.rows tr.main td {{ background: #eaf2fb; }}
table.rows button {{ font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }}
table.rows button::after {{ content: " \\2195"; color: {PALE}; }}
th[aria-sort=ascending] button::after {{ content: " \\2191"; color: inherit; }}
th[aria-sort=descending] button::after {{ content: " \\2193"; color: inherit; }}
.tall thead th {{ background: #fff; }} .tall thead {{ position: sticky; top: 0; }}
.pair {{ display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: flex-start; }}
.pair > figure {{ margin: 0; min-width: 0; max-width: 100%; }} pre {{ min-width: 14rem; }}
"""
SORT = """<script>
for (const table of document.querySelectorAll("table.rows")) {
  const heads = [...table.querySelectorAll("thead tr:last-child th")];
  heads.forEach((head, at) => {
    if (!head.dataset.sort) return;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const down = head.getAttribute("aria-sort") === "ascending", body = table.tBodies[0];
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => row.cells[at].dataset.v ?? row.cells[at].textContent;
      const order = (a, b) => !a || !b ? (!a) - (!b) :
        (down ? -1 : 1) * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
      body.append(...[...body.rows].sort((a, b) => order(key(a), key(b))));
    };
  });
}
</script>"""
KEY = (
    '<p class="legend marks"><span><i class="test"></i> test of a cell (line: its 95 % interval)</span> '
    '<span><i class="val"></i> its val</span> <span><i class="bar"></i> mean over the other axes</span> '
    '<span><i class="bar dash"></i> mean of the untrained nets</span> <span><i class="bar chance"></i> chance</span> '
    '<span><i class="best"></i> best by val</span></p>'
)


def write(folder: Path) -> dict[str, Any]:
    """What the command prints."""
    sweep = sweep_rows.read(folder)
    choice = sweep_rows.choose(sweep)
    file = folder / "report.html"
    texts = {
        "rows.csv": sweep_rows.comma(sweep),
        "rows.md": sweep_rows.markdown(sweep, [state(sweep), *verdict(sweep, choice)]),
        file.name: html_page(sweep, choice),
    }
    for name, text in texts.items():
        write_text_whole(folder / name, text)
    best = choice.best and {
        "name": choice.best.name,
        "cells": [cell.hash for cell in choice.best.cells],
        "on": choice.on,
        "val": choice.best.val,
    }
    numbers = {
        "cells": len(sweep.cells),
        "finished": len(sweep.finished),
        "failed": len(sweep.failed),
    }
    return {"report": str(file), **numbers, "best": best}


def html_page(sweep: Sweep, choice: Choice) -> str:
    said = verdict(sweep, choice)
    faults = [
        *sweep.faults[:FAULTS],
        *([f"And {len(sweep.faults) - FAULTS} more."] * (len(sweep.faults) > FAULTS)),
    ]
    parts = [
        f"<h1>Sweep {html.escape(sweep.name)}</h1><p>{html.escape(state(sweep))}</p>",
        f'<p class="lead">{linked(said[0], choice).replace(PLUS, "&plusmn;")}</p>',
        *(f"<p>{html.escape(line)}</p>" for line in said[1:]),
        "".join(f'<p class="wrong">{html.escape(fault)}</p>' for fault in faults),
        failures(sweep),
        seeds(sweep, choice),
        table(sweep, choice),
        plots(sweep, choice),
        training(sweep),
        gone(sweep),
        SORT,
    ]
    return page.page(f"Sweep {sweep.name}", "\n".join(part for part in parts if part), STYLE)


def state(sweep: Sweep) -> str:
    finished, failed = len(sweep.finished), len(sweep.failed)
    rest = len(sweep.cells) - finished - failed
    counts = [f"{finished} finished", *([f"{failed} failed"] * bool(failed))]
    counts += [f"{rest} not finished yet"] * bool(rest)
    left = len(sweep.every) - len(sweep.cells)
    text = f"{counted(len(sweep.cells), 'cell')}: {', '.join(counts)}."
    return text + f" {counted(left, 'more cell')} left the sweep when its file was edited." * bool(
        left
    )


def verdict(sweep: Sweep, choice: Choice) -> list[str]:
    """Which cell is best and by which number, then what a reader must know of that."""
    best = choice.best
    if best is None:
        return [f"No best cell is named: {choice.why}."]
    how = "mean val over seeds" if best.seeds else "val"
    said = [f"Best by {how} on {choice.on}: {best.name}. {of_best(best, choice)}"]
    if choice.ties:
        names = "; ".join(group.name for group in choice.ties[:TIES])
        more = f" and {len(choice.ties) - TIES} more" if len(choice.ties) > TIES else ""
        said.append(f"It ties with {names}{more}: the first in the order of the sweep is named.")
    elif len(choice.groups) > 1:
        said.append(f"The next by val: {choice.groups[1].name}, {percent(choice.groups[1].val)}.")
    said.append(
        "Val alone chooses; test is read afterwards. Val has no interval here, so how many others do as well is not "
        "known: differences of a few val clips mean little."
    )
    return said + missing(sweep, choice, best)


def of_best(best: Group, choice: Choice) -> str:
    scores = [cell.scores[choice.on or ""] for cell in best.cells]
    first = scores[0]
    if not best.seeds:
        within = f" (95 % interval {between(first.interval)})" if first.interval else ""
        return f"Its val is {percent(best.val)} ({first.metric}); its test is {percent(first.test)}{within}."
    val, test = ([getattr(score, key) for score in scores] for key in ("val", "test"))
    over = counted(len(scores), "seed")
    return f"Val {spread(val)} % ({first.metric}, {over}); test {spread(test)} %."


def missing(sweep: Sweep, choice: Choice, best: Group) -> list[str]:
    said = []
    if len(best.cells) < best.planned:
        said.append(f"Only {len(best.cells)} of its {best.planned} seeds have a score.")
    chosen = sum(len(group.cells) for group in choice.groups)
    if without := len(sweep.finished) - chosen:
        have = "has" if without == 1 else "have"
        said.append(
            f"{counted(without, 'finished cell')} {have} no val score on {choice.on} and cannot be the best."
        )
    return said


def spread(values: Sequence[float | None]) -> str:
    """In per cent: mean, and standard deviation over seeds where there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    text = f"{100 * statistics.fmean(known):.1f}"
    return f"{text} {PLUS} {100 * statistics.stdev(known):.1f}" if len(known) > 1 else text


def linked(sentence: str, choice: Choice) -> str:
    text = html.escape(sentence)
    if choice.best is None:
        return text
    name = html.escape(choice.best.name)
    return text.replace(f": {name}. ", f': <a href="#{choice.best.cells[0].hash}">{name}</a>. ', 1)


def table(sweep: Sweep, choice: Choice) -> str:
    """A row for each finished cell."""
    if not sweep.finished:
        return "<h2>Cells</h2><p>No cell has finished yet: there is no row to show.</p>"
    shown = sweep_rows.columns(sweep)
    best = {cell.hash for cell in choice.best.cells} if choice.best else set()
    body = "".join(line(cell, shown, cell.hash in best, sweep.folder) for cell in sweep.finished)
    note = "A click on a heading sorts. Scores in per cent, with 95 % intervals; more than untrained: paired difference "
    note += "in points. The same numbers in full are in rows.csv."
    return f'<h2>Cells</h2><p class="sub">{note}</p>{framed(heading(shown, ("files",)) + f"<tbody>{body}</tbody>", sweep)}'


def framed(inside: str, sweep: Sweep) -> str:
    tall = " tall" if len(sweep.finished) > TALL else ""
    return f'<div class="wide{tall}"><table class="rows">{inside}</table></div>'


def heading(shown: Sequence[Column], more: Sequence[str]) -> str:
    """The suite's cells stand above their columns."""
    above = ""
    for name, group in itertools.groupby(shown, key=lambda column: column.of):
        above += f'<th class="of" colspan="{len(list(group))}">{html.escape(name)}</th>'
    above = f"<tr>{above}</tr>" if any(column.of for column in shown) else ""
    names = "".join(f'<th data-sort="1">{html.escape(column.name)}</th>' for column in shown)
    return f"<thead>{above}<tr>{names}{''.join(f'<th>{name}</th>' for name in more)}</tr></thead>"


def line(cell: Cell, shown: Sequence[Column], best: bool, root: Path) -> str:
    body = ""
    for i, column in enumerate(shown):
        value, text = column.value(cell), column.text(cell)
        key = f"{value:.6g}" if isinstance(value, float) else value or ""
        mark = "<b>best</b> " if best and i == 0 else ""
        given = f' data-v="{html.escape(key)}"' if mark + text != key else ""
        body += f"<td{given}>{mark}{html.escape(text)}</td>"
    return f'<tr id="{html.escape(cell.hash)}"{" class=main" * best}>{body}<td>{files(cell, root)}</td></tr>'


def cell_files(cell: Cell, root: Path) -> dict[str, str]:
    """Name -> path, from the folder of the sweep, of what there is of a cell."""
    places = {"run": cell.folder.run, "results": cell.folder.report}
    places |= {"logs": cell.folder.logs} if cell.failed else {}
    return {
        name: f"{place.relative_to(root)}{'/' * place.is_dir()}"
        for name, place in places.items()
        if place.exists()
    }


def files(cell: Cell, root: Path) -> str:
    links = cell_files(cell, root).items()
    return " ".join(f'<a href="{html.escape(quote(place))}">{name}</a>' for name, place in links)


def failures(sweep: Sweep) -> str:
    if not sweep.failed:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("cell", "stage", "times", "why", "files"))
    body = ""
    for cell in sweep.failed:
        told = cell.failed or {}
        stage, times = (html.escape(str(told.get(key) or "")) for key in ("stage", "times"))
        lines = told.get("lines")
        text = "\n".join(map(str, lines)) if isinstance(lines, list) else str(lines or "")
        why = html.escape(str(told.get("why") or "failed.json does not tell"))
        why += folded("last lines", f"<pre>{html.escape(text)}</pre>") if text else ""
        name = f'<td id="{html.escape(cell.hash)}">{html.escape(cell.name)}</td>'
        links = files(cell, sweep.folder)
        body += f'<tr>{name}<td>{stage}</td><td>{times}</td><td class="why">{why}</td><td>{links}</td></tr>'
    tall = " tall" if len(sweep.failed) > TALL else ""
    inside = f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<h2>Failed</h2><div class="wide{tall}">{inside}</div>'


def seeds(sweep: Sweep, choice: Choice) -> str:
    """Means over seeds, the best first."""
    if choice.on is None or not choice.best or not choice.best.seeds:
        return ""
    axes = list(choice.best.axes)
    head = (*axes, "seeds", "val, %", "test, %", "untrained, %")
    rows = []
    for group in choice.groups:
        scores = [cell.scores[choice.on] for cell in group.cells]
        numbers = [
            spread([getattr(score, key) for score in scores]) for key in ("val", "test", "random")
        ]
        count = (
            f"{len(scores)} of {group.planned}" if len(scores) < group.planned else str(len(scores))
        )
        rows.append((*(group.axes.get(axis, "") for axis in axes), count, *numbers))
    made = (
        html_table(head, rows, main=True)
        .replace("<table>", '<table class="rows">', 1)
        .replace(PLUS, "&plusmn;")
    )
    tall = " tall" if len(rows) > TALL else ""
    note = f"Mean and standard deviation over seeds, on {choice.on}; by mean val, the best first."
    return f'<h2>Over seeds</h2><p class="sub">{html.escape(note)}</p><div class="wide{tall}">{made}</div>'


def plots(sweep: Sweep, choice: Choice) -> str:
    """For each cell of the suite, the one that decides first: every axis, and every pair of them."""
    axes = {axis: values for axis, values in sweep.varied.items()}
    if not axes or not sweep.suite:
        why = "no axis has two values" if not axes else "no finished cell has scores"
        return f"<h2>Axes</h2><p>{html.escape(f'There is nothing to draw: {why}.')}</p>"
    each = max(1, PANELS // len(axes))
    shown = sweep.suite[:each]
    parts = ["<h2>Axes</h2>", KEY]
    if len(sweep.finished) < len(sweep.cells):
        parts.append(
            '<p class="sub">Not every cell has finished: means of unlike sets of cells stand side by side.</p>'
        )
    for i, on in enumerate(shown):
        parts.append(folded(on, panels(sweep, choice, on, axes) + heats(sweep, on, axes), i == 0))
    if cut := len(sweep.suite) - len(shown):
        parts.append(
            f'<p class="sub">{counted(cut, "further cell")} of the suite not drawn: see rows.csv.</p>'
        )
    return "\n".join(parts)


def panels(sweep: Sweep, choice: Choice, on: str, axes: dict[str, list[str]]) -> str:
    best = choice.best.cells if choice.best and on == choice.on else []
    made = []
    for axis in list(axes)[:PANELS]:
        if not (found := sweep_figures.points(sweep.finished, axis, on, best)):
            continue
        alt = f"{on} against {axis}: {means_said(found)}"
        names = axis == sweep_rows.SEED or not sweep_rows.places(axes[axis])
        cut = len(axes[axis]) - sweep_figures.NAMES if names else 0
        note = f"<figcaption>Not drawn: {cut} further values.</figcaption>" if cut > 0 else ""
        made.append(
            f"<figure>{page.sharp(sweep_figures.against(axis, axes[axis], found), alt)}{note}</figure>"
        )
    left = len(axes) - PANELS
    note = f'<p class="sub">{counted(left, "further axis")} not drawn.</p>' if left > 0 else ""
    return f'<div class="pair">{"".join(made)}</div>{note}'


def means_said(found: Sequence[sweep_figures.Point]) -> str:
    means = sweep_figures.means(found, "test")
    return ", ".join(
        f"{value} {percent(mean)}" for value, mean in itertools.islice(means.items(), 12)
    )


def heats(sweep: Sweep, on: str, axes: dict[str, list[str]]) -> str:
    cells = [cell for cell in sweep.finished if on in cell.scores]
    means = {
        pair: sweep_figures.pair_means(pair, cells, on) for pair in sweep_figures.pairs(axes, cells)
    }
    made = [(pair, sweep_figures.heat(pair, axes, own)) for pair, own in means.items()]
    if not made:
        return ""
    opened = "".join(f'<figure class="wide">{table}</figure>' for _, table in made[:PAIRS])
    rest = "".join(
        folded(" by ".join(pair), f'<div class="wide">{table}</div>')
        for pair, table in made[PAIRS:]
    )
    note = "Mean test in per cent over the other axes, with the mean val below it."
    return f'<h3>Pairs of axes</h3><p class="sub">{note}</p><div class="pair">{opened}</div>{rest}'


def training(sweep: Sweep) -> str:
    colours = (
        [axis for axis in sweep.varied if axis != sweep_rows.SEED] or list(sweep.varied) or [""]
    )
    made = sweep_figures.curves(sweep.cells, colours[0], sweep.axes.get(colours[0], []))
    if made is None:
        return "<h2>Training</h2><p>No cell has logged a step yet.</p>"
    figure, legend = made
    return f"<h2>Training</h2>{legend}{page.sharp(figure, 'Loss against step of every cell that logged one')}"


def gone(sweep: Sweep) -> str:
    """Cells that the sweep's file has no more stand in no table or chart above."""
    left = [cell for cell in sweep.every if cell.left]
    if not left:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(c.name)}</td><td>{seen(c)}</td><td>{files(c, sweep.folder)}</td></tr>"
        for c in left
    )
    text = "They count nowhere above and are not in rows.csv; their folders are kept."
    return folded(
        f"Cells that left the sweep: {len(left)}", f'<p class="sub">{text}</p><table>{rows}</table>'
    )


def seen(cell: Cell) -> str:
    def said(name: str, score: RowScore) -> str:
        return f"{name}: test {percent(score.test)}" + (
            f", val {percent(score.val)}" if score.val is not None else ""
        )

    scores = "; ".join(said(name, score) for name, score in cell.scores.items())
    return html.escape(
        scores
        or ("finished" if cell.row is not None else "failed" if cell.failed else "not finished")
    )
