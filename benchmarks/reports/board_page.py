"""results -> one HTML page: table, cost, how to cite, then each cell with what explains its score.

Only this file says what stands where on that page; charts are in figures.py, film strips in page.py.
"""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import yaml

from benchmarks.reports import figures, page
from benchmarks.reports.classes import class_gains, per_class, with_interval
from benchmarks.reports.figures import COLOURS, RED, Bar
from benchmarks.reports.page import GREY, INK, PALE, folded, html_table
from benchmarks.reports.verdict import verdict
from ssvid.results import Result, Score
from ssvid.results.schema import to_json
from ssvid.results.text import (
    ROW_NAMES,
    between,
    control_score,
    gain_over_untrained,
    percent,
    scored,
)

MANY, ENDS = 30, 10  # classes: more are cut down to the best and the worst
DARK = "#57606a"  # of means
OPEN = 8  # results whose pictures are shown unfolded; of more a reader picks
CITATION = Path(__file__).parents[2] / "CITATION.cff"
LONG = (
    "grid",
    "test",
    "protocol",
    "config",
    "controls",
    "gains",
    "strips",
    "attention",
    "per_class",
    "confusion",
    "command",
)
STYLE = f"""
{figures.STYLE}
body {{ max-width: 68rem; }}
p.sub, figcaption, .legend {{ color: #59636e; font-size: .85rem; margin: .2rem 0 .6rem; }}
summary {{ cursor: pointer; }} details {{ margin: .5rem 0; }} a {{ color: inherit; }}
.wide {{ overflow-x: auto; }} table.board {{ width: 100%; }}
table.board th, table.board td {{ padding: .2rem .9rem .2rem 0; vertical-align: middle; }}
table.board td {{ border: 0; font-variant-numeric: tabular-nums; }} table.board td.e {{ padding-left: .9rem; }}
table.board td, table.board th {{ white-space: nowrap; }} table.board td.e, table.board td.g {{ white-space: normal; }}
table.board small {{ color: #59636e; font-size: .85rem; font-weight: normal; }} table.board td.g {{ min-width: 12rem; }}
table.board tr.cell td {{ border-top: 1px solid {PALE}; padding-top: .5rem; }}
table.board tr.cell small {{ margin-left: .6rem; }}
table.board tbody:last-child tr:last-child td {{ border-bottom: 1px solid {PALE}; padding-bottom: .5rem; }}
table.one td {{ border-top: 1px solid {PALE}; }} table.board.one td.e {{ padding-left: 0; line-height: 1.3; }}
table.board td.d {{ width: 18%; }} td.s small {{ display: block; }}
table.one td.e small, td.g span {{ white-space: nowrap; }}
.range {{ position: relative; display: block; min-width: 8rem; height: 1.1rem; background: #f4f6f8; }}
.range i, .range b, .range u, .range s {{ position: absolute; box-sizing: border-box; }}
.range i {{ top: 35%; bottom: 35%; min-width: 2px; opacity: .45; }}
.range b {{ top: 50%; width: 8px; height: 8px; margin: -4px; border-radius: 50%; }}
.range u {{ top: 50%; width: 8px; height: 8px; margin: -4px; border-radius: 50%; border: 1.5px solid; }}
.range u {{ background: #fff; }}
.range s {{ top: 0; bottom: 0; border-left: 1px dashed {INK}; }}
.pair {{ display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; align-items: flex-start; }}
.pair > figure {{ flex: 1 1 24rem; min-width: 0; margin: 0; }} .pair > figure.row {{ flex-basis: 100%; }}
figure th, figure td {{ font-size: .8rem; padding: .1rem 1rem .1rem 0; }}
figure .bars {{ grid-template-columns: fit-content(9rem) 1fr auto; font-size: .8rem; column-gap: .6rem; }}
figure .track {{ min-height: 1.3rem; }}
.grid {{ display: flex; flex-wrap: wrap; gap: .5rem 2rem; }}
.films {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(30rem, 100%), 1fr)); column-gap: 2rem; }}
.look {{ margin: 0 0 .6rem; max-width: 100%; }} .look img {{ display: block; max-width: 100%; }}
.look > div {{ display: inline-block; max-width: 100%; }}
.weights, .mean {{ margin-top: .3rem; }}
.weights {{ display: flex; align-items: flex-end; position: relative; height: 3rem; border-bottom: 1px solid {GREY}; }}
.weights i {{ flex: 1 1 0; margin: 0 1.5%; background: {COLOURS[0]}; }}
.weights s {{ position: absolute; left: 0; right: 0; border-top: 1px dashed {INK}; }}
.slots {{ display: flex; font-size: .75rem; color: #59636e; }} .slots span {{ flex: 1 1 0; text-align: center; }}
.mean {{ width: 22rem; max-width: 100%; }} .look.row {{ flex-basis: 100%; }}
@media (max-width: 45rem) {{ .bars {{ grid-template-columns: fit-content(7rem) 1fr auto; }} }}
"""
KEY = (
    "Dot: score, with its 95 % interval. Ring: the same net untrained. Dashed: chance. "
    "More than untrained: paired difference in points."
)
COST = (
    "Dot: the encoder with its 95 % interval. Ring: the same net untrained, at the same cost. Dashed: raw pixels. "
    "CPU-seconds are those of that run, for the features of all rows and the probes; features read from a cache cost "
    "almost nothing."
)


