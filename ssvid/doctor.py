"""this machine -> what works here and what to do about the rest: `python -m ssvid.doctor`."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

SLURM_TIMEOUT_S = 30.0


class Finding(NamedTuple):
    what: str
    works: bool | None  # None: optional and absent
    text: str


def doctor(
    out: str = ".",  # the folder whose disk is looked at
) -> dict[str, object]:
    """Look at Python, torch, the GPU, the decoders, the disk under `out` and SLURM."""
    findings = [Finding(*finding) for check in CHECKS for finding in check(Path(out))]
    for finding in findings:
        mark = {True: "ok  ", False: "BAD ", None: "    "}[finding.works]
        print(f"{mark}{finding.what}: {finding.text}", file=sys.stderr)
    return {
        "ok": all(f.works is not False for f in findings),
        "findings": [f._asdict() for f in findings],
    }


Found = Iterator[tuple[str, bool | None, str]]


def _python(out: Path) -> Found:
    good = sys.version_info >= (3, 11)
    yield (
        "python",
        good,
        platform.python_version() + ("" if good else "; Python 3.11 or newer is needed"),
    )
    yield (
        "cpu",
        True,
        f"{os.cpu_count()} cores, {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
    )


def _torch(out: Path) -> Found:
    import torch

    yield "torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads"
    try:
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        yield "torchvision", True, torchvision.__version__
    except (ImportError, RuntimeError) as error:
        yield (
            "torchvision",
            False,
            f"{error}; install torch and torchvision together from the same index",
        )
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        yield (
            "gpu",
            True,
            f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB, bf16 used",
        )
    else:
        yield "gpu", None, "none seen by torch: runs use the CPU in fp32"


def _decoders(out: Path) -> Found:
    import av
    import numpy as np

    from ssvid.data.decode import read

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=8, width=32, height=32, pix_fmt="yuv420p")
            for _ in range(4):
                frame = av.VideoFrame.from_ndarray(
                    np.full((32, 32, 3), 128, np.uint8), format="rgb24"
                )
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        frames = read(path, [0.0, 0.25])
    yield "pyav", tuple(frames.shape) == (2, 3, 32, 32), f"{av.__version__}: wrote and read a file"
    yield _optional(
        "torchcodec", "a second decoder: pip install -e '.[torchcodec]' and a system ffmpeg"
    )
    yield "ffmpeg", None, shutil.which("ffmpeg") or "not on the path; only torchcodec needs it"


def _packages(out: Path) -> Found:
    for name in ("pytorchvideo", "lightly", "einops", "submitit", "tensorboard", "safetensors"):
        there = importlib.util.find_spec(name) is not None
        yield (
            name,
            there,
            importlib.metadata.version(name)
            if there
            else "missing: run make demo or pip install -e .",
        )
    yield _optional("transformers", "text towers: pip install -e '.[text]'")


def _optional(name: str, why: str) -> tuple[str, bool | None, str]:
    there = importlib.util.find_spec(name) is not None
    return (
        name,
        True if there else None,
        importlib.metadata.version(name) if there else f"absent; {why}",
    )


def _disk(out: Path) -> Found:
    usage = shutil.disk_usage(out if out.exists() else out.resolve().anchor)
    enough = usage.free > 2e9
    yield (
        "disk",
        enough,
        f"{usage.free / 1e9:.0f} GB free under {out}"
        + ("" if enough else "; checkpoints need more"),
    )
    memory = shutil.disk_usage("/dev/shm").free / 1e9 if Path("/dev/shm").exists() else 0
    good = memory > 0.5
    yield (
        "shared memory",
        good,
        f"{memory:.1f} GB" + ("" if good else "; loader processes need it: use --workers 0"),
    )


def _slurm(out: Path) -> Found:
    if shutil.which("sbatch") is None:
        yield "slurm", None, "no sbatch on this machine: sweeps run locally"
        return
    up, answer = _ask("sinfo", "--noheader")
    yield "slurm", up, f"{len(answer.splitlines())} partitions" if up else answer
    works, answer = _ask("sacct", "-n", "-X")
    why = f"{answer}; sweeps do without, but jobs of submitit's own that die are waited for in vain"
    yield "sacct", works or None, "answers" if works else why


def _ask(*command: str) -> tuple[bool, str]:
    """Whether a command of SLURM answers, and its answer or why there is none."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SLURM_TIMEOUT_S)
    except FileNotFoundError:
        return False, f"there is no {command[0]}"
    except subprocess.TimeoutExpired:
        return (
            False,
            f"{command[0]} did not answer within {SLURM_TIMEOUT_S:.0f} s: is the controller up?",
        )
    return answer.returncode == 0, (
        answer.stdout if answer.returncode == 0 else answer.stderr
    ).strip()


CHECKS: tuple[Callable[[Path], Found], ...] = (_python, _torch, _decoders, _packages, _disk, _slurm)


if __name__ == "__main__":
    from ssvid.cli import command

    command(doctor)
