"""argv -> a call of a command. A UserError becomes one sentence and an exit code."""

import inspect
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ssvid.arguments import Arguments
from ssvid.errors import Stopped, UserError, note_fault
from ssvid.log import show_log
from ssvid.recipe import Recipe

Command = Callable[..., dict[str, Any]]


def command(function: Command, *first: str, argv: list[str] | None = None) -> None:
    """Run `function` as a command. Its dict is printed as the last line of standard output.

    `first`: flags whose names the first words of the command line may leave out, in this order. A
    flag that is a list takes all words that follow.
    """
    threading.excepthook = report_thread_error
    show_log()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large pages for tensors: docs/speed.md
    try:
        words = name_first_words(function, first, sys.argv[1:] if argv is None else argv)
        result = function(**parse(function, words))
        leave_processes()
        code = result.pop("exit_code", 0)  # of a command that continued after a failure
        if is_first_process():
            print(json.dumps(result), flush=True)
        if code:
            sys.exit(code)
    except Stopped as stopped:
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)  # clusters often send both; the work is saved
        leave_processes()
        if is_first_process():
            print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        note_fault(error)
        sys.exit(getattr(error, "exit_code", 2))
    except KeyboardInterrupt:
        print("stopped. The same command resumes what is done.", file=sys.stderr)
        sys.exit(130)


def is_first_process() -> bool:
    """Whether this is the first process of a run, which speaks for all.

    Processes that SLURM started have no RANK before they join each other.
    """
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def leave_processes() -> None:
    """Leave the other processes of a run. A command that never imported torch has none."""
    if "ssvid.engine.distributed" in sys.modules:
        from ssvid.engine.distributed import leave

        leave()


def report_thread_error(error: threading.ExceptHookArgs) -> None:
    """Ignore disk errors of TensorBoard's thread, because the loop meets and reports them too."""
    if not isinstance(error.exc_value, OSError):
        threading.__excepthook__(error)


def name_first_words(function: Command, first: Sequence[str], argv: list[str]) -> list[str]:
    """`A B` -> `--folder=A --folder=B`."""
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    many = first and inspect.signature(function).parameters[first[-1]].annotation == list[str]
    flags = [*first, *[first[-1]] * (len(words) if many else 0)] if first else []
    pairs = [f"--{flag}={word}" for flag, word in zip(flags, words, strict=False)]
    return [*pairs, *argv[len(pairs) :]]


def parse(function: Command, argv: list[str]) -> dict[str, Any]:
    """The arguments of the function, built. `config`, if it has one, is plain data."""
    return Arguments(function).parse(argv)


def resolver(function: Command) -> Callable[[Recipe], Recipe]:
    """A function that turns a recipe into a complete, checked configuration. It builds nothing."""
    return Arguments(function).resolve
