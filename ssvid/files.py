"""Atomic writes and locks, and reading of YAML and JSON from files that may be damaged or hostile.

A file is written under a temporary name, synced and renamed, so that a kill or a full disk leaves
either the whole new file or the old one. Everything that must not be lost is written here.
"""

import errno
import fcntl
import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from ssvid.errors import RunError, UserError

MAX_YAML_BYTES, MAX_JSON_BYTES = 1 << 20, 1 << 30
MAX_YAML_NODES, MAX_DEPTH = 200_000, 64  # aliases count as what they stand for
MAX_NUMBER = 1 << 63
OF_SYSTEM = ("/proc/", "/sys/", "/dev/")  # files that the kernel makes up


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file atomically: `write` gets the open file.

    A full disk raises a RunError that names the file, and the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch.save raises a RuntimeError of its own and has the disk's error as its context.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise RunError(
            f"{path} could not be written: {cause.strerror}. Free some space and start again."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes_whole(path: Path, data: bytes) -> None:
    write_whole(path, lambda file: file.write(data))


def write_text_whole(path: Path, text: str) -> None:
    """Write UTF-8. Names of files that are no UTF-8 are written with the bytes that they have."""
    write_bytes_whole(path, text.encode(errors="surrogateescape"))


def write_json_whole(path: Path, content: Any, end: str = "", **options: Any) -> None:
    """`end` is appended to the JSON. `options` go to json.dumps."""
    write_text_whole(path, json.dumps(content, **options) + end)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a writer that was killed. The caller holds the lock."""
    for unfinished in folder.rglob(".*.tmp"):
        unfinished.unlink()


def find_file_fault(path: str | Path) -> str | None:
    """Why a path that exists is no plain file of the user's; None if it is one.

    A pipe would be waited for without end, and so would some files of the system below /proc.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        return "it is a folder" if os.path.isdir(path) else "it is a pipe, a socket or a device"
    if os.path.realpath(path).startswith(OF_SYSTEM):
        return "it belongs to the operating system"
    return None


def require_file(path: str | Path) -> None:
    """Raise a UserError if a path that exists is no plain file of the user's."""
    if fault := find_file_fault(path):
        raise UserError(f"{path} cannot be read: {fault}.")


def read_bytes(path: str | Path, max_bytes: int | None = None) -> bytes:
    """The bytes of a file. An OSError or ValueError if it is no plain file or is too large."""
    if fault := find_file_fault(path):
        raise ValueError(fault)
    if max_bytes is not None and os.path.getsize(path) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes >> 20} MB")
    return Path(path).read_bytes()


def read_yaml(path: str | Path, what: str) -> Any:
    """Read a YAML file. A UserError if that fails; it calls the file a `what`, such as "recipe"."""
    try:
        return parse_yaml(read_bytes(path, MAX_YAML_BYTES).decode())
    except (OSError, yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())[:500]
    raise UserError(f"The {what} {path} cannot be read: {reason.rstrip('.')}.")


