"""A store that all processes share -> which processes came, which are alive, and what each does.

With it, an error about a lost process can name it.
"""

import atexit
import os
import socket
import threading
import time
from collections.abc import Iterable
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from ssvid.log import log

BEAT_S = 1.0  # seconds between two heartbeats
SILENT_S = 30.0  # seconds without a heartbeat after which a process is reported
# Seconds without a heartbeat after which a process counts as gone. Heartbeats have a thread of
# their own, so a process in one long operation still sends them.
PATIENCE_S = 4.0


class Peers:
    """The other processes of the run, as far as the store knows about them."""

    def __init__(self, store: Store, rank: int, size: int, run: str = "") -> None:
        """`run`: a name of the run. Two runs that share a store by mistake do not mix."""
        self.rank, self.size = rank, size
        self.doing = ""  # what this process does alone; it is sent with each heartbeat
        self.hosts: list[str] = []  # by rank, once all processes came
        self.ended = threading.Event()
        self.last_beats: list[str] = []  # of every process, as the first process last read them
        self.warned: list[int] = []
        self.here = PrefixStore(f"{run}/here", store)
        # It needs a connection of its own: torch holds a lock on the other one during a collective.
        base = store.clone() if isinstance(store, TCPStore) else store
        base.set_timeout(timedelta(seconds=PATIENCE_S))
        self.pulse = PrefixStore(f"{run}/pulse", base)
        self.pulse.set(str(rank), "0 ")
        self.here.set(str(rank), host_name())
        self.beating = threading.Thread(target=self._beat, daemon=True)
        self.beating.start()
        atexit.register(self.stop_beating)

    def await_first(self, seconds: float) -> None:
        """Wait for the process that opened the store. It reports at once.

        A RuntimeError if it does not: then the store belongs to another run.
        """
        try:
            self.here.wait(["0"], timedelta(seconds=seconds))
        except RuntimeError as error:
            raise RuntimeError(
                "something else answers there: the processes of another run"
            ) from error

    def await_all(self, seconds: float) -> None:
        """Wait for all processes. A RuntimeError names those that never came."""
        ranks = [str(rank) for rank in range(self.size)]
        try:
            self.here.wait(ranks, timedelta(seconds=seconds))
            self.hosts = [self.here.get(rank).decode() for rank in ranks]
        except RuntimeError as error:
            try:
                missing = [rank for rank in ranks if not self.here.check([rank])]
            except RuntimeError:  # it waited for as long and ended a moment before
                raise RuntimeError("process 0 ended; its own output says why") from error
            never = " and ".join(f"process {rank}" for rank in missing)
            raise RuntimeError(f"{never} never came, for {seconds:.0f} s") from error

    def name(self, ranks: Iterable[int]) -> str:
        """A text such as "process 3 on n2 and process 4 on n2"."""
        names = []
        for rank in ranks:
            where = f" on {self.hosts[rank]}" if self.hosts else ""
            names.append(f"process {rank}{where}")
        return " and ".join(names)

    def find_lost_ranks(self) -> list[int]:
        """Ranks without a heartbeat.

        It is the first one if the store does not answer, as it holds it.
        """
        try:
            before = self._read()
            time.sleep(PATIENCE_S)
            after = self._read()
        except RuntimeError:
            return [0] if self.rank else []
        silent = [rank for rank in range(self.size) if before[rank][0] == after[rank][0]]
        return [rank for rank in silent if rank != self.rank]

    def find_busy_ranks(self) -> dict[int, str]:
        """Other ranks that are alive and do something alone -> what they do."""
        try:
            beats = self._read()
        except RuntimeError:
            return {}
        return {rank: doing for rank, (_, doing) in enumerate(beats) if doing and rank != self.rank}

    def stop_beating(self) -> None:
        """Stop the heartbeats. Their thread would abort an interpreter that is ending."""
        self.ended.set()
        self.beating.join(PATIENCE_S + BEAT_S)

    def leave(self) -> None:
        """Leave at the end of the run.

        The first process may hold the store and leaves last: torch logs a heartbeat to a lost
        store.
        """
        self.stop_beating()
        try:
            self.here.set(f"{self.rank} left", "")
            if self.rank == 0:
                others = [f"{rank} left" for rank in range(1, self.size)]
                self.here.wait(others, timedelta(seconds=PATIENCE_S))
        except RuntimeError:
            return  # the run has ended in any case

    def _beat(self) -> None:
        beats = 0
        while not self.ended.wait(BEAT_S):
            beats += 1
            try:
                self.pulse.set(str(self.rank), f"{beats} {self.doing}")
                if self.rank == 0 and self.hosts and beats % round(SILENT_S / BEAT_S) == 0:
                    self._listen()
            except RuntimeError:
                return  # the store ended with the process that held it

    def _listen(self) -> None:
        """Log processes without a heartbeat early: a GPU's collective ends the process at its
        timeout.
        """
        beats = [count for count, _ in self._read()]
        silent = []
        for rank in range(1, self.size):
            if self.last_beats and self.last_beats[rank] == beats[rank]:
                silent.append(rank)
        if silent and silent != self.warned:
            log.warning(f"no sign of life of {self.name(silent)} for {SILENT_S:g} s.")
        self.last_beats, self.warned = beats, silent

    def _read(self) -> list[tuple[str, str]]:
        """(number of heartbeats, what it does) of every process."""
        beats = []
        for rank in range(self.size):
            count, _, doing = self.pulse.get(str(rank)).decode().partition(" ")
            beats.append((count, doing))
        return beats


def host_name() -> str:
    """SLURM's name of this node, because several of its nodes may be one machine."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
