"""probe results -> a result, and result files -> numbers, tables and sentences, which come from such files alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.probes.base import ProbeResult
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.files import write_whole
from ssvid.results import BENCH, PROBE, TUNED, Result, answers
from ssvid.statistics import bootstrap, paired_difference

ROWS = {  # key -> what it is called in tables
    "encoder": "encoder",
    "random": "same net, untrained",
    "pixels": "raw pixels",
    "single_frame": "one frame repeated",
    "shuffled": "frames shuffled",
}


def scores(
    data: Manifest,
    splits: dict[str, list[int]],
    rows: dict[str, ProbeResult],
    near: dict[str, ProbeResult],
    seed: int,
) -> Result:
    """Metrics with intervals over groups, the controls, and the paired differences from them."""
    test = splits["test"]
    labels, groups = data.labels[test], [data.groups[i] for i in test]

    def entry(got: ProbeResult) -> Result:
        interval = bootstrap(got.predictions == labels, groups, seed)
        extra = {"top5": got.metrics["test/top5"]} if "test/top5" in got.metrics else {}
        top = {"top1": got.metrics["test/top1"], "interval": interval, **extra}
        return {**top, "val_top1": got.metrics["val/top1"], "chosen": got.chosen}

    def gain(other: ProbeResult) -> Result:
        right = (rows["encoder"].predictions == labels, other.predictions == labels)
        difference, low, high = paired_difference(*right, groups, seed)
        return {"difference": difference, "interval": (low, high), "shown": low > 0 or high < 0}

    controls = {name: entry(got) for name, got in rows.items() if name != "encoder"}
    controls["random"]["knn"] = entry(near["random"])
    return {
        "kind": PROBE,
        **entry(rows["encoder"]),
        **answers(data, test, {name: got.predictions for name, got in rows.items()}),
        "knn": entry(near["encoder"]),
        "controls": controls,
        "gains": {name: gain(got) for name, got in rows.items() if name != "encoder"},
        "grid": {name: got.grid for name, got in rows.items()},
    }


def write_text(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()))


def read_all(folder: Path) -> list[Result]:
    """Every result of a folder, by file name."""
    found = [result for file in sorted(folder.glob("*.json")) if (result := read(file)) is not None]
    if not found:
        raise UserError(f"{folder} holds no result of a {PROBE}, of {TUNED} or of benchmarks.run.")
    return found


def read(file: Path, kinds: Sequence[str] = (PROBE, TUNED)) -> Result | None:
    """None where it is the JSON of something else."""
    try:
        result = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no whole JSON file ({error}): delete it and run the command again.") from error
    return result if isinstance(result, dict) and result.get("kind") in kinds else None


def refuse_another(file: Path, *, data: str, encoder: str, protocol: str) -> None:
    """A result (of these hashes) may take the place of the same result alone."""
    if not file.exists():
        return
    there = read(file, (PROBE, BENCH))
    if there is None:
        raise UserError(f"{file} is no result of a probe: name another --out.")
    own = {
        "other data": there["data"]["hash"] == data,
        "another encoder": there["encoder"]["hash"] == encoder,
        "another protocol": there["protocol_hash"] == protocol,
    }
    if not all(own.values()):
        others = " and ".join(what for what, same in own.items() if not same)
        raise UserError(f"{file} holds a result of {others}: name another --out.")


def brief(result: Result) -> Result:
    """What the command prints."""
    keys = ("top1", "interval", "chance", "majority")
    return {
        "encoder": result["encoder"]["title"],
        **{key: result[key] for key in keys},
        "controls": {name: row["top1"] for name, row in result["controls"].items()},
        "gain_over_random": result["gains"]["random"],
        "reading": reading(result)[0],
    }


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def between(interval: Sequence[float], scale: str = "") -> str:
    low, high = (100 * end for end in interval)
    return f"{low:{scale}.1f} to {high:{scale}.1f}"


def scored(result: Result) -> str:
    """The main number, with its spread where it is a mean."""
    score, over = result[result["metric"]], mean_of(result)
    spread = std(result)
    return percent(score) if spread is None or not over else f"{100 * score:.1f} +- {100 * spread:.1f} % ({over})"


def mean_of(result: Result) -> str:
    """What its numbers are means over: seeds of the probe, or all that averages.py says. Empty where they are none."""
    seeds = len(result.get("seeds") or ())
    return str(result["over"]) if "over" in result else f"{seeds} seeds" if seeds > 1 else ""


def std(row: Result) -> float | None:
    """Of a row of such a result, where it tells."""
    return row.get("std_over_seeds", row.get("std"))


def gained(gain: Result) -> str:
    """What the encoder has more, in points."""
    more = f"{100 * gain['difference']:+.1f}" if gain["shown"] else "no difference shown"
    return f"{more} ({between(gain['interval'], '+')})"


def lines(result: Result) -> list[tuple[str, str, str, str]]:
    """The table of one result: row, top1, its interval, what the encoder has more."""
    table = [(result["encoder"]["title"], percent(result["top1"]), between(result["interval"]), "")]
    for name, row in result["controls"].items():
        table.append((ROWS[name], percent(row["top1"]), between(row["interval"]), gained(result["gains"][name])))
    if result["kind"] == PROBE:
        for name, row in (("encoder", result["knn"]), ("untrained", result["controls"]["random"]["knn"])):
            table.append((f"nearest neighbours, {name}", percent(row["top1"]), between(row["interval"]), ""))
    table.append(("largest class", percent(result["majority"]), "", ""))
    return [*table, ("chance", percent(result["chance"]), "", "")]


HEAD = ("", "top-1", "95 % interval", "encoder has more by (points)")


def table(found: list[Result]) -> str:
    """Markdown, padded so that a terminal shows it straight."""
    body = [HEAD] + [line for result in found for line in lines(result)]
    widths = [max(len(line[i]) for line in body) for i in range(4)]
    padded = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in body]
    return "\n".join([padded[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *padded[1:]])


def reading(result: Result) -> list[str]:
    """What the numbers say, in words; the first sentence is the verdict."""
    said = of_probe(result) if result["kind"] == PROBE else of_tuned(result)
    if result["interval"][0] <= result["chance"]:
        said.append("The score is not shown to be above chance.")
    leak = result["leak"]
    if leak["checked"] and leak["clips"]:
        said.append(f"WARNING: pretraining read {leak['clips']} of the test clips; the score is not valid.")
    if result["data"]["bad_files"]:
        said.append(f"{result['data']['bad_files']} files could not be read and are in no split.")
    return said


def of_tuned(result: Result) -> list[str]:
    said = [f"{result['encoder']['title']}: {percent(result['top1'])} of the test clips are named rightly."]
    if result["encoder"]["weights"] == "trained":
        said.append(
            "What pretraining adds is not shown here: fine-tune the same net from random weights as well "
            f"(--encoder {result['encoder']['name']}, all else alike) and compare."
        )
    else:
        said.append("It began with random weights: what fine-tuning a pretrained one has to beat.")
    return said


def of_probe(result: Result) -> list[str]:
    """The verdict on pretraining, then what the other controls say."""
    said = [verdict(result)]
    pixels, shuffled, single = (result["gains"][name] for name in ("pixels", "shuffled", "single_frame"))
    if not pixels["shown"] or pixels["difference"] < 0:
        said.append("It is not shown to beat raw pixels: colour and layout alone may explain the score.")
    else:
        said.append(f"It beats raw pixels by {100 * pixels['difference']:.1f} points.")
    if single["shown"] and single["difference"] > 0:
        order = "their order counts" if shuffled["shown"] and shuffled["difference"] > 0 else "no use of order is shown"
        said.append(f"Several frames tell it more than one ({100 * single['difference']:+.1f} points); {order}.")
    else:
        said.append("One frame repeated does as well, as far as this test can tell: no use of time is shown.")
    return said


def verdict(result: Result) -> str:
    gain, title = result["gains"]["random"], result["encoder"]["title"]
    where = f"{percent(result['top1'])} against {percent(result['controls']['random']['top1'])}"
    if result["encoder"]["weights"] != "trained":
        return f"{title} has random weights: {where} of another random draw."
    if not gain["shown"]:
        return f"No difference shown between {title} and the same net untrained ({where})."
    better = "above" if gain["difference"] > 0 else "BELOW"
    points = f"{abs(100 * gain['difference']):.1f} points {better}"
    return f"{title} is {points} the same net untrained ({where}; 95 %: {between(gain['interval'], '+')})."


class ClassGain(NamedTuple):
    name: str
    clips: int | None  # of test; None where the result does not tell
    difference: float
    interval: tuple[float, float] | None  # None where the result holds no answers to single clips


def per_class(result: Result, row: str) -> dict[str, float]:
    """Class -> score of a row, for the classes that test has; empty where the result does not tell."""
    if row == "chance":  # of an average precision each class has its own, which the result does not tell
        known = "per_class" not in result and result.get("chance") is not None
        return {name: result["chance"] for name in per_class(result, "encoder")} if known else {}
    stated = result if row == "encoder" else result["controls"].get(row, {})
    if "per_class" in stated:
        return {name: value for name, value in stated["per_class"].items() if value is not None}
    right = result.get("test", {}).get("correct", {}).get(row, [])
    return {name: sum(right[i] for i in at) / len(at) for name, at in clips_of(result).items() if right}


def clips_of(result: Result) -> dict[str, list[int]]:
    """Class -> test clips of it, in the order of the classes; empty where a clip may have several."""
    labels, names = result.get("test", {}).get("labels") or [], result["data"]["classes"]
    if not all(isinstance(label, int) for label in labels):
        return {}
    at: dict[str, list[int]] = {names[label]: [] for label in sorted(set(labels)) if label >= 0}
    for i, label in enumerate(labels):
        if label >= 0:
            at[names[label]].append(i)
    return at


def class_gains(ours: Result, theirs: Result, row: str) -> list[ClassGain]:
    """Of the encoder over a row (or "chance") of `theirs`, which may be the same result. The largest gain first."""
    has, base = per_class(ours, "encoder"), per_class(theirs, row)
    shared = [name for name in has if name in base]
    clips = clips_of(ours)
    found = [
        ClassGain(name, len(clips[name]) if name in clips else None, has[name] - base[name], None) for name in shared
    ]
    return sorted(found, key=lambda gain: -gain.difference)


def with_interval(gain: ClassGain, ours: Result, theirs: Result, row: str) -> ClassGain:
    """Paired, over groups of the class's test clips."""
    if "per_class" in ours or "per_class" in theirs or ours["test"]["paths"] != theirs["test"]["paths"]:
        return gain
    at, test = clips_of(ours)[gain.name], ours["test"]
    right = torch.tensor([test["correct"]["encoder"][i] for i in at], dtype=torch.float64)
    base = (
        torch.full_like(right, ours["chance"])
        if row == "chance"
        else right.new_tensor([theirs["test"]["correct"][row][i] for i in at])
    )
    _, low, high = paired_difference(right, base, [test["groups"][i] for i in at], ours.get("seed", 0))
    return gain._replace(interval=(low, high))
