"""The contract of every registered objective."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from ssvid import create_encoder, registry
from ssvid.errors import UserError
from ssvid.objective import Objective
from ssvid.shapes import Bag, Batch, Caption, Question, Questions, Window
from tests.languages import small_nets

LOSSES = {"moco": {"queue": 8}, "dino": {"prototypes": 12}, "swav": {"prototypes": 6}}
LOSSES |= {name: {} for name in ("ntxent", "dcl", "byol", "simsiam", "barlow", "vicreg")}
VARIANTS = {  # further forms of an objective: its name, and what is changed of it
    f"two_view {loss}": ("two_view", {"loss": loss, "dim": 8, "hidden": 16, **more})
    for loss, more in LOSSES.items()
}
XCLIP = registry.objectives["xclip"].tiny_kwargs
VARIANTS |= {
    "xclip names": ("xclip", {**XCLIP, "tower": "names", "train": "video", "prompts": "name"}),
    "xclip template": ("xclip", {**XCLIP, "train": "text", "prompts": "template"}),
}
DISTILLATION = registry.objectives["masked_distillation"].tiny_kwargs
VARIANTS |= {
    "litevl_qa pooled": (
        "litevl_qa",
        {
            "questions": 2,
            "options": {"width": 24, "layers": 1, "heads": 2, "length": 8, "dropout": 0.0},
        },
    ),
    "masked_distillation local": (
        "masked_distillation",
        {**DISTILLATION, "global_loss": False, "shuffle": False, "mask_token": "encoder"},
    ),
    "masked_distillation global": (
        "masked_distillation",
        {**DISTILLATION, "local": False, "mask": "tube", "target_norm": True},
    ),
}


CLASSES = ("going left", "going right", "growing")


def build(name: str, seed: int = 0) -> Objective:
    objective = build_bare(name, seed)
    torch.manual_seed(seed)
    objective.set_classes(CLASSES)
    return objective


def build_bare(name: str, seed: int) -> Objective:
    """On the first encoder that it takes; on none, where it learns from features."""
    name, more = VARIANTS.get(name, (name, {}))
    entry = registry.objectives[name]
    if entry.reads_features:
        torch.manual_seed(seed)
        return entry(None, **entry.tiny_kwargs)
    if entry.brings_encoder:
        torch.manual_seed(seed)
        return entry(None, **entry.tiny_kwargs, **small_nets())
    for encoder_name in ("vit", "s3d"):
        torch.manual_seed(seed)
        with torch.device("meta"):
            tiny = create_encoder(encoder_name).tiny_kwargs
        try:
            return entry(create_encoder(encoder_name, **tiny), **(more or entry.tiny_kwargs))
        except UserError:
            continue
    raise AssertionError(f"{name} takes no encoder")


def batch_for(objective: Objective, clips: int = 2, seed: int = 0) -> Batch:
    draws, views = torch.Generator().manual_seed(7), objective.views
    pixels: dict[str, Any] = {}
    if views.clips:
        shape = (
            clips,
            len(views.clips),
            3,
            views.clips[0].frames,
            views.clips[0].size,
            views.clips[0].size,
        )
        pixels["clips"] = torch.randn(shape, generator=draws)
    if isinstance(views.text, Bag | Caption):
        pixels["sentences"] = [
            [f"red thing {i} {k}" for k in range(views.text.sentences)] for i in range(clips)
        ]
    if isinstance(views.text, Questions):
        pixels["questions"] = [list_questions(i, views.text.questions) for i in range(clips)]
    if isinstance(views.text, Window):
        pixels |= window_for(objective, views.text.seconds, clips, draws)
    return {
        **pixels,
        "index": torch.arange(clips),
        "epoch": torch.zeros(clips, dtype=torch.int64),
        "label": torch.arange(clips) % len(CLASSES),
        "video_id": [str(i) for i in range(clips)],
        "seed": seed,
    }


def list_questions(clip: int, count: int) -> list[Question]:
    """The last clips have an answer more."""
    questions = []
    for number in range(count):
        answers = (("red", 1.0), ("a blue one", 0.5))[: 1 + clip % 2]
        questions.append(Question(f"which colour has thing {clip} {number}", answers))
    return questions


def window_for(
    objective: Objective, seconds: int, clips: int, draws: torch.Generator
) -> dict[str, Any]:
    """Of clip i one sentence less than of clip i + 1, back to back from the first second on."""
    said = [[f"sentence {k} of window {i}" for k in range(2 + i)] for i in range(clips)]
    K = len(said[-1])
    each = seconds // (K + 1)
    own = torch.tensor([len(one) for one in said])
    at = torch.minimum(torch.arange(K), own[:, None] - 1) * each  # B K
    spans = torch.stack([at, at + each], dim=-1).float()
    return {
        "features": torch.randn(clips, seconds, objective.tiny_kwargs["features"], generator=draws),
        "video_padding_mask": torch.arange(seconds).expand(clips, seconds) >= seconds - 1,
        "sentences": said,
        "spans_s": spans,
        "span_fractions": (spans + seconds) / (3 * seconds),  # in the middle third of a video
        "text_padding_mask": torch.arange(K) >= own[:, None],
    }


@pytest.fixture(params=[*registry.objectives.names(), *VARIANTS])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def objective(name: str) -> Objective:
    return build(name)


def test_loss_is_a_finite_scalar_with_named_parts(objective: Objective):
    loss = objective(batch_for(objective))
    assert loss.total.shape == () and loss.total.isfinite() and loss.parts
    assert all(part.shape == () and not part.requires_grad for part in loss.parts.values())


def test_every_trainable_parameter_gets_gradient_and_no_other(objective: Objective):
    objective(batch_for(objective)).total.backward()
    lacking = [
        n for n, p in objective.named_parameters() if p.requires_grad != (p.grad is not None)
    ]
    assert lacking == []
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)


def test_the_same_seed_gives_the_same_loss(objective: Objective):
    first = objective(batch_for(objective)).total
    assert torch.equal(first, objective(batch_for(objective)).total), (
        "forward changed the objective's state"
    )


def test_a_flat_clip_has_finite_gradients(objective: Objective):
    batch = batch_for(objective)
    seen = "features" if objective.reads_features else "clips"
    batch[seen] = torch.zeros_like(batch[seen])
    objective(batch).total.backward()
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)


def step(objective: Objective, optimizer: torch.optim.Optimizer, batch: Batch) -> torch.Tensor:
    loss = objective(batch).total
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    objective.after_step(0.5)
    return loss.detach()


def test_saved_and_loaded_it_goes_on_alike(name: str, objective: Objective):
    """Queues, centres and teachers are in the state dict."""
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    step(objective, optimizer, batch_for(objective))
    twin = build(name, seed=5)
    twin.load_state_dict(copy.deepcopy(objective.state_dict()))
    twin_optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-3)
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(2):
        batch = batch_for(objective)
        assert torch.equal(step(objective, optimizer, batch), step(twin, twin_optimizer, batch))


@pytest.mark.parametrize("name", registry.objectives.names())
def test_it_overfits_two_clips(objective: Objective):
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    batch = batch_for(objective)
    queued = {name: value.clone() for name, value in objective.named_buffers() if "queue." in name}
    losses = [float(step(objective, optimizer, batch))]
    while len(losses) < 150 and max(losses[-3:]) >= 0.5 * losses[0]:
        losses.append(float(step(objective, optimizer, batch)))
        for name, value in objective.named_buffers():
            if name in queued:  # else these two clips would soon be their own negatives
                value.copy_(queued[name])
    assert max(losses[-3:]) < 0.5 * losses[0]


def test_pictures_are_pictures(objective: Objective):
    for picture in objective.visualize(batch_for(objective)).values():
        assert picture.dtype == torch.uint8 and picture.ndim == 3 and picture.shape[0] == 3


def test_it_sees_the_stream_of_its_encoder(objective: Objective):
    if objective.reads_features:
        pytest.skip("it has no encoder")
    objective.encoder.spec = replace(objective.encoder.spec, modality="flow")
    assert objective.views.clips[0].modality == "flow"


def test_what_it_exports_are_its_encoders(objective: Objective):
    for encoder in objective.exported_encoders().values():
        assert encoder in list(objective.modules())
