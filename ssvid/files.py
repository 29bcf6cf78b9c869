"""Whole files or none: a temporary name, fsync, rename. The only place that writes what must not be lost.

And that reads what people wrote by hand.
"""

import fcntl
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
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save hides the disk's own error
        if not isinstance(cause, OSError):
            raise
        raise RunError(f"{path} could not be written: {cause.strerror}. Free some space and start again.") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_yaml(path: str | Path, what: str) -> Any:
    """`what`: the word for such a file."""
    try:
        return yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"The {what} {path} cannot be read: {' '.join(str(error).split())}") from error


@contextmanager
def locked(path: Path, wait: bool, what: str) -> Iterator[None]:
    """Hold an exclusive lock file. It goes with the process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{what} is being written by another process ({file.read().strip()}).") from None
        file.truncate(0)
        file.write(f"{socket.gethostname()}, process {os.getpid()}")
        file.flush()
        yield
