"""Parser and signatures -> the text of --help. The comment of a parameter is its help text."""

import dataclasses
import inspect
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser

from ssvid.recipe import Recipe, with_name
from ssvid.registry import Registry
from ssvid.signatures import comments_of, parameters_of


def show_help(
    parser: ArgumentParser,
    function: Callable[..., Any],
    flags: Recipe,
    tables: dict[str, Registry],
) -> None:
    """Print the flags of the command, and those of each chosen name or the names to choose."""
    explain(parser, function)
    print(parser.format_help().replace("%%", "%"))
    for flag, table in tables.items():
        value = with_name(flags.get(flag))
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            print(format_entry_help(flag, table[value["name"]]))
        else:
            names = ", ".join(table.names())
            print(f"--{flag} is one of: {names}; `--{flag} NAME --help` lists its own flags\n")


def format_entry_help(flag: str, entry: Callable[..., Any]) -> str:
    """The flags of one registered class or function, as `--flag.name`."""
    return parser_of_entry(flag, entry).format_help()


def parser_of_entry(flag: str, entry: Callable[..., Any]) -> ArgumentParser:
    usage = f"--{flag} {entry.__name__} ..."
    parser = ArgumentParser(add_help=False, usage=usage, exit_on_error=False)
    add = parser.add_class_arguments if inspect.isclass(entry) else parser.add_function_arguments
    add(entry, flag, skip={"encoder"}, fail_untyped=False)  # an objective is handed its encoder
    explain(parser, entry, f"{flag}.")
    return parser


def explain(parser: ArgumentParser, entry: Callable[..., Any], prefix: str = "") -> None:
    """Set the help of the entry's flags, and of the fields of dataclasses among its parameters."""
    comments = comments_of(entry)
    for action in parser._actions:
        name = action.dest.removeprefix(prefix)
        if action.dest.startswith(prefix) and name in comments:
            action.help = comments[name].replace("%", "%%")
    for name, parameter in parameters_of(entry).items():
        if inspect.isclass(parameter.annotation) and dataclasses.is_dataclass(parameter.annotation):
            explain(parser, parameter.annotation, f"{prefix}{name}.")


def describe_type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(describe_type(member) for member in get_args(annotation))
    if annotation is NoneType:
        return "null"
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation)
