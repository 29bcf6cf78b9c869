"""result files -> report.md and report.html, which loads nothing from elsewhere: `python -m benchmarks.report DIR`."""

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks import results
from benchmarks.results import ROWS, Result, between, percent

INK, BLUE, GREY, PALE = "#1f2328", "#2f6fb2", "#9aa4ae", "#d5dbe1"
STYLE = f"""
body {{ font: 15px/1.5 system-ui, sans-serif; color: {INK}; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.2rem; margin-top: 2.5rem; }} h3 {{ font-size: 1rem; }}
table {{ border-collapse: collapse; }} img {{ max-width: 100%; }}
th, td {{ text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid {PALE}; font-weight: normal; }}
th {{ color: #59636e; }} tr.main td {{ font-weight: 600; }} td.n {{ font-variant-numeric: tabular-nums; }}
ul.reading li:first-child {{ font-weight: 600; }}
.strip {{ margin: .2rem 0 1rem; }} .strip div {{ display: flex; align-items: center; gap: .7rem; margin: 2px 0; }}
.strip span {{ font-size: .85rem; }} .wrong {{ color: #b42318; }} .near {{ padding-left: 1.2rem; }}
pre {{ background: #f4f6f8; padding: .7rem; overflow-x: auto; font-size: .8rem; white-space: pre-wrap; }}
"""


def report(folder: str) -> dict[str, Any]:
    """Make report.md and report.html anew from the result files of a folder."""
    return {"report": str(write(Path(folder)))}


def write(folder: Path) -> Path:
    found = results.read_all(folder)
    page = folder / "report.html"
    for path, text in ((folder / "report.md", markdown(found)), (page, html_page(found))):
        results.write_text(path, text)
    return page


def markdown(found: list[Result]) -> str:
    parts = ["# Frozen features, linear probe", ""]
    for result in found:
        parts += [f"## {result['encoder']['title']}", "", *(f"- {line}" for line in results.reading(result)), ""]
        parts += [results.table([result]), "", *(f"- {key}: {value}" for key, value in facts(result)), ""]
        if result.get("command"):
            parts += ["```", result["command"], "```", ""]
    return "\n".join(parts)


def html_page(found: list[Result]) -> str:
    many = [overview(found)] if len(found) > 1 else []
    body = "\n".join([*many, *(section(result) for result in found)])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Linear probe</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>Frozen features, linear probe</h1>\n"
        "<p>The encoder stays as it is; one linear layer is trained on its features. Each row below has the same "
        "probe, grid and selection. Bars and brackets are 95 % intervals over groups of test clips.</p>\n"
        f"{body}\n</body></html>\n"
    )


def overview(found: list[Result]) -> str:
    head = ("", "top-1", "95 % interval", "more than untrained (points)", "of")
    rows = []
    for result in found:
        gain = result["gains"]["random"]
        more = f"{100 * gain['difference']:+.1f}" if gain["shown"] else "no difference shown"
        more += f" ({between(gain['interval'], '+')})"
        clips = f"{result['data']['clips']['test']} clips"
        rows.append((result["encoder"]["title"], percent(result["top1"]), between(result["interval"]), more, clips))
    return "<h2>Overview</h2>" + html_table(head, rows)


def section(result: Result) -> str:
    title = html.escape(result["encoder"]["title"])
    said = "".join(f"<li>{html.escape(line)}</li>" for line in results.reading(result))
    parts = [
        f'<h2>{title}</h2><ul class="reading">{said}</ul>',
        html_table(results.HEAD, results.lines(result), main=True),
        picture(bars(result), f"Accuracy of {title} and its controls"),
        "<h3>Confusion on test</h3>",
        picture(confusion(result), "Confusion matrix: rows are labels, columns are predictions"),
        "<h3>Nearest neighbours</h3><p>A test clip, then the train clips whose features are nearest.</p>",
        *(film(query) for query in result["strips"]),
        "<h3>Protocol and cost</h3>",
        html_table(("", ""), facts(result)),
        f"<details><summary>Protocol in full</summary><pre>{html.escape(json.dumps(result['protocol'], indent=1))}"
        "</pre></details>",
    ]
    if result.get("command"):
        parts.append(f"<h3>Command</h3><pre>{html.escape(result['command'])}</pre>")
    return "\n".join(parts)


