"""Result files <-> Results. A file of any earlier version is read; a file of something else is passed over."""

import json
from pathlib import Path

from ssvid.errors import UserError
from ssvid.files import write_text_whole
from ssvid.results.schema import KINDS, SCHEMA, Result, from_json, to_json


def write_result(path: Path, result: Result) -> None:
    write_text_whole(path, json.dumps(to_json(result), indent=1) + "\n")


def read_result(file: Path) -> Result | None:
    """None where it is the JSON of something else."""
    try:
        content = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} is no whole JSON file ({error}): delete it and run the command again."
        ) from error
    if not isinstance(content, dict) or content.get("kind") not in KINDS:
        return None
    schema = content.get("schema", SCHEMA)
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(
            f"{file} has schema {schema} and this version of ssvid reads schemas up to {SCHEMA}: "
            "read it with the version that wrote it."
        )
    try:
        if schema != SCHEMA:
            raise UserError(f"has a schema {schema!r} that no version wrote")
        return from_json(content)
    except UserError as error:
        raise UserError(f"{file} {error}: delete it and run the command again.") from None
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        why = f"is damaged ({type(error).__name__}: {error})"
        raise UserError(f"{file} {why}: delete it and run the command again.") from error


def read_folder(folder: Path) -> dict[Path, Result]:
    """Every result of a folder, by file name."""
    results = {file: read_result(file) for file in sorted(folder.glob("*.json"))}
    return {file: result for file, result in results.items() if result is not None}


def refuse_another(file: Path, *, data: str, encoder: str, protocol: str) -> None:
    """A result (of these hashes) may take the place of the same result alone."""
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
        others = " and ".join(what for what, alike in same.items() if not alike)
        raise UserError(f"{file} holds a result of {others}: name another --out.")
