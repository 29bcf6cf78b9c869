"""signatures -> the text of --help. The comment behind a parameter is its help, so it is written once."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from jsonargparse import ArgumentParser

from ssvid.registry import Registry

PARAMETER = re.compile(r"^\s+(\w+): .*,\s+# (.+)$", re.MULTILINE)


def show_help(
    parser: ArgumentParser, function: Callable[..., Any], argv: list[str], kinds: dict[str, Registry]
) -> None:
    """The command's flags, then those of what was named in argv (dotted paths), or the names there are."""
    explain(parser, function)
    print(parser.format_help().replace("%%", "%"))
    for key, table in kinds.items():
        given = [argv[i + 1] for i, token in enumerate(argv[:-1]) if token == f"--{key}"]
        if not given:
            print(f"--{key} is one of: {', '.join(table.names())}; `--{key} NAME --help` lists its own flags\n")
        for path in given:
            print(of_entry(key, table[":".join(path.rsplit(".", 1))]))


def of_entry(key: str, entry: Callable[..., Any]) -> str:
    """The flags of one registered class or function, as `--key.name`."""
    parser = ArgumentParser(add_help=False, usage=f"--{key} {entry.__name__} ...", exit_on_error=False)
    add = parser.add_class_arguments if inspect.isclass(entry) else parser.add_function_arguments
    add(entry, key, skip={"encoder"}, fail_untyped=False)  # an objective is handed its encoder
    explain(parser, entry)
    return parser.format_help()


def explain(parser: ArgumentParser, entry: Callable[..., Any]) -> None:
    """The comments of the entry's own source, and of what it hands its keywords on to."""
    told: dict[str, str] = {}
    for part in (*handed(entry), entry):
        told |= dict(PARAMETER.findall(inspect.getsource(part)))
    for action in parser._actions:
        comment = told.get(action.dest.rpartition(".")[2])
        if comment and action.dest.count(".") < 2:
            action.help = comment.replace("%", "%%")


def handed(entry: Callable[..., Any]) -> list[Any]:
    """The classes and functions, known to its file, that are called in its source with `**`."""
    names = set(re.findall(r"(\w+)\([^()]*\*\*", inspect.getsource(entry)))
    found = [vars(inspect.getmodule(entry)).get(name) for name in sorted(names)]
    return [part for part in found if inspect.isclass(part) or inspect.isfunction(part)]
