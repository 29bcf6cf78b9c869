"""The code -> pages of the docs site that nobody writes by hand.

mkdocs calls `on_files` (mkdocs.yml). The pages are made anew at each build, so they cannot tell
of flags, encoders or recipes that are not there.
"""

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from torch.utils.flop_counter import FlopCounterMode

from ssvid import registry
from ssvid.__main__ import format_help
from ssvid.commands import COMMANDS
from ssvid.encoder import Encoder, build, list_encoders
from ssvid.recipe import SHIPPED
from ssvid.registry import Registry
from ssvid.results import schema
from ssvid.signatures import comments_of, parameters_of
from ssvid.weights.published import LAYOUTS

ROOT = Path(__file__).parents[1]
os.environ["COLUMNS"] = "92"  # help is as wide as a column of the site


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference and the changelog to the site."""
    pages = {
        "reference/commands.md": list_commands(),
        "reference/objectives.md": describe_entries("Objectives", registry.objectives, "objective"),
        "reference/datasets.md": describe_entries("Flags of data sets", registry.datasets, "data"),
        "reference/encoders.md": list_all_encoders(),
        "reference/layouts.md": list_layouts(),
        "reference/recipes.md": list_recipes(),
        "reference/result-file.md": describe_result_file(),
        "project/changelog.md": (ROOT / "CHANGELOG.md").read_text().replace("](docs/", "](../"),
    }
    for name in COMMANDS:
        pages[f"reference/commands/{name_page(name)}"] = describe_command(name)
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def list_commands() -> str:
    rows = []
    for name, entry in COMMANDS.items():
        link = f"[`ssvid {name}`](commands/{name_page(name)})"
        rows.append([link, f"`{entry.module}`", entry.purpose])
    intro = "Each command is also `python -m MODULE`.\n\n"
    return "# Commands\n\n" + intro + write_table(["command", "module", "what it is for"], rows)


def name_page(command: str) -> str:
    """The file of a command's page: `sweep status` has two words."""
    return command.replace(" ", "-") + ".md"


def describe_command(name: str) -> str:
    """The page of one command: what it prints with `--help`."""
    entry = COMMANDS[name]
    return f"# ssvid {name}\n\n{entry.purpose}\n\n```text\n{format_help(name).strip()}\n```\n"


def describe_entries(title: str, table: Registry, flag: str) -> str:
    """The flags of every registered objective or data set, with their defaults and comments."""
    parts = [f"# {title}\n"]
    for name in table.names():
        entry = table[name]
        summary = summarise(inspect.getmodule(entry))  # it names the paper
        parts.append(f"## {name}\n\n{summary}\n\n{write_flags(entry, flag)}")
    return "\n".join(parts)


def summarise(documented: Any) -> str:
    """The first paragraph of a docstring, as one line that Markdown leaves alone."""
    text = inspect.getdoc(documented) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("<", "&lt;")


def write_flags(entry: Callable[..., Any], flag: str) -> str:
    comments = comments_of(entry)
    rows = []
    for name, parameter in parameters_of(entry).items():
        if name == "encoder":  # an objective is handed its encoder
            continue
        empty = parameter.default is parameter.empty
        default = "required" if empty else f"`{parameter.default!r}`"
        rows.append([f"`--{flag}.{name}`", default, comments.get(name, "")])
    return write_table(["flag", "default", "what it is"], rows) if rows else "It has no flags.\n"


def list_all_encoders() -> str:
    """Every encoder with its size and cost. They are built without memory (meta tensors)."""
    rows = []
    for name in list_encoders():
        with torch.device("meta"):
            encoder = build(name, {}).eval()
        spec = encoder.spec
        pace = "spread over the video"
        if not spec.whole:
            pace = f"{spec.fps:g} a second" if spec.fps else f"1 of {spec.stride}"
        rows.append(
            [
                f"`{name}`",
                f"{sum(weight.numel() for weight in encoder.parameters()) / 1e6:.1f}",
                f"{count_gflops(encoder):.1f}",
                f"{spec.frames} x {spec.size}",
                pace,
                f"{encoder.dim}",
                "yes" if encoder.can_skip else "",
                "yes" if encoder.has_layers else "",
            ]
        )
    head = [
        "name",
        "M parameters",
        "GFLOPs",
        "clip",
        "frames taken",
        "width",
        "skips tokens",
        "has layers",
    ]
    return (
        "# Encoders\n\nA GFLOP is a thousand million multiplications with their additions, of one "
        "clip in one pass. The clip is the default: frames x pixels of a side, and which "
        "frames of the video it takes. Only encoders that skip tokens can be pretrained by `mae` "
        "and `partial_mae` and take `--drop_tokens`.\n\n" + write_table(head, rows)
    )


def count_gflops(encoder: Encoder) -> float:
    spec = encoder.spec
    clip = torch.zeros(1, 3, spec.frames, spec.size, spec.size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(clip)
    return counter.get_total_flops() / 2e9  # torch counts an addition for itself


def list_layouts() -> str:
    """Every layout of checkpoints that is known by its keys."""
    rows = []
    for layout in LAYOUTS:
        rows.append([f"`{layout.name}`", layout.title, layout.licence or "none stated"])
    intro = "`ssvid weights FILE --to LAYOUT --out NEW` writes a file in one of these.\n\n"
    return "# Layouts\n\n" + intro + write_table(["layout", "what", "licence of the weights"], rows)


def list_recipes() -> str:
    """Every recipe, whole: the comment at its head says what it is for and what it costs."""
    parts = [
        "# Recipes\n\nA recipe is a YAML file of flags. `--config NAME` takes one of these by its "
        "name, or a file of yours; flags of the command line win.\n"
    ]
    for path in sorted(SHIPPED.rglob("*.yaml")):
        name = path.relative_to(SHIPPED).with_suffix("")
        parts.append(f"## {name}\n\n```yaml\n{path.read_text().strip()}\n```\n")
    return "\n".join(parts)


def describe_result_file() -> str:
    """The dataclasses of a result file, field by field."""
    parts = [
        f"# The result file\n\nEvery score is a JSON file. Its schema has the number "
        f"{schema.SCHEMA}; files of earlier schemas are read too. A field with a default is left "
        "out of the file where it has that default.\n"
    ]
    for entry in list_dataclasses(schema):
        comments = comments_of(entry)
        rows = []
        for field in dataclasses.fields(entry):
            rows.append([f"`{field.name}`", f"`{field.type}`", comments.get(field.name, "")])
        parts.append(f"## {entry.__name__}\n\n{summarise(entry)}\n")
        parts.append(write_table(["field", "type", "what it is"], rows))
    return "\n".join(parts)


def list_dataclasses(module: ModuleType) -> Iterable[type]:
    for entry in vars(module).values():
        is_own = getattr(entry, "__module__", "") == module.__name__
        if is_own and inspect.isclass(entry) and dataclasses.is_dataclass(entry):
            yield entry


def write_table(head: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped) + "\n"
