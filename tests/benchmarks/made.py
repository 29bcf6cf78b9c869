"""Results of whatever numbers a test wants."""

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.features.sources import ROWS
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


def encoder_info(title: str = "net", **options: Any) -> EncoderInfo:
    defaults = {
        "argument": title,
        "weights": "trained",
        "name": "vit",
        "kwargs": {},
        "parameters": 10,
        "licence": None,
    }
    return EncoderInfo(**{"title": title, "hash": f"hash-{title}", **defaults, **options})


def make_gain(difference: float, low: float, high: float) -> Gain:
    shown = low > 0 or high < 0
    p = 0.01 if shown else 0.4
    return Gain(difference=difference, interval=(low, high), shown=shown, p=p, least=0.12)


def make_scores(correct: Mapping[str, Sequence[float]]) -> dict[str, Score]:
    """Row -> its score, with eight untrained nets and a named floor."""
    scores = {}
    for row, shares in correct.items():
        value = float(np.mean(shares))
        details: dict[str, Any] = {"top5": 0.5, "val_top1": 0.6}
        if row == "floor":
            details["chosen"] = {"pooling": "phase", "probe": "knn"}
        interval = (max(0.0, value - 0.1), min(1.0, value + 0.08))
        nets = np.linspace(value - 0.02, value + 0.02, 8).tolist() if row == "random" else None
        scores[row] = Score(value=value, interval=interval, details=details, of_nets=nets)
    return scores


def result_of(
    title: str,
    cell: str,
    correct: Mapping[str, Sequence[float]],
    groups: list[str] | None = None,
    classes: Sequence[str] = ("a", "b"),
    **options: Any,
) -> Result:
    """`correct`: row -> share of right answers to each clip."""
    clips = len(correct["encoder"])
    controls = make_scores(correct)
    score = controls.pop("encoder")
    gains = {}
    for row, control in controls.items():
        gains[row] = make_gain(score.value - control.value, 0.05, 0.4)
    if "random_shuffled" in gains:
        gains["time"] = make_gain(0.03, 0.01, 0.05)
    test = Answers(
        paths=list(map("{}.mp4".format, range(clips))),
        groups=groups or [f"g{i // 2}" for i in range(clips)],
        correct=dict(zip(correct, map(list, correct.values()), strict=True)),
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
        score=score,
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
    return replace(result, **options)


def make_result(
    title: str,
    cell: str,
    classes: int = 4,
    seed: int = 0,
    skill: float = 0.8,
    clips: int = 40,
    **options: Any,
) -> Result:
    """A result with labels, predictions and all rows. `skill`: about the share of right answers."""
    rng = np.random.default_rng(seed)
    names = list(map("class {}".format, range(classes)))
    labels = [i % classes for i in range(clips)]
    skills = (skill, skill / 2, 0.3, skill / 1.5, skill / 1.4, skill / 1.2, 0.3, 0.3)
    shares = dict(zip(ROWS, skills, strict=True))
    predictions: dict[str, list[int]] = {}
    for row, share in shares.items():
        predictions[row] = []
        for label in labels:
            right = rng.random() < share
            predictions[row].append(label if right else int(rng.integers(classes)))
    correct = {}
    for row, answers in predictions.items():
        correct[row] = (np.array(answers) == np.array(labels)).astype(float).tolist()
    result = result_of(title, cell, correct, classes=names, chance=1 / classes, **options)
    return replace(result, test=replace(result.test, labels=labels, predictions=predictions))


def make_whole_result(
    title: str, cell: str, classes: int = 4, seed: int = 0, **options: Any
) -> Result:
    """A result with every part that one may have: film strips, attention and cost too."""
    names = [f"class {i % classes}" for i in range(4)]
    clip = {"path": "a.mp4", "label": names[0], "jpeg": make_jpeg(5, 90)}
    near, looks, strips = [], [], []
    for i, name in enumerate(names):
        weights = [0.1, 0.2, 0.6, 0.1]
        looks.append({**clip, "predicted": name, "jpeg": make_jpeg(4, 60 * i), "weights": weights})
        near.append({**clip, "label": name, "cosine": 0.9 - 0.1 * i})
        strips.append({**clip, "predicted": name, "near": near})
    near.pop()  # three are nearest
    gflops = 1.0 + 40 * seed
    parts = {
        "majority": 0.26,
        "rank": 1,
        "strips": strips,
        "attention": {"mean": [0.2, 0.3, 0.4, 0.1], "clips": looks},
        "cost": Cost(gflops_per_clip=gflops, extract_cpu_s=100.0 + 9 * seed, probe_cpu_s=10.0),
    }
    return make_result(title, cell, classes, seed, **{**parts, **options})


def make_jpeg(frames: int, shade: int) -> str:
    """Of a film strip, in base64."""
    with io.BytesIO() as file:
        pixels = np.full((24, 24 * frames, 3), shade, dtype=np.uint8)
        Image.fromarray(pixels).save(file, "jpeg")
        return base64.b64encode(file.getvalue()).decode()


def pick(objects: Iterable[Any], attribute: str) -> list[Any]:
    """The attribute of each; it may be dotted."""
    return list(map(attrgetter(attribute), objects))


def pick_keys(mappings: Iterable[Any], key: str) -> list[Any]:
    return list(map(itemgetter(key), mappings))


def put(folder: Path, *results: Result) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        name = f"{result.encoder.title}.{result.cell}.json".replace("/", "_")
        write_result(folder / name, result)
    return folder


def old_result(kind: str) -> dict[str, Any]:
    """As commit eba6741 wrote it, before results had a schema.

    `kind`: `benchmark`, `linear_probe` or `fine_tuning`.
    """
    file = Path(__file__).parent / "old" / f"{kind}.json"
    content: dict[str, Any] = json.loads(file.read_text())
    return content
