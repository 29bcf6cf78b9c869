"""The dict that a command returns -> what it prints: JSON for programs, a short list for people."""

import json
from typing import Any

DIGITS = 4  # significant digits of a number for people
NEXT = "next"  # key of a result: commands that the user may want to type next
PAGE = "page"  # key of a result: a text for people, instead of the list; JSON leaves it out


def format_result(result: dict[str, Any], for_people: bool) -> str:
    """The result as one line of JSON, or as a list with rounded numbers and what to do next."""
    page = result.pop(PAGE, None)
    if not for_people:
        return json.dumps(result)
    lines = [page] if page else list_entries(result)
    if steps := result.get(NEXT):
        lines += ["next:", *map("  {}".format, steps)]
    return "\n".join(lines)


def list_entries(result: dict[str, Any]) -> list[str]:
    """One line for each entry that says something, its name first."""
    entries = {}
    for key, value in result.items():
        if key != NEXT and value not in (None, [], {}, ""):
            entries[key] = value
    width = max(map(len, entries), default=0) + 2
    lines = []
    for key, value in entries.items():
        if isinstance(value, list) and isinstance(value[0], dict):
            lines.append(key)
            for number, row in enumerate(value, start=1):
                lines.append(f"  {number}. {format_value(row)}")
        else:
            lines.append(f"{key:{width}}{format_value(value)}")
    return lines


def format_value(value: Any) -> str:
    """A value in a few words: numbers are rounded, and parts stand one after the other."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    if isinstance(value, dict):
        parts = []
        for key, part in value.items():
            if part is not None:
                parts.append(f"{key} {format_part(part)}")
        return ", ".join(parts)
    if isinstance(value, list | tuple):
        return ", ".join(map(format_part, value))
    return str(value)


def format_part(value: Any) -> str:
    """As `format_value`, of a part of another value: several words stand in brackets."""
    text = format_value(value)
    return f"({text})" if isinstance(value, dict | list | tuple) else text
