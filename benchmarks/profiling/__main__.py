"""`python -m benchmarks.profiling [CASE ...]` prints one JSON line for each case.

Without a name it runs all cases, except for those that take minutes.
"""

import json
import os
import sys
from collections.abc import Callable

import torch

from benchmarks.profiling.scaling import page, study
from benchmarks.profiling.speed import large, turbo
from benchmarks.profiling.speed.cases import CASES, SLOW_CASES
from benchmarks.profiling.speed.pairs import compare
from ssvid.errors import UserError

# Studies of their own. Each prints several lines and draws a plot.
STUDIES: dict[str, Callable[[], None]] = {
    "large": large.main,
    "turbo": turbo.main,
    "scaling": study.main,
}


def main(names: list[str]) -> None:
    if {"-h", "--help"} & set(names):
        print(
            "python -m benchmarks.profiling [CASE ...]: each case compares our code with the "
            "published code, or with plain code that does the same."
        )
        print(f"Without a name, all of these run: {', '.join(CASES)}.")
        print(
            f"These take minutes and run only if they are named: {', '.join(SLOW_CASES)}, "
            f"large (writes {large.PLOT}), turbo (writes {turbo.PLOT}), "
            f"scaling (writes {page.PAGE}; needs srun)."
        )
        return
    cases = CASES | SLOW_CASES
    valid_names = (*cases, *STUDIES)
    unknown = [name for name in names if name not in valid_names]
    if unknown:
        sys.exit(f"error: There is no case {unknown[0]!r}; cases are {', '.join(valid_names)}.")
    # The commands of ssvid set this too. Here it holds for our code and for the code beside it.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    for name in names or CASES:
        if name in STUDIES:
            STUDIES[name]()
            continue
        try:
            case = cases[name]()
        except UserError as error:  # the library with the published code is not installed
            print(f"{'error' if names else 'left out'}: {error}", file=sys.stderr)
            if names:
                sys.exit(error.exit_code)
            continue
        print(json.dumps(compare(name, case)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
