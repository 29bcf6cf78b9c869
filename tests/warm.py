"""Commands as processes, without the seconds that importing torch takes: a server that has imported
it forks them.

A process of it is one of a user's: `python -m MODULE ...` or `python -c CODE ...` with an exit
code, signals, files for what it prints, a folder, an environment and a largest file of its own.
What it shares with its siblings is the imports and the seed of Python's hashes;
`tests/test_cold.py` starts every command once by the interpreter itself.
"""

import array
import atexit
import gc
import importlib
import json
import os
import resource
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
# The environment variable with the server's socket, which the processes of pytest-xdist share.
PLACE = "SSVID_WARM"
PRELOAD = (
    "torch._dynamo",
    "torch.utils.tensorboard",
    "torch.distributed.elastic",
    "torchvision.transforms.v2",
    "torchvision.ops",
    "matplotlib.pyplot",
    "cv2",
)
PRELOAD += (
    "ssvid.pretrain",
    "ssvid.finetune",
    "ssvid.extract",
    "ssvid.weights.__main__",
    "ssvid.stages",
)
PRELOAD += (
    "ssvid.sweep.__main__",
    "ssvid.data.preprocess.flow",
    "ssvid.data.preprocess.prepare",
    "ssvid.data.narration.convert",
    "ssvid.text.words",
    "ssvid.doctor",
)
PRELOAD += (
    "benchmarks.run",
    "benchmarks.report",
    "benchmarks.align",
    "benchmarks.compare",
    "benchmarks.demo",
)
cpu_seconds = 0.0  # of the processes that ended so far; the guard in conftest.py reads it