def html_page(found: list[Result], said: list[str], baseline: str, runs: dict[str, str]) -> str:
    """`said`: what a reader must know of all results. `baseline`: of the gains per class, a row or an encoder.

    `runs`: title of an encoder -> the page of the run that it came from.
    """
    cells = list(dict.fromkeys(result.cell for result in found))
    single = [result for result in found if result.over is None]
    titles = sorted({result.encoder.title for result in single})
    colours = {title: COLOURS[i % len(COLOURS)] for i, title in enumerate(titles)}
    every = {
        result.encoder.title: DARK for result in found
    } | colours  # the mean of several has none of its own
    text = "".join(f"<li>{html.escape(line)}</li>" for line in said)
    size = f"{counted(len(titles), 'encoder')} on {counted(len(cells), 'cell')} (a task, a probe and a data set each)."
    parts = [
        f"<h1>Frozen features</h1><p>{size}</p><ul>{text}</ul>",
        run_links(runs),
        overview(found, cells, every),
    ]
    if figure := figures.cost(single, colours):
        drawn = f'{page.sharp(figure, "Accuracy against cost")}<p class="sub">{COST}</p>'
        one = len(titles) == 1  # then there is nothing to weigh
        parts.append(
            folded("Accuracy against cost", drawn)
            if one
            else f"<h2>Accuracy against cost</h2>{drawn}"
        )
    parts.append(cite(found))
    parts += [section(i, name, found, every, baseline) for i, name in enumerate(cells)]
    return page.page("Frozen features", "\n".join(parts), STYLE)


def run_links(runs: dict[str, str]) -> str:
    links = (
        f'<a href="{quote(page)}">{html.escape(title)}</a>' for title, page in sorted(runs.items())
    )
    return (
        f"<p>How it was pretrained (curves, pictures, cost, config): {', '.join(links)}.</p>"
        if runs
        else ""
    )


def counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def overview(found: list[Result], cells: list[str], colours: dict[str, str]) -> str:
    """The main table, a block for each cell."""
    one = len(colours) == 1  # then a cell is one row, and needs none above it
    first = next(iter(colours)) if one else "encoder"
    names = (
        first,
        "score",
        "0 to 100 %",
        "95 % interval",
        "untrained",
        "more than untrained",
        "raw pixels",
    )
    body = ""
    for i, name in enumerate(cells):
        own = [result for result in found if result.cell == name]
        link = f'<a href="#cell{i}">{html.escape(name)}</a>'
        about = html.escape(", ".join(describe(own[0])))
        if one:
            body += overview_row(own[0], colours[first], f"{link}<br><small>{about}</small>")
            continue
        named = [(result, result.encoder.title) for result in own]
        rows = "".join(
            overview_row(result, colours[title], html.escape(title)) for result, title in named
        )
        body += f'<tbody><tr class="cell"><td colspan="{len(names)}">{link}<small>{about}</small></td></tr>{rows}</tbody>'
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    table = f'<table class="board{" one" * one}"><thead><tr>{head}</tr></thead>{body}</table>'
    return f'<div class="wide">{table}</div><p class="legend">{KEY}</p>'


