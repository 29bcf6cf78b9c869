"""Our `videoprism_b` against Hugging Face's class on the same weights: a pass over one clip.

16 frames of 288 pixels in float32. Theirs has eager attention, because it supports no other on a
CPU.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.profiling.speed.pairs import Case
from benchmarks.profiling.speed.peaks import print_peak, report_pair
from ssvid import create_encoder
from ssvid.errors import UserError
from ssvid.weights.published import select_under
from ssvid.weights.videoprism import LAYOUTS
from ssvid.weights.videoprism_sizes import split_biases

HUGGING_FACE = next(layout for layout in LAYOUTS if layout.name == "videoprism-huggingface")
ROUNDS = 5


def make_theirs(**sizes: Any) -> nn.Module:
    """Hugging Face's encoder with random weights. `sizes`: arguments of its configuration."""
    try:
        from transformers import VideoPrismVisionConfig, VideoPrismVisionModel
    except ImportError as error:
        raise UserError(
            "The case videoprism needs transformers: pip install -e '.[text]'."
        ) from error
    torch.manual_seed(0)
    net: nn.Module = VideoPrismVisionModel(VideoPrismVisionConfig(**sizes))
    return net.eval()


def make_ours(theirs: Any) -> nn.Module:
    """Our encoder with the weights of Hugging Face's."""
    heads = theirs.config.num_attention_heads  # which no tensor shows
    ours = split_biases(HUGGING_FACE.to_ours(dict(theirs.state_dict())), heads)
    form = HUGGING_FACE.describe(ours)
    net = create_encoder(str(form.encoder), **{**form.kwargs, "heads": heads})
    net.load_state_dict(select_under(ours, "encoder."))
    return net.eval()


def make_pass(net: nn.Module, clip: Tensor, *, is_ours: bool) -> Callable[[], Tensor]:
    """The tokens of a clip B C T H W."""
    frames = clip.transpose(1, 2)
    if is_ours:
        return torch.inference_mode()(lambda: net(clip).tokens)
    return torch.inference_mode()(lambda: net(pixel_values_videos=frames).last_hidden_state)


def make_clip(frames: int = 16, size: int = 288) -> Tensor:
    return torch.rand(1, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


def videoprism() -> Case:
    theirs = make_theirs()
    ours, clip = make_ours(theirs), make_clip()
    functions = make_pass(ours, clip, is_ours=True), make_pass(theirs, clip, is_ours=False)

    def report() -> Any:
        return report_pair(functions, ROUNDS, "benchmarks.profiling.speed.videoprism")

    return Case(*functions, "CPU-seconds of a pass", extras=report, pairs=ROUNDS)


def prepare_side(side: str) -> Callable[[], Tensor]:
    net = make_theirs()
    if side == "ours":
        net = make_ours(net)
    return make_pass(net, make_clip(), is_ours=side == "ours")


if __name__ == "__main__":
    print_peak(prepare_side, runs=1)
