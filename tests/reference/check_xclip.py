"""X-CLIP, stage by stage: messages, joiner, prompts, text side, gradients, both layouts."""

import json
import math
import zlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ssvid import create_encoder
from ssvid.encoder import Encoder
from ssvid.nn.prompts import VideoPrompts
from ssvid.text import create_tower
from ssvid.text.clip import ClipText
from ssvid.weights.clip import LAYOUTS, describe_text
from ssvid.weights.layout import Layout, count_blocks
from tests.reference.cases import Case, assert_close

Arrays = dict[str, Tensor]
OFFICIAL, HUGGING_FACE = LAYOUTS[:2]
UNCHECKED = {
    "attention_mask": "an input of Hugging Face's text side, which ours does not need",
    "param_sums": "they check the rule of the weights, as every array does",
}


def recognises(case: Case) -> bool:
    """A case with arrays, their Hugging Face twin, or a table of keys and shapes."""
    if case.path.suffix == ".json" and {"prompt_text_in", "mit_in"} <= case.arrays.keys():
        return True
    for content in map(read, list_files(case)):
        if "official" in content or "prompts_visual_projection" in content.get("keys", {}):
            return True
    return False


def list_files(case: Case) -> list[Any]:
    return sorted(case.path.glob("*.json")) if case.path.is_dir() else [case.path]


def read(file: Any) -> dict[str, Any]:
    content = json.loads(file.read_text())
    return content if isinstance(content, dict) else {}


def draw(seed: int, key: str, shape: list[int]) -> Tensor:
    """The README's rule: a tensor from the seed and its name."""
    draws = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32).standard_normal(shape)
    if len(shape) >= 2:
        scaled = draws / np.sqrt(np.prod(shape[1:]))
    elif len(shape) == 1 and key.endswith(".weight"):
        scaled = 1 + 0.1 * draws
    else:
        scaled = 0.1 * draws
    return torch.from_numpy(np.asarray(scaled, dtype=np.float32))


class Parts(nn.Module):
    """The modules that a file holds, under the names of our objective."""

    def __init__(self, state: Arrays, layout: Layout) -> None:
        super().__init__()
        net = layout.describe(state)
        self.encoder: Encoder = create_encoder(str(net.encoder), **net.kwargs)
        self.tower = create_tower("clip_text", letters=True, **describe_text(state))
        assert isinstance(self.tower, ClipText)
        self.tower.table = nn.Embedding(*state["tower.table.weight"].shape)
        width = state["prompts.norm_visual.weight"].shape[0]
        layers = count_blocks(state, "prompts.blocks.")
        self.prompts = VideoPrompts(width, self.encoder.dim, layers=layers)
        self.scale = nn.Parameter(torch.zeros(()))
        self.load_state_dict(state)

    def run(self, video: Tensor, text: Tensor) -> Arrays:
        """Every stage of B T C H W videos and token ids, in the names of the case."""
        clip = rearrange(video, "B T C H W -> B C T H W")
        B, T = video.shape[:2]
        stages = watch_blocks(self.encoder)
        features = self.encoder(clip, layers=(self.encoder.depth,))
        (raw,) = features.layers
        frames = stages.pop("mit_in")
        context = self.prompts.summarise(raw, T)
        text_features = self.tower.embed(text)
        sentences = text_features.expand(B, -1, -1)
        changed = self.prompts(sentences, context)
        embeds = F.normalize(features.pooled, dim=-1), F.normalize(changed, dim=-1)
        return {
            **stages,
            "frame_cls": rearrange(frames, "B T D -> (B T) D"),
            "patch_tokens": rearrange(raw, "B (T P) D -> (B T) P D", T=T),
            "mit_in": frames,
            "mit_out": features.pooled,
            "video_features": features.pooled,
            "image_features": self.project_patches(raw, T),
            "text_features": text_features,
            "prompt_text_in": sentences,
            "prompt_visual_in": context,
            "prompt_out": changed - sentences,
            "logits": self.scale.exp() * torch.einsum("bd,bkd->bk", *embeds),
            "video_embeds": embeds[0],
            "text_embeds": embeds[1],
        }

    def project_patches(self, raw: Tensor, frames: int) -> Tensor:
        context = self.prompts.project(self.prompts.norm_visual(raw))
        return rearrange(context, "B (T P) D -> B T P D", T=frames)


