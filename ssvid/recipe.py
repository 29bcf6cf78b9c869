"""YAML -> flags by name. Recipes are found, read and merged with other flags here.

A recipe maps the flags of a command to values. The value of `objective`, `encoder` and `data` is a
registered name, or a mapping with the name and its settings.
"""

import copy
import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from ssvid.errors import UserError
from ssvid.files import parse_yaml, read_yaml
from ssvid.near_names import list_near_names
from ssvid.registry import Registry

Recipe = dict[str, Any]  # flag -> value
FOLDERS = (".", "recipes", "recipes/sweeps", "sweeps")  # that may stand before a shipped name
SHIPPED = Path(__file__).parent / "recipes"  # the recipes that are installed with the package
NAMED = ("objective", "encoder", "data")  # flags whose value is a name with settings


def find_recipe(text: str | Path) -> Path:
    """The file of a recipe: a path that exists, or else the shipped recipe of that name.

    `demo`, `demo.yaml` and `recipes/demo.yaml` are the same shipped recipe, from any folder. A
    UserError with similar names if there is none.
    """
    return find_shipped_file(text, "recipe", SHIPPED)


def find_sweep_file(text: str | Path, words: Iterable[str] = ()) -> Path:
    """As `find_recipe`, of a sweep. `words` are other words that the user may have meant."""
    return find_shipped_file(text, "sweep file", SHIPPED / "sweeps", words)


def find_shipped_file(text: str | Path, what: str, folder: Path, words: Iterable[str] = ()) -> Path:
    """A path that exists, or else the YAML file of this name in a folder of the package."""
    path = Path(text)
    if path.exists() and not path.is_dir():  # a pipe is no file
        return path
    shipped = sorted(file.stem for file in folder.glob("*.yaml"))
    name = path.name.removesuffix(".yaml")
    if name in shipped and str(path.parent) in FOLDERS:
        return folder / f"{name}.yaml"
    names = [*words, *shipped]
    near = list_near_names(path.stem, names)
    hint = f"near: {', '.join(near)}" if near else f"there are {', '.join(names)}"
    raise UserError(f"There is no {what} {text}, neither a file nor a shipped one; {hint}.")


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe. A UserError if the file is no mapping of flags to values."""
    recipe = read_yaml(find_recipe(path), "recipe")
    if not isinstance(recipe, dict):
        raise UserError(f"The recipe {path} is no mapping of flags to values.")
    if nameless := [key for key in recipe if not isinstance(key, str)]:
        raise UserError(f"The recipe {path} has a key {nameless[0]!r} that is no name of a flag.")
    return recipe


def merge_recipes(below: Recipe, above: Recipe) -> Recipe:
    """`below` overridden by `above`. `clip: {fps: 5}` changes only this setting of clip."""
    flags: Recipe = {}
    for flag, value in above.items():
        if flag not in NAMED and isinstance(value, dict) and isinstance(below.get(flag), dict):
            flags |= {f"{flag}.{part}": setting for part, setting in value.items()}
        else:
            flags[flag] = value
    return set_flags(below, flags)


def set_flags(recipe: Recipe, flags: Recipe) -> Recipe:
    """A recipe with some flags replaced. A flag may be dotted, as `objective.mask_ratio` is.

    Flags without a dot are set first, so that dotted flags can change their settings. A UserError
    if a dotted flag names a flag that has no settings.
    """
    merged = copy.deepcopy(recipe)
    for flag in sorted(flags, key=lambda flag: flag.count(".")):
        *above, last = flag.split(".")
        parent = merged
        for part in above:
            if isinstance(parent.get(part), str):
                parent[part] = {"name": parent[part]}
            if parent.get(part) is None:
                parent[part] = {}
            parent = parent[part]
            if not isinstance(parent, dict):
                raise UserError(f"There is no flag --{flag}: {part} has no parts.")
        value = copy.deepcopy(flags[flag])
        parent[last] = merge_named(parent.get(last), value) if flag in NAMED else value
    return merged


def merge_named(below: Any, above: Any) -> Any:
    """A name with settings, overridden by another. The old settings stay if the name stays."""
    below, above = with_name(below), with_name(above)
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    renamed = "name" in below and "name" in above and below["name"] != above["name"]
    return above if renamed else {**below, **above}


def with_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def to_class_paths(recipe: Recipe, tables: dict[str, Registry]) -> Recipe:
    """Names in the form of jsonargparse: `{name: ...}` -> `{class_path: ..., init_args: ...}`.

    A UserError if a recipe names a class anywhere else.
    """
    for flag, value in recipe.items():
        if flag in tables and isinstance(value, dict):
            value = {key: setting for key, setting in value.items() if key != "class_path"}
        refuse_class_paths(flag, {flag: value})
    converted = dict(recipe)
    for flag, table in tables.items():
        value = with_name(recipe.get(flag))
        if isinstance(value, dict) and "class_path" in value:
            converted[flag] = {**value, "class_path": class_path(value["class_path"], table)}
        elif isinstance(value, dict) and "name" in value:
            settings = {key: setting for key, setting in value.items() if key != "name"}
            converted[flag] = {
                "class_path": class_path(value["name"], table),
                "init_args": settings,
            }
    return converted


def refuse_class_paths(where: str, content: Any) -> None:
    """Raise a UserError if the content of a file names a class for jsonargparse to call.

    jsonargparse would import and call `{class_path: ..., init_args: ...}` wherever a setting may
    have any type, also where a text holds it.
    """
    if isinstance(content, str):
        if "class_path" in content:
            raise UserError(
                f"The setting {where} of a file names a class_path: a file may name registered "
                "entries only, as the `name` of objective, encoder or data."
            )
        try:
            # Escapes hide the word from this file, but not from jsonargparse.
            content = parse_yaml(content)
        except yaml.YAMLError:
            return  # a text that jsonargparse leaves a text
        except ValueError as error:
            raise UserError(f"The setting {where} of a file cannot be read: {error}.") from error
        if isinstance(content, str):
            return
    if isinstance(content, dict):
        content = [*content.keys(), *content.values()]
    if isinstance(content, list | tuple):
        for part in content:
            refuse_class_paths(where, part)


def to_names(config: Recipe, tables: dict[str, Registry]) -> Recipe:
    """The inverse of `to_class_paths`: a resolved configuration in the form of a recipe."""
    recipe = dict(config)
    for flag, table in tables.items():
        if (value := config.get(flag)) is not None:
            name = registered_name(value["class_path"], table)
            recipe[flag] = {"name": name, **value.get("init_args", {})}
    return recipe


def class_path(name: str, table: Registry) -> str:
    """The path of a plug-in, for jsonargparse. The registry decides what may be named."""
    return path_of(table[name])


def registered_name(path: str, table: Registry) -> str:
    """The name of a class path; MODULE:CLASS for a class that is not registered."""
    definition = path_of(import_entry(path))  # a package may export a class of one of its files
    names = [name for name, entry in table.table.items() if path_of(entry) == definition]
    return names[0] if names else ":".join(path.rsplit(".", 1))


def path_of(entry: Any) -> str:
    return f"{entry.__module__}.{entry.__qualname__}" if callable(entry) else ""


def import_entry(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
