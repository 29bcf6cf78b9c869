"""run folder -> a page on how an encoder was pretrained: curves, pictures, cost, provenance, config."""

import html
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from benchmarks.reports import run_curves, run_pictures
from benchmarks.reports.page import drawn, html_table, image, page
from ssvid import registry
from ssvid.errors import UserError
from ssvid.files import write_text_whole
from ssvid.results import Result
from ssvid.results.run_files import read_mapping, read_metrics

STYLE = """
.sharp { image-rendering: pixelated; } figure { margin: .3rem 0 1rem; }
figcaption { font-size: .85rem; color: #59636e; }
td { vertical-align: top; overflow-wrap: anywhere; } td:first-child { min-width: 11rem; } summary { cursor: pointer; }
"""
CLIPS = "Clips of the batch as the encoder gets them, one below the other. Long ones run over several rows."
KNOWN = {
    "hash": "clips (hash of their list)",
    "root": "folder of the clips",
    "git": "code (git commit)",
    "start": "encoder it began from (hash)",
}


def is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "metrics.jsonl").is_file()


def of_result(result: Result, folder: Path) -> Path | None:
    """The run that a result's encoder came from. `folder` holds the result; in a run that has moved it is inside."""
    given = Path(result.encoder.given)
    asked = given if given.is_dir() else given.parent
    moved = [run for run in folder.resolve().parents[:2] if run.name == asked.name]
    return next((run for run in (asked, *moved) if given.name and is_run(run)), None)


def name(result: Result) -> str:
    """Of the page of a result's run, beside report.html."""
    return f"run_{re.sub(r'[^A-Za-z0-9_.-]+', '_', result.encoder.title)}.html"


def write(run: Path, file: Path) -> Path:
    write_text_whole(file, html_page(run, file.parent))
    return file


def html_page(run: Path, place: Path) -> str:
    """`place`: the folder that the page will be in."""
    config, made = read_mapping(run / "config.yaml"), read_mapping(run / "provenance.json")
    rows, damaged = read_metrics(run / "metrics.jsonl")
    step = max((row["step"] for row in rows), default=0)
    title = f"Run {run.resolve().name}"
    parts = [
        f"<h1>{html.escape(title)}</h1><p>{html.escape(sentence(config, made, step))}</p>",
        *reports(run, place),
        "<h2>Curves</h2>",
        curves(rows, damaged),
        "<h2>Pictures</h2>",
        *pictures(run, config),
        "<h2>Cost</h2>",
        html_table(("", ""), cost(run, rows, config, made, step)),
        "<h2>Made from</h2>",
        html_table(("", ""), origin(made))
        if made
        else "<p>provenance.json is missing or damaged.</p>",
        "<h2>Config</h2>",
        settings(config),
    ]
    return page(title, "\n".join(parts), STYLE)


def sentence(config: dict[str, Any], made: dict[str, Any], step: int) -> str:
    net, objective, data = (_name(config, key) for key in ("encoder", "objective", "data"))
    clips = f"{videos(made)} videos" if videos(made) else "videos"
    total = planned(config, made)
    if total is None:
        done = f"{step} steps are logged"
    elif step < total:
        done = f"{step} of {total} steps are logged: it is not finished"
    else:
        done = f"{step} steps"
    batch = config.get("batch_size", "an unknown number of")
    begin = f"{objective} trained {net}" if "objective" in config else f"{net} was trained"
    return f"{begin} on {clips} of {data}: {done}, {batch} clips each."


def videos(made: dict[str, Any]) -> int:
    """That the run reads; 0 where nothing tells."""
    rows = made.get("rows")
    return len(rows) if isinstance(rows, list) else 0


def _name(config: dict[str, Any], key: str) -> str:
    part = config.get(key)
    return (
        str(part.get("name", part))
        if isinstance(part, dict)
        else f"an unknown {key}"
        if part is None
        else str(part)
    )


def planned(config: dict[str, Any], made: dict[str, Any]) -> int | None:
    """Steps; None where config and clips do not tell."""
    if isinstance(config.get("steps"), int):
        return int(config["steps"])
    from ssvid.engine.train_flags import count_steps  # and all of training with it: seconds

    try:
        return count_steps(None, config.get("epochs"), videos(made), config["batch_size"])
    except (UserError, KeyError, TypeError, ArithmeticError):
        return None


