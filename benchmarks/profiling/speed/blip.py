"""BLIP: our picture side against Hugging Face's on the same weights, and a step against its plain
order.

A pass takes 8 frames of 224 x 224 in float32 through the encoder of BLIP-base. A step is one of
`litevl_retrieval` on single frames with the base sizes; its plain order is the published one: each
pair of clip and sentence has its own copy of the clip's tokens, own pairs and hard pairs are run
apart, and GELU keeps its input and its output for backward.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.profiling.speed.pairs import Case, measure_in_turn, saved_bytes
from benchmarks.profiling.speed.peaks import print_peak, report_pair
from benchmarks.profiling.speed.xclip import Recorder
from ssvid import create_encoder, registry
from ssvid.engine.features import cpu_seconds
from ssvid.errors import UserError
from ssvid.nn import bert, transformer
from ssvid.nn.bert import Shared
from ssvid.shapes import Batch
from ssvid.text.matching import MatchingSpace
from ssvid.weights.blip import map_picture
from ssvid.weights.layout import CONVERSIONS

ROUNDS, FLOOR_ROUNDS, FRAMES, SIZE = 9, 5, 8, 224
STEP_CLIPS = 4


def make_theirs(size: int = SIZE) -> nn.Module:
    """Hugging Face's picture side with random weights."""
    try:
        from transformers import BlipVisionConfig, BlipVisionModel
    except ImportError as error:
        raise UserError("The case blip needs transformers: pip install -e '.[text]'.") from error
    torch.manual_seed(0)
    config = BlipVisionConfig(image_size=size, layer_norm_eps=1e-6)
    net: nn.Module = BlipVisionModel(config)
    return net.eval()


def make_ours(theirs: nn.Module, size: int = SIZE) -> nn.Module:
    """Our encoder with the weights of Hugging Face's."""
    net = create_encoder("blip_vit_b16", size=size, frames=FRAMES)
    state = dict(theirs.state_dict())
    ours: dict[str, Tensor] = {}
    for row in map_picture("huggingface", "", "", 12):
        ours[row.ours.removeprefix(".")] = CONVERSIONS[row.kind][0](
            state[row.theirs.removeprefix(".")]
        )
    net.load_state_dict(ours)
    return net.eval()


def make_pass(net: nn.Module, frames: Tensor, *, is_ours: bool) -> Callable[[], Tensor]:
    """The tokens of frames T C H W."""
    clips = frames.transpose(0, 1)[None].contiguous()
    if is_ours:
        return torch.inference_mode()(lambda: net(clips).tokens)
    return torch.inference_mode()(lambda: net(pixel_values=frames).last_hidden_state)


def make_frames(size: int = SIZE) -> Tensor:
    return torch.randn(FRAMES, 3, size, size, generator=torch.Generator().manual_seed(0))


def blip() -> Case:
    theirs = make_theirs()
    ours, frames = make_ours(theirs), make_frames()
    functions = make_pass(ours, frames, is_ours=True), make_pass(theirs, frames, is_ours=False)

    def report() -> dict[str, Any]:
        recorder = Recorder()
        with recorder:
            functions[0]()
        costs = measure_in_turn((recorder.run, functions[1]), cpu_seconds, FLOOR_ROUNDS)
        floor = statistics.median(a / b for a, b in costs)
        recorder.calls.clear()
        both = report_pair(functions, ROUNDS, "benchmarks.profiling.speed.blip")
        return {"floor_ratio": round(floor, 4), **both}

    return Case(*functions, "CPU-seconds of a pass", extras=report, pairs=ROUNDS)


class PlainSpace(MatchingSpace):
    """Own pairs and hard pairs apart, each pair with a copy of its clip's tokens."""

    def judge(
        self,
        ids: Tensor,
        guides: Tensor,
        tokens: Tensor,
        clip_of_pair: Tensor | None = None,
        shared: Shared | None = None,
    ) -> Tensor:
        assert clip_of_pair is not None, "training names the clip of each pair"
        logits = []
        for part in (slice(0, len(tokens)), slice(len(tokens), None)):
            copies = tokens[clip_of_pair[part]]
            logits.append(super().judge(ids[part], guides[part], copies))
        return torch.cat(logits)


class PlainGELU:
    """Keeps the input of GELU and its output for backward."""

    @staticmethod
    def apply(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(F.gelu(x), weight, bias)


def make_step(*, plain: bool, **sizes: Any) -> Callable[[], Tensor]:
    """A step of training without its optimiser: forward and backward. Returns the loss.

    `plain`: in the published order. `sizes`: arguments of the encoder.
    """
    torch.manual_seed(0)
    encoder = create_encoder("blip_vit_b16", frames=1, size=SIZE, **sizes)
    objective = registry.objectives["litevl_retrieval"](encoder, queue=64, text_pooling="original")
    objective.train()
    space = objective.joint_space()
    if plain:
        space.__class__ = PlainSpace
        objective.joint_space = lambda: space
    for module in objective.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # both sides see the same numbers
        if isinstance(module, bert.SelfAttention | bert.CrossAttention):
            module.rate = 0.0
    index = torch.arange(STEP_CLIPS)
    batch: Batch = {
        "clips": torch.randn(STEP_CLIPS, 1, 3, 1, SIZE, SIZE),
        "sentences": [[f"a red square moves left {n}"] for n in range(STEP_CLIPS)],
        "index": index,
        "epoch": 0 * index,
        "seed": 0,
    }

    def step() -> Tensor:
        functions = vars(transformer)
        fast = functions["LinearOfGELU"]
        functions["LinearOfGELU"] = PlainGELU if plain else fast
        try:
            loss = objective(batch).total
            loss.backward()
        finally:
            functions["LinearOfGELU"] = fast
        objective.pending_keys.clear()
        objective.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def blip_step() -> Case:
    ours, theirs = make_step(plain=False), make_step(plain=True)
    unit = "CPU-seconds of a step, forward and backward"
    return Case(ours, theirs, unit, memory=saved_bytes, pairs=5)


def prepare_side(side: str) -> Callable[[], Tensor]:
    net = make_theirs()
    if side == "ours":
        net = make_ours(net)
    return make_pass(net, make_frames(), is_ours=side == "ours")


if __name__ == "__main__":
    print_peak(prepare_side, runs=1)
