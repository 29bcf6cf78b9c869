"""a store all processes share -> who came, who is alive and what each is at: so that one that is gone has a name."""

import atexit
import os
import socket
import threading
import time
from collections.abc import Iterable
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from ssvid.log import log

BEAT_S = 1.0
SILENT_S = 30.0
PATIENCE_S = 4.0  # without a beat: a process busy in one long operation still beats, its pulse has its own thread


class Peers:
    def __init__(self, store: Store, rank: int, size: int, run: str = "") -> None:
        """`run`: what all processes of this run call it; where two runs share a store by mistake they do not mix."""
        self.rank, self.size = rank, size
        self.doing = ""  # what this process is at, told with each beat
        self.hosts: list[str] = []  # by rank, once all came
        self.ended = threading.Event()
        self.heard: list[str] = []  # everyone's beats, as the first last heard them
        self.warned: list[int] = []
        self.here = PrefixStore(f"{run}/here", store)
        # A connection of its own: torch's waits on its one, and a lock with it, for as long as a collective may take.
        base = store.clone() if isinstance(store, TCPStore) else store
        base.set_timeout(timedelta(seconds=PATIENCE_S))
        self.pulse = PrefixStore(f"{run}/pulse", base)
        self.pulse.set(str(rank), "0 ")
        self.here.set(str(rank), host_name())
        self.beating = threading.Thread(target=self._beat, daemon=True)
        self.beating.start()
        atexit.register(self.still)

    def first_here(self, seconds: float) -> None:
        """The process that opened the store says so at once; where it does not, the store is that of another run."""
        try:
            self.here.wait(["0"], timedelta(seconds=seconds))
        except RuntimeError as error:
            raise RuntimeError(
                "something else answers there: the processes of another run"
            ) from error

    def all_here(self, seconds: float) -> None:
        """Wait for the others; say which never came."""
        ranks = [str(rank) for rank in range(self.size)]
        try:
            self.here.wait(ranks, timedelta(seconds=seconds))
            self.hosts = [self.here.get(rank).decode() for rank in ranks]
        except RuntimeError as error:
            try:
                late = [rank for rank in ranks if not self.here.check([rank])]
            except RuntimeError:  # it had waited for as long, and ended a moment before
                raise RuntimeError("process 0 ended; its own last words say why") from error
            never = " and ".join(f"process {rank}" for rank in late)
            raise RuntimeError(f"{never} never came, for {seconds:.0f} s") from error

    def name(self, ranks: Iterable[int]) -> str:
        """process 3 on n2 and process 4 on n2"""
        return " and ".join(
            f"process {r}" + (f" on {self.hosts[r]}" if self.hosts else "") for r in ranks
        )

    def gone(self) -> list[int]:
        """Ranks whose pulse stands still. The first where the store itself is silent, as it holds it."""
        try:
            before = self._read()
            time.sleep(PATIENCE_S)
            after = self._read()
        except RuntimeError:
            return [0] if self.rank else []
        return [
            rank
            for rank in range(self.size)
            if rank != self.rank and before[rank][0] == after[rank][0]
        ]

    def busy(self) -> dict[int, str]:
        """Ranks that are alive and at something of their own, where this one has nothing left to do but wait."""
        try:
            told = self._read()
        except RuntimeError:
            return {}
        return {rank: doing for rank, (_, doing) in enumerate(told) if doing and rank != self.rank}

    def still(self) -> None:
        """A thread that comes back from the store while the interpreter ends would abort it."""
        self.ended.set()
        self.beating.join(PATIENCE_S + BEAT_S)

    def part(self) -> None:
        """At the run's end. The first, which may hold the store, goes last: a beat to a lost store is loud."""
        self.still()
        try:
            self.here.set(f"{self.rank} left", "")
            if self.rank == 0:
                others = [f"{rank} left" for rank in range(1, self.size)]
                self.here.wait(others, timedelta(seconds=PATIENCE_S))
        except RuntimeError:
            return  # it is over in any case

    def _beat(self) -> None:
        beats = 0
        while not self.ended.wait(BEAT_S):
            beats += 1
            try:
                self.pulse.set(str(self.rank), f"{beats} {self.doing}")
                if self.rank == 0 and self.hosts and beats % round(SILENT_S / BEAT_S) == 0:
                    self._listen()
            except RuntimeError:
                return  # the store went with the process that held it

    def _listen(self) -> None:
        """Name the silent before time runs out: a GPU's collectives end the process then, and it says nothing more."""
        told = [beats for beats, _ in self._read()]
        silent = [
            rank
            for rank, beats in enumerate(told)
            if rank and self.heard[rank : rank + 1] == [beats]
        ]
        if silent and silent != self.warned:
            log.warning(f"no sign of life of {self.name(silent)} for {SILENT_S:g} s.")
        self.heard, self.warned = told, silent

    def _read(self) -> list[tuple[str, str]]:
        """beats, doing"""
        told = (self.pulse.get(str(rank)).decode().partition(" ") for rank in range(self.size))
        return [(beats, doing) for beats, _, doing in told]


def host_name() -> str:
    """As SLURM calls this node: several of its nodes may be one machine."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
