"""(test set, encoder) -> how many distinct encoders have read this test set.

A test set that many encoders have read is a second val: the best of them is partly lucky. The
ledger of a test set lies in the cache folder and has a line for the hash of each encoder.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from ssvid.files import locked, write_text_whole

FOLDER = "ledger"
HASH = re.compile(r"[0-9a-f]{16,64}")


def record_readers(cache: Path, data_hash: str, encoder_hashes: Iterable[str]) -> int:
    """Add encoders to the ledger of a test set, and return how many distinct ones it holds."""
    file = cache / FOLDER / f"{data_hash[:16]}.txt"
    with locked(file.with_suffix(".lock"), wait=True, what=str(file)):
        readers = read_hashes(file)
        new = dict.fromkeys(encoder_hashes).keys() - readers.keys()
        if new:
            readers |= dict.fromkeys(sorted(new))
            write_text_whole(file, "".join(f"{reader}\n" for reader in readers))
        return len(readers)


def read_hashes(file: Path) -> dict[str, None]:
    """The hashes in a ledger, in their order. A line that is none is left out: it is damaged."""
    try:
        lines = file.read_bytes().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    return dict.fromkeys(line for line in lines if HASH.fullmatch(line))