def parse_yaml(text: str) -> Any:
    """The plain content of a YAML text. A ValueError if it has another kind, or is too large."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        check_yaml_node(node, 0, iter(range(MAX_YAML_NODES)))
        content = loader.construct_document(node)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
    check_plain(content)
    return content


def check_plain(content: Any) -> None:
    """Raise a ValueError for a value that no setting can be, on which later code would stumble.

    That is a date, bytes or a set of YAML, a number of hundreds of digits, a text with a zero byte,
    or a key that is no text.
    """
    if isinstance(content, dict):
        for key, value in content.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {str(key)[:40]} is no text: quote it")
            check_plain(key)
            check_plain(value)
    elif isinstance(content, list):
        for value in content:
            check_plain(value)
    elif isinstance(content, str):
        if "\0" in content or any("\ud800" <= letter <= "\udfff" for letter in content):
            raise ValueError(f"the text {content[:40]!r} holds a character that is none")
    elif isinstance(content, int):
        if abs(content) >= MAX_NUMBER:
            raise ValueError("it holds a number of more than 64 bits")
    elif content is not None and not isinstance(content, float):
        raise ValueError(f"{str(content)[:40]} is no text, number, list or mapping: quote it")


def check_yaml_node(node: yaml.Node, depth: int, allowance: Iterator[int]) -> None:
    """Raise a ValueError if YAML holds itself, is too large or deep, or has a key twice.

    A few lines of aliases can stand for billions of values, so what an alias stands for counts
    wherever it stands. `allowance`: one item for each node that may still be read.
    """
    line = node.start_mark.line + 1
    if depth > MAX_DEPTH:
        raise ValueError(f"line {line} holds itself, or is nested more than {MAX_DEPTH} deep")
    if next(allowance, None) is None:
        raise ValueError(f"it holds more than {MAX_YAML_NODES} values, counting its aliases")
    if isinstance(node, yaml.MappingNode):
        check_keys(node)
        for key, value in node.value:
            check_yaml_node(key, depth + 1, allowance)
            check_yaml_node(value, depth + 1, allowance)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            check_yaml_node(value, depth + 1, allowance)


def check_keys(mapping: yaml.MappingNode) -> None:
    """Raise a ValueError if a key stands twice, because the second value would win silently."""
    keys: set[str] = set()
    for key, _ in mapping.value:
        if isinstance(key, yaml.ScalarNode) and key.value in keys:
            raise ValueError(f"line {key.start_mark.line + 1} gives the key {key.value!r} again")
        keys.add(str(key.value))


def read_yaml_mapping(path: str | Path, what: str) -> dict[str, Any]:
    """As `read_yaml`, of a file that holds names with values."""
    content = read_yaml(path, what)
    if not isinstance(content, dict):
        raise UserError(f"The {what} {path} is damaged: it is no mapping of names to values.")
    return content


def read_json(path: str | Path, what: str) -> Any:
    """Read a JSON file. A UserError if that fails; it calls the file a `what`, such as "card"."""
    try:
        content = json.loads(read_bytes(path, MAX_JSON_BYTES))
        check_plain(content)
        return content
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:500]
    except RecursionError:
        reason = "its values are nested too deeply"
    raise UserError(f"The {what} {path} cannot be read: {reason.rstrip('.')}.")


def read_json_mapping(path: str | Path, what: str) -> dict[str, Any]:
    """As `read_json`, of a file that holds names with values."""
    content = read_json(path, what)
    if not isinstance(content, dict):
        raise UserError(f"The {what} {path} is damaged: it is no mapping of names to values.")
    return content


def read_json_lines(path: Path, what: str) -> tuple[list[dict[str, Any]], list[int]]:
    """The mappings of a log, one in each line, and the numbers of its damaged lines.

    A last line without its end is neither: a kill has cut it short. A missing file is empty.
    """
    if not path.exists():
        return [], []
    try:
        lines = read_bytes(path, MAX_JSON_BYTES).split(b"\n")
    except (OSError, ValueError) as error:
        raise UserError(f"The {what} {path} cannot be read: {error}.") from error
    rows, damaged = [], []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line or b"null")
            check_plain(row)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif line and number < len(lines):
            damaged.append(number)
    return rows, damaged


class Locked(UserError):
    """Another process holds the lock."""


HELD: set[int] = set()  # descriptors of the locks that this process holds


def close_inherited_locks() -> None:
    """Close the copies of locks in a forked child, such as a loader's worker.

    A lock then ends with the process that took it, even if its orphans live for seconds.
    """
    while HELD:
        os.close(HELD.pop())


os.register_at_fork(after_in_child=close_inherited_locks)


@contextmanager
def locked(path: Path, wait: bool, what: str) -> Iterator[None]:
    """Hold an exclusive lock file. The lock ends with the process, also after kill -9.

    Raises `Locked` if another process holds it and `wait` is False. The library filelock does not
    close the copies that forked loaders inherit; `close_inherited_locks` does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # A lock that is a link would have us write into the file that it leads to.
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f"{path} is a link and no lock: remove it.") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise UserError(f"{path} is no plain file and no lock: remove it.")
    HELD.add(file)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = os.read(file, 1000).decode(errors="replace").strip()
            raise Locked(f"{what} is being written by another process ({holder}).") from None
        os.ftruncate(file, 0)
        os.write(file, f"{socket.gethostname()}, process {os.getpid()}".encode())
        yield
    finally:
        if file in HELD:  # not in a forked child, which has closed its copy
            HELD.remove(file)
            os.close(file)
