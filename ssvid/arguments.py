"""argv or a recipe -> the arguments of a command and its resolved configuration.

A command is a typed function. jsonargparse turns its signature into flags, recipes and help. It
knows class paths and not registered names, so names are converted before it parses.
"""

import difflib
import json
import re
import sys
from collections.abc import Callable
from typing import Any, get_args

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from ssvid import presets, recipe, registry
from ssvid.errors import UserError
from ssvid.flags import describe_type, show_help
from ssvid.old_names import names_in, rename_flag, rename_recipe
from ssvid.recipe import Recipe, load_recipe, path_of, to_class_paths, to_names
from ssvid.signatures import parameters_of
from ssvid.trust import trust_modules, trust_typed_name

KINDS = {  # by path, because importing the classes takes seconds and some commands need none
    "ssvid.encoder.Encoder": registry.encoders,
    "ssvid.objective.Objective": registry.objectives,
    "ssvid.data.manifest.Manifest": registry.datasets,
}


def name_command(function: Callable[..., Any]) -> str:
    """The module that `python -m` runs. It may have imported the function from another one."""
    main = sys.modules["__main__"].__spec__
    ours = main is not None and main.name.partition(".")[0] in ("ssvid", "benchmarks")
    return main.name.removesuffix(".__main__") if main and ours else function.__module__