def describe(result: Result) -> list[str]:
    clips = counted(result.data.clips["test"], "test clip")
    units = f"{result.test.units} answers in " if result.test.units is not None else ""
    chance = [] if result.chance is None else [f"chance {percent(result.chance)}"]
    return [result.metric, units + clips, *chance]


def overview_row(result: Result, colour: str, first: str) -> str:
    texts = [scored(result), "", between(result.score.interval), control_score(result, "random")]
    texts += [gain_over_untrained(result), control_score(result, "pixels")]
    cells = [html.escape(text) for text in texts]
    score, _, seeds = cells[0].replace("+-", "&plusmn;").partition(" (")
    cells[0], cells[1] = (
        f"<b>{score}</b>" + f" <small>({seeds}</small>" * bool(seeds),
        dots(result, colour),
    )
    cells[4] = " ".join(
        f"<span>{text}</span>" for text in cells[4].replace(" (", "\n(").split("\n")
    )
    kinds = ("s", "d", "", "", "g", "")
    body = "".join(
        f'<td class="{kind}">{cell}</td>' for kind, cell in zip(kinds, cells, strict=True)
    )
    return f'<tr><td class="e">{first}</td>{body}</tr>'


def dots(result: Result, colour: str) -> str:
    """The score on a line from 0 to 100 %, with its interval, its untrained twin and chance."""
    low, high = (100 * end for end in result.score.interval)
    marks = f'<i style="left:{low:.2f}%;width:{high - low:.2f}%;background:{colour}"></i>'
    if result.chance is not None:
        marks += f'<s style="left:{100 * result.chance:.2f}%"></s>'
    if twin := result.controls.get("random"):
        marks += f'<u style="left:{100 * twin.value:.2f}%;border-color:{colour}"></u>'
    score = f'<b style="left:{100 * result.score.value:.2f}%;background:{colour}"></b>'
    return f'<span class="range">{marks}{score}</span>'


def cite(found: list[Result]) -> str:
    """What to name beside a number of this page."""
    cells = dict.fromkeys((result.cell, result.protocol_hash) for result in found)
    protocols = ", ".join(f"{cell} {protocol}" for cell, protocol in cells)
    code = ", ".join(dict.fromkeys(result.git or "no git" for result in found))
    data = ", ".join(dict.fromkeys(result.data.hash[:16] for result in found))
    text = "<p>Cite the software, and with it the papers of the encoders, of their pretraining and of the data sets.</p>"
    text += f"<pre>{html.escape(bibtex())}</pre>" if CITATION.is_file() else ""
    line = f"Measured with ssvid, code {code}; data {data}; protocols: {protocols}."
    return folded("How to cite", f"{text}<p>Beside the numbers:</p><pre>{html.escape(line)}</pre>")


def bibtex() -> str:
    """CITATION.cff as an entry of BibTeX."""
    cff = yaml.safe_load(CITATION.read_text())
    people = [
        f"{one['family-names']}, {one.get('given-names', '')}".rstrip(", ")
        if "family-names" in one
        else f"{{{one['name']}}}"
        for one in cff["authors"]
    ]
    fields = {
        "author": " and ".join(people),
        "title": f"{{{cff['title']}}}",
        "version": cff.get("version"),
        "year": str(cff["date-released"])[:4] if "date-released" in cff else None,
        "doi": cff.get("doi"),
        "url": cff.get("url") or cff.get("repository-code"),
    }
    inner = ",\n".join(f"  {key} = {{{value}}}" for key, value in fields.items() if value)
    return f"@software{{ssvid,\n{inner}\n}}"