class Process:
    """What a test needs of subprocess.Popen."""

    def __init__(
        self, argv: list[str], env: dict[str, str], limit: int | None = None, group: int = 0
    ) -> None:
        self.args, self.output = argv, list[str]()
        self.returncode: int | None = None
        self.files = [tempfile.TemporaryFile() for _ in range(2)]
        request = {"argv": argv, "env": env, "cwd": os.getcwd(), "limit": limit, "group": group}
        self.line = connect()
        fds = array.array("i", [file.fileno() for file in self.files])
        self.line.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        self.line.sendall(json.dumps(request).encode() + b"\n")
        self.replies = self.line.makefile("rb")
        self.pid = json.loads(self.replies.readline())["pid"]

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        global cpu_seconds
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self.line, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            end = json.loads(self.replies.readline())
            self.returncode = os.waitstatus_to_exitcode(end["status"])
            cpu_seconds += end["cpu_s"]
            self.replies.close()
            self.line.close()
            for file in self.files:
                file.seek(0)
                self.output.append(file.read().decode())
                file.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Standard output, standard error."""
        self.wait(timeout)
        return self.output[0], self.output[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()


def start(
    *argv: str, env: dict[str, str] | None = None, limit: int | None = None, group: int = 0
) -> Process:
    """`argv`: -m MODULE or -c CODE, and the command's words. `env` is added to this process's.

    `limit`: the largest file it may write, in bytes. `group`: the process group it joins; its own
    where 0.
    """
    return Process(list(argv), {**os.environ, **(env or {})}, limit, group)


def run(
    *argv: str, limit: int | None = None, timeout: float = 300, **env: str
) -> subprocess.CompletedProcess[str]:
    process = start(*argv, env=env, limit=limit)
    try:
        out, err = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    return subprocess.CompletedProcess(list(argv), process.wait(), out, err)


def run_ranks(
    *argv: str, size: int = 2, timeout: float = 120
) -> list[subprocess.CompletedProcess[str]]:
    """One run as several processes of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free.getsockname()[1]),
            "WORLD_SIZE": str(size),
        }
    ranks = [
        start(*argv, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(size)
    ]
    try:
        ends = [rank.communicate(timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return [
        subprocess.CompletedProcess(list(argv), r.wait(), *e)
        for r, e in zip(ranks, ends, strict=True)
    ]


def replace_subprocess(
    patch: pytest.MonkeyPatch, module: str
) -> list[subprocess.CompletedProcess[str]]:
    """What `module` starts by subprocess.run, where it is a command of ours, starts warm; returns
    how they ended.
    """
    ends = []

    def run_warm(argv: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if argv[0] != sys.executable:
            return subprocess.run(argv, **options)
        ends.append(run(*argv[1:]))
        return ends[-1]

    patch.setattr(f"{module}.subprocess", SimpleNamespace(**{**vars(subprocess), "run": run_warm}))
    return ends


# --- the server ---


def launch() -> None:
    """Start it; it ends, and its CPU-seconds count as this process's, when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="warm"))
    os.environ[PLACE] = str(folder / "socket")
    with open(folder / "log", "wb") as log:
        env = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        }
        argv = [sys.executable, "-m", "tests.warm", os.environ[PLACE]]
        server = subprocess.Popen(
            argv, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=log, stderr=log
        )

    def end() -> None:
        server.stdin.close()  # type: ignore[union-attr]
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)


def connect() -> socket.socket:
    if PLACE not in os.environ:
        launch()
    line = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + 300
    while True:
        try:
            line.connect(os.environ[PLACE])
            return line
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if time.monotonic() > deadline:
                log = Path(os.environ[PLACE]).with_name("log")
                raise RuntimeError(
                    f"the server of commands does not start: {log.read_text()}"
                ) from error
            time.sleep(0.05)


def serve(path: str) -> dict[str, Any]:
    """Fork a process for each request; returns in that process, with what it is to do."""
    for name in PRELOAD:
        importlib.import_module(name)
    from ssvid import registry

    for table in (registry.encoders, registry.objectives, registry.datasets):
        table.names()
    gc.collect()
    gc.freeze()  # the imports' objects are never looked at again
    tasks = os.listdir("/proc/self/task")
    assert len(tasks) == 1, f"{len(tasks)} threads live: what forks from here could hang"
    alarm, waker = socket.socketpair()
    alarm.setblocking(False)
    waker.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    living: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector, socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(64)
        for source in (server, alarm, sys.stdin):
            selector.register(source, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if sys.stdin in ready:
                break  # pytest has ended
            if alarm in ready:
                alarm.recv(4096)
                reap(living)
            if server in ready:
                line, _ = server.accept()
                request, fds = receive(line)
                if (pid := os.fork()) == 0:
                    signal.set_wakeup_fd(-1)
                    for other in (*living.values(), line, alarm, waker):
                        other.close()
                    return {**request, "fds": fds}
                os.setpgid(pid, request["group"])
                living[pid] = line
                for fd in fds:
                    os.close(fd)
                line.sendall(json.dumps({"pid": pid}).encode() + b"\n")
    for pid in living:
        os.kill(pid, signal.SIGKILL)
    while living:
        reap(living, block=True)
    sys.exit(0)


def receive(line: socket.socket) -> tuple[dict[str, Any], list[int]]:
    _, ancillary, *_ = line.recvmsg(1, socket.CMSG_SPACE(2 * 4))
    fds = array.array("i")
    for *_, data in ancillary:
        fds.frombytes(data)
    with line.makefile("rb") as words:
        return json.loads(words.readline()), fds.tolist()


def reap(living: dict[int, socket.socket], block: bool = False) -> None:
    while living:
        pid, status, used = os.wait4(-1, 0 if block else os.WNOHANG)
        if pid == 0:
            return
        line = living.pop(pid)
        try:
            line.sendall(
                json.dumps({"status": status, "cpu_s": used.ru_utime + used.ru_stime}).encode()
                + b"\n"
            )
        except BrokenPipeError:
            pass  # its test has ended before it
        line.close()


def become(request: dict[str, Any]) -> None:
    """What python itself does between its start and the command's first line."""
    import numpy
    import torch

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if request["group"] == 0:
        os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, fd in enumerate(request["fds"], 1):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    if request["limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    first = request["cwd"] if request["argv"][0] == "-m" else ""
    sys.path[:0] = [first, *filter(None, request["env"].get("PYTHONPATH", "").split(os.pathsep))]
    torch.seed()  # as importing it does; else all of them would draw the same
    numpy.random.seed()
    kind, what, *words = request["argv"]
    sys.argv = [kind, *words]
    if kind == "-m":
        sys.modules.pop(what, None)  # else runpy warns that it was imported before
        sys.modules.pop(f"{what}.__main__", None)
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__", "__spec__": None})


def leave(request: dict[str, Any]) -> None:
    """Run it and end as python ends, but for taking every module apart, which takes seconds of its
    own.
    """
    code: object = 0
    try:
        become(request)
    except SystemExit as exit_:
        code = exit_.code
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    leave(serve(sys.argv[1]))