def watch_blocks(encoder: Any) -> Arrays:
    """What goes into the first block and out of every block, once the encoder has run."""
    stages: Arrays = {}

    def note(name: str, module: nn.Module, method: str, takes: bool) -> None:
        plain = getattr(module, method)

        def run(x: Tensor, *context: Any) -> Tensor:
            out: Tensor = plain(x, *context)
            stages[name] = x if takes else out
            return out

        setattr(module, method, run)

    for i, block in enumerate(encoder.image.blocks):
        note(f"cct_block{i}_out", block, "feed", takes=False)
    note("cct_block0_in", encoder.image.blocks[0], "attend", takes=True)
    encoder.joiner.register_forward_pre_hook(lambda _, args: stages.update(mit_in=args[0]))
    return stages


def check(case: Case) -> None:
    if case.path.is_dir():
        check_folder(case)
    else:
        check_arrays(case)


def build(case: Case) -> tuple[Parts, Arrays]:
    """The modules of a case in float64, and the published tensors that they were made of."""
    keys = case.meta["keys"]
    published = {key: draw(case.meta["seed"], key, shape) for key, shape in keys.items()}
    for key, total in case.meta["param_sums"].items():
        assert abs(float(published[key].double().sum()) - total) < 1e-4, key
    parts = Parts(OFFICIAL.to_ours(published), OFFICIAL)
    again = OFFICIAL.to_theirs(parts.state_dict())
    assert list(again) == list(published)
    assert all(torch.equal(again[key], x) for key, x in published.items())
    return parts.double(), published


def check_arrays(case: Case) -> None:
    parts, _ = build(case)
    theirs = dict(case.arrays)
    video, text, labels = (theirs.pop(name) for name in ("video", "text", "labels"))
    ours = parts.run(video.double(), text)
    loss = F.cross_entropy(ours["logits"], labels, label_smoothing=0.1)
    ours["loss_ls01"] = loss
    for name, x in theirs.items():
        assert_close(name, ours[name].detach(), x, "xclip")
    loss.backward()
    name_of = {row.ours: row.theirs for row in OFFICIAL.list_rows_of_ours(parts.state_dict())}
    norms = {
        name_of[name]: weight.grad.norm()
        for name, weight in parts.named_parameters()
        if weight.grad is not None
    }
    published = case.meta["grad_l2"]
    assert norms.keys() == published.keys()
    for name, norm in norms.items():
        assert_close(
            name, norm, torch.tensor(published[name], dtype=torch.float64), "xclip_gradient"
        )


def check_folder(case: Case) -> None:
    """Tables of keys and shapes, and what Hugging Face's model gives on the weights of a pair."""
    for file in list_files(case):
        content = read(file)
        if "official" in content:
            check_table(content["official"], OFFICIAL)
            check_table(content["hf_base_patch16"], HUGGING_FACE)
        elif "keys" in content and "seed" not in content:
            check_table(content["keys"], HUGGING_FACE)
            check_twin(file, content["keys"])


def check_table(keys: dict[str, list[int]], layout: Layout) -> None:
    """Every key is read and written back: the same tensors, in the same order."""
    tensors = {}
    for number, (key, shape) in enumerate(keys.items()):  # cheaper to make than random numbers
        entries = torch.arange(math.prod(shape), dtype=torch.float32) + number
        tensors[key] = entries.view(shape)
    ours = layout.to_ours(tensors)
    again = layout.to_theirs(ours)
    assert list(again) == list(tensors)
    assert all(torch.equal(again[key], x) for key, x in tensors.items())


def check_twin(keys_file: Any, keys: dict[str, list[int]]) -> None:
    arrays_file = keys_file.with_name(keys_file.name.replace("_keys.json", ".npz"))
    pair = Case(keys_file.with_name(keys_file.name.replace("_hf_keys.json", ".json")))
    _, published = build(pair)
    written = HUGGING_FACE.to_theirs(OFFICIAL.to_ours(published))
    assert {key: list(x.shape) for key, x in written.items()} == keys
    parts = Parts(HUGGING_FACE.to_ours(written), HUGGING_FACE).double()
    ours = parts.run(pair.arrays["video"].double(), pair.arrays["text"])
    ours["logits_per_video"] = ours["logits"]
    for name, x in np.load(arrays_file).items():
        if name not in UNCHECKED:
            assert_close(name, ours[name].detach(), torch.from_numpy(x), "xclip")
