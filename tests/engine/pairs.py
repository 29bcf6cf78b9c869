"""One step in float64 as one process and as two: each file that compares them brings its own step."""

from collections.abc import Callable
from pathlib import Path

import torch

from ssvid.engine.distributed import join
from tests.warm import run_ranks

Found = dict[str, torch.Tensor]


def same_as_two(one: Found, file: Path, module: str, *argv: str) -> None:
    """`module`, started as two processes, leaves in `file` what one found: gradients to 1e-6 of the largest of them."""
    for rank in run_ranks("-m", module, *argv, str(file)):
        assert rank.returncode == 0, rank.stderr[-2000:]
    same_numbers(one, torch.load(file, weights_only=True))


def same_numbers(one: Found, two: Found) -> None:
    assert one.keys() == two.keys()
    largest = max(float(v.abs().max()) for k, v in one.items() if k.startswith("grad/"))
    for key, value in one.items():
        scale = largest if key.startswith("grad/") else float(value.abs().max())
        assert float((two[key] - value).abs().max()) <= 1e-6 * max(scale, 1e-12), key


def leave(step: Callable[..., Found], argv: list[str]) -> None:
    """What each of these processes runs: the step, and the first one writes what it found."""
    torch.set_num_threads(1)
    found = step(*argv[:-1])
    if join("cpu").first:
        torch.save(found, Path(argv[-1]))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
