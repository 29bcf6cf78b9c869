"""`python -m benchmarks.profiling [CASE ...]`: one JSON line for each; without a name, all that
take no minutes.
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

OWN: dict[str, Callable[[], None]] = {  # several lines each, and a plot
    "large": large.main,
    "turbo": turbo.main,
    "scaling": study.main,
}


def main(names: list[str]) -> None:
    if {"-h", "--help"} & set(names):
        print(
            f"python -m benchmarks.profiling [CASE ...]; cases: {', '.join(CASES)}. All of them without a name."
        )
        print(
            f"Minutes, only by name: {', '.join(LONG)}, large (writes {large.PLOT}), turbo (writes {turbo.PLOT}),"
        )
        print(f"scaling (writes {page.PAGE}; needs srun).")
        return
    known = CASES | LONG
    unknown = [name for name in names if name not in (*known, *OWN)]
    if unknown:
        sys.exit(f"error: There is no case {unknown[0]!r}; cases are {', '.join((*known, *OWN))}.")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as our commands do, for both sides
    torch.set_num_threads(min(2, torch.get_num_threads()))
    for name in names or CASES:
        if name in OWN:
            OWN[name]()
            continue
        try:
            case = known[name]()
        except UserError as error:  # what it is compared with is not installed
            print(f"{'error' if names else 'left out'}: {error}", file=sys.stderr)
            if names:
                sys.exit(error.exit_code)
            continue
        print(json.dumps(compare(name, case)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
