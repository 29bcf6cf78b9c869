"""Signature -> its flags: name, what each takes, default and help."""

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterable
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from ssvid.signatures import comments_of, parameters_of

PLACEHOLDERS = {int: "N", float: "X", str: "TEXT", bool: "true|false"}


class Flag(NamedTuple):
    name: str  # without the two dashes; dotted for a setting of another flag
    placeholder: str  # stands for the value: N, X, TEXT, a|b, NAME
    is_required: bool
    default: str  # as it is written on the command line
    help: str  # the comment of the parameter
    repeats: bool = False  # whether the flag may be given several times


def list_flags(
    entry: Callable[..., Any],
    prefix: str = "",
    named: Iterable[str] = (),
    skip: Iterable[str] = (),
) -> list[Flag]:
    """The flags of a function or class, in the order of its signature.

    The fields of a dataclass are flags of their own. `named`: parameters that take a registered
    name. `skip`: parameters that are no flags.
    """
    comments = comments_of(entry)
    flags: list[Flag] = []
    for name, parameter in parameters_of(entry).items():
        if name in skip:
            continue
        annotation = parameter.annotation
        if name not in named and is_settings(annotation):
            flags += list_flags(annotation, f"{prefix}{name}.")
            continue
        is_required = parameter.default is parameter.empty
        default = "" if is_required else format_default(parameter.default)
        repeats = takes_list(annotation)
        placeholder = "TEXT" if repeats else choose_placeholder(annotation)
        if name in named:
            placeholder = "NAME"
        text = comments.get(name, "")
        flags.append(Flag(prefix + name, placeholder, is_required, default, text, repeats))
    return flags


def takes_list(annotation: Any) -> bool:
    """Whether a flag of this type may be given several times, once for each of its values."""
    return list[str] in (annotation, *get_args(annotation))


def is_settings(annotation: Any) -> bool:
    return inspect.isclass(annotation) and dataclasses.is_dataclass(annotation)


def choose_placeholder(annotation: Any) -> str:
    """What stands for a value of this type in help: a word, or the values that there are."""
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "|".join(map(str, members))
    if origin in (Union, UnionType):
        words = [choose_placeholder(member) for member in members if member is not NoneType]
        return "|".join(dict.fromkeys(words))
    if origin in (list, tuple):
        words = [choose_placeholder(member) for member in members if member is not Ellipsis]
        is_open = origin is list or Ellipsis in members
        return f"[{','.join(words)}{',...' if is_open else ''}]"
    return PLACEHOLDERS.get(annotation, "VALUE")


def format_default(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value).replace('"', "")
    except TypeError:  # an object that a plug-in has as a default
        return str(value)


def describe_type(annotation: Any) -> str:
    """The type in a sentence that refuses a value: int or null, one of a, b."""
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(describe_type(member) for member in get_args(annotation))
    if annotation is NoneType:
        return "null"
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation)
