"""encoder, data set, command -> what a result says of them, beside its numbers."""

import itertools
import json
import re
import shlex
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ssvid.data.leaks import find_leaks
from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.engine.checkpoint import FREE, PROVENANCE, flat
from ssvid.hub import stream_of
from ssvid.old_names import use_old_names
from ssvid.results.schema import DataInfo, EncoderInfo, Json, Leak, digest
from ssvid.shapes import Row
from ssvid.weights.encoders import encoder_hash


def describe_data(
    data: Manifest, splits: dict[str, list[int]], bad: list[str], **more: Json
) -> DataInfo:
    listed = Counter(row.split for row in data.rows)
    return DataInfo(
        hash=data.hash,
        classes=list(data.classes),
        clips={name: len(rows) for name, rows in splits.items()},
        groups={name: len({data.groups[i] for i in rows}) for name, rows in splits.items()},
        listed=dict(listed),
        bad_files=len(bad),
        bad=[Path(path).name for path in bad[:20]],
        **more,
    )


def describe_encoder(text: str, title: str, net: Encoder) -> EncoderInfo:
    """`text`: as the user named it."""
    return EncoderInfo(
        title=title,
        given=text,
        weights="trained"
        if Path(stream_of(text)[0]).exists()
        else "random (a registered name, no file)",
        name=net.name,
        kwargs=net.kwargs,
        parameters=sum(p.numel() for p in net.parameters()),
        licence=net.licence,
        hash=encoder_hash(net),
        **recipe(text),
    )


def recipe(text: str) -> Json:
    """Of an encoder in a run folder: what the run was asked for but its seed, as a hash, and the seed."""
    path = Path(text)
    file = (path if path.is_dir() else path.parent) / "config.yaml"
    config = yaml.safe_load(file.read_text()) if path.exists() and file.is_file() else None
    if not isinstance(config, dict) or "seed" not in config:
        return {}
    counts = FREE - {"steps", "epochs"} | {"seed"}
    settings = {key: value for key, value in flat(config).items() if key not in counts}
    settings = use_old_names(settings)  # result files that exist hold hashes of them
    return {"recipe": digest(settings), "pretraining_seed": config["seed"]}


def title(text: str) -> str:
    """A name for the encoder that a user named: the last part of its path."""
    path = Path(text)
    last = path.parent.name if path.stem == "encoder" else path.name
    return re.sub(r"[^\w.-]+", "_", last.removesuffix(".safetensors")) or "encoder"


def split_streams(text: str) -> list[str]:
    """The encoders that a user named in one word with a + between; a path may hold a + of its own."""
    return [text] if Path(text).exists() else text.split("+")


def titles(encoders: list[str]) -> list[str]:
    """A file name for each: the last part of its path, with a number where that is taken."""
    names: list[str] = []
    for text in encoders:
        stem = "+".join(map(title, split_streams(text)))
        numbered = (f"{stem}_{number}" for number in itertools.count(2))
        names.append(
            stem if stem not in names else next(name for name in numbered if name not in names)
        )
    return names


def trainings(text: str) -> list[Json]:
    """The `root` and `rows` of all that an encoder was trained on, its last training first, where its folder tells.

    `text`: as the user named it.
    """
    path = Path(text)
    file = (path if path.is_dir() else path.parent) / PROVENANCE
    if not path.exists() or not file.exists():
        return []
    made = json.loads(file.read_text())
    return [
        {key: each[key] for key in ("root", "rows")} for each in [made, *made.get("before", [])]
    ]


def leak(text: str, test: Manifest) -> Leak:
    """Test clips that an earlier training saw, where the run folder tells what it read."""
    before = trainings(text)
    if not before:
        return Leak(checked=False)
    fields = ("path", "label", "split", "group", "video_id")
    shared: list[str] = []
    for each in before:
        rows = tuple(Row(**dict(zip(fields, row, strict=False))) for row in each["rows"])
        shared += [row.path for row in find_leaks(Manifest(rows, Path(each["root"])), test)]
    shared = list(dict.fromkeys(shared))
    return Leak(checked=True, clips=len(shared), first=shared[:5])


def git() -> str | None:
    """The commit of this code, with a + where files differ from it."""
    try:
        here = partial(
            subprocess.run, capture_output=True, text=True, cwd=Path(__file__).parent, check=True
        )
        commit = here(["git", "rev-parse", "HEAD"]).stdout.strip()
        changed = here(["git", "status", "--porcelain", "-uno"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" * bool(changed)


def command_line(module: str, config: dict[str, Any] | None) -> str | None:
    """The resolved configuration as a command."""
    if config is None:
        return None
    words: list[str] = []

    def add(key: str, value: Any) -> None:
        if isinstance(value, dict):
            for inner, part in value.items():
                add(key if inner == "name" else f"{key}.{inner}", part)
        elif value is not None:
            parts = value if isinstance(value, list) and key == "encoder" else [value]
            for part in parts:
                text = json.dumps(part) if isinstance(part, list | bool) else str(part)
                words.extend((f"--{key}", shlex.quote(text)))

    for key, value in config.items():
        add(key, value)
    return " ".join([f"python -m {module}", *words])
