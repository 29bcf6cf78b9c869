"""A label as a list spells it -> a class, or no label."""

import math
import re
import unicodedata

from ssvid.errors import UserError

NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
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
    """The class of a clip, composed. None: an empty label, -1 and nan, which mean that it has none.

    `where`: the file and the line or clip, which errors name. Raises a UserError for several
    numbers, because a clip has one label here.
    """
    text = to_nfc(text or "").strip()
    if len(split_numbers(text)) > 1:
        raise UserError(
            f"{where} has several labels ({text}), and a clip has one here: keep one of them, or "
            "write -1 for a clip without a label."
        )
    try:
        number = float(text)
    except ValueError:
        return text or None
    return None if math.isnan(number) or number == -1 else text
