"""a suite's name or file -> its cells in words: `python -m benchmarks.suite NAME`. No data set is opened."""

import json
from typing import Any

from benchmarks.run import run
from benchmarks.suites.loader import load
from ssvid.cli import resolver
from ssvid.log import log


def described(
    suite: str = "mini",  # a name in benchmarks/suites or a YAML file
    *,
    flags: dict[str, Any]
    | None = None,  # of benchmarks.run: whether it would take them; its `suite` is then shown
) -> dict[str, Any]:
    """The cells of a suite: task, probe and all their settings, with the hash that results carry as `cell_hash`."""
    if flags is not None:
        suite = str(resolver(run)({**flags, "encoder": ["none"], "out": "none"})["suite"])
    cells, broken = load(suite)
    for one in cells:
        log.info(f"{one.hash}  {one.name}: {json.dumps(one.settings)}")
    for bad in broken:
        log.warning(f"{bad.name}: {bad.why}")
    return {
        "suite": suite,
        "cells": {one.name: one.hash for one in cells},
        "exit_code": 2 if broken else 0,
    }


if __name__ == "__main__":
    from ssvid.cli import command

    command(described, "suite")
