"""`python -m benchmarks.profiling [CASE ...]` prints one JSON line for each case.

Without a name it runs all cases but those that take minutes.
"""

import json
import os
import sys
from collections.abc import Callable

import torch

from benchmarks.profiling.scaling import page, study
from benchmarks.profiling.speed import large, turbo
from benchmarks.profiling.speed.cases import CASES, LONG
from benchmarks.profiling.speed.pairs import compare
from ssvid.errors import UserError

MODULES: dict[str, Callable[[], None]] = {  # each prints several lines and draws a plot
    "large": large.main,
    "turbo": turbo.main,
    "scaling": study.main,
}


def main(names: list[str]) -> None:
    if {"-h", "--help"} & set(names):
        print(
            f"python -m benchmarks.profiling [CASE ...]; cases: {', '.join(CASES)}."
            " All of them without a name."
        )
        print(
            f"Minutes, only by name: {', '.join(LONG)}, large (writes {large.PLOT}),"
            f" turbo (writes {turbo.PLOT}),"
        )
        print(f"scaling (writes {page.PAGE}; needs srun).")
        return
    cases = CASES | LONG
    names_known = (*cases, *MODULES)
    unknown = [name for name in names if name not in names_known]
    if unknown:
        sys.exit(f"error: There is no case {unknown[0]!r}; cases are {', '.join(names_known)}.")
    os.environ.setdefault(
        "THP_MEM_ALLOC_ENABLE", "1"
    )  # as the commands of ssvid do, for both sides
    torch.set_num_threads(min(2, torch.get_num_threads()))
    for name in names or CASES:
        if name in MODULES:
            MODULES[name]()
            continue
        try:
            case = cases[name]()
        except UserError as error:  # the library of the other side is not installed
            print(f"{'error' if names else 'left out'}: {error}", file=sys.stderr)
            if names:
                sys.exit(error.exit_code)
            continue
        print(json.dumps(compare(name, case)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
