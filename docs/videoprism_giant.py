"""videoprism_g, 1.1 billion parameters: what it takes, and one pass and one round trip of a file.

    python docs/videoprism_giant.py memory            a table; a real block of its width is run
    python docs/videoprism_giant.py forward           a clip of 8 x 288 x 288 in bfloat16
    python docs/videoprism_giant.py file FOLDER       13 GiB of memory and 4.5 GB of disk

Memory is counted: weights, gradients and states of the optimiser by their shapes, and what a block
stores for backward by what autograd keeps of a block of that width. The attention matrices are not
stored, so the count is linear in the tokens.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ssvid import create_encoder, load_encoder
from ssvid.engine.features import cpu_seconds
from ssvid.nn.capped import Run
from ssvid.nn.prism import PrismBlock
from ssvid.weights.npz import write_npz
from ssvid.weights.videoprism import LAYOUTS

GIB = 2**30
NAME, FRAMES, PLACES = "videoprism_g", 8, 256
CLIPS = 8  # on a device


def count_stored(run: Callable[[], Tensor], weights: list[Tensor]) -> int:
    """Bytes that autograd keeps of a run, without the weights. A storage counts once."""
    of_weights = {x.untyped_storage().data_ptr() for x in weights}
    stored: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in of_weights:
            stored[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        out = run()
    del out
    return sum(stored.values())


def count_block(width: int, heads: int, hidden: int, dtype: torch.dtype) -> float:
    """Bytes that a block stores for backward, of each token."""
    block = PrismBlock(width, heads, hidden).to(dtype)
    x = torch.randn(2 * 32, width, dtype=dtype, requires_grad=True)
    bytes_stored = count_stored(lambda: block(x, [Run(2, 32)]), list(block.parameters()))
    return bytes_stored / len(x)


def print_memory() -> None:
    with torch.device("meta"):
        net = create_encoder(NAME)
    parameters = sum(x.numel() for x in net.parameters())
    rows = sum(sum(x.shape[:1]) for x in net.parameters())
    of_token = count_block(net.dim, 16, 6144, torch.bfloat16)
    print(f"{parameters:,} parameters; {of_token / 1024:.1f} KiB of a token and block in bfloat16")
    print("| | visible tokens of a clip | weights | gradients | AdamW | activations | sum, GiB |")
    print("|---|---|---|---|---|---|---|")
    tokens = FRAMES * PLACES
    teacher = 2 * parameters  # bfloat16, no gradients
    for stage, visible, extra in (
        ("stage 1, half of the tubes", tokens // 2, 0),
        ("stage 2, 0.35 visible", tokens - round(0.65 * tokens), teacher),
    ):
        activations = CLIPS * visible * net.depth * of_token
        parts = [4 * parameters + extra, 4 * parameters, 8 * parameters, activations]
        cells = " | ".join(f"{part / GIB:.1f}" for part in [*parts, sum(parts)])
        print(f"| {stage} | {visible:,} | {cells} |")
    print(f"{CLIPS} clips on a device; Adafactor has {4 * rows / GIB:.3f} GiB of rows")


def run_forward() -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        net = create_encoder(NAME).bfloat16()
    net = net.to_empty(device="cpu").eval()
    fill(net)
    began, cpu = time.perf_counter(), cpu_seconds()
    with torch.inference_mode():
        tokens = net(torch.rand(1, 3, FRAMES, 288, 288).bfloat16()).tokens
    report = {
        "tokens": list(tokens.shape),
        "finite": bool(torch.isfinite(tokens).all()),
        "std": round(float(tokens.float().std()), 4),
        "cpu_s": round(cpu_seconds() - cpu, 1),
        "wall_s": round(time.perf_counter() - began, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    print(json.dumps(report))


@torch.no_grad()
def fill(net: nn.Module) -> None:
    """Small random weights, without a second copy of the net."""
    for weight in net.parameters():
        weight.normal_(std=0.02)


def run_file(folder: Path) -> None:
    """Write the weights as a published file, read them again, and compare every number."""
    torch.manual_seed(0)
    with torch.device("meta"):
        net = create_encoder(NAME)
    net = net.to_empty(device="cpu")
    fill(net)
    layout = next(one for one in LAYOUTS if one.name == "videoprism")
    ours = {f"encoder.{key}": x for key, x in net.state_dict().items()}
    theirs = {layout.prefix + key: x for key, x in layout.to_theirs(ours).items()}
    file = folder / "giant.npz"
    write_npz(file, theirs)
    del theirs
    again = load_encoder(file).state_dict()
    equal = [torch.equal(again[key], x) for key, x in net.state_dict().items()]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"bytes": file.stat().st_size, "tensors": len(equal), "equal": all(equal)}))
    print(json.dumps({"peak_gib": round(peak, 2)}))
    file.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=("memory", "forward", "file"))
    parser.add_argument("folder", nargs="?", default=".")
    options = parser.parse_args()
    if options.task == "memory":
        print_memory()
    elif options.task == "forward":
        run_forward()
    else:
        run_file(Path(options.folder))


if __name__ == "__main__":
    main()
