"""Classifier, val and test videos -> a result.

The softmax of a video's clips and crops is averaged.
"""

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
from ssvid.results.provenance import check_leak, describe_data, format_command, read_commit
from ssvid.statistics import (
    are_few_sources,
    chance,
    find_score_interval,
    majority,
    mean_class_accuracy,
    sum_by_group,
    topk,
)
from ssvid.weights.encoders import hash_encoder

VERSION = 1  # of the test procedure; results of two versions are not compared


class Tested(NamedTuple):
    """What the classifier answers to each of S videos, in Q classes."""

    scores: Float[Tensor, "S Q"]  # mean softmax; zeros for unreadable files
    readable: Bool[Tensor, " S"]  # whether the file of the video could be read
    bad_files: dict[str, str]  # path -> reason


@torch.no_grad()
def run_test(
    net: Classify, clips: Clips, world: World, *, views_at_once: int, workers: int, bf16: bool
) -> Tested:
    """Score every video of `clips`: the mean softmax over its clips and over the crops of each.

    The processes divide the videos among them, and each gets the scores of all. `views_at_once`:
    the clips times crops that a batch of one process may hold.
    """
    rows = range(world.rank, len(clips), world.size)
    videos_per_batch = max(1, views_at_once // (clips.evaluate * clips.crops))
    score_of_row: dict[int, Tensor] = {}
    bad_files: dict[str, str] = {}
    bar = progress_bar(len(rows), "video", desc="testing", disable=not world.first)
    with bar, evaluating(net), torch.autocast(world.device.type, torch.bfloat16, enabled=bf16):
        for batch in eval_loader(clips, rows, videos_per_batch, workers):
            bar.update(len(batch["readable"]))
            bad_files |= {path: why for path, _, why in batch["bad_files"]}
            if not batch["readable"].any():
                continue
            pixels = to_device(batch, clips.views, world.device)["clips"]  # B V C T H W
            softmax = net.logits(pixels.flatten(0, 1)).softmax(-1)  # (B V) Q
            mean = softmax.unflatten(0, pixels.shape[:2]).mean(1)  # B Q
            score_of_row |= dict(zip(batch["index"].tolist(), mean.cpu(), strict=True))
    scores = torch.zeros(len(clips), net.classes)  # S Q
    readable = torch.zeros(len(clips), dtype=torch.bool)
    for scores_of_process, files_of_process in gather((score_of_row, bad_files), world):
        bad_files |= files_of_process
        for row, score in scores_of_process.items():
            scores[row], readable[row] = score, True
    return Tested(scores, readable, bad_files)


def score(
    trained: Trained,
    data: Manifest,
    settings: Settings,
    folder: RunFolder,
    config: dict[str, Any],
    max_bad: float,
    encoder: EncoderInfo,  # as it was before the training
) -> Result:
    """Test the weights as they are now. The result has no controls.

    Raises a UserError if too many files, or all files of a split, cannot be read.
    """
    start_s, net, world = cpu_seconds_with_workers(), trained.objective, trained.world
    assert isinstance(net, Classify)  # `finetune` built it
    held_out = [i for i, row in enumerate(data.rows) if row.split != "train"]
    clips = Clips(
        data.take(held_out),
        replace(net.views, clips=net.views.clips[:1], augment="none"),
        seed=settings.seed,
        decoder=config["decoder"],
        evaluate=config["test_clips"],
        crops=config["test_crops"],
    )
    at_once = settings.batch_size * config["repeat"] // (world.size * settings.accumulate)
    tested = run_test(
        net, clips, world, views_at_once=at_once, workers=config["workers"], bf16=settings.bf16
    )
    quarantine = Quarantine(None, len(held_out), max_bad)
    for path, why in tested.bad_files.items():
        quarantine.add(path, None, why)
    quarantine.check()
    bad_files = {**Quarantine(folder.path, len(data)).bad, **tested.bad_files}  # of training, too
    splits = split_readable(data, bad_files)
    index = {row: n for n, row in enumerate(held_out)}
    scores = {}
    for split in ("val", "test"):
        scores[split] = tested.scores[[index[i] for i in splits[split]]]
    cpu_of_processes = gather(cpu_seconds_with_workers() - start_s, world)
    cpu = read_cost(folder.path / "metrics.jsonl")["cpu_s"] + sum(cpu_of_processes)
    agreed = protocol(net, settings, config)
    return Result(
        kind=TUNED,
        cell=TUNED,
        metric="top1",
        **metrics(data, splits, scores),
        controls={},
        gains={},
        encoder=encoder,
        data=describe_data(data, splits, sorted(bad_files), set=config["data"]),
        protocol=agreed,
        protocol_hash=digest({**agreed, "training": use_old_names(agreed["training"])}),
        tuned=hash_encoder(net.encoder),
        leak=check_leak(config["encoder"], data.split("test")),
        cost=Cost(cpu_s=round(cpu, 2)),
        seed=settings.seed,
        git=read_commit(),
        config=config,
        command=format_command("ssvid.finetune", config),
    )


def split_readable(data: Manifest, bad_files: dict[str, str]) -> dict[str, list[int]]:
    """The rows of each split whose files can be read. A UserError if a split has none."""
    splits: dict[str, list[int]] = {split: [] for split in SPLITS}
    for i, row in enumerate(data.rows):
        if str(data.path(i)) not in bad_files:
            splits[row.split].append(i)
    for split, rows in splits.items():
        if not rows:
            raise UserError(
                f"None of the {split} clips could be read, first {next(iter(bad_files))}: "
                "mend the files."
            )
    return splits


def metrics(
    data: Manifest, splits: dict[str, list[int]], scores: dict[str, Tensor]
) -> dict[str, Any]:
    """The fields of a result that come from the scores S Q of the val and test clips."""
    labels = {split: data.labels[splits[split]] for split in scores}
    predictions = {split: scores[split].argmax(-1) for split in scores}
    correct = {split: predictions[split] == labels[split] for split in scores}
    top5 = {"top5": topk(scores["test"], labels["test"], 5)} if len(data.classes) > 5 else {}
    groups = [data.groups[i] for i in splits["test"]]
    sums = sum_by_group(correct["test"], groups)
    mean_class = mean_class_accuracy(correct["test"].double(), labels["test"])
    confusion = torch.zeros(len(data.classes), len(data.classes), dtype=torch.int64)
    confusion.index_put_((labels["test"], predictions["test"]), torch.tensor(1), accumulate=True)
    return {
        "score": Score(
            value=correct["test"].double().mean().item(),
            interval=find_score_interval(sums),
            details={
                **top5,
                "val_top1": correct["val"].double().mean().item(),
                "mean_class": mean_class,
            },
            wide=are_few_sources(sums) or None,
        ),
        "chance": chance(labels["test"]),
        "majority": majority(labels["test"]),
        "confusion": confusion.tolist(),
        "test": Answers(
            paths=[data.rows[i].path for i in splits["test"]],
            groups=groups,
            labels=labels["test"].tolist(),
            correct={"encoder": correct["test"].double().tolist()},
            predictions={"encoder": predictions["test"].tolist()},
        ),
    }


def protocol(net: Classify, settings: Settings, config: dict[str, Any]) -> dict[str, Any]:
    """The settings that two results must share to be compared."""
    shared = {key: value for key, value in config.items() if key not in FREE | {"data", "threads"}}
    return {
        "training": {**shared, "steps": settings.steps},
        "clip": vars(net.encoder.spec)
        | {"clips": config["test_clips"], "crops": config["test_crops"]},
        "selection": "the last step's weights; val picks nothing; test read once",
        "version": VERSION,
    }
