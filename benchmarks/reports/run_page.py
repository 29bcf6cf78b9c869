"""run folder -> a page on how an encoder was pretrained: curves, pictures, cost, origin, config.

This file prepares what stands on the page; templates/run.html says where it stands.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import yaml

from benchmarks.reports.figure_style import encode_png
from benchmarks.reports.page import Picture, Table, make_picture, render_page
from benchmarks.reports.page_heads import (
    Head,
    count,
    count_test_clips,
    date_of,
    join_facts,
    name_data,
    print_text,
)
from benchmarks.reports.run_curves import COST, Curve, draw_panels, make_curves
from benchmarks.reports.run_pictures import ShownPicture, read_pictures, show_picture
from benchmarks.reports.summary import summarise
from benchmarks.reports.verdict import list_leaks
from ssvid import registry
from ssvid.errors import UserError
from ssvid.files import write_text_whole
from ssvid.results import Result, read_folder
from ssvid.results.run_files import read_mapping, read_metrics

CLIPS = (
    "Clips of the batch as the encoder gets them, one below the other. "
    "Long ones run over several rows."
)
NOT_RECORDED = "not recorded: the run is older than this line of its log"
ORIGIN_NAMES = {
    "hash": "clips (hash of their list)",
    "root": "folder of the clips",
    "git": "code (git commit)",
    "start": "encoder it began from (hash)",
}
Json = dict[str, Any]


class PictureGroup(NamedTuple):
    name: str
    caption: str
    shown: list[ShownPicture]


def is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "metrics.jsonl").is_file()


def run_of_result(result: Result, folder: Path) -> Path | None:
    """The run that a result's encoder came from.

    `folder` holds the result: where a run has moved, the result is inside of it.
    """
    path = Path(result.encoder.argument)
    if not path.name:
        return None
    named = path if path.is_dir() else path.parent
    moved = [run for run in folder.resolve().parents[:2] if run.name == named.name]
    return next((run for run in (named, *moved) if is_run(run)), None)


def name_page(result: Result) -> str:
    """Of the page of a result's run, beside report.html."""
    return f"run_{re.sub(r'[^A-Za-z0-9_.-]+', '_', result.encoder.title)}.html"


def write_run_page(run: Path, file: Path) -> Path:
    write_text_whole(file, render_run(run, file.parent))
    return file


def render_run(run: Path, folder: Path) -> str:
    """`folder`: where the page will lie."""
    config = read_mapping(run / "config.yaml")
    provenance = read_mapping(run / "provenance.json")
    rows, damaged = read_metrics(run / "metrics.jsonl")
    step = max((row["step"] for row in rows), default=0)
    curves = make_curves(rows)
    results = read_results_inside(run)
    return render_page(
        "run.html",
        head=head_of_run(run, config, provenance, results),
        sentence=describe_run(config, provenance, step),
        summary=list(map(print_text, summarise_run(curves, results))),
        warnings=list_leaks(results),
        reports=link_reports(run, folder),
        damaged=damaged,
        curves=draw_curves(curves),
        numbers=list_values(curves),
        pictures=group_pictures(run, config),
        cost=Table((), list_cost(run, rows, config, provenance, step)),
        origin=Table((), list_origin(provenance)) if provenance else None,
        config=yaml.safe_dump(config, sort_keys=False) if config else "",
    )


def head_of_run(run: Path, config: Json, provenance: Json, results: list[Result]) -> Head:
    data = config.get("data")
    videos = count_videos(provenance)
    about = [
        name_data(data if isinstance(data, dict) else None),
        count(videos, "video") if videos else "",
        count_test_clips(results) if results else "",
        date_of([run / "metrics.jsonl"]),
    ]
    method = f"{name_part(config, 'objective')} trains {name_part(config, 'encoder')}"
    if "objective" not in config:
        method = name_part(config, "encoder")
    return Head(f"Run {run.resolve().name}: {method}", join_facts(about))


def read_results_inside(run: Path) -> list[Result]:
    """The results that lie in folders of the run, as far as they can be read."""
    results: list[Result] = []
    for file in sorted(run.glob("*/report.html")):
        try:
            results += read_folder(file.parent).values()
        except UserError:
            continue  # the report of that folder says what is wrong
    return results


def summarise_run(curves: list[Curve], results: list[Result]) -> list[str]:
    """What came of it: the results that lie in the run, else the online probe, else the loss."""
    if results:
        return summarise(results)
    for curve in curves:
        if curve.is_probe or curve.name == "loss":
            first, last = curve.text(curve.values[0]), curve.text(curve.values[-1])
            name = curve.title if curve.is_probe else "loss"
            step = f"step {curve.steps[0]} to {last} at step {curve.steps[-1]}"
            return [f"The {name} went from {first} at {step}; no results lie in this run."]
    return []


