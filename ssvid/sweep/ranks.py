"""a command -> its processes, each with a log of its own: a step of the SLURM job, or processes of this machine.

The only file that starts what trains. They all go when one has gone, and what ended first says why.
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

from ssvid.errors import FAULTS, PeerLost, Stopped
from ssvid.sweep.cluster import Cluster

LET = 20.0  # seconds in which the others may find out by themselves that a process is lost, and say so in their logs
GRACE = 60.0  # seconds for a checkpoint, once all have been told to leave
OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
PLACE = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)  # of whoever submitted
WORDS = 30  # last lines that are kept of a process that failed


class Ending(NamedTuple):
    code: int
    how: str  # done, outside (told or killed by somebody else), failed
    said: str  # one line
    lines: list[str]  # the last ones of the process that failed first


def started(
    module: list[str], cluster: Cluster, ranks: int, logs: Path, cwd: str
) -> list[subprocess.Popen[bytes]]:
    """`module`: what follows `python -m`. Logs are LOGS/rankN.out and .err."""
    logs.mkdir(parents=True)
    command = [sys.executable, "-m", *module]
    env = {
        key: value
        for key, value in os.environ.items()
        if key not in PLACE and not key.startswith("TORCHELASTIC")
    }
    env |= {"MASTER_PORT": str(free_port())} if ranks > 1 else {}
    env[FAULTS] = str(logs.resolve())
    if "SLURM_JOB_ID" in os.environ:
        with open(logs / "srun.err", "wb") as err:
            srun = [*step(cluster, ranks, logs), *command]
            return [
                subprocess.Popen(
                    srun, env=env, stdout=err, stderr=err, stdin=subprocess.DEVNULL, cwd=cwd
                )
            ]
    made = []
    for rank in range(ranks):
        place = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
        }
        with (
            open(logs / f"rank{rank}.out", "wb") as out,
            open(logs / f"rank{rank}.err", "wb") as err,
        ):
            whole = {**env, **place} if ranks > 1 else env
            made.append(
                subprocess.Popen(
                    command, env=whole, stdout=out, stderr=err, stdin=subprocess.DEVNULL, cwd=cwd
                )
            )
    return made


def step(cluster: Cluster, ranks: int, logs: Path) -> list[str]:
    """srun as part of the job: it inherits nodes and memory, but not the number of CPUs."""
    many = ranks > 1
    shape = [f"--nodes={cluster.nodes if many else 1}", f"--ntasks={ranks}"]
    shape += [
        f"--ntasks-per-node={cluster.per_node if many else 1}",
        f"--cpus-per-task={cluster.cpus}",
    ]
    files = [f"--output={logs}/rank%t.out", f"--error={logs}/rank%t.err"]
    return ["srun", "--kill-on-bad-exit=1", "--unbuffered", *shape, *files]


def free_port() -> int:
    """A new one for each attempt: what is left of the last one may still answer at its own."""
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


def ended(processes: list[subprocess.Popen[bytes]], logs: Path, told: Callable[[], bool]) -> Ending:
    """Wait for all. When `told`, they are told too, and have GRACE to write their checkpoint."""
    first: int | None = None  # exit code of the first that failed
    limit = float("inf")
    sent = False
    while any(process.poll() is None for process in processes):
        bad = [process.returncode for process in processes if process.returncode not in (None, 0)]
        if bad and first is None:
            first, limit = bad[0], min(limit, time.monotonic() + LET)
        if told() and not sent:
            send(processes, signal.SIGTERM)
            sent, limit = True, time.monotonic() + GRACE
        if time.monotonic() > limit:
            send(processes, signal.SIGKILL if sent else signal.SIGTERM)
            sent, limit = True, time.monotonic() + LET
        time.sleep(0.1)
    codes = [process.returncode for process in processes]
    return judged(first if first is not None else next((code for code in codes if code), 0), logs)


def send(processes: list[subprocess.Popen[bytes]], which: signal.Signals) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(which)


def judged(code: int, logs: Path) -> Ending:
    if code == 0:
        return Ending(0, "done", "", [])
    code = first_of_srun(logs / "srun.err") or code
    by = killer(code)
    said, lines = last_words(logs)
    if code == Stopped.exit_code:
        return Ending(code, "outside", "told to leave by a signal", lines)
    if by:
        return Ending(code, "outside" if by in OUTSIDE else "failed", f"killed by {by.name}", lines)
    return Ending(code, "failed", said or f"exit code {code}, no last words", lines)


def first_of_srun(file: Path) -> int | None:
    """How the first of the tasks ended. srun ends with the highest code, most often that of those it killed itself."""
    for line in tail(file) if file.exists() else []:
        if found := re.search(
            r"tasks? [\d,-]+: (?:Exited with exit code (\d+)|(.+?)(?: \(core dumped\))?$)", line
        ):
            named = {signal.strsignal(one): one for one in signal.valid_signals()}
            code = int(found[1]) if found[1] else -named.get(found[2], 0)
            if code:
                return code
    return None


def killer(code: int) -> signal.Signals | None:
    """The signal that ended a process. A shell, and srun, say 128 + its number."""
    try:
        return signal.Signals(-code if code < 0 else code - 128)
    except ValueError:
        return None


def last_words(logs: Path) -> tuple[str, list[str]]:
    """Of the process that failed for a reason of its own, not for the loss of another."""
    found: list[tuple[bool, str, list[str]]] = []
    for file in sorted(
        logs.glob("*.err"), key=lambda file: int(re.sub(r"\D", "", file.name) or 10**9)
    ):
        lines = [line for line in tail(file) if line.strip()]
        if lines:
            said = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1])
            found.append((lost_a_peer(file), said.removeprefix("error: "), lines[-WORDS:]))
    found.sort(key=lambda one: one[0])
    return (found[0][1], found[0][2]) if found else ("", [])


def lost_a_peer(log: Path) -> bool:
    """Whether the process of this log ended for the loss of another. srun's own log tells of others alone."""
    fault = log.with_suffix(".fault")
    return log.name == "srun.err" or (fault.exists() and fault.read_text() == PeerLost.__name__)


def tail(file: Path, size: int = 20_000) -> list[str]:
    """Its last lines; of a progress bar, which writes over itself, what was seen last."""
    with open(file, "rb") as stream:
        stream.seek(max(0, file.stat().st_size - size))
        text = stream.read().decode(errors="replace")
    return [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
