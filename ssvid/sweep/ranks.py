"""a command -> its processes, and their exit -> Ending.

This is the only file that starts the processes that train: as a step of the SLURM job, or as
processes of this machine. Each process has its own log. If one process ends early, the others are
stopped too. The process that failed first gives the reason.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ssvid.commands import list_start_words
from ssvid.errors import FAULTS, PeerLost, Stopped
from ssvid.sweep.cluster import Cluster

# Seconds in which the other processes may notice that a process is lost, and log it.
PEER_LOSS_S = 20.0
CHECKPOINT_S = 60.0  # seconds to save a checkpoint after the signal to stop
OUTSIDE_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
# Variables of the process that submitted, which must not reach the processes of a cell.
RANK_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
LAST_LINES = 30  # lines of a failed process's log that are stored


class Ending(NamedTuple):
    """How an attempt ended."""

    code: int  # exit code
    outcome: str  # done, outside (stopped or killed by somebody else), failed
    reason: str  # one line
    lines: list[str]  # the last lines of the process that failed first


def start_ranks(
    module: list[str], cluster: Cluster, ranks: int, logs: Path, cwd: str
) -> list[subprocess.Popen[bytes]]:
    """Start the command MODULE... as `ranks` processes, in the folder `cwd`.

    Their output goes to LOGS/rankN.out and LOGS/rankN.err. Inside a SLURM job the only process
    that is returned is srun, whose own output goes to LOGS/srun.err.
    """
    logs.mkdir(parents=True)
    command = [sys.executable, *list_start_words(module[0]), *module[1:]]
    env = make_environment(ranks, logs)
    if "SLURM_JOB_ID" in os.environ:
        srun = [*make_srun_command(cluster, ranks, logs), *command]
        return [start_process(srun, env, cwd, None, logs / "srun.err")]
    processes = []
    for rank in range(ranks):
        if ranks > 1:
            env |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
            }
        out, err = logs / f"rank{rank}.out", logs / f"rank{rank}.err"
        processes.append(start_process(command, env, cwd, out, err))
    return processes


def make_environment(ranks: int, logs: Path) -> dict[str, str]:
    """This process's environment without the variables that give a process its rank."""
    env = {key: v for key, v in os.environ.items() if not key.startswith("TORCHELASTIC")}
    for key in RANK_VARIABLES:
        env.pop(key, None)
    if ranks > 1:
        env["MASTER_PORT"] = str(find_free_port())
    env[FAULTS] = str(logs.resolve())
    return env


def start_process(
    command: list[str], env: dict[str, str], cwd: str, out: Path | None, err: Path
) -> subprocess.Popen[bytes]:
    """Start one process with a file for each output. If `out` is None, `err` receives both."""
    with open(err, "wb") as err_file, open(out or os.devnull, "wb") as out_file:
        return subprocess.Popen(
            command,
            env=env,
            stdout=out_file if out else err_file,
            stderr=err_file,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
        )


def make_srun_command(cluster: Cluster, ranks: int, logs: Path) -> list[str]:
    """The srun command of a step of the current job.

    A step inherits the job's nodes and memory, but not the number of CPUs per process.
    """
    has_ranks = ranks > 1
    nodes, per_node = (cluster.nodes, cluster.per_node) if has_ranks else (1, 1)
    shape = [f"--nodes={nodes}", f"--ntasks={ranks}"]
    shape += [f"--ntasks-per-node={per_node}", f"--cpus-per-task={cluster.cpus}"]
    files = [f"--output={logs}/rank%t.out", f"--error={logs}/rank%t.err"]
    return ["srun", "--kill-on-bad-exit=1", "--unbuffered", *shape, *files]


