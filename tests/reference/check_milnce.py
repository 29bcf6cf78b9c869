"""MIL-NCE: S3D-G of both stems, its text tower and loss, stage by stage, in eval and train mode,
with gradients.
"""

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.tasks.text_retrieval import compute_recalls, rank_as_published
from objectives.mil_nce import MilNCE, mil_nce
from ssvid import create_encoder
from ssvid.text import create_tower
from ssvid.text.words import MILNCE
from ssvid.weights.milnce import LAYOUTS
from tests.reference.cases import Case, assert_close
from tests.reference.rule import tagged

Arrays = dict[str, Tensor]
(LAYOUT,) = LAYOUTS
LAYERS = {
    "conv1": "stem.0",
    "conv_2b": "stem.2",
    "conv_2c": "stem.3.0",
    "gating": "stem.3",
    "maxpool_2a": "stem.1",
}
LAYERS |= {"maxpool_3a": "stem.4", "maxpool_4a": "pool4", "maxpool_5a": "pool5"}
BOUNDS = {  # of the embeddings and the gradients in train mode
    "plain": ("s3d_milnce", "milnce_gradient"),
    "s2d": ("s3d_milnce_batch", "milnce_gradient_batch"),
}
RECALLS = {"R1": "recall1", "R5": "recall5", "R10": "recall10", "MR": "median_rank"}


def stored(case: Case, name: str) -> dict[str, Any]:
    file = case.path / f"{name}.npz"
    return dict(np.load(file)) if case.path.is_dir() and file.exists() else {}


def recognises(case: Case) -> bool:
    return {"video_uint8", "text_tokens", "loss_text_embd"} <= stored(case, "inputs").keys()


def check(case: Case) -> None:
    inputs = {key: torch.from_numpy(x) for key, x in stored(case, "inputs").items()}
    outputs, seen = stored(case, "outputs"), set()
    assert any(case.path.glob("keys_*.json"))
    for file in sorted(case.path.glob("keys_*.json")):
        prefix = file.stem.removeprefix("keys_") + "."
        theirs = {
            key.removeprefix(prefix): x for key, x in outputs.items() if key.startswith(prefix)
        }
        found = net_check(case, json.loads(file.read_text()), inputs, theirs, prefix[:-1])
        assert theirs.keys() == found, f"{prefix} not compared: {sorted(theirs.keys() - found)}"
        seen |= {prefix + key for key in found}
    rest = {key: torch.from_numpy(x) for key, x in outputs.items() if key not in seen}
    found = loss_check(inputs, rest) | retrieval_check(inputs, rest) | words_check(case, rest)
    assert rest.keys() == found, f"not compared: {sorted(rest.keys() - found)}"


def net_check(
    case: Case, keys: dict[str, Any], inputs: Arrays, theirs: dict[str, Any], stem: str
) -> set[str]:
    """Gives the names of what was compared.

    In float64, so that what differs is the published side's own rounding and no CPU gives another
    answer.
    """
    state = {key: tagged(case_tag(case), key, told["shape"]) for key, told in keys.items()}
    objective, tokens = built(state), inputs["text_tokens"]
    clips = objective.encoder.normalise(inputs["video_uint8"])
    published = {key: torch.from_numpy(x) for key, x in theirs.items() if x.dtype.kind != "U"}
    seen = eval_check(copy.deepcopy(objective).double().eval(), clips.double(), tokens, published)
    seen |= train_check(objective.double().train(), clips.double(), tokens, published, BOUNDS[stem])
    frozen = [name for name, p in objective.named_parameters() if not p.requires_grad]
    back = {row.ours: row.theirs for row in LAYOUT.list_rows_of_theirs(keys)}
    assert sorted(back[name] for name in frozen) == sorted(theirs["no_grad_params"].tolist())
    return seen | {"no_grad_params"}


def case_tag(case: Case) -> str:
    return str(json.loads((case.path / "case.json").read_text())["tag"])


def built(state: Arrays) -> MilNCE:
    """The objective that the tensors are of, filled with them; written back they are the same, in
    the same order.
    """
    ours = LAYOUT.to_ours(state)
    told = LAYOUT.describe(ours)
    objective = MilNCE(create_encoder(told.encoder, **told.kwargs), **told.settings)
    objective.load_state_dict(ours)
    again = LAYOUT.to_theirs(objective.state_dict())
    assert list(again) == list(state) and all(
        torch.equal(again[key], x) for key, x in state.items()
    )
    return objective


