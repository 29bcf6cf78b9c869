"""argv -> a call: registry names become dotted paths, errors become one sentence, a result becomes the last line.

A command is a typed function; jsonargparse turns its signature into flags, recipes and help. It knows dotted paths, not
our names, so names in argv and in YAML are rewritten before it parses.
"""

import difflib
import importlib
import inspect
import itertools
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_args

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from ssvid import registry
from ssvid.errors import Stopped, UserError
from ssvid.flags import show_help
from ssvid.recipe import class_path, load_recipe, to_class_paths, to_names

KINDS = {  # by name: to import them takes seconds, and some commands need none
    "ssvid.encoder.Encoder": registry.encoders,
    "ssvid.objective.Objective": registry.objectives,
    "ssvid.data.manifest.Manifest": registry.datasets,
}


def command(function: Callable[..., dict[str, Any]], *first: str, argv: list[str] | None = None) -> None:
    """Run `function` as a command line; its dict is the last line of standard output, once for all processes.

    `first`: flags that the first words of the command line may leave out, in this order; a list takes all that follow.
    """
    threading.excepthook = _in_thread
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large pages for large tensors: docs/speed.md
    try:
        given = sys.argv[1:] if argv is None else argv
        kwargs = parse(function, _bare(function, first, given))
        result = function(**kwargs)
        _part()
        code = result.pop("exit_code", 0)  # of a command that goes on where a part of its work failed
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(result), flush=True)
        if code:
            sys.exit(code)
    except Stopped as stopped:
        for heeded in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(heeded, signal.SIG_IGN)  # clusters often send both; all is done
        _part()
        if os.environ.get("RANK", "0") == "0":
            print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
    except KeyboardInterrupt:
        print("stopped. The same command goes on from the last checkpoint or finished part.", file=sys.stderr)
        sys.exit(130)


def _part() -> None:
    """From the other processes of a run, where there are any; what never imported torch has none."""
    if "ssvid.engine.distributed" in sys.modules:
        from ssvid.engine.distributed import leave

        leave()


def _bare(function: Callable[..., Any], first: Sequence[str], argv: list[str]) -> list[str]:
    """`A B` -> `--folder A --folder B`."""
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    many = first and inspect.signature(function).parameters[first[-1]].annotation == list[str]
    flags: Iterable[str] = itertools.chain(first, itertools.repeat(first[-1])) if many else first
    named = [(f"--{flag}", word) for flag, word in zip(flags, words, strict=False)]
    return [*itertools.chain.from_iterable(named), *argv[len(named) :]]


def _in_thread(fault: threading.ExceptHookArgs) -> None:
    """TensorBoard writes from a thread of its own; the loop meets the same full disk and says so."""
    if not isinstance(fault.exc_value, OSError):
        threading.__excepthook__(fault)


def parse(function: Callable[..., Any], argv: list[str]) -> dict[str, Any]:
    """The function's arguments, built. `config`, where it takes one, is the resolved configuration as plain data."""
    parameters = inspect.signature(function).parameters
    parser, kinds = parser_of(function)
    argv = [_underscored(token) for token in argv]
    argv = [token for i, token in enumerate(argv) for token in _rewrite(token, argv[i - 1] if i else "", kinds)]
    argv = _gather(argv, [n for n, p in parameters.items() if p.annotation == list[str]])
    argv = _switches(argv, [n for n, p in parameters.items() if p.annotation is bool])
    if {"-h", "--help"} & set(argv):
        show_help(parser, function, argv, kinds)
        sys.exit(0)
    for name, table in kinds.items():
        needed = parameters[name].default is inspect.Parameter.empty
        if needed and f"--{name}" not in argv and not any(f'"{name}": ' in token for token in argv):
            raise UserError(f"--{name} is missing: choose one of {', '.join(table.names())}.")
    try:
        chosen = parser.parse_args(argv)
    except ArgumentError as error:
        raise UserError(_sentence(str(error), parser, argv)) from error
    plain = yaml.safe_load(parser.dump(chosen, skip_unset=False))
    if "seed" in plain:
        import torch

        torch.manual_seed(plain["seed"])  # before anything with weights is built
    given = {name: chosen.pop(name) for name in kinds if _optional(parameters[name]) and chosen.get(name) is not None}
    built = parser.instantiate(chosen)
    for name, part in given.items():  # jsonargparse would turn a UserError of a union's member into a list of its own
        make = _entry(part["class_path"])
        built[name] = make(**(part.get("init_args") or {}))
    kwargs = {name: built[name] for name in parameters if name != "config"}
    plain.pop("config", None)
    return {**kwargs, "config": to_names(plain, kinds)} if "config" in parameters else kwargs


