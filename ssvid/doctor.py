"""This machine -> what works on it, and how to mend what does not: `python -m ssvid.doctor`."""

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
    works: bool | None  # None: it is optional and absent
    text: str


def doctor(
    out: str = ".",  # a folder on the disk to check
) -> dict[str, object]:
    """Check Python, torch, the GPU, the decoders, the disk under `out` and SLURM."""
    findings: list[Finding] = []
    for check in CHECKS:
        findings += [Finding(*finding) for finding in check(Path(out))]
    lines = []
    for finding in findings:
        mark = {True: "ok  ", False: "BAD ", None: "    "}[finding.works]
        lines.append(f"{mark}{finding.what}: {finding.text}")
    return {
        "ok": all(f.works is not False for f in findings),
        "findings": [f._asdict() for f in findings],
        "page": "\n".join(lines),  # what people read instead of the JSON
    }


Findings = Iterator[tuple[str, bool | None, str]]


def _check_python(out: Path) -> Findings:
    good = sys.version_info >= (3, 11)
    yield (
        "python",
        good,
        platform.python_version() + ("" if good else "; Python 3.11 or newer is needed"),
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    yield "cpu", True, f"{os.cpu_count()} cores, {memory:.0f} GiB"


def _check_torch(out: Path) -> Findings:
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
        gpus = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
        yield "gpu", True, f"{gpus}, {memory:.0f} GiB, bf16 used"
    else:
        yield "gpu", None, "none seen by torch: runs use the CPU in fp32"


def _check_decoders(out: Path) -> Findings:
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
    yield _check_optional(
        "torchcodec", "a second decoder: pip install torchcodec, and a system ffmpeg"
    )
    yield "ffmpeg", None, shutil.which("ffmpeg") or "not on the path; only torchcodec needs it"


def _check_packages(out: Path) -> Findings:
    for name in ("pytorchvideo", "lightly", "einops", "submitit", "tensorboard", "safetensors"):
        if importlib.util.find_spec(name) is None:
            yield name, False, f"missing: pip install {name}"
        else:
            yield name, True, importlib.metadata.version(name)
    yield _check_optional("transformers", "text towers: pip install transformers sentencepiece")


def _check_optional(name: str, why: str) -> tuple[str, bool | None, str]:
    if importlib.util.find_spec(name) is None:
        return name, None, f"absent; {why}"
    return name, True, importlib.metadata.version(name)


def _check_disk(out: Path) -> Findings:
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


def _check_slurm(out: Path) -> Findings:
    if shutil.which("sbatch") is None:
        yield "slurm", None, "no sbatch on this machine: sweeps run locally"
        return
    up, answer = _run_slurm_command("sinfo", "--noheader")
    yield "slurm", up, f"{len(answer.splitlines())} partitions" if up else answer
    works, answer = _run_slurm_command("sacct", "-n", "-X")
    why = f"{answer}; sweeps work without it, but submitit never notices jobs that died"
    yield "sacct", works or None, "answers" if works else why


def _run_slurm_command(*command: str) -> tuple[bool, str]:
    """Whether a command of SLURM answers, and its answer or the reason why there is none."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SLURM_TIMEOUT_S)
    except FileNotFoundError:
        return False, f"there is no {command[0]}"
    except subprocess.TimeoutExpired:
        text = f"{command[0]} did not answer within {SLURM_TIMEOUT_S:.0f} s"
        return False, f"{text}: is the controller up?"
    if answer.returncode:
        return False, answer.stderr.strip()
    return True, answer.stdout.strip()


CHECKS: tuple[Callable[[Path], Findings], ...] = (
    _check_python,
    _check_torch,
    _check_decoders,
    _check_packages,
    _check_disk,
    _check_slurm,
)


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("doctor")
