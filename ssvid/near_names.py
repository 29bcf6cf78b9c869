"""A misspelt name -> the names that were probably meant."""

import difflib
from collections.abc import Iterable

LEAST = 0.6  # similarity of a near name, as difflib measures it
MARGIN = 0.15  # names that are so much less similar than the nearest one are noise


def list_near_names(word: str, names: Iterable[str]) -> list[str]:
    """The names that are similar to `word`, the nearest one first. Usually one, often none."""
    near = difflib.get_close_matches(word, list(names), n=3, cutoff=LEAST)
    if not near:
        return []
    nearest = compare_names(word, near[0])
    return [name for name in near if compare_names(word, name) >= nearest - MARGIN]


def compare_names(word: str, name: str) -> float:
    """How similar two names are, from 0 to 1."""
    return difflib.SequenceMatcher(None, name, word).ratio()
