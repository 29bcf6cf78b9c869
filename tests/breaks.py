"""Deliberate breaks of the source that a fast test must catch: `python -m tests.breaks` reports
those that survive.

Each is one line changed in a scratch copy of the tree, and the tests named for it. The file is
found by the line, so that moving it changes nothing here; a line that has changed is told as one
that cannot be applied.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
SOURCES = ("ssvid", "objectives", "benchmarks")


class Break(NamedTuple):
    what: str
    line: str  # a part of one line, in one file alone
    broken: str
    tests: list[str]  # files, or one test of a file


BREAKS = [Break(**one) for one in yaml.safe_load((ROOT / "tests" / "breaks.yaml").read_text())]


def find(part: str) -> Path | None:
    files = [
        path for room in SOURCES for path in (ROOT / room).rglob("*.py") if part in path.read_text()
    ]
    return (
        files[0].relative_to(ROOT)
        if len(files) == 1 and files[0].read_text().count(part) == 1
        else None
    )


def run_tests(tests: list[str], copy: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    return subprocess.run(argv, cwd=copy, capture_output=True, text=True)


def survives(one: Break, copy: Path) -> str:
    """Why a break is none that was caught; "" where it was."""
    file = find(one.line)
    if file is None:
        return "cannot be applied: its line is not there, or more than once"
    text = (ROOT / file).read_text()
    (copy / file).write_text(text.replace(one.line, one.broken))
    try:
        ended = run_tests(one.tests, copy)
    finally:
        (copy / file).write_text(text)
    return (
        ""
        if ended.returncode == 1
        else f"survives (pytest ended with {ended.returncode}): {ended.stdout[-300:]}"
    )


def main(words: list[str]) -> int:
    chosen = [one for one in BREAKS if not words or any(word in one.what for word in words)]
    failures = 0
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "tree"
        shutil.copytree(
            ROOT,
            copy,
            ignore=shutil.ignore_patterns(".git", ".venv", "runs", ".cache", "__pycache__"),
        )
        unbroken = run_tests(sorted({name for one in chosen for name in one.tests}), copy)
        if unbroken.returncode:
            print(
                f"error: the tests fail without any break: {unbroken.stdout[-2000:]}",
                file=sys.stderr,
            )
            return 2
        for one in chosen:
            why = survives(one, copy)
            failures += bool(why)
            print(f"{'CAUGHT' if not why else 'NOT CAUGHT'} {one.what} {why}", flush=True)
    print(f"{len(chosen) - failures} of {len(chosen)} breaks are caught")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