def find_free_port() -> int:
    """A free port. Each attempt uses a new one: orphans of the last may still answer at theirs."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def wait_for_ranks(
    processes: list[subprocess.Popen[bytes]], logs: Path, must_stop: Callable[[], bool]
) -> Ending:
    """Wait until all processes have ended, and say how.

    If `must_stop` becomes true, they receive SIGTERM and have CHECKPOINT_S to save a checkpoint.
    """
    first_failure: int | None = None  # exit code
    deadline = float("inf")
    signalled = False
    while any(process.poll() is None for process in processes):
        failures = [process.returncode for process in processes if process.returncode]
        if failures and first_failure is None:
            first_failure = failures[0]
            deadline = min(deadline, time.monotonic() + PEER_LOSS_S)
        if must_stop() and not signalled:
            send_signal(processes, signal.SIGTERM)
            signalled, deadline = True, time.monotonic() + CHECKPOINT_S
        if time.monotonic() > deadline:
            send_signal(processes, signal.SIGKILL if signalled else signal.SIGTERM)
            signalled, deadline = True, time.monotonic() + PEER_LOSS_S
        time.sleep(0.1)
    if first_failure is None:
        first_failure = next((process.returncode for process in processes if process.returncode), 0)
    return judge_exit(first_failure, logs)


def send_signal(processes: list[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    """Send a signal to all processes that have not ended."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def judge_exit(code: int, logs: Path) -> Ending:
    """The ending of processes of which the first failed with `code`, or all succeeded with 0."""
    if code == 0:
        return Ending(0, "done", "", [])
    code = read_first_exit_code(logs / "srun.err") or code
    killer = find_signal(code)
    reason, lines = read_failure(logs)
    if code == Stopped.exit_code:
        return Ending(code, "outside", "told to leave by a signal", lines)
    if killer:
        outcome = "outside" if killer in OUTSIDE_SIGNALS else "failed"
        return Ending(code, outcome, f"killed by {killer.name}", lines)
    return Ending(code, "failed", reason or f"exit code {code}, no last words", lines)


def read_first_exit_code(file: Path) -> int | None:
    """The exit code of the first task that failed, from srun's log; None if it does not say.

    srun itself exits with the highest code, most often that of the tasks that it killed itself.
    """
    pattern = r"tasks? [\d,-]+: (?:Exited with exit code (\d+)|(.+?)(?: \(core dumped\))?$)"
    for line in read_tail(file) if file.exists() else []:
        if match := re.search(pattern, line):
            signals = {signal.strsignal(number): number for number in signal.valid_signals()}
            code = int(match[1]) if match[1] else -signals.get(match[2], 0)
            if code:
                return code
    return None


def find_signal(code: int) -> signal.Signals | None:
    """The signal that ended a process, from its exit code.

    Python reports minus the signal's number. A shell and srun report 128 plus the number.
    """
    try:
        return signal.Signals(-code if code < 0 else code - 128)
    except ValueError:
        return None


def read_failure(logs: Path) -> tuple[str, list[str]]:
    """The reason of a failure and the last lines of the log that gives it.

    A process that failed by itself comes before one that only lost another process.
    """
    failures: list[tuple[bool, str, list[str]]] = []
    for file in sorted(logs.glob("*.err"), key=read_rank):
        lines = [line for line in read_tail(file) if line.strip()]
        if lines:
            errors = [line for line in lines if line.startswith("error: ")]
            reason = (errors or lines)[-1].removeprefix("error: ")
            failures.append((has_lost_peer(file), reason, lines[-LAST_LINES:]))
    if not failures:
        return "", []
    _, reason, lines = min(failures, key=lambda failure: failure[0])
    return reason, lines


def read_rank(log: Path) -> int:
    """The rank in the name of a log, so that logs can be sorted. srun's own log comes last."""
    return int(re.sub(r"\D", "", log.name) or 10**9)


def has_lost_peer(log: Path) -> bool:
    """Whether the process of this log ended because another process was lost.

    srun's own log reports only the endings of other processes, so it counts as well.
    """
    fault = log.with_suffix(".fault")
    return log.name == "srun.err" or (fault.exists() and fault.read_text() == PeerLost.__name__)


def read_tail(file: Path, size: int = 20_000) -> list[str]:
    """The lines in the last `size` bytes of a log.

    A progress bar overwrites its line with carriage returns. Only its last text is returned.
    """
    with open(file, "rb") as stream:
        stream.seek(max(0, file.stat().st_size - size))
        text = stream.read().decode(errors="replace")
    return [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
