"""Small videos and runs for tests."""

import functools
import inspect
import json
import math
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import av
import numpy as np
import pytest

from ssvid.cli import parse
from ssvid.pretrain import pretrain
from tests import warm

ROOT = Path(__file__).parents[1]
TINY = [
    "--encoder.dim",
    "24",
    "--encoder.depth",
    "2",
    "--encoder.heads",
    "2",
    "--encoder.patch",
    "8",
]
TINY += ["--encoder.frames", "4", "--encoder.size", "16", "--encoder.stride", "1"]
SMALL_MAE = [
    "--objective.dec_dim",
    "16",
    "--objective.dec_depth",
    "1",
    "--objective.dec_heads",
    "2",
]


def write_video(path: Path, frames: np.ndarray, fps: int = 10) -> None:
    """T H W 3 uint8 -> h264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=fps, width=frames.shape[2], height=frames.shape[1]
        )
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def squares(seed: int, frames: int = 8, size: int = 32) -> np.ndarray:
    """A bright square that moves over noise."""
    rng = np.random.default_rng(seed)
    clip = np.repeat(rng.integers(0, 120, (1, size, size, 3), dtype=np.uint8), frames, axis=0)
    y, x = rng.integers(0, size // 2, 2)
    for t in range(frames):
        clip[t, y : y + 8, (x + t) % (size - 8) : (x + t) % (size - 8) + 8] = 250
    return clip


def pretrain_argv(videos: Path, out: Path, *more: str) -> list[str]:
    """The smallest run of `mae`. Later flags win."""
    argv = [
        "--objective",
        "mae",
        *SMALL_MAE,
        "--encoder",
        "vit",
        *TINY,
        "--data",
        "folder",
        "--data.root",
        str(videos),
    ]
    argv += [
        "--out",
        str(out),
        "--steps",
        "6",
        "--batch_size",
        "4",
        "--lr",
        "0.01",
        "--lr_batch",
        "4",
    ]
    return [
        *argv,
        "--workers",
        "0",
        "--threads",
        "1",
        "--log_every",
        "1",
        "--checkpoint_every",
        "3",
        *more,
    ]


def run_pretrain(videos: Path, out: Path, *more: str) -> dict[str, Any]:
    """In this process: faults are exceptions."""
    return pretrain(**parse(pretrain, pretrain_argv(videos, out, *more)))


def command(
    module: str, *argv: str, limit: int | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """As a user runs it (tests/warm.py). `limit`: the largest file it may write, in bytes."""
    return warm.run("-m", module, *argv, limit=limit, **env)


def sentence(result: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The one line a refused command ends with, after checking that it is one."""
    assert result.returncode == code, result.stderr[-2000:]
    assert "Traceback" not in result.stderr, result.stderr[-2000:]
    last = [line for line in result.stderr.splitlines() if line.strip()][-1]
    assert last.startswith("error: "), result.stderr[-2000:]
    return last


def facts(*words: str) -> str:
    """For pytest.raises(match=): the message names each of these, in any order, in whatever
    sentence.
    """
    return "(?s)" + "".join(rf"(?=.*(?<![\w-]){re.escape(word)}(?!\w))" for word in words)


def tells(message: str, *words: str) -> bool:
    return bool(re.match(facts(*words), message))


def for_each(
    names: str, cases: Iterable[Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As pytest.mark.parametrize, in one test.

    Every case runs before the test fails, and the failure lists each case that failed.
    A case has a `tmp_path` and a `monkeypatch` of its own; all other fixtures are shared.
    """
    words = [name.strip() for name in names.split(",")]

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(test)
        strangers = [word for word in words if word not in signature.parameters]
        assert not strangers, f"{test.__name__} has no parameter {', '.join(strangers)}"

        def run(**fixtures: Any) -> None:
            failures: list[tuple[Any, BaseException]] = []
            for number, case in enumerate(cases):
                values = dict(zip(words, [case] if len(words) == 1 else case, strict=True))
                inputs = dict(fixtures)
                if "tmp_path" in fixtures:
                    inputs["tmp_path"] = fixtures["tmp_path"] / f"case{number}"
                    inputs["tmp_path"].mkdir()
                with pytest.MonkeyPatch.context() as patch:
                    if "monkeypatch" in fixtures:
                        inputs["monkeypatch"] = patch
                    try:
                        test(**inputs, **values)
                    except (Exception, pytest.fail.Exception) as failure:
                        failures.append((case, failure))
            report = "\n".join(
                f"{case!r}: {type(failure).__name__}: {failure}" for case, failure in failures
            )
            if failures:
                raise AssertionError(f"{len(failures)} cases failed\n{report}") from failures[0][1]

        functools.update_wrapper(run, test)
        del run.__wrapped__  # pytest would ask it for its fixtures
        fixtures = [value for name, value in signature.parameters.items() if name not in words]
        run.__signature__ = signature.replace(parameters=fixtures)  # type: ignore[attr-defined]
        return run

    return decorate


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def find_wilson(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion that was observed in n trials."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
