"""a store all processes share -> who is still alive: a pulse of each, so that one which is gone can be named."""

import threading
import time
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore

BEAT_S = 1.0
PATIENCE_S = 4.0  # without a beat: a process busy in one long operation still beats, its pulse has its own thread


class Peers:
    def __init__(self, store: Store, rank: int, size: int) -> None:
        # A connection of its own: torch's waits on its one, and a lock with it, for as long as a collective may take.
        base = store.clone() if isinstance(store, TCPStore) else store
        self.store, self.rank, self.size = PrefixStore("pulse", base), rank, size
        base.set_timeout(timedelta(seconds=PATIENCE_S))
        self.store.set(str(rank), "0")
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        beats = 0
        while True:
            time.sleep(BEAT_S)
            beats += 1
            try:
                self.store.set(str(self.rank), str(beats))
            except RuntimeError:
                return  # the store went with the process that held it

    def gone(self) -> list[int]:
        """Ranks whose pulse stands still. The first where the store itself is silent, as it holds it."""
        try:
            before = self._read()
            time.sleep(PATIENCE_S)
            after = self._read()
        except RuntimeError:
            return [0] if self.rank else []
        return [rank for rank in range(self.size) if rank != self.rank and before[rank] == after[rank]]

    def _read(self) -> list[bytes]:
        return [self.store.get(str(rank)) for rank in range(self.size)]
