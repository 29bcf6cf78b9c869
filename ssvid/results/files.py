"""Result files <-> Results. Files of earlier versions are read; other JSON files are skipped."""

import json
from pathlib import Path

from ssvid.errors import UserError
from ssvid.files import read_json, write_text_whole
from ssvid.results.json_form import KINDS, from_json, to_json
from ssvid.results.schema import SCHEMA, Result


def write_result(path: Path, result: Result) -> None:
    write_text_whole(path, json.dumps(to_json(result), indent=1) + "\n")


def read_result(file: Path) -> Result | None:
    """Read a result file of this or an earlier version; None if the JSON is something else.

    Raises a UserError if the file is damaged or newer than this version.
    """
    try:
        content = read_json(file, "result")
    except UserError as error:
        raise UserError(f"{error} Delete it and run the command again.") from error
    if not isinstance(content, dict) or content.get("kind") not in KINDS:
        return None
    schema = content.get("schema", SCHEMA)
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(
            f"{file} has schema {schema} and this version of ssvid reads schemas up to {SCHEMA}: "
            "read it with the version that wrote it."
        )
    try:
        if schema not in range(1, SCHEMA + 1):
            raise UserError(f"has a schema {schema!r} that no version wrote")
        return from_json(content)
    except UserError as error:
        raise UserError(f"{file} {error}: delete it and run the command again.") from None
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        why = f"is damaged ({type(error).__name__}: {error})"
        raise UserError(f"{file} {why}: delete it and run the command again.") from error


def read_folder(folder: Path) -> dict[Path, Result]:
    """All results of a folder, sorted by file name."""
    results = {}
    for file in sorted(folder.glob("*.json")):
        result = read_result(file)
        if result is not None:
            results[file] = result
    return results


def refuse_another(file: Path, *, data: str, encoder: str, protocol: str) -> None:
    """Raise a UserError if the file holds a result with other hashes than these."""
    if not file.exists():
        return
    result = read_result(file)
    if result is None:
        raise UserError(f"{file} is no result of a probe: name another --out.")
    same = {
        "other data": result.data.hash == data,
        "another encoder": result.encoder.hash == encoder,
        "another protocol": result.protocol_hash == protocol,
    }
    if not all(same.values()):
        differences = " and ".join(name for name, is_same in same.items() if not is_same)
        raise UserError(f"{file} holds a result of {differences}: name another --out.")
