"""argv -> a call of a command. A UserError becomes one sentence and an exit code."""

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ssvid.arguments import KINDS, Arguments
from ssvid.commands import COMMANDS
from ssvid.errors import Stopped, UserError, note_fault
from ssvid.log import show_log
from ssvid.outlines import read_outline
from ssvid.output import print_text
from ssvid.recipe import Recipe
from ssvid.result_page import format_result

Command = Callable[..., dict[str, Any]]


def run_command(name: str, argv: Sequence[str] | None = None) -> None:
    """Run a command of ssvid.commands. Its dict is printed as the last of standard output.

    It is one line of JSON where standard output is no terminal, or with --json, and else a short
    list for people. `argv` are the words after the command; None: those of this process.
    """
    threading.excepthook = report_thread_error
    show_log()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large pages for tensors: docs/speed.md
    words = list(sys.argv[1:] if argv is None else argv)
    if words and f"{name} {words[0]}" in COMMANDS:
        name = f"{name} {words.pop(0)}"
    try:
        outline = read_command_outline(name)
        if outline is not None:  # flags are refused and explained before torch is imported
            Arguments(outline, name).read_words(words)
        function = import_function(name)
        arguments = Arguments(function, name)
        result = function(**arguments.parse(words))
        leave_processes()
        code = result.pop("exit_code", 0)  # of a command that continued after a failure
        if is_first_process():
            for_people = sys.stdout.isatty() and not arguments.wants_json
            print_text(format_result(result, for_people))
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


def read_command_outline(name: str) -> Callable[..., Any] | None:
    """The signature of a command without its import; None if it cannot be read so."""
    return read_outline(COMMANDS[name].function, frozenset(KINDS))


def import_function(name: str) -> Command:
    """The function of a command, whose signature gives its flags."""
    module, _, attribute = COMMANDS[name].function.partition(":")
    function: Command = getattr(importlib.import_module(module), attribute)
    return function


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


def parse(function: Command, argv: list[str]) -> dict[str, Any]:
    """The arguments of the function, built. `config`, if it has one, is plain data."""
    return Arguments(function).parse(argv)


def resolver(function: Command) -> Callable[[Recipe], Recipe]:
    """A function that turns a recipe into a complete, checked configuration. It builds nothing."""
    return Arguments(function).resolve