def reports(run: Path, place: Path) -> list[str]:
    """Links to reports inside of the run, from a page in the run."""
    if place.resolve() != run.resolve():
        return []
    found = sorted(run.glob("*/report.html"))
    return [
        f'<p>Its results: <a href="{quote(f.parent.name)}/report.html">{html.escape(f.parent.name)}</a></p>'
        for f in found
    ]


def curves(rows: list[dict[str, Any]], damaged: int) -> str:
    found = run_curves.curves(rows)
    lost = (
        f"{damaged} damaged line{'s' * (damaged > 1)} of metrics.jsonl left out. "
        if damaged
        else ""
    )
    if not found:
        return f"<p>{lost}No step is logged yet.</p>"
    table = [
        (
            c.title,
            c.text(c.values[0]),
            c.text(c.values[-1]),
            c.text(c.values.min()),
            c.text(c.values.max()),
        )
        for c in found
    ]
    alt = "; ".join(f"{title} from {first} to {last}" for title, first, last, *_ in table)
    return (
        f"<p>{lost}Beside each title stands the last value. Pale: as logged; blue: its running mean.</p>"
        f"<p>{image(drawn(run_curves.panels(found)), alt)}</p>"
        "<details><summary>As numbers</summary>"
        f"{html_table(('', 'first', 'last', 'least', 'most'), table)}</details>"
    )


def pictures(run: Path, config: dict[str, Any]) -> list[str]:
    found = run_pictures.read(run / "tensorboard")
    if not found:
        return ["<p>No picture is logged, or the folder tensorboard/ is missing.</p>"]
    parts = []
    for tag, shots in sorted(
        found.items(), key=lambda item: item[0] == "clips"
    ):  # the objective's own first
        caption = CLIPS if tag == "clips" else said(config)
        frame = frame_size(config) if tag == "clips" else None
        parts.append(f"<h3>{html.escape(tag)}</h3><p>{html.escape(caption)}</p>")
        for shot in shots:
            shown = run_pictures.figure(shot, f"{tag} at step {shot.step}", frame)
            parts.append(f"<figure><figcaption>step {shot.step}</figcaption>{shown}</figure>")
    return parts


def said(config: dict[str, Any]) -> str:
    """What the objective's own code says of its pictures. A page imports nothing but what is in the registry."""
    objective = _name(config, "objective")
    if objective not in registry.objectives.names():
        return ""
    pictured = getattr(registry.objectives[objective], "visualize", None)
    return " ".join((pictured.__doc__ or "").split()) if pictured else ""


def frame_size(config: dict[str, Any]) -> int | None:
    sizes = [
        part.get("size") for key in ("clip", "encoder") if isinstance(part := config.get(key), dict)
    ]
    return next((size for size in sizes if isinstance(size, int) and size > 0), None)


def cost(
    run: Path, rows: list[dict[str, Any]], config: dict[str, Any], made: dict[str, Any], step: int
) -> list[tuple[str, str]]:
    spent = {
        key: max((row[key] for row in rows if isinstance(row.get(key), int | float)), default=None)
        for key in run_curves.COST
    }
    lines = [("steps", f"{step}")]
    if isinstance(batch := config.get("batch_size"), int):
        seen = step * batch
        epochs = (
            f", {seen / videos(made):.1f} epochs of {videos(made)} videos" if videos(made) else ""
        )
        lines.append(("clips seen", f"{seen}{epochs}"))
    none = "not recorded: the run is older than this line of its log"
    cpu, wall = spent["cpu_s"], spent["wall_s"]
    lines += [
        (
            "time on the clock",
            none
            if wall is None
            else f"{duration(wall)}, over all starts, from the first step of each",
        ),
        (
            "CPU time",
            none if cpu is None else f"{duration(cpu)}, of all processes with their loaders",
        ),
    ]
    for file in (*sorted((run / "checkpoints").glob("*.pt")), *sorted(run.glob("*.safetensors"))):
        lines.append((file.name, f"{file.stat().st_size / 1e6:.1f} MB"))
    return lines


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def origin(made: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("videos", str(videos(made)))] if videos(made) else []
    rest = [
        (KNOWN.get(key, key), "none" if value is None else str(value))
        for key, value in made.items()
        if key not in ("rows", "before")
    ]
    return lines + rest


def settings(config: dict[str, Any]) -> str:
    if not config:
        return "<p>config.yaml is missing or damaged.</p>"
    text = yaml.safe_dump(config, sort_keys=False)
    return f"<p>As a recipe for <code>--config</code>.</p><pre>{html.escape(text)}</pre>"
