"""Stands in for ssvid.pretrain and benchmarks.run in tests of the keeper: `python -m
tests.sweep.fake FOLDER`.

FOLDER/acts.json says from which start of the cell on its `acts` hold, and these what each start
does: fail WORDS, kill, hang, step N (a checkpoint) and a further word, done.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from ssvid.errors import PeerLost, RunError, note_fault


def act(folder: Path, words: list[str]) -> None:
    if words[0] == "step":
        where = folder / f"run_{folder.name}" / "checkpoints"
        where.mkdir(parents=True, exist_ok=True)
        (where / f"step_{int(words[1]):08d}.pt").touch()
        words = words[2:]
    if words[0] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if words[0] == "hang":
        (folder / "hangs").touch()
        time.sleep(600)
    if words[0] == "fail":
        raise ValueError(" ".join(words[1:]))
    if words[0] in ("say", "lose"):
        error = RunError if words[0] == "say" else PeerLost
        fault = error(" ".join(words[1:]))
        print(f"error: {fault}", file=sys.stderr)
        note_fault(fault)
        sys.exit(fault.exit_code)
    if words[0] == "leave":
        sys.exit(75)
    (folder / f"run_{folder.name}").mkdir(exist_ok=True)
    line = json.dumps({"step": 9, "loss": 0.5, "cpu_s": 1.0, "wall_s": 2.0})
    (folder / f"run_{folder.name}" / "metrics.jsonl").write_text(line + "\n")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    script = json.loads((folder / "acts.json").read_text())
    starts = (folder / "attempts.jsonl").read_text().count('"event": "start"')
    words = script["acts"][starts - script["base"] - 1]
    act(folder, (words if isinstance(words, str) else words[int(os.environ["RANK"])]).split())