def embedded(objective: MilNCE, clips: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pooled = objective.encoder(clips).pooled
    return pooled, objective.head(pooled), objective.tower.embed(tokens)


def bags(texts: Tensor, clips: int) -> Tensor:
    return texts.unflatten(0, (clips, -1))


@torch.no_grad()
def eval_check(objective: MilNCE, clips: Tensor, tokens: Tensor, theirs: Arrays) -> set[str]:
    stages: Arrays = {}
    named = {key.split(".")[1] for key in theirs if key.startswith("stage.")}
    for name in named:
        place = LAYERS.get(name) or f"mixed{name[-2]}.{'bcdef'.index(name[-1])}"
        module = objective.encoder.get_submodule(place)
        module.register_forward_hook(lambda _, __, out, name=name: stages.update({name: out}))
    pooled, video, texts = embedded(objective, clips, tokens)
    ours = {"mixed5c_eval": pooled, "video_embd_eval": video, "text_embd": texts}
    for key, value in [*ours.items(), *summaries(stages)]:
        assert_close(key, value, theirs[key], "exact" if key.endswith(".shape") else "s3d_milnce")
        ours[key] = value
    assert_close(
        "loss_eval", mil_nce(video, bags(texts, len(clips))), theirs["loss_eval"], "milnce_loss"
    )
    return ours.keys() | {"loss_eval"}


def summaries(stages: Arrays) -> Iterator[tuple[str, Tensor]]:
    for name, x in stages.items():
        yield f"stage.{name}.shape", torch.tensor(x.shape)
        yield f"stage.{name}.mean_std", torch.stack([x.mean(), x.std()])
        yield f"stage.{name}.first8", x.flatten()[:8]


def train_check(
    objective: MilNCE, clips: Tensor, tokens: Tensor, theirs: Arrays, bounds: tuple[str, str]
) -> set[str]:
    embedding, gradient = bounds
    _, video, texts = embedded(objective, clips, tokens)
    (scaled,) = (key for key in theirs if key.startswith("loss_train_scaled"))
    factor = float(scaled.removeprefix("loss_train_scaled"))
    loss = mil_nce(factor * video, factor * bags(texts, len(clips)))
    loss.backward()
    norms = {name: p.grad.norm() for name, p in objective.named_parameters() if p.grad is not None}
    ours = {"video_embd_train": (video.detach(), embedding), scaled: (loss.detach(), "milnce_loss")}
    ours["grad_norm_total"] = (torch.stack([*norms.values()]).norm(), gradient)
    state = objective.state_dict()
    names = {row.theirs: row.ours for row in LAYOUT.list_rows_of_ours(state)}
    for key in theirs:
        if key.startswith("grad_norm."):
            ours[key] = (norms[names[key.removeprefix("grad_norm.")]], gradient)
        elif key.startswith("bn_running_mean_after_train_step."):
            place = key.removeprefix("bn_running_mean_after_train_step.")
            ours[key] = (state[names[f"{place}.running_mean"]], "s3d_milnce")
    for key, (value, kind) in ours.items():
        assert_close(key, value, theirs[key], kind)
    return set(ours)


def loss_check(inputs: Arrays, theirs: Arrays) -> set[str]:
    video, texts = (inputs[f"loss_{name}_embd"].requires_grad_() for name in ("video", "text"))
    loss = mil_nce(video.double(), bags(texts.double(), len(video)))
    loss.backward()
    ours = {"loss": loss.detach(), "loss_grad_video": video.grad, "loss_grad_text": texts.grad}
    for key, value in ours.items():
        assert value is not None
        assert_close(key, value, theirs[key], "milnce_loss" if key == "loss" else "unit")
    return set(ours)


def retrieval_check(inputs: Arrays, theirs: Arrays) -> set[str]:
    """Their tables are sentences down, clips across, as ours."""
    got = compute_recalls(rank_as_published(inputs["retrieval_sim"]))
    for name, ours in RECALLS.items():
        value = torch.tensor(got[ours], dtype=torch.float64)
        assert_close(name, value, theirs[f"retrieval.{name}"], "unit")
    return {f"retrieval.{name}" for name in RECALLS}


def words_check(case: Case, theirs: Arrays) -> set[str]:
    told = json.loads((case.path / "tokenizer_inputs.json").read_text())
    (key,) = (key for key in theirs if key.startswith("tokenizer_ids_max"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "words.npy"
        np.save(file, np.array(told["vocab_list_in_order"]))
        sizes = {
            "dim": 2,
            "width": 2,
            "hidden": 2,
            "length": int(key.removeprefix("tokenizer_ids_max")),
        }
        tower = create_tower("words", words=str(file), **{**MILNCE, **sizes})
    assert_close(key, tower.tokens(told["sentences"]), theirs[key], "exact")
    return {key}
