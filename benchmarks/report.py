"""result files -> tables and pages that load nothing from elsewhere: `python -m benchmarks.report DIR [DIR ...]`.

DIR is a run (its page is DIR/run.html) or a sweep (report.html, rows.csv, rows.md), or holds results: of probes and
fine-tuning (report.md, report.html, and a page for each run that an encoder came from) or of benchmarks.run (board.py;
several DIR make one report).
"""

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.reports import board, results, run_page, sweep_page, sweep_rows
from benchmarks.reports.board_page import matrix
from benchmarks.reports.page import BLUE, GREY, INK, films, html_table, page, picture
from benchmarks.reports.results import ROWS, between, gained, percent
from ssvid.errors import UserError
from ssvid.results import BENCH, PROBE, TUNED, Result


def reports(
    folder: list[str],  # of results, a run or a sweep; several of benchmarks.run make one report
    *,
    out: str | None = None,  # folder of the report of benchmarks.run; null: the first one
    baseline: str = "random",  # of the gains per class: random, pixels, single_frame, shuffled, chance or an encoder
) -> dict[str, Any]:
    """Make the report of result files anew: Markdown, HTML and, of benchmarks.run, CSV and LaTeX."""
    places = [Path(name) for name in folder]
    if not places:
        raise UserError("Name a folder of results, or a run: python -m benchmarks.report DIR.")
    for place in places:
        if not place.is_dir():
            raise UserError(f"There is no folder {place}.")
        if (len(places) > 1 or out or baseline != "random") and not board.is_board(place):
            raise UserError(
                f"{place} holds no result of benchmarks.run: several folders, --out and --baseline are for these alone."
            )
    if len(places) > 1 or out or baseline != "random":
        return {"report": str(board.write(*places, out=Path(out) if out else None, baseline=baseline))}
    return report(folder[0])


def report(folder: str) -> dict[str, Any]:
    """Of one folder, whatever it holds."""
    place = Path(folder)
    if sweep_rows.is_sweep(place):
        return sweep_page.write(place)
    made = {"run": str(run_page.write(place, place / "run.html"))} if run_page.is_run(place) else {}
    kinds = {run_page.mapping(file).get("kind") for file in place.glob("*.json")}
    if BENCH in kinds and kinds & {PROBE, TUNED}:
        raise UserError(f"{place} holds results of benchmarks.run and others: move one kind to a folder of its own.")
    if BENCH in kinds:
        return {**made, "report": str(board.write(place))}
    if made and not kinds & {PROBE, TUNED}:
        return made
    return {**made, "report": str(write(place))}


def write(folder: Path) -> Path:
    found = results.read_all(folder)
    file = folder / "report.html"
    for path, text in ((folder / "report.md", markdown(found)), (file, html_page(found, folder))):
        results.write_text(path, text)
    for result in found:
        if run := run_page.of_result(result, folder):
            run_page.write(run, folder / run_page.name(result))
    return file


def markdown(found: list[Result]) -> str:
    head, said = introduction(found)
    parts = [f"# {head}", "", said, ""]
    for result in found:
        parts += [f"## {result['encoder']['title']}", "", *(f"- {line}" for line in results.reading(result)), ""]
        parts += [results.table([result]), "", *(f"- {key}: {value}" for key, value in facts(result)), ""]
        if result.get("command"):
            parts += ["```", result["command"], "```", ""]
    return "\n".join(parts)


def html_page(found: list[Result], folder: Path) -> str:
    many = [overview(found)] if len(found) > 1 else []
    body = "\n".join([*many, *(section(result, folder) for result in found)])
    head, said = introduction(found)
    return page(head, f"<h1>{head}</h1>\n<p>{said}</p>\n{body}")


def introduction(found: list[Result]) -> tuple[str, str]:
    """Headline, and what was done."""
    done = {
        PROBE: "The encoder stays as it is; one linear layer is trained on its features. Each row has the same probe, "
        "grid and selection.",
        TUNED: "The encoder is trained on the labels, with a linear layer on top. No controls stand beside it.",
    }
    kinds = [kind for kind in done if any(result["kind"] == kind for result in found)]
    head = " and ".join({PROBE: "frozen features, linear probe", TUNED: "fine-tuning"}[kind] for kind in kinds)
    intervals = "Bars and brackets are 95 % intervals over groups of test clips."
    return head[0].upper() + head[1:], " ".join([*(done[kind] for kind in kinds), intervals])


