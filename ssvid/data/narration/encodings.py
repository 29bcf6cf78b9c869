"""A transcript file -> its text, in whatever encoding it was written."""

from pathlib import Path

from ssvid.data.narration.skipped import LeftOut
from ssvid.data.narration.spoken_rows import WANTED
from ssvid.errors import UserError
from ssvid.files import require_file

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def decode_text(file: Path, listing: LeftOut) -> str:
    """The text of a file in UTF-8, UTF-16, or the encoding that Windows used before.

    All but UTF-8 are noted in `listing`. A UserError is raised if the file is not text.
    """
    require_file(file)
    data = file.read_bytes()
    if data[:2] in UTF16_MARKS or b"\0" in data:
        text, name = _decode_utf16(file, data)
    else:
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text, name = _decode_one_byte(data)
    listing.note(f"not UTF-8 and read as {name}", file)
    return text


def _decode_one_byte(data: bytes) -> tuple[str, str]:
    try:
        return data.decode("cp1252"), "cp1252"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"


def _decode_utf16(file: Path, data: bytes) -> tuple[str, str]:
    """Without a byte order mark the zeros of Latin letters show the order."""
    if data[:2] in UTF16_MARKS:
        name = "utf-16"
    else:
        big_endian = data[::2].count(0) > data[1::2].count(0)
        name = "utf-16-be" if big_endian else "utf-16-le"
    try:
        text = data.decode(name)
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not text ({error.reason}): {WANTED}.") from error
    if "\0" in text:
        raise UserError(f"{file} is not text (it holds zeros): {WANTED}.")
    return text, name
