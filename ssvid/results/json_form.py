"""JSON <-> Result. This file alone knows the keys of a result file, and those of earlier versions.

In the file the numbers of the encoder stand beside the other keys of the result, and the main
number stands under the name of its metric.
"""

from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from ssvid.errors import UserError
from ssvid.results.schema import (
    BENCH,
    OLD_INFERENCE,
    SCHEMA,
    TUNED,
    Answers,
    Cost,
    DataInfo,
    EncoderInfo,
    Fold,
    Gain,
    Interval,
    Json,
    Leak,
    Result,
    Score,
    digest,
)

Part = TypeVar("Part")
OWN_KEYS = {f.name for f in fields(Result)} - {"score", "over", "member_count"}
SCORE_KEYS = (
    "interval",
    "per_class",
    "of_seeds",
    "std_over_seeds",
    "of_nets",
    "noise_of_nets",
    "of_draws",
    "wide",
)


def to_json(result: Result) -> Json:
    content = _plain(result)
    rows = {name: _score_to_json(score, result.metric) for name, score in result.rows.items()}
    main = rows.pop("encoder")
    head = {}
    for key in ("kind", "cell", "cell_hash", "fold"):
        if key in content:
            head[key] = content.pop(key)
    del content["score"]
    return {"schema": SCHEMA, **head, **main, **content, "controls": rows}


def from_json(content: Json) -> Result:
    """A result of any schema up to SCHEMA.

    A UserError says what is wrong, without the name of the file.
    """
    schema = content.get("schema", 0)
    if schema == 0:
        content = _upgrade(content)
    if schema < 3:
        content = _mark_old_inference(content)
    metric = content.get("metric")
    if not isinstance(metric, str):
        raise UserError("lacks `metric`")
    is_benchmark = content.get("kind") == BENCH
    if is_benchmark and not isinstance(_mapping(content, "protocol").get("cell"), dict):
        raise UserError("lacks `protocol.cell`")
    result, main = {}, {}
    for key, value in content.items():
        if key in OWN_KEYS:
            result[key] = value
        elif key != "schema":
            main[key] = value
    result["controls"] = {}
    for name, row in _mapping(content, "controls").items():
        result["controls"][name] = _score(row, metric, f"controls.{name}")
    result["gains"] = {}
    for name, gain in _mapping(content, "gains").items():
        result["gains"][name] = _gain(gain, f"gains.{name}")
    if isinstance(content.get("fold"), dict) and "of" in content["fold"]:
        # A file of schema 1 or older.
        result["fold"] = {**content["fold"], "cell": content["fold"]["of"]}
    parts: dict[str, Any] = {"test": Answers, "data": DataInfo, "leak": Leak}
    parts |= {"cost": Cost, "fold": Fold}
    for key, kind in parts.items():
        if key in result:
            result[key] = _build(kind, result[key], key)
    result["encoder"] = _encoder(_mapping(content, "encoder"), "encoder")
    result["score"] = _score(main, metric, "")
    return _build(Result, result, "")