def section(i: int, name: str, found: list[Result], colours: dict[str, str], baseline: str) -> str:
    """A cell: bars of all rows, further numbers, then each encoder."""
    own = [result for result in found if result.cell == name]
    groups = [scores(result, colours[result.encoder.title]) for result in own]
    parts = [
        f'<h2 id="cell{i}">{html.escape(name)}</h2><p class="sub">{html.escape(", ".join(describe(own[0])))}</p>',
        figures.bars(groups, own[0].chance, f"{own[0].metric} on test, %"),
        further(own),
    ]
    for result in own:
        title, colour = result.encoder.title, colours[result.encoder.title]
        if (
            result.over is not None
        ):  # of several results, which have their own pictures and commands
            parts.append(
                f'<p class="sub">{html.escape(title)}: mean over {html.escape(result.over)}.</p>'
            )
            continue
        parts.append(f'<p class="sub">{html.escape(" ".join(verdict(result)))}</p>')
        if more := explained(result, found, baseline, colour):
            parts.append(
                folded(f"{title}: {', '.join(more)}", "\n".join(more.values()), len(found) <= OPEN)
            )
        parts.append(detail(result))
    return "\n".join(part for part in parts if part)


def scores(result: Result, colour: str) -> list[Bar]:
    main = Bar(result.encoder.title, result.score.value, result.score.interval, colour, True)
    rows = result.controls.items()
    return [
        main,
        *(Bar(ROW_NAMES.get(name, name), row.value, row.interval, GREY) for name, row in rows),
    ]


def further(own: list[Result]) -> str:
    """Other numbers of the same answers, as they are in the files."""
    table: list[tuple[str, dict[str, float]]] = []
    for result in own:
        title = result.encoder.title
        named = {title: result.score}
        named |= {
            f"{title}, {ROW_NAMES.get(name, name)}": row for name, row in result.controls.items()
        }
        table += [(name, numbers(row, result.metric)) for name, row in named.items()]
    head = list(dict.fromkeys(key for _, row in table for key in row))
    if not head:
        return ""
    rows = [
        (name, *(f"{row[key]:.3f}" if key in row else "" for key in head)) for name, row in table
    ]
    return folded("Further numbers", f'<div class="wide">{html_table(("", *head), rows)}</div>')


def numbers(row: Score, metric: str) -> dict[str, float]:
    """Of a row; `4_shot: {top1: ...}` gives its top1. What was seen on val is for choosing, not for reading."""
    flat = {
        key: value.get(metric) if isinstance(value, dict) else value
        for key, value in row.more.items()
    }
    return {
        key: value
        for key, value in flat.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and not key.startswith("val")
    }


def explained(result: Result, found: list[Result], baseline: str, colour: str) -> dict[str, str]:
    """What there is -> HTML. Confusion and gains stand beside each other, clips below."""
    beside = {
        "confusion": confused(result),
        "gains by class": gains(result, found, baseline, colour),
    }
    made = {name: part for name, part in beside.items() if part}
    if made:
        first, last = next(iter(made)), list(made)[-1]
        made[first] = f'<div class="pair">{made[first]}'
        made[last] += "</div>"
    if result.strips:
        made["nearest neighbours"] = f"<h3>Nearest neighbours</h3>{page.films(result.strips)}"
    if result.attention:
        made["attention"] = f"<h3>Attention over time</h3>{attention(result.attention)}"
    return made


def confused(result: Result) -> str:
    names, counts = result.data.classes, confusion(result)
    if counts is None:
        return ""
    room = (
        ' class="row"' if figures.COUNTED < len(names) <= figures.NAMED else ""
    )  # names want the whole width
    return (
        f"<figure{room}><figcaption>Confusion on test</figcaption>{matrix(counts, names)}</figure>"
    )


