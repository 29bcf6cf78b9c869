"""A label as a list spells it -> a class, or no label."""

import math
import re
import unicodedata

from ssvid.errors import UserError

NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
# How tables spell a missing value, as pandas reads them. A class may be named `none` or `na`, so
# other cases of these letters are classes.
MISSING = frozenset(("null", "NULL", "None", "NaN", "NA", "N/A", "n/a", "<NA>", "#N/A", "#NA"))
FLOAT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
NUMBERS = rf"{NUMBER}(?:[\t ,;|]+{NUMBER})*"


def to_nfc(text: str) -> str:
    """The text with letters and their accents composed (NFC).

    Unicode has a second spelling of such a letter (NFD), which looks the same. macOS writes file
    names in it.
    """
    return unicodedata.normalize("NFC", text)


def split_numbers(text: str) -> list[str]:
    """The numbers of a text that holds nothing but numbers; an empty list for any other text."""
    return re.split(r"[\t ,;|]+", text) if re.fullmatch(NUMBERS, text) else []


def parse_label(where: str, text: str | None) -> str | None:
    """The class of a clip, composed.

    None: an empty label, -1, nan and the words of MISSING, which mean that it has none. `where`:
    the file and the line or clip, which errors name. Raises a UserError for several numbers,
    because a clip has one label here, and for inf, which is no class.
    """
    text = to_nfc(text or "").strip()
    if len(split_numbers(text)) > 1:
        raise UserError(
            f"{where} has several labels ({text}), and a clip has one here: keep one of them, or "
            "write -1 for a clip without a label."
        )
    if text in MISSING:
        return None
    if text.lower().strip("+-") == "inf":
        raise UserError(
            f"{where} has the label {text}, which is no class: correct it, or write -1 for a clip "
            "without a label."
        )
    try:
        number = float(text)
    except ValueError:
        return text or None
    return None if math.isnan(number) or number == -1 else text


def spell_whole_numbers(labels: list[str | None]) -> list[str | None]:
    """The labels of a data set, with whole numbers spelled alike: 1.0 and 1.000e+00 are class 1.

    Tables with a missing label write all their numbers so. Where one label is no number, all are
    words and stay as they are.
    """
    if not all(FLOAT.fullmatch(label) for label in labels if label is not None):
        return labels
    return list(map(_spell_whole_number, labels))


def _spell_whole_number(label: str | None) -> str | None:
    if label is None or label.isdigit() or not float(label).is_integer():
        return label
    return str(int(float(label)))