def parser_of(function: Callable[..., Any]) -> tuple[ArgumentParser, dict[str, registry.Registry]]:
    """The parser of a command, and which of its flags take a registered name."""
    parameters = inspect.signature(function).parameters
    kinds = {name: kind for name, p in parameters.items() if (kind := _kind(p.annotation))}
    sets = [_named_type(parameters[name].annotation) for name, kind in kinds.items() if kind is registry.datasets]
    set_parsing_settings(subclasses_enabled=sets)  # a manifest is a dataclass, yet chosen by name
    parser = ArgumentParser(
        prog=f"python -m {_module(function)}", description=function.__doc__, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="a recipe: YAML with the same keys as the flags")
    parser.add_function_arguments(function, skip={"config"}, sub_configs=False)
    return parser, kinds


def resolver(function: Callable[..., Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What turns a recipe (flags by name) into the resolved configuration, checked; nothing is built of it."""
    parser, kinds = parser_of(function)

    def resolve(recipe: dict[str, Any]) -> dict[str, Any]:
        given = to_class_paths(recipe, kinds)
        try:
            chosen = parser.parse_object(given)
        except ArgumentError as error:
            raise UserError(_sentence(str(error), parser, [])) from error
        plain = yaml.safe_load(parser.dump(chosen, skip_unset=False))
        plain.pop("config", None)
        return to_names(plain, kinds)

    return resolve


def _optional(parameter: inspect.Parameter) -> bool:
    return parameter.default is None


def _entry(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _module(function: Callable[..., Any]) -> str:
    spec = sys.modules["__main__"].__spec__ if function.__module__ == "__main__" else None
    return spec.name.removesuffix(".__main__") if spec else function.__module__


def _kind(annotation: Any) -> registry.Registry | None:
    """Encoder, or a function that gives an Objective: each has its table of names."""
    last = _named_type(annotation)
    return KINDS.get(f"{last.__module__}.{last.__qualname__}") if inspect.isclass(last) else None


def _named_type(annotation: Any) -> Any:
    return get_args(annotation)[-1] if get_args(annotation) else annotation


def _underscored(token: str) -> str:
    """`--dry-run` is `--dry_run`: no flag of ours has a dash in its name."""
    flag, equals, value = token.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value if flag.startswith("--") else token


def _rewrite(token: str, before: str, kinds: dict[str, registry.Registry]) -> list[str]:
    """One word of argv, with names made dotted and recipes read."""
    flag, equals, value = token.partition("=")
    if equals and flag.startswith("--") and flag[2:] in (*kinds, "config"):
        return [flag, *_rewrite(value, flag, kinds)]
    if before == "--config":
        return [json.dumps(to_class_paths(load_recipe(token), kinds))]
    if before[2:] in kinds and before.startswith("--"):
        return [class_path(token, kinds[before[2:]])]
    return [token]


def _gather(argv: list[str], lists: list[str]) -> list[str]:
    """`--encoder A --encoder B` -> `--encoder [A, B]`."""
    for name in lists:
        at = [i for i, token in enumerate(argv[:-1]) if token == f"--{name}"]
        values = [argv[i + 1] for i in at]
        argv = [t for i, t in enumerate(argv) if i not in at and i - 1 not in at]
        argv += [f"--{name}", json.dumps(values)] if values else []
    return argv


def _switches(argv: list[str], bools: list[str]) -> list[str]:
    """A bare `--compile` means true."""
    out = []
    for token, after in zip(argv, [*argv[1:], "--"], strict=False):
        out += [token, "true"] if token[2:] in bools and after.startswith("--") else [token]
    return out


def _sentence(text: str, parser: ArgumentParser, argv: list[str]) -> str:
    """jsonargparse's nested message as one line that names the flag, what is wrong and what to try."""
    text = " ".join(re.sub(r"[.\s]*Got value: (Namespace|NestedArg)\(.*", "", text, flags=re.S).split())
    keys = re.findall(r'Parser key "([\w.]+)"', text)
    flag = "--" + ".".join(keys)
    if (unknown := re.search(r"Option '([^']+)' is not accepted", text)) and not keys:
        return f"The recipe has a key {unknown[1]!r} that is no flag of this command. --help lists all."
    if unknown:
        return f"{flag} has no option {unknown[1]!r}. `{flag} NAME --help` lists what it takes."
    if unknown := re.search(r"unrecognized arguments: (.*)", text):
        flags = [o for a in parser._actions for o in a.option_strings if o.startswith("--")]
        near = difflib.get_close_matches(unknown[1].split()[0], flags)
        return f"There is no flag {unknown[1]}{'; near: ' + ', '.join(near) if near else ''}. --help lists all."
    if wrong := re.search(r"Union subtypes.*Given value: (.*)", text):
        nested = re.search(r"NestedArg\(key='[^']*', val=(.*)\)", wrong[1])
        return f"{flag} does not take {nested[1] if nested else repr(wrong[1])}; --help shows its type."
    if wrong := re.search(r"Expected an? (?:<class ')?(.*?)(?:'>)?\. Got value: (.*)", text):
        listed = re.sub(r"typing\.Literal\[(.*)\]", lambda found: "one of " + found[1].replace("'", ""), wrong[1])
        return f"{flag} takes {listed}, not {wrong[2]!r}."
    return text.removesuffix(".") + ". --help lists the flags."
