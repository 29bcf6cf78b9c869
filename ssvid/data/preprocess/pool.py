"""Many files, several processes -> what became of each. A full disk is no fault of a file."""

import errno
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import av

from ssvid.data.quarantine import Quarantine
from ssvid.errors import RunError, UserError
from ssvid.progress import progress_bar

FULL = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
)  # the disk, the user's share of it, its limit for one file


class Found(NamedTuple):
    path: str
    why: str = ""  # not empty: a bad file
    time: float | None = None
    width: int = 0
    height: int = 0
    frames: int = 0
    seconds: float = 0.0


def same_settings(file: Path, how: dict[str, Any]) -> None:
    """Files beside `file` are kept, so they must be what this run would write."""
    try:
        made = dict(json.loads(file.read_text())) if file.exists() else how
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is damaged: name another --out, or remove the folder.") from error
    differ = [
        f"--{name} {made.get(name)} and not {value}"
        for name, value in how.items()
        if made.get(name) != value
    ]
    if differ:
        raise UserError(
            f"{file.parent} was made with {', '.join(differ)}: give the same settings, name another --out, "
            "or remove the folder."
        )


@contextmanager
def room(target: Path) -> Iterator[None]:
    """A full disk is no fault of the file that is being written. PyAV's errors have an errno too."""
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        if error.errno in FULL:
            raise RunError(
                f"{target} is full: free space and start the same command again."
            ) from error
        raise


def list_bad(bad: Quarantine, root: Path, found: Iterable[Found]) -> None:
    for item in found:
        if item.why:
            bad.add(root / item.path, item.time, item.why)


def each(work: Any, items: list[str], workers: int, what: str) -> list[Found]:
    results = (
        map(work, items) if workers == 1 or len(items) < 2 else spread(work, items, workers, what)
    )
    with progress_bar(len(items), "file", iterable=results, desc=what) as bar:
        return list(bar)


def spread(work: Any, items: list[str], workers: int, what: str) -> Iterator[Found]:
    with ProcessPoolExecutor(workers) as pool:
        try:
            for job in as_completed([pool.submit(work, item) for item in items]):
                yield job.result()
        except BrokenProcessPool as error:
            raise RunError(
                f"A process of the {what} died, most often for want of memory: start the same command again with fewer "
                "--workers; finished files are kept."
            ) from error
        finally:
            pool.shutdown(
                cancel_futures=True
            )  # else every file that is left meets the full disk once more
