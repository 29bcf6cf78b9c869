"""Two results of one cell -> in what they are unlike, so that they cannot be compared.

Frames and size of a clip are each encoder's own. So are seeds.
"""

import json
from typing import Any

from ssvid.old_names import use_old_names
from ssvid.results.schema import TUNED, Json, Result

VIEWS = {  # key of `protocol.clip` -> its name
    "clips": "the number of clips of a video",
    "crops": "the number of crops of a clip",
    "average": "what is averaged over views",
}
SHARED = {  # key of `protocol` -> its name
    "poolings": "the poolings",
    "calibrate_bn": "the calibration of batch norm",
}
# Key of `protocol` -> its name and what results had before there was such a key.
LATER = {
    "recalibrate_bn": ("the batch norm that is measured anew", False),
    "folds": ("the folds", None),
}
FREE = ("clip", "seed")  # settings of a fine-tuning that may differ
ABSENT = "absent"
LONGEST = 60  # characters of a value in a sentence


def describe_differences(a: Result, b: Result) -> list[str]:
    """What is unlike, such as "the poolings (mean and time)". Empty: they may be compared."""
    differences = []
    if a.metric != b.metric:
        differences.append(f"the metric ({a.metric} and {b.metric})")
    if a.data.hash != b.data.hash:
        differences.append(f"the data ({a.data.hash[:8]} and {b.data.hash[:8]})")
    ours, theirs = flatten(describe_question(a)), flatten(describe_question(b))
    for key in sorted(ours.keys() | theirs.keys()):
        differences += describe_difference(f"the setting {key}", ours, theirs, key, ABSENT)
    clips = a.protocol.get("clip", {}), b.protocol.get("clip", {})
    for key, name in VIEWS.items():
        differences += describe_difference(name, *clips, key)
    for key, name in SHARED.items():
        differences += describe_difference(name, a.protocol, b.protocol, key)
    for key, (name, before) in LATER.items():
        values = {key: a.protocol.get(key, before)}, {key: b.protocol.get(key, before)}
        differences += describe_difference(name, *values, key)
    layers = choose_layers(a), choose_layers(b)
    return differences + describe_difference("the choice of layers", *layers, "layers")


def describe_question(result: Result) -> Json:
    """The task, the probe and their settings, without what may differ."""
    question = result.question
    if result.kind != TUNED:
        return question
    return use_old_names({key: value for key, value in question.items() if key not in FREE})


def choose_layers(result: Result) -> Json:
    """What the user asked for. The numbers of layers differ between nets of other depths.

    Before schema 3 the flags of the command alone tell of it.
    """
    layers = result.protocol.get("layers_choice", (result.config or {}).get("layers"))
    return {} if layers is None else {"layers": layers}


def describe_difference(
    name: str, ours: Json, theirs: Json, key: str, default: Any = None
) -> list[str]:
    """A text if the values differ. Without a default a key that one side lacks does not count."""
    if default is None and not (key in ours and key in theirs):
        return []
    values = show(ours.get(key, default)), show(theirs.get(key, default))
    if values[0] == values[1]:
        return []
    return [f"{name} ({shorten(values[0])} and {shorten(values[1])})"]


def show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def shorten(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def flatten(content: Json, prefix: str = "") -> Json:
    """Dotted key -> value."""
    flat: Json = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def describe_missing_answers(result: Result) -> str:
    """Why the differences of a result cannot be tested; empty where they can."""
    test = result.test
    if not test.groups:
        return "holds no groups of its test clips"
    table, name = test.of_groups, "test.of_groups"
    if table is None:
        table, name = test.correct or {}, "test.correct"
    for row in result.rows:
        if len(table.get(row, ())) != len(test.groups):
            return f"has not one number for each of its groups in {name}.{row}"
    return ""


def list_clip_changes(a: Result, b: Result) -> list[str]:
    """The settings of the clip that differ because each encoder has its own, such as "frames"."""
    ours, theirs = a.protocol.get("clip", {}), b.protocol.get("clip", {})
    keys = (ours.keys() & theirs.keys()) - VIEWS.keys()
    return sorted(key for key in keys if show(ours[key]) != show(theirs[key]))
