"""classifier + val and test videos -> a result: each video's clips and crops through the net, softmax averaged."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssvid.data.clips import Clips
from ssvid.data.loader import eval_loader
from ssvid.data.manifest import SPLITS, Manifest
from ssvid.data.quarantine import Quarantine
from ssvid.encoder import evaluating
from ssvid.engine.checkpoint import FREE, RunFolder
from ssvid.engine.classify import Classify
from ssvid.engine.cost import cpu_seconds_with_workers, read_cost
from ssvid.engine.distributed import World, gather
from ssvid.engine.loop import Trained
from ssvid.engine.settings import Settings
from ssvid.engine.to_device import to_device
from ssvid.errors import UserError
from ssvid.old_names import use_old_names
from ssvid.progress import progress_bar
from ssvid.results import TUNED, Answers, Cost, EncoderInfo, Result, Score, digest
from ssvid.results.provenance import command_line, describe_data, git, leak
from ssvid.statistics import bootstrap, chance, majority, topk
from ssvid.weights.encoders import encoder_hash

VERSION = 1  # of the test: of what it does beside its flags


class Judged(NamedTuple):
    scores: Float[Tensor, "S Q"]  # of every row; zeros where the file could not be read
    ok: Bool[Tensor, " S"]
    bad: dict[str, str]  # files that could not be read -> why


@torch.no_grad()
def judge(
    net: Classify, clips: Clips, world: World, *, views_at_once: int, workers: int, bf16: bool
) -> Judged:
    """Every row of `clips` (made with `evaluate` and `crops`), shared by all processes, which all get all scores."""
    mine = range(world.rank, len(clips), world.size)
    videos = max(1, views_at_once // (clips.evaluate * clips.crops))
    found: dict[int, Tensor] = {}
    bad: dict[str, str] = {}
    bar = progress_bar(len(mine), "video", desc="testing", disable=not world.first)
    with bar, evaluating(net), torch.autocast(world.device.type, torch.bfloat16, enabled=bf16):
        for batch in eval_loader(clips, mine, videos, workers):
            bar.update(len(batch["readable"]))
            bad |= {path: why for path, _, why in batch["bad_files"]}
            if not batch["readable"].any():
                continue
            seen = to_device(batch, clips.views, world.device)["clips"]  # B V C T H W
            mean = (
                net.logits(seen.flatten(0, 1)).softmax(-1).unflatten(0, seen.shape[:2]).mean(1)
            )  # B Q
            found |= dict(zip(batch["index"].tolist(), mean.cpu(), strict=True))
    scores, ok = torch.zeros(len(clips), net.classes), torch.zeros(len(clips), dtype=torch.bool)
    for part, lost in gather((found, bad), world):
        bad |= lost
        for row, score in part.items():
            scores[row], ok[row] = score, True
    return Judged(scores, ok, bad)


def score(
    trained: Trained,
    data: Manifest,
    settings: Settings,
    folder: RunFolder,
    config: dict[str, Any],
    max_bad: float,
    encoder: EncoderInfo,  # before the training
) -> Result:
    """Test the weights as they are now: a result without controls."""
    began, net, world = cpu_seconds_with_workers(), trained.objective, trained.world
    assert isinstance(net, Classify)  # as `finetune` built it
    held = [i for i, row in enumerate(data.rows) if row.split != "train"]
    clips = Clips(
        data.take(held),
        replace(net.views, clips=net.views.clips[:1], augment="none"),
        seed=settings.seed,
        decoder=config["decoder"],
        evaluate=config["test_clips"],
        crops=config["test_crops"],
    )
    at_once = settings.batch_size * config["repeat"] // (world.size * settings.accumulate)
    judged = judge(
        net, clips, world, views_at_once=at_once, workers=config["workers"], bf16=settings.bf16
    )
    quarantine = Quarantine(None, len(held), max_bad)
    for path, why in judged.bad.items():
        quarantine.add(path, None, why)
    quarantine.check()
    bad = {**Quarantine(folder.path, len(data)).bad, **judged.bad}  # met in training, and now
    splits = {
        s: [i for i, row in enumerate(data.rows) if row.split == s and str(data.path(i)) not in bad]
        for s in SPLITS
    }
    if empty := [s for s in SPLITS if not splits[s]]:
        raise UserError(
            f"None of the {empty[0]} clips could be read, first {next(iter(bad))}: mend the files."
        )
    place = {row: n for n, row in enumerate(held)}
    scores = {s: judged.scores[[place[i] for i in splits[s]]] for s in ("val", "test")}
    cpu = read_cost(folder.path / "metrics.jsonl")["cpu_s"] + sum(
        gather(cpu_seconds_with_workers() - began, world)
    )
    agreed = protocol(net, settings, config)
    return Result(
        kind=TUNED,
        cell=TUNED,
        metric="top1",
        **metrics(data, splits, scores, settings.seed),
        controls={},
        gains={},
        encoder=encoder,
        data=describe_data(data, splits, sorted(bad)),
        protocol=agreed,
        protocol_hash=digest({**agreed, "training": use_old_names(agreed["training"])}),
        tuned=encoder_hash(net.encoder),
        leak=leak(config["encoder"], data.split("test")),
        cost=Cost(cpu_s=round(cpu, 2)),
        seed=settings.seed,
        git=git(),
        config=config,
        command=command_line("ssvid.finetune", config),
    )


def metrics(
    data: Manifest, splits: dict[str, list[int]], scores: dict[str, Tensor], seed: int
) -> dict[str, Any]:
    labels = {split: data.labels[splits[split]] for split in scores}
    predictions = {split: scores[split].argmax(-1) for split in scores}
    right = {split: predictions[split] == labels[split] for split in scores}
    top5 = {"top5": topk(scores["test"], labels["test"], 5)} if len(data.classes) > 5 else {}
    groups = [data.groups[i] for i in splits["test"]]
    confusion = torch.zeros(len(data.classes), len(data.classes), dtype=torch.int64)
    confusion.index_put_((labels["test"], predictions["test"]), torch.tensor(1), accumulate=True)
    return {
        "score": Score(
            value=right["test"].double().mean().item(),
            interval=bootstrap(right["test"], groups, seed),
            more={**top5, "val_top1": right["val"].double().mean().item()},
        ),
        "chance": chance(labels["test"]),
        "majority": majority(labels["test"]),
        "confusion": confusion.tolist(),
        "test": Answers(
            paths=[data.rows[i].path for i in splits["test"]],
            groups=groups,
            labels=labels["test"].tolist(),
            correct={"encoder": right["test"].double().tolist()},
            predictions={"encoder": predictions["test"].tolist()},
        ),
    }


def protocol(net: Classify, settings: Settings, config: dict[str, Any]) -> dict[str, Any]:
    """What two results must share to be compared."""
    shared = {key: value for key, value in config.items() if key not in FREE | {"data", "threads"}}
    return {
        "training": {**shared, "steps": settings.steps},
        "clip": vars(net.encoder.spec)
        | {"clips": config["test_clips"], "crops": config["test_crops"]},
        "selection": "the last step's weights; val picks nothing; test read once",
        "version": VERSION,
    }
