"""MODULE:NAME -> the class or function of a user's own module.

A file that somebody sends is data. Cards, recipes, suites, run folders, stores and checkpoints may
name registered entries only. A module of the user is imported where the user typed MODULE:NAME on
the command line, or named the module with `--trust`. The trust is never read from a file; processes
that a command starts inherit it in their environment.
"""

import importlib
import inspect
import os
import re
import sys
import typing
from collections.abc import Callable
from typing import Any

from ssvid.errors import UserError

VARIABLE = "SSVID_TRUST"  # of the environment: MODULE,MODULE
# For folders of the library transformers: their own code is neither run nor asked for, and nothing
# is downloaded.
LOCAL = {"local_files_only": True, "trust_remote_code": False}
MODULE = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"


def list_trusted_modules() -> list[str]:
    return [name for name in os.environ.get(VARIABLE, "").split(",") if name]


def trust_modules(text: str) -> None:
    """Trust the modules MODULE[,MODULE] in this process and in those that it starts."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not re.fullmatch(MODULE, name, re.ASCII):
            raise UserError(f"--trust takes MODULE or MODULE,MODULE, and {name!r} is no module.")
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*list_trusted_modules(), *names]))


def trust_typed_name(word: str) -> None:
    """Trust the module of a word of the command line that has the form MODULE:NAME."""
    if re.fullmatch(rf"{MODULE}:[A-Za-z_]\w*", word):
        trust_modules(word.partition(":")[0])


def import_named(name: str, kind: str) -> Any:
    """What MODULE:NAME names in a trusted module. `kind`: what the error sentences call it."""
    module, _, attribute = name.partition(":")
    if module not in list_trusted_modules():
        raise UserError(
            f"The {kind} {name!r} is no registered name, and a file may name nothing else. If you "
            f"trust the module {module}, add --trust {module} to the command."
        )
    try:
        return getattr(import_module_of_user(module), attribute)
    except AttributeError as error:
        raise UserError(f"The {kind} {name!r} cannot be imported: {error}.") from error


def import_module_of_user(module: str) -> Any:
    """Import a trusted module. A UserError if there is none, or if what it imports is missing.

    The working folder stands at the end of the path: there a user's module is found, and a folder
    of the user that is called as one of our packages hides none.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"The module {module} cannot be imported: {error}.") from error


def import_checked(name: str, kind: str, base: str) -> Callable[..., Any]:
    """As `import_named`, for a subclass of a class or a function that is annotated to return one.

    `base`: the class, as MODULE:CLASS of ssvid. The kind is checked before anything is called.
    """
    return check_kind(import_named(name, kind), name, kind, base)


def check_kind(entry: Any, name: str, kind: str, base: str) -> Callable[..., Any]:
    """The entry. A UserError if it neither is nor, by its annotation, returns a `base`."""
    module, _, attribute = base.partition(":")
    needed = getattr(importlib.import_module(module), attribute)
    result_class = find_result_class(entry)
    if result_class is None or not issubclass(result_class, needed):
        raise UserError(
            f"The {kind} {name!r} is refused: it is neither a subclass of {module}.{attribute} nor "
            "a function whose return annotation is one."
        )
    return typing.cast(Callable[..., Any], entry)


def find_result_class(entry: Any) -> type | None:
    """The class itself, or the class that a function is annotated to return; None if neither."""
    if inspect.isfunction(entry):
        try:
            entry = typing.get_type_hints(entry).get("return")
        except (NameError, TypeError):  # an annotation that cannot be resolved
            return None
    return entry if inspect.isclass(entry) else None