def overview(found: list[Result]) -> str:
    head = ("", "top-1", "95 % interval", "more than untrained (points)", "of")
    rows = []
    for result in found:
        gain = result["gains"].get("random")
        more = gained(gain) if gain else "not measured: fine-tuned"
        clips = f"{result['data']['clips']['test']} clips"
        rows.append((result["encoder"]["title"], percent(result["top1"]), between(result["interval"]), more, clips))
    return "<h2>Overview</h2>" + html_table(head, rows)


def section(result: Result, folder: Path) -> str:
    title = html.escape(result["encoder"]["title"])
    said = "".join(f"<li>{html.escape(line)}</li>" for line in results.reading(result))
    parts = [
        f'<h2>{title}</h2><ul class="reading">{said}</ul>',
        run_page.link(result, folder),
        html_table(results.HEAD, results.lines(result), main=True),
        picture(bars(result), f"Accuracy of {result['encoder']['title']} and its controls"),
        "<h3>Confusion on test</h3>",
        matrix(result["confusion"], result["data"]["classes"]),
        *neighbours(result),
        "<h3>Protocol and cost</h3>",
        html_table(("", ""), facts(result)),
        f"<details><summary>Protocol in full</summary><pre>{html.escape(json.dumps(result['protocol'], indent=1))}"
        "</pre></details>",
    ]
    if result.get("command"):
        parts.append(f"<h3>Command</h3><pre>{html.escape(result['command'])}</pre>")
    return "\n".join(parts)


def neighbours(result: Result) -> list[str]:
    return ["<h3>Nearest neighbours</h3>", films(result["strips"])] if "strips" in result else []


def facts(result: Result) -> list[tuple[str, str]]:
    data, cost, leak, net = result["data"], result["cost"], result["leak"], result["encoder"]
    clip = result["protocol"]["clip"]
    spacing = f"{clip['fps']:g} a second" if clip["fps"] else f"{clip.get('stride')} frames apart"
    spacing = "over the whole video" if clip.get("whole") else spacing
    counts = ", ".join(f"{name} {data['clips'][name]} in {data['groups'][name]} groups" for name in data["clips"])
    seen = f"{leak['clips']} test clips were in pretraining" if leak["checked"] else "not checked: no pretraining list"
    views = f"{clip['clips']} a video" + (f", {clip['crops']} crops each" if "crops" in clip else "")
    flops = f"{cost['gflops_per_clip']:.2f} GFLOPs a clip; " if "gflops_per_clip" in cost else ""
    when = "this time" if result["kind"] == PROBE else "in all"
    return [
        ("encoder", f"{net['name']}, {net['parameters'] / 1e6:.1f} M parameters, {net['weights']}, hash {net['hash']}"),
        *([("licence of the weights", net["licence"])] if net.get("licence") else []),
        ("clip", f"{clip['frames']} frames, {spacing}, {clip['size']} pixels, {views}"),
        ("clips", f"{counts}; {data['bad_files']} unreadable"),
        *(probed(result) if result["kind"] == PROBE else tuned(result)),
        ("leak check", seen),
        ("cost", f"{flops}{cost['cpu_s']:.0f} CPU-seconds {when}"),
        ("protocol", f"hash {result['protocol_hash']}, seed {result['seed']}, code {(result['git'] or 'no git')[:12]}"),
        ("manifest", data["hash"][:16]),
    ]


def probed(result: Result) -> list[tuple[str, str]]:
    chosen, near, grid = result["chosen"], result["knn"]["chosen"], result["grid"]["encoder"]
    setting = f"{chosen['pooling']} ({chosen['dim']} wide), rate {chosen['rate']:g}, decay {chosen['weight_decay']:g}"
    return [
        ("chosen on val", f"{setting}: {percent(chosen['val/top1'])}, of {len(grid)} settings"),
        ("nearest neighbours", f"{near['pooling']}, k = {near['k']}, chosen on val too"),
    ]


def tuned(result: Result) -> list[tuple[str, str]]:
    training = result["protocol"]["training"]
    return [
        ("training", f"{training['steps']} steps of {training['batch_size']} videos, rate {training['lr']:g}"),
        ("val", f"{percent(result['val_top1'])}; {result['protocol']['selection']}"),
    ]


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


if __name__ == "__main__":
    from ssvid.cli import command

    command(reports, "folder")