class Arguments:
    """The parser of a command, its parameters, and the registries of flags that take a name."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.parameters = function, parameters_of(function)
        self.names: dict[str, str] = {}  # flag -> the registered name that the words choose
        types = {name: last_type(p.annotation) for name, p in self.parameters.items()}
        self.tables = {name: KINDS[path_of(t)] for name, t in types.items() if path_of(t) in KINDS}
        sets = [types[name] for name, table in self.tables.items() if table is registry.datasets]
        set_parsing_settings(subclasses_enabled=sets)  # a manifest is a dataclass with a name
        self.parser = ArgumentParser(
            prog=f"python -m {name_command(function)}",
            description=function.__doc__,
            exit_on_error=False,
            allow_abbrev=False,
        )
        text = "a recipe: YAML with the same keys as the flags"
        self.parser.add_argument("--config", action="config", help=text)
        if "trust" not in self.parameters:
            text = "modules that files may name classes of: MODULE[,MODULE]; see docs/guarded.md"
            self.parser.add_argument("--trust", metavar="MODULE", help=text)
        self.parser.add_function_arguments(function, skip={"config"}, sub_configs=False)

    def parse(self, argv: list[str]) -> dict[str, Any]:
        """The arguments of the function, built. `config` among them is plain data."""
        pairs = self.rename_old(self.take_trust(pair_words(argv)))
        flags = self.check_flags(pairs)
        if {"h", "help"} & flags.keys():
            show_help(self.parser, self.function, flags, self.tables)
            sys.exit(0)
        below = self.lay_below(flags)
        presets.announce(flags, below)
        whole = presets.merge(below, flags)
        self.check_required(whole)
        words = self.rewrite(pairs)
        if below:
            lowest = to_class_paths(presets.drop_keys(below, {"objective"}), self.tables)
            words = [f"--config={json.dumps(lowest)}", *words, *presets.list_settings(below, flags)]
        namespace, config = self.check(self.parser.parse_args, words, whole)
        if "seed" in config:
            import torch

            torch.manual_seed(config["seed"])  # before anything with weights is built
        optional = [name for name in self.tables if self.parameters[name].default is None]
        # jsonargparse would hide a UserError of a class in a union, so these are built here.
        classes = {name: namespace.pop(name) for name in optional if namespace.get(name)}
        built = self.parser.instantiate(namespace)
        for name, value in classes.items():
            built[name] = recipe.import_entry(value["class_path"])(**(value.get("init_args") or {}))
        arguments = {name: built[name] for name in self.parameters if name != "config"}
        return {**arguments, "config": config} if "config" in self.parameters else arguments

    def resolve(self, flags: Recipe) -> Recipe:
        """A recipe as a complete and checked configuration. Nothing is built."""
        flags = rename_recipe(self.refuse_trust(flags), {}, set(self.parameters))
        flags = presets.merge(self.lay_below(flags), flags)
        converted = to_class_paths(flags, self.tables)
        return self.check(self.parser.parse_object, converted, flags)[1]

    def lay_below(self, flags: Recipe) -> Recipe:
        """The flags below the user's: the objective's defaults, a preset, and the run's folder."""
        if "preset" not in self.parameters:
            return {}
        to_class_paths(flags, self.tables)  # refuses a class that a file must not name
        below = presets.lay_below(self.function.__name__, flags)
        if flags.get("objective") and flags.get("out") is None:
            below["out"] = presets.name_run(flags)
        return below

    def take_trust(self, pairs: list[list[str]]) -> list[list[str]]:
        """Trust the modules that the command line names, and return the other flags."""
        others = []
        for flag, *value in pairs:
            if flag == "trust" and flag not in self.parameters:
                if not value:
                    raise UserError("--trust needs a value.")
                trust_modules(value[0])
            else:
                others.append([flag, *value])
            if value:
                trust_typed_name(value[0])
        return others

    def rename_old(self, pairs: list[list[str]]) -> list[list[str]]:
        """The words of the command line under today's names."""
        for flag, *value in pairs:
            if flag == "config" and value:
                self.names |= names_in(load_recipe(value[0]))
            elif value:
                self.names |= names_in({flag: value[0]})
        flags = set(self.parameters)
        return [[rename_flag(flag, self.names, flags), *value] for flag, *value in pairs]

    def load(self, path: str) -> Recipe:
        return rename_recipe(self.refuse_trust(load_recipe(path)), self.names, set(self.parameters))

    def refuse_trust(self, flags: Recipe) -> Recipe:
        """The flags of a file. A UserError if the file names modules to trust, or another file."""
        for flag in ("config", "print_config", "help"):
            if flag in flags:  # jsonargparse would read another file, unchecked
                raise UserError(f"A file cannot give --{flag}: give it on the command line.")
        if "trust" in flags and "trust" not in self.parameters:
            raise UserError(
                "A file cannot say which modules to trust. Give --trust MODULE on the command "
                "line if you trust the module."
            )
        return flags

    def check_flags(self, pairs: list[list[str]]) -> Recipe:
        """argv as a recipe.

        Raises a UserError for an unknown flag, before a plug-in is imported.
        """
        options = ["--h"]
        for action in self.parser._actions:
            options += action.option_strings
        flags: Recipe = {}
        for flag, *value in pairs:
            if f"--{flag}" not in options and flag.partition(".")[0] not in self.tables:
                near = ", ".join(difflib.get_close_matches(f"--{flag}", options))
                hint = f"; near: {near}" if near else ""
                raise UserError(f"There is no flag --{flag}{hint}. --help lists all.")
            if flag == "config" and value:
                flags = recipe.merge_recipes(flags, self.load(value[0]))
            else:
                flags = recipe.set_flags(flags, {flag: value[0] if value else True})
        return flags

    def check_required(self, flags: Recipe) -> None:
        """Raise a UserError if a flag without a default is missing."""
        for name, parameter in self.parameters.items():
            table, value = self.tables.get(name), flags.get(name)
            nameless = isinstance(value, dict) and not {"name", "class_path"} & value.keys()
            needed = parameter.default is parameter.empty and name != "config"
            if needed and (value is None or (table and nameless)) and "print_config" not in flags:
                choices = f": choose one of {', '.join(table.names())}" if table else ""
                raise UserError(f"--{name} is missing{choices}.")

    def rewrite(self, pairs: list[list[str]]) -> list[str]:
        """argv in the form of jsonargparse: names as class paths, recipes and lists as JSON."""
        types = {name: parameter.annotation for name, parameter in self.parameters.items()}
        lists: dict[str, list[str]] = {}
        words: list[str] = []
        for flag, *value in pairs:
            if not value and types.get(flag) is bool:
                value = ["true"]  # a bare switch
            elif not value and flag != "print_config":
                raise UserError(f"--{flag} needs a value.")
            elif flag == "config":
                value = [json.dumps(to_class_paths(self.load(value[0]), self.tables))]
            elif flag in self.tables:
                value = [recipe.class_path(value[0], self.tables[flag])]
            elif types.get(flag) == list[str]:
                lists.setdefault(flag, []).append(value[0])
                continue
            words.append("=".join([f"--{flag}", *value]))
        return words + [f"--{flag}={json.dumps(values)}" for flag, values in lists.items()]

    def check(
        self,
        parse: Callable[[Any], Namespace],
        source: Any,
        flags: Recipe,
    ) -> tuple[Namespace, Recipe]:
        """The parsed source, and the same as plain data with registered names."""
        try:
            namespace = parse(source)
        except ArgumentError as error:
            raise UserError(self.explain_refusal(str(error), flags)) from error
        config = yaml.safe_load(self.parser.dump(namespace, skip_unset=False))
        config.pop("config", None)
        if "trust" not in self.parameters:
            config.pop("trust", None)
        return namespace, to_names(config, self.tables)

    def explain_refusal(self, text: str, flags: Recipe) -> str:
        """The message of jsonargparse as one line with the flag, its value and what it takes.

        Its English is matched for two things only: the keys, and an option that it does not know.
        """
        flag = ".".join(dict.fromkeys(re.findall(r'Parser key "([\w.]+)"', text)))
        unknown = re.search(r"(?:Group '(.+)' does not accept o|O)ption '(.+?)'", text)
        if unknown and not flag and not unknown[1]:
            return f"The recipe has a key {unknown[2]!r} that is no flag here. --help lists all."
        if unknown:
            flag = flag or unknown[1]
            return f"--{flag} has no option {unknown[2]!r}; `--{flag} NAME --help` lists them."
        if not flag:
            return " ".join(text.split()).removesuffix(".") + ". --help lists the flags."
        name, _, inner = flag.partition(".")
        annotation, value = self.parameters[name].annotation, flags.get(name)
        if name in self.tables:
            value = recipe.with_name(value)
        if inner:
            inner = inner.partition(".")[0]
            value = value if isinstance(value, dict) else {}
            entry = self.tables[name][value["name"]] if name in self.tables else annotation
            value = value.get(inner)
            annotation = parameters_of(entry)[inner].annotation
        flag = f"{name}.{inner}" if inner else name
        return f"--{flag} takes {describe_type(annotation)}, not {value!r}."


def pair_words(argv: list[str]) -> list[list[str]]:
    """`--flag value` and `--flag=value` -> [flag, value]; a bare `--flag` -> [flag].

    `--dry-run` is read as `--dry_run`, because no flag has a dash in its name.
    """
    pairs: list[list[str]] = []
    for word in argv:
        if not is_utf8(word):
            raise UserError(
                f"The name in {ascii(word)} is not UTF-8: rename it, or name a link to it."
            )
        if word.startswith("--") or word == "-h":
            flag, *value = word.lstrip("-").split("=", 1)
            pairs.append([flag.replace("-", "_"), *value])
        elif pairs and len(pairs[-1]) == 1:
            pairs[-1].append(word)
        else:
            raise UserError(f"There is no flag {word}. --help lists all.")
    return pairs


def is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def last_type(annotation: Any) -> Any:
    """Encoder of `None | Encoder`, and Objective of a function that returns one."""
    return get_args(annotation)[-1] if get_args(annotation) else annotation
