"""Our `xclip_b32` against Hugging Face's X-CLIP on the same weights: pairs of functions to compare.

Clips of 8 x 224 x 224 in float32, and 400 classes. The text side is frozen on both sides, so the
features of the class names are computed once, and no time is measured of it. The floor beside the
ratio is what the matrix products and the attention of our side cost alone.
"""

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.profiling.speed.pairs import Case, measure_in_turn
from benchmarks.profiling.speed.peaks import print_peak, report_pair
from ssvid import create_encoder
from ssvid.encoders.xclip import XClip
from ssvid.engine import optim
from ssvid.engine.features import cpu_seconds
from ssvid.errors import UserError
from ssvid.nn.prompts import VideoPrompts
from ssvid.weights.clip import LAYOUTS

CLASSES, FRAMES, SIZE = 400, 8, 224
HUGGING_FACE = next(layout for layout in LAYOUTS if layout.name == "xclip-huggingface")
PASS, STEP = "pass", "step"  # one clip in inference; a training step of two clips
ROUNDS, FLOOR_ROUNDS = {PASS: 15, STEP: 7}, 5
# Operators that the floor keeps: parts of their names.
PRODUCTS = ("mm.", "linear", "convolution", "attention")


class Ours(nn.Module):
    """The video side and the prompts, as a clip and text features use them."""

    def __init__(self, encoder: XClip, prompts: VideoPrompts) -> None:
        super().__init__()
        self.encoder, self.prompts = encoder, prompts
        self.scale = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, clip: Tensor, text: Tensor) -> Tensor:
        """Logits B K of clips B C T H W and text features K D."""
        features = self.encoder(clip, layers=(self.encoder.depth,))
        context = self.prompts.summarise(features.layers[0], clip.shape[2])
        changed = self.prompts(text.expand(len(clip), -1, -1), context)
        video, sentences = F.normalize(features.pooled, dim=-1), F.normalize(changed, dim=-1)
        return self.scale.exp() * torch.einsum("bd,bkd->bk", video, sentences)


class CachedText(nn.Module):
    """Stands for Hugging Face's text side and gives features that are computed already."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("features", features)

    def forward(self, **inputs: Any) -> tuple[None, Tensor]:
        return None, cast(Tensor, self.features)


class Side(NamedTuple):
    net: nn.Module
    run: Callable[[Tensor], Tensor]  # clips B T C H W -> logits B K


def make_theirs(text: Tensor, **sizes: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """Hugging Face's model with random weights, and all of them. `sizes`: of the picture side."""
    try:
        from transformers import XCLIPConfig, XCLIPModel
    except ImportError as error:
        raise UserError("The case xclip needs transformers: pip install -e '.[text]'.") from error
    dim = text.shape[1]
    joiner = {"mit_hidden_size": dim, "mit_intermediate_size": 4 * dim}
    vision = {"patch_size": 32, "image_size": SIZE, "num_frames": FRAMES, **sizes, **joiner}
    vision |= {"mit_num_hidden_layers": 1, "mit_num_attention_heads": dim // 64}
    config = XCLIPConfig(
        text_config={"hidden_act": "quick_gelu"},
        vision_config={"hidden_act": "quick_gelu", **vision},
        projection_dim=dim,
        prompt_num_attention_heads=dim // 64,
    )
    torch.manual_seed(0)
    net: Any = XCLIPModel(config)  # its modules are replaced by those of another type
    state = dict(net.state_dict())
    net.text_model, net.text_projection = CachedText(text), nn.Identity()
    net.logit_scale.requires_grad_(False)
    return net, state


def make_ours(state: dict[str, Tensor]) -> nn.Module:
    """Our modules with the weights of Hugging Face's model."""
    ours = HUGGING_FACE.to_ours(state)
    form = HUGGING_FACE.describe(ours)
    encoder = cast(XClip, create_encoder(str(form.encoder), **form.kwargs))
    net = Ours(encoder, VideoPrompts(encoder.image.width, encoder.dim))
    net.load_state_dict({key: x for key, x in ours.items() if not key.startswith("tower.")})
    return net


def make_text(dim: int = 512, classes: int = CLASSES) -> Tensor:
    return torch.randn(classes, dim, generator=torch.Generator().manual_seed(1))


def make_sides(text: Tensor, **sizes: int) -> tuple[Side, Side]:
    """Ours and theirs."""
    theirs, state = make_theirs(text, **sizes)
    ours = make_ours(state)
    return (
        Side(ours, lambda frames: ours(frames.transpose(1, 2), text)),
        Side(theirs, lambda frames: theirs(pixel_values=frames).logits_per_video),
    )


def make_task(side: Side, task: str) -> Callable[[], Any]:
    """The function that is measured: a pass, or a step with its optimiser."""
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(1 if task == PASS else 2, FRAMES, 3, SIZE, SIZE, generator=generator)
    side.net.train(task == STEP)
    if task == PASS:
        return torch.inference_mode()(lambda: side.run(clips))
    optimizer = optim.make("adamw", side.net, 0.001, (0.9, 0.98), {})
    optim.set_rates(optimizer, 8e-6, freeze=False)
    labels = torch.tensor([3, 7])

    def step() -> None:
        F.cross_entropy(side.run(clips), labels, label_smoothing=0.1).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


class Recorder(TorchDispatchMode):
    """Remembers the matrix products and the attention that run inside it, with their inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], Any]] = []

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if any(part in str(operator) for part in PRODUCTS):
            self.calls.append(lambda: operator(*args, **(kwargs or {})))
        return operator(*args, **(kwargs or {}))

    def run(self) -> None:
        with torch.no_grad():
            for call in self.calls:
                call()


def make_case(task: str) -> Case:
    ours, theirs = make_sides(make_text())
    functions = make_task(ours, task), make_task(theirs, task)

    def report() -> dict[str, Any]:
        """The floor, the spread of the ratio and both peaks of memory."""
        recorder = Recorder()
        with recorder:
            functions[0]()
        costs = measure_in_turn((recorder.run, functions[1]), cpu_seconds, FLOOR_ROUNDS)
        floor = statistics.median(a / b for a, b in costs)
        recorder.calls.clear()
        module = "benchmarks.profiling.speed.xclip"
        both = report_pair(functions, ROUNDS[task], module, [task])
        return {"floor_ratio": round(floor, 4), **both}

    unit = "CPU-seconds of a " + ("pass" if task == PASS else "training step with AdamW")
    return Case(*functions, unit, extras=report, pairs=ROUNDS[task])


def xclip() -> Case:
    return make_case(PASS)


def xclip_step() -> Case:
    return make_case(STEP)


def prepare_side(side: str, task: str) -> Callable[[], Any]:
    text = make_text()
    theirs, state = make_theirs(text)
    if side == "ours":
        net = make_ours(state)
        chosen = Side(net, lambda frames: net(frames.transpose(1, 2), text))
    else:
        chosen = Side(theirs, lambda frames: theirs(pixel_values=frames).logits_per_video)
    return make_task(chosen, task)


if __name__ == "__main__":
    print_peak(prepare_side, runs=2)