def confusion(result: Result) -> list[list[int]] | None:
    """Label x prediction; None where a clip has no single class."""
    labels, said = result.test.labels, (result.test.predictions or {}).get("encoder")
    names = result.data.classes
    if (
        not labels
        or not said
        or not all(isinstance(x, int) and 0 <= x < len(names) for x in [*labels, *said])
    ):
        return None
    counts = [[0] * len(names) for _ in names]
    for label, prediction in zip(labels, said, strict=True):
        counts[label][prediction] += 1
    return counts


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Many classes have no names in the picture: then the worst pairs as a table, too."""
    made = page.sharp(
        figures.confusion(counts, names),
        "Confusion matrix: rows are labels, columns are predictions",
    )
    if len(names) <= figures.NAMED:
        return made
    return made + html_table(
        ("label", "taken for", "test clips"), figures.worst_pairs(counts, names)
    )


class ClassBars(NamedTuple):
    over: str  # name of the baseline
    bars: list[Bar]  # of each class, the largest gain first; none: this cell has no such row
    cut_from: int  # number of classes, where they are too many to be shown
    counted: bool  # the names hold numbers of clips


def class_bars(result: Result, found: list[Result], baseline: str, colour: str) -> ClassBars | None:
    """Gains over a row of the same result, over chance or over another encoder on the same cell."""
    if not per_class(result, "encoder") or (baseline in ROW_NAMES and not result.controls):
        return None
    theirs, row = result, baseline
    if baseline not in result.controls and baseline != "chance":
        same = [r for r in found if r.cell == result.cell and r.encoder.title == baseline]
        if same and same[0] is result:
            return None  # the baseline itself
        theirs, row = (same[0], "encoder") if same else (result, baseline)
    every = class_gains(result, theirs, row)
    shown = every if len(every) <= MANY else every[:ENDS] + every[-ENDS:]
    bars = [
        Bar(
            gain.name if gain.clips is None else f"{gain.name} ({gain.clips})",
            gain.difference,
            with_interval(gain, result, theirs, row).interval,
            colour if gain.difference > 0 else RED,
        )
        for gain in shown
    ]
    counted = any(gain.clips is not None for gain in shown)
    return ClassBars(
        ROW_NAMES.get(baseline, baseline), bars, len(every) if len(every) > MANY else 0, counted
    )


def gains(result: Result, found: list[Result], baseline: str, colour: str) -> str:
    shown = class_bars(result, found, baseline, colour)
    if shown is None:
        return ""
    name = html.escape(shown.over)
    if not shown.bars:
        return f"<figure><figcaption>Gain over {name} by class: this cell has no such row.</figcaption></figure>"
    cut = (
        f", the {ENDS} largest and the {ENDS} smallest of {shown.cut_from}"
        if shown.cut_from
        else ""
    )
    chart = figures.differences(shown.bars, f"{result.metric}, points")
    counted = ". In brackets: test clips" if shown.counted else ""
    return (
        f"<figure><figcaption>Gain by class over: {name}{cut}{counted}</figcaption>{chart}</figure>"
    )


def attention(seen: dict[str, Any]) -> str:
    """How much of the attention falls on each slot of time; dashed: all alike."""
    clips, mean = seen.get("clips", []), seen.get("mean")
    every = [w for clip in clips for w in clip["weights"]] + list(mean or [])
    slots = len(mean or clips[0]["weights"])
    top = max(2 / slots, *every)
    said = "<p>Share of the attentive probe's attention that falls on each slot of time. Dashed: on all alike.</p>"
    parts = []
    if mean:
        chart = f'<div class="mean">{weights(mean, top)}</div>'
        parts.append(
            f'<figure class="look row"><figcaption>Mean over all test clips</figcaption>{chart}</figure>'
        )
    for clip in clips:
        strip = f"<div>{page.strip(clip)}{weights(clip['weights'], top)}</div>"
        parts.append(
            f'<figure class="look"><figcaption>{page.verdict(clip)}</figcaption>{strip}</figure>'
        )
    return f'{said}<div class="grid">{"".join(parts)}</div>'


def weights(shares: Sequence[float], top: float) -> str:
    heights = "".join(f'<i style="height:{100 * share / top:.1f}%"></i>' for share in shares)
    even = f'<s style="bottom:{100 / len(shares) / top:.1f}%"></s>'
    texts = (
        "".join(f"<span>{100 * share:.0f}</span>" for share in shares) if len(shares) <= 16 else ""
    )
    return f'<div class="weights">{heights}{even}</div><div class="slots">{texts}</div>'


def detail(result: Result) -> str:
    """Everything else of a cell, folded away: its command, what it chose, its protocol and cost."""
    more = {key: value for key, value in to_json(result).items() if key not in LONG}
    text = html.escape(json.dumps({**more, "protocol": result.protocol}, indent=1))
    command = f"<pre>{html.escape(result.command)}</pre>" if result.command else ""
    return folded(f"{result.encoder.title}: command, protocol, cost", f"{command}<pre>{text}</pre>")
