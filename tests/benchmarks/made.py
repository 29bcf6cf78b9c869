"""Results of whatever numbers a test wants."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ssvid.results import (
    BENCH,
    Answers,
    Cost,
    DataInfo,
    EncoderInfo,
    Gain,
    Leak,
    Result,
    Score,
    write_result,
)

ROWS = ("encoder", "random", "pixels", "single_frame", "shuffled")


def encoder_info(title: str = "net", **more: Any) -> EncoderInfo:
    known = {
        "given": title,
        "weights": "trained",
        "name": "vit",
        "kwargs": {},
        "parameters": 10,
        "licence": None,
    }
    return EncoderInfo(**{"title": title, "hash": f"hash-{title}", **known, **more})


def result_of(
    title: str,
    cell: str,
    correct: Mapping[str, Sequence[float]],
    groups: list[str] | None = None,
    classes: Sequence[str] = ("a", "b"),
    **more: Any,
) -> Result:
    """`correct`: row -> share of right answers to each clip."""
    clips = len(correct["encoder"])
    values = {row: float(np.mean(own)) for row, own in correct.items()}
    score = {
        row: Score(
            value=v,
            interval=(max(0.0, v - 0.1), min(1.0, v + 0.08)),
            more={"top5": 0.5, "val_top1": 0.6},
        )
        for row, v in values.items()
    }
    controls = {row: own for row, own in score.items() if row != "encoder"}
    gains = {row: Gain.between(values["encoder"] - values[row], 0.05, 0.4) for row in controls}
    test = Answers(
        paths=[f"{i}.mp4" for i in range(clips)],
        groups=groups or [f"g{i // 2}" for i in range(clips)],
        correct={row: list(own) for row, own in correct.items()},
    )
    counts = {"train": 80, "val": 40, "test": clips}
    data = DataInfo(
        hash="d" * 64,
        classes=list(classes),
        clips=counts,
        groups=counts,
        listed=counts,
        bad_files=0,
        bad=[],
    )
    result = Result(
        kind=BENCH,
        cell=cell,
        metric="top1",
        score=score["encoder"],
        chance=0.25,
        controls=controls,
        gains=gains,
        test=test,
        encoder=encoder_info(title),
        data=data,
        protocol={"cell": {"task": cell}, "clip": {"frames": 8}},
        protocol_hash="0123456789abcdef",
        leak=Leak(checked=False),
        cost=Cost(),
        seed=0,
        git="abcdef0123456789+",
        command=f"python -m benchmarks.run --encoder {title} --suite mini --out out",
    )
    return replace(result, **more)


def make_result(
    title: str,
    cell: str,
    classes: int = 4,
    seed: int = 0,
    skill: float = 0.8,
    clips: int = 40,
    **more: Any,
) -> Result:
    """One with labels, predictions and all five rows. `skill`: about the share of right answers."""
    rng = np.random.default_rng(seed)
    names = [f"class {i}" for i in range(classes)]
    labels = [i % classes for i in range(clips)]
    shares = dict(zip(ROWS, (skill, skill / 2, 0.3, skill / 1.5, skill / 1.2), strict=True))
    said = {
        row: [label if rng.random() < share else int(rng.integers(classes)) for label in labels]
        for row, share in shares.items()
    }
    correct = {
        row: [float(a == b) for a, b in zip(own, labels, strict=True)] for row, own in said.items()
    }
    result = result_of(title, cell, correct, classes=names, chance=1 / classes, **more)
    return replace(result, test=replace(result.test, labels=labels, predictions=said))


def put(folder: Path, *results: Result) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        write_result(
            folder / f"{result.encoder.title}.{result.cell}.json".replace("/", "_"), result
        )
    return folder


def old_result(kind: str) -> dict[str, Any]:
    """As commit eba6741 wrote it, before results had a schema: `benchmark`, `linear_probe` or `fine_tuning`."""
    content: dict[str, Any] = json.loads(
        (Path(__file__).parent / "old" / f"{kind}.json").read_text()
    )
    return content