def describe_run(config: Json, provenance: Json, step: int) -> str:
    net, data = name_part(config, "encoder"), config.get("data")
    data = name_data(data if isinstance(data, dict) else None) or name_part(config, "data")
    videos = count_videos(provenance)
    total = count_steps(config, provenance)
    if total is None:
        progress = f"{step} steps are logged"
    elif step < total:
        progress = f"{step} of {total} steps are logged: it is not finished"
    else:
        progress = f"{step} steps"
    begin = f"{net} was trained"
    if "objective" in config:
        begin = f"{name_part(config, 'objective')} trained {net}"
    source = f"{videos or ''} videos of {data}".lstrip()
    batch = config.get("batch_size", "an unknown number of")
    return f"{begin} on {source}: {progress}, {batch} clips each."


def count_videos(provenance: Json) -> int:
    """That the run reads; 0 where nothing tells."""
    rows = provenance.get("rows")
    return len(rows) if isinstance(rows, list) else 0


def name_part(config: Json, key: str) -> str:
    part = config.get(key)
    if part is None:
        return f"an unknown {key}"
    return str(part.get("name", part) if isinstance(part, dict) else part)


def count_steps(config: Json, provenance: Json) -> int | None:
    """Planned steps; None where config and clips do not tell."""
    if isinstance(config.get("steps"), int):
        return int(config["steps"])
    # Importing it imports all of training, which takes seconds.
    from ssvid.engine.train_flags import count_steps as count_train_steps

    try:
        videos = count_videos(provenance)
        return count_train_steps(None, config.get("epochs"), videos, config["batch_size"])
    except (UserError, KeyError, TypeError, ArithmeticError):
        return None


def link_reports(run: Path, folder: Path) -> list[tuple[str, str]]:
    """(name, address) of the reports inside of the run, from a page in the run."""
    if folder.resolve() != run.resolve():
        return []
    names = [file.parent.name for file in sorted(run.glob("*/report.html"))]
    return [(name, f"{quote(name)}/report.html") for name in names]


def draw_curves(curves: list[Curve]) -> Picture | None:
    if not curves:
        return None
    texts = []
    for curve in curves:
        first, last = curve.text(curve.values[0]), curve.text(curve.values[-1])
        texts.append(f"{curve.title} from {first} to {last}")
    return make_picture(encode_png(draw_panels(curves)), "; ".join(texts))


def list_values(curves: list[Curve]) -> Table:
    rows = []
    for curve in curves:
        values = curve.values
        numbers = (values[0], values[-1], values.min(), values.max())
        rows.append((curve.title, *map(curve.text, numbers)))
    return Table(("", "first", "last", "least", "most"), rows)


def group_pictures(run: Path, config: Json) -> list[PictureGroup]:
    """The objective's own pictures come first, then the clips."""
    groups = []
    pictures = read_pictures(run / "tensorboard")
    for name in sorted(pictures, key=lambda name: name == "clips"):
        caption = CLIPS if name == "clips" else describe_pictures(config)
        frame = frame_size(config) if name == "clips" else None
        shown = [show_picture(name, shot, frame) for shot in pictures[name]]
        groups.append(PictureGroup(name, caption, shown))
    return groups


def describe_pictures(config: Json) -> str:
    """What the objective's code says of its pictures. Only registered objectives are imported."""
    objective = name_part(config, "objective")
    if objective not in registry.objectives.names():
        return ""
    visualize = getattr(registry.objectives[objective], "visualize", None)
    return " ".join((visualize.__doc__ or "").split()) if visualize else ""


def frame_size(config: Json) -> int | None:
    """Pixels of a frame's side."""
    for key in ("clip", "encoder"):
        part = config.get(key)
        size = part.get("size") if isinstance(part, dict) else None
        if isinstance(size, int) and size > 0:
            return size
    return None


def list_cost(
    run: Path, rows: list[Json], config: Json, provenance: Json, step: int
) -> list[tuple[str, str]]:
    largest: dict[str, float] = {}
    for row in rows:
        for key in COST:
            if isinstance(row.get(key), int | float):
                largest[key] = max(largest.get(key, row[key]), row[key])
    lines = [("steps", f"{step}")]
    batch, videos = config.get("batch_size"), count_videos(provenance)
    if isinstance(batch, int):
        epochs = f", {step * batch / videos:.1f} epochs of {videos} videos" if videos else ""
        lines.append(("clips seen", f"{step * batch}{epochs}"))
    wall = cpu = NOT_RECORDED
    if "wall_s" in largest:
        wall = f"{duration(largest['wall_s'])}, over all starts, from the first step of each"
    if "cpu_s" in largest:
        cpu = f"{duration(largest['cpu_s'])}, of all processes with their loaders"
    lines += [("time on the clock", wall), ("CPU time", cpu)]
    for file in (*sorted((run / "checkpoints").glob("*.pt")), *sorted(run.glob("*.safetensors"))):
        lines.append((file.name, f"{file.stat().st_size / 1e6:.1f} MB"))
    return lines


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def list_origin(provenance: Json) -> list[tuple[str, str]]:
    videos = count_videos(provenance)
    lines = [("videos", str(videos))] if videos else []
    for key, value in provenance.items():
        if key not in ("rows", "before"):
            lines.append((ORIGIN_NAMES.get(key, key), "none" if value is None else str(value)))
    return lines
