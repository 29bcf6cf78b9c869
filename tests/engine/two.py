"""Two steps in float64, as one process or as several: run by test_two_processes.py."""

import sys

import torch
from torch.nn.parallel import DistributedDataParallel

from ssvid import create_encoder, registry
from ssvid.engine.classify import Classify
from ssvid.engine.distributed import join
from ssvid.engine.mix import Mix
from ssvid.engine.token_dropping import Turbo
from ssvid.nn.sync_bn import synchronise
from tests.engine.pairs import leave
from tests.languages import small_nets
from tests.objectives.test_contract import CLASSES, VARIANTS, batch_for

SMALL = {"drop_ratio": 0.5, "predict_ratio": 0.25, "dec_dim": 16, "dec_depth": 1, "dec_heads": 2}
BLIP = {"width": 24, "layers": 1, "heads": 2, "length": 10, "dropout": 0.0}
WORDS = {"buckets": 16, "width": 8, "hidden": 16, "length": 6}
DISTILLED = ("masked_distillation local", "masked_distillation global")
FORMS = {  # encoder, what is changed of its tiny form, what is changed of the objective's
    "mae": ("vit", {}, {"mask_ratio": 0.5, "dec_dim": 16, "dec_depth": 1, "dec_heads": 2}),
    "dpc": ("resnet18_2d3d", {"frames": 3}, {"blocks": 4, "predicted": 2, "dropout": 0.0}),
    "memdpc": (
        "resnet18_2d3d",
        {"frames": 3},
        {"blocks": 4, "predicted": 2, "slots": 6, "dropout": 0.0},
    ),
    "infonce": ("resnet18_2d3d", {"frames": 3}, {"dim": 8, "queue": 8}),
    "coclr": (
        "resnet18_2d3d",
        {"frames": 3},
        {"sampler": "random", "dim": 8, "queue": 4, "topk": 2},
    ),
    "partial_mae": (
        "vit",
        {},
        {**SMALL, "task": "classification", "classes": 3, "mask": "block", "repeat": 2},
    ),
    "partial_mae text": (
        "vit",
        {},
        {**SMALL, "task": "video_text", "dim": 8, "options": WORDS, "temperature": 0.5},
    ),
    "tan": (None, {}, {"temperature": 0.5}),
    "mil_nce": (
        "s3dg",
        {"width": 0.125, "frames": 4, "size": 32},
        {"dim": 8, "candidates": 3, "options": WORDS},
    ),
    **{name: ("resnet18_2d3d", {"frames": 3}, flags) for name, (_, flags) in VARIANTS.items()},
    "masked_distillation": (
        "videoprism",
        {"size": 32},
        {"dec_dim": 16, "dec_depth": 1, "dec_heads": 2, "dec_hidden": 32, "pool_heads": 2},
    ),
    **{name: ("videoprism", {"size": 32}, VARIANTS[name][1]) for name in DISTILLED},
    "clip": ("clip_vit", {}, {"tower": "words", "dim": 8, "options": WORDS}),
    "xclip": (
        "xclip",
        {},
        {"tower": "words", "options": WORDS, "train": "both", "mixup": 0.0, "cutmix": 0.0},
    ),
    "video_text": (
        "videoprism",
        {},
        {"tower": "words", "heads": 2, "hidden": 16, "auxiliary": 1, "options": WORDS, "chunk": 1},
    ),
    "litevl_retrieval": ("litevl", {}, {"dim": 8, "queue": 8, "options": BLIP}),
    "litevl_retrieval hidden": (
        "litevl",
        {},
        {"dim": 8, "queue": 8, "options": BLIP, "guide_space": "hidden", "hard": "hardest"},
    ),
    "litevl_qa": ("litevl", {}, {"text_pooling": "original", "options": BLIP}),
    "litevl_qa pooled": ("litevl", {}, {"questions": 2, "options": BLIP}),
    "classify attention": (
        "xclip",
        {},
        {
            "classes": 3,
            "mix": Mix(0.0, 0.0, 0.0, 0.0),
            "head_scale": 50.0,
            "pooler": {"dim": 16, "heads": 2, "hidden": 16},
        },
    ),
    "bridge": (None, {}, small_nets),  # it writes two nets, which no other form should pay for
    "turbo infonce": ("vit", {}, {"dim": 8, "queue": 8}),
    "turbo classify": (
        "vit",
        {},
        {"classes": 3, "mix": Mix(0.0, 0.0, 0.0, 0.0), "head_scale": 50.0, "repeat": 2},
    ),
}


def two_steps(name: str) -> dict[str, torch.Tensor]:
    """Loss and gradients of the first, then the loss of the second: by then queues, teachers and
    centres moved.
    """
    encoder_name, change, changes = FORMS[name]
    # Before the processes meet, because transformers then saves files in the first of them alone.
    kwargs = changes() if callable(changes) else changes
    world = join("cpu", timeout_s=60.0)
    dropping, which = (
        name.startswith("turbo"),
        name.removeprefix("turbo ").split()[0],
    )
    make = Classify if which == "classify" else registry.objectives[which]
    torch.manual_seed(0)
    if encoder_name is None:  # on stored features, or on an encoder of its own
        objective = make(None, **{**make.tiny_kwargs, **kwargs}).double()
    else:
        with torch.device("meta"):
            tiny = create_encoder(encoder_name).tiny_kwargs
        torch.manual_seed(0)
        objective = make(create_encoder(encoder_name, **{**tiny, **change}), **kwargs)
        objective.set_classes(CLASSES)
        objective = objective.double()
    batch = {**batch_for(objective, clips=4), "label": torch.arange(4) % len(CLASSES)}
    share = 4 // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)
    part = {k: v[mine] if isinstance(v, torch.Tensor | list) else v for k, v in batch.items()}
    part = {
        k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v
        for k, v in part.items()
    }
    module = objective
    if world.size > 1:
        synchronise(objective)
        module = DistributedDataParallel(objective)
    if dropping:
        Turbo(objective, objective.views, 0.6).begin(part, 0)
    loss = module(part).total
    loss.backward()
    tensors = {
        f"grad/{n}": p.grad.clone() for n, p in objective.named_parameters() if p.requires_grad
    }
    with torch.no_grad():
        for p in objective.parameters():
            p -= 0.01 * (0 if p.grad is None else p.grad)
    objective.after_step(0.5)
    losses = torch.stack([loss.detach(), module(part).total.detach()])
    if world.size > 1:
        torch.distributed.all_reduce(losses)
    state = objective.state_dict()  # not lightly's bank, which is empty
    tensors |= {f"state/{n}": b.double() for n, b in objective.named_buffers() if n in state}
    return {"losses": losses / world.size, **tensors}


if __name__ == "__main__":
    leave(two_steps, sys.argv[1:])
