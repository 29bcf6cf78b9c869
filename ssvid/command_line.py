"""argv -> pairs of a flag and its value, in the order of the command line."""

from collections.abc import Collection, Sequence

from ssvid.errors import UserError

SWITCHES = ("h", "help", "json", "print_config")  # flags of every command that take no value
SWITCH_VALUES = ("true", "false", "yes", "no")


def pair_words(
    argv: Sequence[str], first: Sequence[str] = (), bools: Collection[str] = (), many: bool = False
) -> list[list[str]]:
    """`--flag value` and `--flag=value` -> [flag, value]; a bare `--flag` -> [flag].

    A word that no flag takes is the value of the next flag of `first`; with `many`, the last of
    `first` takes any number. `bools` are flags that may stand without a value. `--dry-run` is read
    as `--dry_run`, because no flag has a dash in its name.
    """
    pairs: list[list[str]] = []
    free = list(first)
    for word in argv:
        check_utf8(word)
        if word.startswith("--") or word == "-h":
            flag, *value = word.lstrip("-").split("=", 1)
            pairs.append([flag.replace("-", "_"), *value])
        elif pairs and takes_word(pairs[-1], word, first, bools):
            pairs[-1].append(word)
        elif free:
            flag = free[0] if many and len(free) == 1 else free.pop(0)
            pairs.append([flag, word])
        else:
            raise UserError(f"There is no flag {word}. --help lists all.")
    return pairs


def takes_word(pair: list[str], word: str, first: Sequence[str], bools: Collection[str]) -> bool:
    """Whether the flag before a word takes it as its value."""
    flag, *value = pair
    if value or flag in SWITCHES:
        return False
    return not first or flag not in bools or word in SWITCH_VALUES


def check_utf8(word: str) -> None:
    try:
        word.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"The name in {ascii(word)} is not UTF-8: rename it, or name a link to it."
        ) from None
