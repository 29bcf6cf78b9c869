"""results -> what to cite beside a number: the software, its code, the data and the protocols."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ssvid.results import Result

FILE = Path(__file__).parents[2] / "CITATION.cff"


class Citation(NamedTuple):
    bibtex: str  # empty: this installation has no CITATION.cff
    line: str


def cite(results: list[Result]) -> Citation:
    code, data, protocols = dict[str, None](), dict[str, None](), dict[str, None]()
    for result in results:
        code[result.git or "no git"] = None
        data[result.data.hash[:16]] = None
        protocols[f"{result.cell} {result.protocol_hash}"] = None
    line = (
        f"Measured with ssvid, code {', '.join(code)}; data {', '.join(data)}; "
        f"protocols: {', '.join(protocols)}."
    )
    return Citation(write_bibtex() if FILE.is_file() else "", line)


def write_bibtex() -> str:
    """CITATION.cff as an entry of BibTeX."""
    cff = yaml.safe_load(FILE.read_text())
    fields = {
        "author": " and ".join(map(_name_author, cff["authors"])),
        "title": f"{{{cff['title']}}}",
        "version": cff.get("version"),
        "year": str(cff["date-released"])[:4] if "date-released" in cff else None,
        "doi": cff.get("doi"),
        "url": cff.get("url") or cff.get("repository-code"),
    }
    lines = [f"  {key} = {{{value}}}" for key, value in fields.items() if value]
    return "@software{ssvid,\n" + ",\n".join(lines) + "\n}"


def _name_author(author: dict[str, Any]) -> str:
    if "family-names" not in author:
        return f"{{{author['name']}}}"
    return f"{author['family-names']}, {author.get('given-names', '')}".rstrip(", ")
