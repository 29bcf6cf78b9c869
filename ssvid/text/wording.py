"""Class names and templates -> the sentences that stand for each class."""

import re
from collections.abc import Sequence
from pathlib import Path

from ssvid.errors import UserError

SLOT = "{}"  # where the name stands in a template
BARE = (SLOT,)  # the name alone, as X-CLIP words its classes
MOST_TEMPLATES = 1000


def phrase_class(name: str) -> str:
    """`ApplyEyeMakeup`, `brush_hair` and `v_2-step` as words in lower case.

    Text towers know words, not labels.
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return " ".join(re.split(r"[\W_]+", spaced)).strip().lower() or name


def check_templates(templates: Sequence[str], owner: str) -> tuple[str, ...]:
    """The templates. A UserError where there are none, or where one has no single slot."""
    if not templates or any(template.count(SLOT) != 1 for template in templates):
        raise UserError(
            f"{owner}: each of `templates` needs one {SLOT}, where the name of the class stands."
        )
    return tuple(templates)


def read_templates(file: str | Path, owner: str) -> tuple[str, ...]:
    """The templates of a text file, one a line; empty lines and lines after # are left out.

    Raises a UserError where the file cannot be read or a line has no single slot.
    """
    path = Path(file).expanduser()
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list of templates: {error}.") from error
    templates = []
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            templates.append(line)
    if len(templates) > MOST_TEMPLATES:
        raise UserError(f"{path} has {len(templates)} templates; {MOST_TEMPLATES} are the most.")
    return check_templates(templates, f"{owner}, {path}")


def word_classes(names: Sequence[str], templates: Sequence[str] = BARE) -> list[list[str]]:
    """For each template the sentences of all classes.

    Raises a UserError where a name is empty, or where two names become the same words.
    """
    if all(name.strip().isdecimal() for name in names):
        raise UserError(
            f"The classes are numbers ({', '.join(map(repr, names[:3]))}) and not words, so no "
            "sentence can stand for them: give their names, as with --data.label_map FILE."
        )
    phrases: dict[str, str] = {}
    for name in names:
        phrase = phrase_class(name)
        if not phrase.strip():
            raise UserError(f"The class name {name!r} is empty, so no sentence can stand for it.")
        if phrase in phrases:
            raise UserError(
                f"The class names {phrases[phrase]!r} and {name!r} are the same words, {phrase!r}: "
                "no sentence tells them apart."
            )
        phrases[phrase] = name
    wordings = []
    for template in templates:
        wordings.append([template.replace(SLOT, phrase) for phrase in phrases])
    return wordings
