"""Files -> a hash of their times and frames, and the CPU-seconds of it.

`python tests/data/fingerprints.py FOLDER...` in two trees (PYTHONPATH names the tree) shows in
which files two versions differ, and what reading costs in each. Run the two sides in turn.
"""

import hashlib
import sys
import time
from pathlib import Path

from ssvid.data import decode
from ssvid.errors import DecodeError

FRAMES = 64  # of a file, from its start
NO_VIDEOS = (".md", ".txt", ".json", ".csv", ".mp3")  # beside them


def hash_file(path: Path) -> str:
    """The hash of the times and of the first frames of a video, or why it cannot be read."""
    try:
        times = decode.stamps(path)  # the name in every version
        frames = decode.read(path, times[:FRAMES])
    except DecodeError as error:
        return f"refused: {error.why}"
    digest = hashlib.sha256(times.tobytes() + repr(tuple(frames.shape)).encode())
    digest.update(frames.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def main(folders: list[str]) -> None:
    began = time.process_time()
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and path.suffix not in NO_VIDEOS:
                print(path.name, hash_file(path), flush=True)
    print(f"{time.process_time() - began:.2f} CPU-seconds", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
