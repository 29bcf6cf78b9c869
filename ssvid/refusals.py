"""A refusal of jsonargparse -> one sentence that names the flag, its value and what it takes."""

import re
from collections.abc import Iterable, Mapping
from inspect import Parameter

from ssvid import recipe
from ssvid.flags import describe_type, list_flags
from ssvid.near_names import list_near_names
from ssvid.recipe import Recipe
from ssvid.registry import Registry
from ssvid.signatures import parameters_of

FEW = 8  # so many names are listed where none of them is near


def explain_refusal(
    text: str, flags: Recipe, parameters: Mapping[str, Parameter], tables: Mapping[str, Registry]
) -> str:
    """The message of jsonargparse in our words.

    Its English is matched for two things only: the keys, and an option that it does not know.
    """
    flag = ".".join(dict.fromkeys(re.findall(r'Parser key "([\w.]+)"', text)))
    unknown = re.search(r"(?:Group '(.+)' does not accept o|O)ption '(.+?)'", text)
    if unknown and not flag and not unknown[1]:
        near = suggest(unknown[2], parameters)
        return f"The recipe has a key {unknown[2]!r} that is no flag here{near}. --help lists all."
    if unknown:
        flag = flag or unknown[1]
        return explain_unknown_setting(flag, unknown[2], flags, parameters, tables)
    if not flag:
        return " ".join(text.split()).removesuffix(".") + ". --help lists the flags."
    name, _, inner = flag.partition(".")
    annotation, value = parameters[name].annotation, flags.get(name)
    if name in tables:
        value = recipe.with_name(value)
    if inner:
        inner = inner.partition(".")[0]
        value = value if isinstance(value, dict) else {}
        entry = tables[name][value["name"]] if name in tables else annotation
        value = value.get(inner)
        annotation = parameters_of(entry)[inner].annotation
    flag = f"{name}.{inner}" if inner else name
    return f"--{flag} takes {describe_type(annotation)}, not {value!r}."


def explain_unknown_setting(
    flag: str,
    setting: str,
    flags: Recipe,
    parameters: Mapping[str, Parameter],
    tables: Mapping[str, Registry],
) -> str:
    """The sentence about `--flag.setting` that the chosen name does not have."""
    top = flag.partition(".")[0]
    value = recipe.with_name(flags.get(top))
    name = value.get("name") if isinstance(value, dict) else None
    if top in tables and isinstance(name, str):
        settings = [row.name for row in list_flags(tables[top][name], skip={"encoder"})]
        hint, flag, command = suggest(setting, settings), f"{flag} {name}", f"--{top} {name} --help"
    else:
        entry = parameters[top].annotation if top in parameters else None
        settings = list(parameters_of(entry)) if callable(entry) else []
        hint, command = suggest(setting, settings), "--help"
    return f"--{flag} has no option {setting!r}{hint}. `{command}` lists all."


def suggest(word: str, names: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence: the names near a misspelt word, or all of them where they are few.

    `prefix` stands before each name in the sentence.
    """
    names = list(names)
    near = list_near_names(word, names)
    listed = ", ".join(prefix + name for name in near or names)
    if near:
        return f"; near: {listed}"
    return f"; there are {listed}" if 0 < len(names) <= FEW else ""