def _plain(value: Any) -> Any:
    """Dataclasses as dicts, without the fields that have their default."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return list(map(_plain, value))
    if not is_dataclass(value):
        return value
    content = {}
    for f in fields(value):
        inner = getattr(value, f.name)
        default = f.default if f.default_factory is MISSING else f.default_factory()
        if f.metadata or default is MISSING or inner != default:
            content[f.name] = _plain(inner)
    return content


def _score_to_json(score: Score, metric: str) -> Json:
    optional = {}
    for key in SCORE_KEYS:
        if getattr(score, key) is not None:
            optional[key] = _plain(getattr(score, key))
    head = {metric: score.value, "interval": optional.pop("interval")}
    # A task may tell its main number among the details too, of one net or seed alone.
    details = {key: value for key, value in _plain(score.details).items() if key != metric}
    return {**head, **details, **optional}


def _mapping(content: Json, key: str) -> Json:
    if not isinstance(content.get(key), dict):
        raise UserError(f"has no mapping `{key}`")
    return dict(content[key])


def _build(kind: type[Part], content: Any, path: str) -> Part:
    """A dataclass from a mapping. `path`: where it stands in the file, for a UserError."""
    if not isinstance(content, dict):
        raise UserError(f"has no mapping `{path}`")
    names = []
    for f in fields(kind):  # type: ignore[arg-type]
        is_required = f.default is MISSING and f.default_factory is MISSING
        if is_required and f.name not in content:
            raise UserError(f"lacks `{f'{path}.{f.name}'.lstrip('.')}`")
        names.append(f.name)
    for f in fields(kind):  # type: ignore[arg-type]
        check_kind(content.get(f.name), f.type, f"{path}.{f.name}".lstrip("."))
    return kind(**{key: value for key, value in content.items() if key in names})


def check_kind(value: Any, annotation: Any, path: str) -> None:
    """Raise a UserError for a value of another kind than its field. Its content is not checked."""
    if get_origin(annotation) in (UnionType, Union):
        annotation = get_args(annotation)[0]  # the other member is None
    kind = get_origin(annotation) or annotation
    if value is not None and kind in (dict, list, str, int, bool) and not isinstance(value, kind):
        raise UserError(f"has a `{path}` that is no {kind.__name__}")


def _score(content: Any, metric: Any, path: str) -> Score:
    if not isinstance(content, dict) or not isinstance(content.get(metric), int | float):
        raise UserError(f"lacks `{f'{path}.{metric}'.lstrip('.')}`")
    optional = {key: content[key] for key in SCORE_KEYS if key in content}
    optional["interval"] = _interval(content.get("interval"), path)
    details = {k: value for k, value in content.items() if k not in (metric, *SCORE_KEYS)}
    return Score(value=float(content[metric]), details=details, **optional)


def _gain(content: Any, path: str) -> Gain:
    if not isinstance(content, dict):
        raise UserError(f"has no mapping `{path}`")
    interval = _interval(content.get("interval"), path)
    numbers = {"difference": float(content["difference"]), "interval": interval}
    return _build(Gain, {**content, **numbers}, path)


def _interval(content: Any, path: str) -> Interval:
    if not isinstance(content, list | tuple) or len(content) != 2:
        raise UserError(f"lacks `{f'{path}.interval'.lstrip('.')}`")
    return float(content[0]), float(content[1])


def _encoder(content: Json, path: str) -> EncoderInfo:
    streams = []
    for stream in content.get("streams", ()):
        streams.append(_encoder(stream, f"{path}.streams"))
    if "given" in content:  # a file of schema 1 or older
        content = {**content, "argument": content["given"]}
    return _build(EncoderInfo, content | {"streams": tuple(streams)}, path)


def _mark_old_inference(content: Json) -> Json:
    """A file of before schema 3, whose control `pixels` has the name that floors have now."""
    content = {**content, "inference": OLD_INFERENCE}
    for key in ("controls", "gains"):
        if isinstance(content.get(key), dict):
            content[key] = _rename_pixels(content[key])
    if isinstance(content.get("test"), dict):
        answers = {}
        for key, rows in content["test"].items():
            answers[key] = _rename_pixels(rows) if isinstance(rows, dict) else rows
        content["test"] = answers
    return content


def _rename_pixels(rows: Json) -> Json:
    return {"floor" if name == "pixels" else name: row for name, row in rows.items()}


# The kind of result that benchmarks.linear_probe wrote before there was a schema.
PROBE = "linear probe"


def _upgrade(content: Json) -> Json:
    """A file of before there was a schema.

    A linear probe's becomes that of the cell `classify.linear`.
    """
    if content.get("kind") == BENCH:
        return content
    test = dict(content.get("test", {}))
    if "labels" in test and "correct" not in test:
        labels = test["labels"]
        rows = test.get("predictions", {}).items()
        test["correct"] = {row: _hits(predictions, labels) for row, predictions in rows}
    content = {"metric": "top1", **content, "test": test}
    if content.get("kind") == TUNED:
        return {"cell": TUNED, **content}
    question = {
        "task": "classify",
        "probe": "linear",
        "with": _mapping(content, "protocol").get("probe"),
    }
    grids = _mapping(content, "grid")
    controls = _mapping(content, "controls")
    for name, row in controls.items():
        if isinstance(row, dict):
            controls[name] = {**row, "grid": grids.get(name, [])}
    return {
        **content,
        "kind": BENCH,
        "cell": "classify.linear",
        "cell_hash": digest(question),
        "controls": controls,
        "grid": grids.get("encoder", []),
        "protocol": {**content["protocol"], "cell": question},
    }


def _hits(predictions: list[int], labels: list[int]) -> list[float]:
    return [
        float(prediction == label) for prediction, label in zip(predictions, labels, strict=True)
    ]


KINDS = (BENCH, TUNED, PROBE)
