"""Many files, several processes -> the result of each file.

A full disk stops the run: it is not a fault of the file that is being written.
"""

import ctypes
import errno
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import av

from ssvid.data.quarantine import LISTED, Quarantine
from ssvid.errors import RunError, UserError
from ssvid.files import read_json_mapping
from ssvid.log import log
from ssvid.progress import progress_bar

# The disk is full; the user's quota is used up; the file is larger than the limit for one file.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FileResult(NamedTuple):
    """What a scan or a job says about a file."""

    path: str
    why: str = ""  # the fault of a bad file; empty: it is good
    time: float | None = None
    width: int = 0
    height: int = 0
    frames: int = 0
    seconds: float = 0.0


Item = TypeVar("Item")
Result = TypeVar("Result")


def check_settings(file: Path, settings: dict[str, Any]) -> None:
    """Raise a UserError if the folder of `file` was made with other settings.

    Its files are not written again, so they must be what this run would write.
    """
    old = read_json_mapping(file, "settings") if file.exists() else settings
    differences = []
    for name, value in settings.items():
        if old.get(name) != value:
            differences.append(f"--{name} {old.get(name)} and not {value}")
    if differences:
        raise UserError(
            f"{file.parent} was made with {', '.join(differences)}: give the same settings, name "
            "another --out, or remove the folder."
        )


@contextmanager
def raise_if_full(target: Path) -> Iterator[None]:
    """Turn the error of a full disk into a RunError. PyAV's errors have an errno too."""
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        if error.errno in FULL:
            raise RunError(
                f"{target} is full: free space and start the same command again."
            ) from error
        raise


def list_bad(bad: Quarantine, root: Path, results: Iterable[FileResult]) -> None:
    """Quarantine the bad files."""
    for result in results:
        if result.why:
            bad.add(root / result.path, result.time, result.why)


def warn_of_bad(bad: Quarantine) -> None:
    """Name the bad files, and where all of them are listed.

    A scan without --out writes no list, so all are named.
    """
    if not len(bad):
        return
    named = list(bad.bad.items())[: LISTED if bad.file is not None else None]
    lines = [f"{len(bad)} bad files of {bad.rows} are left out:"]
    lines += [f"  {path}: {why}" for path, why in named]
    if len(bad) > len(named):
        lines.append(f"  and {len(bad) - len(named)} more")
    if bad.file is not None:
        lines.append(f"  All are listed in {bad.file}.")
    log.warning("\n".join(lines))


def run_all(
    job: Callable[[Item], Result], items: list[Item], workers: int, title: str
) -> list[Result]:
    """The result of each item, which is a path or stands for a file, in any order.

    A progress bar counts the files.

    Raises a RunError if a process dies.
    """
    if workers == 1 or len(items) < 2:
        results: Iterable[Result] = map(job, items)
    else:
        results = _run_in_processes(job, items, workers, title)
    with progress_bar(len(items), "file", iterable=results, desc=title) as bar:
        return list(bar)


def _end_with_parent(parent: int) -> None:
    """Have the kernel kill this worker when its parent ends, however that ends.

    A worker that lived on would write into the folder in which the same command goes on.
    """
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the parent ended before the kernel was asked


def _run_in_processes(
    job: Callable[[Item], Result], items: list[Item], workers: int, title: str
) -> Iterator[Result]:
    with ProcessPoolExecutor(
        workers, initializer=_end_with_parent, initargs=(os.getpid(),)
    ) as pool:
        try:
            for future in as_completed([pool.submit(job, item) for item in items]):
                yield future.result()
        except BrokenProcessPool as error:
            raise RunError(
                f"A process of the {title} died, most often because memory ran out: start the same "
                "command again with fewer --workers; finished files are kept."
            ) from error
        finally:
            # Otherwise every file that is left would meet the full disk once more.
            pool.shutdown(cancel_futures=True)
