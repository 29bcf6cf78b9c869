"""Atomic writes and locks, and reading of YAML that people wrote by hand.

A file is written under a temporary name, synced and renamed, so that a kill or a full disk leaves
either the whole new file or the old one. Everything that must not be lost is written here.
"""

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from ssvid.errors import RunError, UserError


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
    write_bytes_whole(path, text.encode())


def write_json_whole(path: Path, content: Any, end: str = "", **options: Any) -> None:
    """`end` is appended to the JSON. `options` go to json.dumps."""
    write_text_whole(path, json.dumps(content, **options) + end)


def read_yaml(path: str | Path, what: str) -> Any:
    """Read a YAML file. A UserError if that fails; it calls the file a `what`, such as "recipe"."""
    try:
        return yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"The {what} {path} cannot be read: {' '.join(str(error).split())}"
        ) from error


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
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
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
