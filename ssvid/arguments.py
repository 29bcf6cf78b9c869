"""argv or a recipe -> the arguments of a command and its resolved configuration.

A command is a typed function. jsonargparse turns its signature into flags and checks recipes. It
knows class paths and not registered names, so names are converted before it parses.
"""

import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, get_args

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from ssvid import presets, recipe, registry
from ssvid.command_line import pair_words
from ssvid.commands import COMMANDS
from ssvid.errors import UserError
from ssvid.files import parse_yaml
from ssvid.flags import list_flags
from ssvid.help_page import COMMON, format_help, format_usage
from ssvid.old_names import names_in, rename_flag, rename_recipe
from ssvid.outlines import read_outline
from ssvid.output import print_text
from ssvid.recipe import Recipe, load_recipe, path_of, to_class_paths, to_names
from ssvid.refusals import explain_refusal, suggest
from ssvid.signatures import parameters_of
from ssvid.trust import trust_modules, trust_typed_name

KINDS = {  # by path, because importing the classes takes seconds and some commands need none
    "ssvid.encoder.Encoder": registry.encoders,
    "ssvid.objective.Objective": registry.objectives,
    "ssvid.data.manifest.Manifest": registry.datasets,
}


class Arguments:
    """The parser of a command, its parameters, and the registries of flags that take a name.

    `command` is its name in ssvid.commands; a function that is none of them has neither help nor
    words by position.
    """

    def __init__(self, function: Callable[..., Any], command: str | None = None) -> None:
        self.function, self.parameters = function, parameters_of(function)
        self.command, self.entry = command, COMMANDS[command] if command else None
        self.wants_json = False
        self.names: dict[str, str] = {}  # flag -> the registered name that the words choose
        self.tables: dict[str, registry.Registry] = {}
        self.bools: set[str] = set()
        self.set_types: list[Any] = []
        for name, parameter in self.parameters.items():
            kind = last_type(parameter.annotation)
            if path_of(kind) in KINDS:
                self.tables[name] = KINDS[path_of(kind)]
            if self.tables.get(name) is registry.datasets:
                self.set_types.append(kind)
            if parameter.annotation is bool:
                self.bools.add(name)
        self.flags = list_flags(function, named=self.tables, skip={"config"})
        self.lists = {flag.name for flag in self.flags if flag.repeats}

    @functools.cached_property
    def parser(self) -> ArgumentParser:
        """The parser that checks values. A flag that does not exist is refused without it."""
        set_parsing_settings(subclasses_enabled=self.set_types)  # dataclasses with a name
        parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, add_help=False)
        parser.add_argument("--config", action="config")
        parser.add_function_arguments(self.function, skip={"config"}, sub_configs=False)
        return parser

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """The arguments of the function, built. `config` among them is plain data.

        The process ends after it printed what --help or --print_config asks for.
        """
        pairs, flags = self.read_words(argv)
        if "print_config" in flags:
            print_text(self.format_config(pairs, flags))
            sys.exit(0)
        presets.announce(flags, self.lay_below(flags))
        namespace, config = self.check_words(pairs, flags)
        if "seed" in config:
            import torch

            torch.manual_seed(config["seed"])  # before anything with weights is built
        # jsonargparse would hide a UserError of a class in a union, so these are built here. They
        # are first, because a data set may draw films for minutes.
        classes = {}
        for name in self.tables:
            if self.parameters[name].default is None and namespace.get(name):
                value = namespace.pop(name)
                entry = recipe.import_entry(value["class_path"])
                classes[name] = entry(**(value.get("init_args") or {}))
        built = self.parser.instantiate(namespace)
        for name, value in classes.items():
            built[name] = value
        arguments = {name: built[name] for name in self.parameters if name != "config"}
        return {**arguments, "config": config} if "config" in self.parameters else arguments

    def read_words(self, argv: Sequence[str]) -> tuple[list[list[str]], Recipe]:
        """The words as pairs of a flag and its value, and as a recipe. No value is checked.

        A UserError for a flag that does not exist, or that is missing. The process ends after it
        printed what --help asks for.
        """
        pairs = self.rename_old(self.take_common(self.join_lists(self.pair_words(argv))))
        flags = self.check_flags(pairs)
        if {"h", "help"} & flags.keys() and self.command:
            print_text(format_help(self.command, self.function, self.tables, flags))
            sys.exit(0)
        if "print_config" not in flags:
            self.check_required({**self.name_folder(flags), **flags})
        return pairs, flags

    def resolve(self, flags: Recipe) -> Recipe:
        """A recipe as a complete and checked configuration. Nothing is built."""
        flags = rename_recipe(self.refuse_trust(flags), {}, set(self.parameters))
        flags = presets.merge(self.lay_below(flags), flags)
        converted = to_class_paths(flags, self.tables)
        return self.check(self.parser.parse_object, converted, flags)[1]

    def check_words(self, pairs: list[list[str]], flags: Recipe) -> tuple[Namespace, Recipe]:
        """The checked values of the command line, over those of an objective and of a preset."""
        below = self.lay_below(flags)
        whole = presets.merge(below, flags)
        self.check_required(whole)
        self.check_settings(whole)
        words = self.rewrite(pairs, flags)
        if below:
            lowest = to_class_paths(presets.drop_keys(below, {"objective"}), self.tables)
            words = [f"--config={json.dumps(lowest)}", *words, *presets.list_settings(below, flags)]
        return self.check(self.parser.parse_args, words, whole)

    def lay_below(self, flags: Recipe) -> Recipe:
        """The flags below the user's: the objective's defaults, a preset, and the run's folder."""
        if "preset" not in self.parameters:
            return {}
        to_class_paths(flags, self.tables)  # refuses a class that a file must not name
        below = presets.lay_below(self.function.__name__, flags)
        return self.name_folder(flags) | below

    def name_folder(self, flags: Recipe) -> Recipe:
        """The folder of a run whose --out is left out; it is named after the objective."""
        if "preset" in self.parameters and flags.get("objective") and flags.get("out") is None:
            return {"out": presets.name_run(flags)}
        return {}

    def format_config(self, pairs: list[list[str]], flags: Recipe) -> str:
        """The resolved configuration as a recipe, which --config takes again.

        The folder of the run is no part of it, and neither is a file or a folder that is absent.
        """
        whole = presets.merge(self.lay_below(flags), flags)
        absent = [name for name in self.list_missing(whole) if name not in self.tables]
        others = list(pairs)
        others.remove(["print_config"])
        for name in absent:
            others.append([name, "."])
        config = self.check_words(others, {**flags, **dict.fromkeys(absent, ".")})[1]
        for name in {*absent, "out"} & config.keys():
            del config[name]
        return yaml.safe_dump(config, sort_keys=False).rstrip()

    def pair_words(self, argv: Sequence[str]) -> list[list[str]]:
        """The words as pairs of a flag and its value; words after -- are one list."""
        first = self.entry.first if self.entry else ()
        after: Sequence[str] = ()
        if self.entry and self.entry.after and "--" in argv:
            end = list(argv).index("--")
            argv, after = argv[:end], argv[end + 1 :]
        many = bool(first) and first[-1] in self.lists
        pairs = pair_words(argv, first, self.bools, many)
        for word in after:
            pairs.append([self.entry.after if self.entry else "", word])
        return pairs

    def join_lists(self, pairs: list[list[str]]) -> list[list[str]]:
        """`--encoder+ B` as `--encoder B`. A UserError if the flag takes one value alone."""
        joined = []
        for flag, *value in pairs:
            name = flag.removesuffix("+")
            if name != flag and name not in self.lists:
                raise UserError(
                    f"--{flag} would add a value to a list, and --{name} takes one value: give it "
                    f"once, as --{name} VALUE."
                )
            joined.append([name, *value])
        return joined

    def take_common(self, pairs: list[list[str]]) -> list[list[str]]:
        """Do what --json and --trust ask for, and return the other flags.

        Modules are trusted that the command line names.
        """
        others = []
        for flag, *value in pairs:
            if flag == "trust" and flag not in self.parameters:
                if not value:
                    raise UserError("--trust needs a value.")
                trust_modules(value[0])
            elif flag == "json":
                self.wants_json = value != ["false"]
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
        flags = rename_recipe(
            self.refuse_trust(load_recipe(path)), self.names, set(self.parameters)
        )
        if self.entry and self.entry.recipes_of:
            function = read_outline(COMMANDS[self.entry.recipes_of].function, frozenset(KINDS))
            others = parameters_of(function) if function else {}
            flags = presets.drop_keys(flags, others.keys() - self.parameters.keys())
        return flags

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
        flags: Recipe = {}
        for flag, *value in pairs:
            self.check_flag(flag)
            if flag == "config" and value:
                flags = recipe.merge_recipes(flags, self.load(value[0]))
            else:
                setting = value[0] if value else True
                if value and self.is_inside(flag):
                    setting = read_value(flag, value[0])
                elif value and is_mapping(value[0]):
                    read_value(flag, value[0])  # refuses a key that stands twice
                flags = recipe.set_flags(flags, {flag: setting})
        return flags

    def is_inside(self, flag: str) -> bool:
        """Whether the flag is a value inside a setting of a name, as `data.parts.web.weight`."""
        return flag.count(".") > 1 and flag.partition(".")[0] in self.tables

    def check_flag(self, flag: str) -> None:
        """Raise a UserError that names similar flags if the command has none of this name."""
        names = dict.fromkeys(own_flag.name for own_flag in (*self.flags, *COMMON))
        names |= dict.fromkeys(self.parameters)
        top, _, setting = flag.partition(".")
        if flag in names or flag == "h" or (top in self.tables and setting != "help"):
            return
        if top in self.tables:
            raise UserError(f"There is no flag --{flag}: `--{top} NAME --help` lists its flags.")
        siblings = [name.partition(".")[2] for name in names if name.startswith(f"{top}.")]
        if setting and siblings:
            hint = suggest(setting, siblings, f"--{top}.")
        else:
            hint = suggest(flag, names, "--")
        raise UserError(f"There is no flag --{flag}{hint}. --help lists all.")

    def list_missing(self, flags: Recipe) -> list[str]:
        """The flags without a default that `flags` do not give."""
        missing = []
        for name, parameter in self.parameters.items():
            value = flags.get(name)
            nameless = isinstance(value, dict) and not {"name", "class_path"} & value.keys()
            has_value = value is not None and not (name in self.tables and nameless)
            if parameter.default is parameter.empty and name != "config" and not has_value:
                missing.append(name)
        return missing

    def check_required(self, flags: Recipe) -> None:
        """Raise a UserError if a flag without a default is missing."""
        for name in self.list_missing(flags):
            hint, flag = "", f"--{name}"
            if name in self.tables:
                hint = f": choose one of {', '.join(self.tables[name].names())}"
            elif self.command and self.entry and name in self.entry.first:
                hint, flag = f": {format_usage(self.command, self.flags)}", name.upper()
            raise UserError(f"{flag} is missing{hint}.")

    def check_settings(self, flags: Recipe) -> None:
        """Raise a UserError if a chosen name lacks a setting that has no default."""
        for kind, table in self.tables.items():
            settings = recipe.with_name(flags.get(kind))
            if not isinstance(settings, dict) or settings.get("name") not in table.names():
                continue
            for name, parameter in parameters_of(table[settings["name"]]).items():
                is_needed = parameter.default is parameter.empty and name != "encoder"
                if is_needed and name not in settings:
                    raise UserError(f"--{kind}.{name} is missing: {settings['name']} needs it.")

    def rewrite(self, pairs: list[list[str]], flags: Recipe) -> list[str]:
        """argv in the form of jsonargparse: names as class paths, recipes and lists as JSON.

        A setting of which a flag changes a value inside is given whole, from `flags`, because
        jsonargparse would drop its other values.
        """
        lists: dict[str, list[str]] = {}
        words: list[str] = []
        changed: dict[str, str] = {}
        for flag, *value in pairs:
            if not value and flag in self.bools:
                value = ["true"]  # a bare switch
            elif not value:
                raise UserError(f"--{flag} needs a value.")
            elif flag == "config":
                value = [json.dumps(to_class_paths(self.load(value[0]), self.tables))]
            elif self.is_inside(flag):
                top, setting, *_ = flag.split(".")
                changed[f"{top}.{setting}"] = json.dumps(flags[top][setting])
                continue
            elif flag in self.tables and not is_mapping(value[0]):
                value = [recipe.class_path(value[0], self.tables[flag])]
            elif flag in self.lists and not is_mapping(value[0]):
                lists.setdefault(flag, []).append(value[0])
                continue
            words.append("=".join([f"--{flag}", *value]))
        for flag, values in lists.items():
            words.append(f"--{flag}={json.dumps(values)}")
        words += [f"--{flag}={text}" for flag, text in changed.items()]
        return words

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
            text = explain_refusal(str(error), flags, self.parameters, self.tables)
            raise UserError(text) from error
        config = yaml.safe_load(self.parser.dump(namespace, skip_unset=False))
        config.pop("config", None)
        return namespace, to_names(config, self.tables)


def is_mapping(text: str) -> bool:
    """Whether a value is a mapping as YAML spells it in one line."""
    return text.lstrip().startswith("{")


def read_value(flag: str, text: str) -> Any:
    """The value of a flag as YAML spells it; a UserError for a mapping that has a key twice."""
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return text  # jsonargparse leaves it a text, or refuses it
    except ValueError as error:
        raise UserError(f"--{flag} cannot be read: {error}.") from error


def last_type(annotation: Any) -> Any:
    """Encoder of `None | Encoder`, and Objective of a function that returns one."""
    return get_args(annotation)[-1] if get_args(annotation) else annotation
