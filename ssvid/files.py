"""Whole files or none: a temporary name, fsync, rename. The only place that writes what must not be lost.

And that reads what people wrote by hand.
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
    """`path` holds what `write` wrote, or stays as it was. A full disk is a RunError that names the file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        cause = (
            error if isinstance(error, OSError) else error.__context__
        )  # torch.save hides the disk's own error
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
    """`end`: what stands after the JSON; `options`: of json.dumps."""
    write_text_whole(path, json.dumps(content, **options) + end)


def read_yaml(path: str | Path, what: str) -> Any:
    """`what`: the word for such a file."""
    try:
        return yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"The {what} {path} cannot be read: {' '.join(str(error).split())}"
        ) from error


class Locked(UserError):
    """Another process holds the lock."""


HELD: set[int] = set()  # descriptors of the locks that this process holds


def let_go() -> None:
    """In a forked child (a loader): its copies are closed, so that a lock goes with the process that took it, and an
    orphan that lives on for seconds holds nothing."""
    while HELD:
        os.close(HELD.pop())


os.register_at_fork(after_in_child=let_go)


@contextmanager
def locked(path: Path, wait: bool, what: str) -> Iterator[None]:
    """Hold an exclusive lock file. It goes with the process, however that ends.

    The library filelock does not close the copies that forked loaders inherit; `let_go` does.
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
        if file in HELD:  # a child has closed its own
            HELD.remove(file)
            os.close(file)
