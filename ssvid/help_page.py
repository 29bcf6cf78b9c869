"""The flags of a command -> the text of its --help: what must be chosen comes first."""

import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ssvid.commands import COMMANDS, phrase_command
from ssvid.flags import Flag, list_flags
from ssvid.recipe import Recipe, with_name
from ssvid.registry import Registry

# Heading -> the flags below it, for commands that have many. All others stand above them.
SECTIONS = {
    "Training": (
        *("steps", "epochs", "batch_size", "accumulate", "seed", "optimizer", "lr", "lr_batch"),
        *("min_lr", "warmup", "lr_decay", "lr_milestones", "weight_decay", "betas", "clip_grad"),
        *("drop_tokens", "dense_last", "precision", "recompute", "compile", "sync_bn"),
    ),
    "Clips": ("short_videos", "clip", "clips", "crops", "average", "decoder", "max_bad"),
    "Records": (
        *("log_every", "picture_every", "checkpoint_every", "keep_checkpoints", "probe_every"),
        *("stop_on_collapse",),
    ),
    "Machine": ("devices", "threads", "workers", "timeout_s", "cache"),
}
MANY = 20  # flags of a command that is parted into sections
COLUMN = 24  # where the help of a flag begins
COMMON = [
    Flag("config", "RECIPE", True, "", "a recipe: YAML with the same keys as the flags"),
    Flag("print_config", "", True, "", "print all settings as a recipe and stop"),
    Flag("trust", "MODULE", True, "", "modules that files may name classes of: MODULE[,MODULE]"),
    Flag("json", "", True, "", "print the result as one line of JSON, as into a pipe"),
    Flag("help", "", True, "", "print this page and stop"),
]


def format_help(
    name: str,
    function: Callable[..., Any],
    tables: dict[str, Registry],
    chosen: Recipe | None = None,
    start: str | None = None,
) -> str:
    """The page of a command. `chosen`: the flags that were given beside --help.

    The flags of a chosen name, as of `--objective mae`, come first. `start` is what a user types
    to start the command; None: what he typed now.
    """
    flags = list_flags(function, named=tables, skip={"config"})
    entry = COMMANDS[name]
    positional = ["By position (or by name, as --NAME):"]
    named = ["Names to choose (--FLAG NAME --help shows the flags of a name first):"]
    others: list[Flag] = []
    for flag in flags:
        if flag.name in entry.first:
            positional.append(format_flag(flag, flag.name.upper()))
        elif flag.name in tables:
            named += [format_flag(flag), format_names(tables[flag.name])]
        elif flag.name != entry.after:
            others.append(flag)
    parts = [format_usage(name, flags, start), format_documentation(function)]
    parts += format_choices(tables, chosen or {})
    for lines in (positional, named):
        if len(lines) > 1:
            parts.append("\n".join(lines))
    own_names = {flag.name for flag in flags}
    common = [flag for flag in COMMON if flag.name not in own_names]
    parts += [*format_sections(others), "\n".join(["Every command:", *map(format_flag, common)])]
    return "\n\n".join(parts)


def format_choices(tables: dict[str, Registry], chosen: Recipe) -> list[str]:
    """The flags of each name that is chosen."""
    parts = []
    for flag, table in tables.items():
        value = with_name(chosen.get(flag))
        name = value.get("name") if isinstance(value, dict) else None
        if isinstance(name, str):
            parts.append(format_entry_help(flag, name, table[name]))
    return parts


def format_usage(name: str, flags: Iterable[Flag], start: str | None = None) -> str:
    """One line: the command, what stands by position, and the flags that it needs."""
    entry, words = COMMANDS[name], [start or phrase_command(name)]
    by_name = {flag.name: flag for flag in flags}
    for first in entry.first:
        flag = by_name[first]
        word = f"{first.upper()}{' ...' if flag.repeats else ''}"
        words.append(word if flag.is_required else f"[{word}]")
    for flag in by_name.values():
        if flag.is_required and flag.name not in entry.first:
            words.append(f"--{flag.name} {flag.placeholder}")
    words.append("[--FLAG VALUE ...]")
    if entry.after:
        words.append(f"[-- {entry.after.upper()}]")
    return "usage: " + " ".join(words)


def format_documentation(entry: Callable[..., Any]) -> str:
    """The docstring, each paragraph filled."""
    paragraphs = textwrap.dedent(entry.__doc__ or "").strip().split("\n\n")
    return "\n\n".join(fill(paragraph, "") for paragraph in paragraphs)


def format_sections(flags: Sequence[Flag]) -> list[str]:
    """The flags under their headings, those without one first."""
    section_of_flag: dict[str, str] = {}
    if len(flags) >= MANY:
        for heading, names in SECTIONS.items():
            section_of_flag |= dict.fromkeys(names, heading)
    lines: dict[str, list[str]] = {}
    for heading in ("Flags", *SECTIONS):
        lines[heading] = [f"{heading}:"]
    for flag in flags:
        heading = section_of_flag.get(flag.name.partition(".")[0], "Flags")
        lines[heading].append(format_flag(flag))
    return ["\n".join(section) for section in lines.values() if len(section) > 1]


def format_entry_help(flag: str, name: str, entry: Callable[..., Any]) -> str:
    """The flags of one registered class or function, as `--flag.name`."""
    flags = list_flags(entry, f"{flag}.", skip={"encoder"})  # an objective is handed its encoder
    summary = (entry.__doc__ or "").strip().split("\n")[0]
    heading = f"Flags of --{flag} {name}" + (f" ({summary.rstrip('.')}):" if summary else ":")
    return "\n".join([heading, *map(format_flag, flags)])


def format_names(table: Registry) -> str:
    return fill(", ".join(table.names()), " " * COLUMN)


def format_flag(flag: Flag, title: str = "") -> str:
    """The flag and its help beside it, or below where the flag is long."""
    left = f"  {title or f'--{flag.name} {flag.placeholder}'}".rstrip()
    text = flag.help
    if flag.repeats:
        text += "; may be given several times"
    if not flag.is_required and flag.default != "null":
        text += f" (default: {flag.default or 'empty'})"
    filled = fill(text, " " * COLUMN)
    if len(left) + 2 > COLUMN:
        return f"{left}\n{filled}"
    return left.ljust(COLUMN) + filled.lstrip()


def fill(text: str, indent: str) -> str:
    width = max(60, min(100, shutil.get_terminal_size().columns))
    return textwrap.fill(
        " ".join(text.split()),
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
