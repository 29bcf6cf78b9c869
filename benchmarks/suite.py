"""a suite's name or file -> its cells in words: `python -m benchmarks.suite NAME`.

No data set is opened.
"""

import json
from typing import Any

from benchmarks.run import run
from benchmarks.suites.loader import load
from ssvid.cli import resolver
from ssvid.log import log


def describe_suite(
    suite: str = "mini",  # a name in benchmarks/suites or a YAML file
    *,
    # flags of ssvid bench, checked as that command would; its `suite` is then described
    flags: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The cells of a suite: task, probe and all their settings.

    Each has the hash that results carry as `cell_hash`.
    """
    if flags is not None:
        suite = str(resolver(run)({**flags, "encoder": ["none"], "out": "none"})["suite"])
    cells, broken = load(suite)
    for cell in cells:
        log.info(f"{cell.hash}  {cell.name}: {json.dumps(cell.settings)}")
    for broken_cell in broken:
        log.warning(f"{broken_cell.name}: {broken_cell.error}")
    return {
        "suite": suite,
        "cells": {cell.name: cell.hash for cell in cells},
        "exit_code": 2 if broken else 0,
    }


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("suite")