def facts(result: Result) -> list[tuple[str, str]]:
    data, chosen, cost, leak = result["data"], result["chosen"], result["cost"], result["leak"]
    clip = result["protocol"]["clip"]
    spacing = f"{clip['fps']:g} a second" if clip["fps"] else f"{clip['stride']} frames apart"
    setting = f"{chosen['pooling']} ({chosen['dim']} wide), rate {chosen['rate']:g}, decay {chosen['weight_decay']:g}"
    counts = ", ".join(f"{name} {data['clips'][name]} in {data['groups'][name]} groups" for name in data["clips"])
    seen = f"{leak['clips']} test clips were in pretraining" if leak["checked"] else "not checked: no pretraining list"
    near, net, grid = result["knn"]["chosen"], result["encoder"], result["grid"]["encoder"]
    return [
        ("encoder", f"{net['name']}, {net['parameters'] / 1e6:.1f} M parameters, {net['weights']}, hash {net['hash']}"),
        *([("licence of the weights", net["licence"])] if net.get("licence") else []),
        ("clip", f"{clip['frames']} frames, {spacing}, {clip['size']} pixels, {clip['clips']} a video"),
        ("clips", f"{counts}; {data['bad_files']} unreadable"),
        ("chosen on val", f"{setting}: {percent(chosen['val/top1'])}, of {len(grid)} settings"),
        ("nearest neighbours", f"{near['pooling']}, k = {near['k']}, chosen on val too"),
        ("leak check", seen),
        ("cost", f"{cost['gflops_per_clip']:.2f} GFLOPs a clip; {cost['cpu_s']:.0f} CPU-seconds this time"),
        ("protocol", f"hash {result['protocol_hash']}, seed {result['seed']}, code {(result['git'] or 'no git')[:12]}"),
        ("manifest", data["hash"][:16]),
    ]


def html_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], main: bool = False) -> str:
    top = "<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>" if any(head) else ""
    body = ""
    for i, row in enumerate(rows):
        cells = "".join(f'<td class="n">{html.escape(cell)}</td>' for cell in row)
        body += f"<tr{' class=main' if main and i == 0 else ''}>{cells}</tr>"
    return f"<table>{top}{body}</table>"


def film(query: Result) -> str:
    right = query["predicted"] == query["label"]
    word = "right" if right else f'<span class="wrong">taken for {html.escape(query["predicted"])}</span>'
    lines = [f"<div>{strip(query)}<span><b>{html.escape(query['label'])}</b>, {word}</span></div>"]
    for near in query["near"]:
        mark = "" if near["label"] == query["label"] else ' class="wrong"'
        name = f"<span{mark}>{html.escape(near['label'])}, cosine {near['cosine']:.2f}</span>"
        lines.append(f'<div class="near">{strip(near)}{name}</div>')
    return f'<div class="strip">{"".join(lines)}</div>'


def strip(clip: Result) -> str:
    return f'<img alt="{html.escape(clip["path"])}" src="data:image/jpeg;base64,{clip["jpeg"]}">'


def picture(figure: Figure, alt: str) -> str:
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
        data = base64.b64encode(file.getvalue()).decode()
    return f'<p><img alt="{alt}" src="data:image/png;base64,{data}"></p>'


def bars(result: Result) -> Figure:
    """A bar for each row with its interval, and the line of chance."""
    rows = [(result["encoder"]["title"], result)] + [(ROWS[k], row) for k, row in result["controls"].items()]
    top = np.array([row["top1"] for _, row in rows]) * 100
    low, high = np.array([row["interval"] for _, row in rows]).T * 100
    figure = Figure(figsize=(7, 0.5 * len(rows) + 0.8))
    axes = figure.subplots()
    place = np.arange(len(rows))[::-1]
    axes.barh(place, top, color=[BLUE] + [GREY] * (len(rows) - 1), height=0.6)
    error = np.stack([top - low, high - top]).clip(min=0)
    axes.errorbar(top, place, xerr=error, fmt="none", ecolor=INK, elinewidth=1, capsize=3)
    for y, value, end in zip(place, top, high, strict=True):
        axes.text(end + 1.5, y, f"{value:.1f}", va="center", color=INK, fontsize=9)
    chance = 100 * result["chance"]
    axes.axvline(chance, color=INK, linestyle="--", linewidth=1)
    axes.text(chance, len(rows) - 0.45, f"chance {chance:.1f}", ha="center", va="bottom", fontsize=8, color=INK)
    axes.set_yticks(place, [name for name, _ in rows])
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("top-1 on test, %")
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def confusion(result: Result) -> Figure:
    """Rows are labels and sum to 100 %."""
    counts, names = np.array(result["confusion"], dtype=float), result["data"]["classes"]
    share = 100 * counts / counts.sum(1, keepdims=True).clip(min=1)
    n = len(names)
    side = min(9.0, 2.2 + 0.42 * n)
    figure = Figure(figsize=(side, side))
    axes = figure.subplots()
    axes.imshow(share, cmap=matplotlib.colormaps["Blues"], vmin=0, vmax=100)
    size = 9 if n <= 20 else max(3.0, 160 / n)
    axes.set_xticks(range(n), names, rotation=90, fontsize=size)
    axes.set_yticks(range(n), names, fontsize=size)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    if n <= 20:
        for y, x in zip(*counts.nonzero(), strict=True):
            dark = "white" if share[y, x] > 60 else INK
            axes.text(x, y, f"{counts[y, x]:.0f}", ha="center", va="center", color=dark, fontsize=8)
    axes.spines[:].set_color(PALE)
    return figure


if __name__ == "__main__":
    from ssvid.cli import command

    command(report)
