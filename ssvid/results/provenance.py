"""Encoder, data set, command -> their description in a result file."""

import json
import re
import shlex
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from ssvid.commands import phrase_module
from ssvid.data.leaks import find_leaks
from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.engine.checkpoint import FREE, PROVENANCE, flatten_config
from ssvid.errors import UserError
from ssvid.files import read_json_mapping, read_yaml_mapping
from ssvid.hub import split_modality, split_untrained
from ssvid.old_names import use_old_names
from ssvid.results.schema import DataInfo, EncoderInfo, Json, Leak, digest
from ssvid.shapes import Row
from ssvid.weights.encoders import hash_encoder


def describe_data(
    data: Manifest, splits: dict[str, list[int]], bad: list[str], **options: Json
) -> DataInfo:
    """`splits`: the rows of each split that could be read. `bad`: paths of the other files."""
    groups = {}
    for name, rows in splits.items():
        groups[name] = len({data.groups[i] for i in rows})
    return DataInfo(
        hash=data.hash,
        classes=list(data.classes),
        clips={name: len(rows) for name, rows in splits.items()},
        groups=groups,
        listed=dict(Counter(row.split for row in data.rows)),
        bad_files=len(bad),
        bad=[Path(path).name for path in bad[:20]],
        **options,
    )


def describe_encoder(text: str, title: str, net: Encoder) -> EncoderInfo:
    """`text`: the encoder as the user named it."""
    return EncoderInfo(
        title=title,
        argument=text,
        weights=describe_weights(text),
        name=net.name,
        kwargs=net.kwargs,
        parameters=sum(p.numel() for p in net.parameters()),
        licence=net.licence,
        hash=hash_encoder(net),
        **describe_recipe(text),
    )


def describe_weights(text: str) -> str:
    """`trained`, or what the weights are instead."""
    trained, number = split_untrained(text)
    if number is not None:
        return f"random (draw {number} for the net of {trained})"
    is_file = Path(split_modality(text)[0]).exists()
    return "trained" if is_file else "random (a registered name, no file)"


def describe_recipe(text: str) -> Json:
    """Hash of the settings of the encoder's run without its seed, and the seed.

    A setting that is the folder of another run, such as the one that this run began from, counts
    by that run's recipe: each seed has a folder of its own. Empty for an encoder that is in no run
    folder.
    """
    path = Path(text)
    file = (path if path.is_dir() else path.parent) / "config.yaml"
    if not path.exists() or not file.is_file():
        return {}
    config = read_yaml_mapping(file, "config")
    if not isinstance(config.get("seed"), int):
        return {}
    left_out = FREE - {"steps", "epochs"} | {"seed"}
    settings = {}
    for key, value in flatten_config(config).items():
        if key not in left_out:
            earlier = describe_recipe(value) if isinstance(value, str) and value else {}
            settings[key] = earlier.get("recipe", value)
    settings = use_old_names(settings)  # result files that exist hold hashes of the old names
    return {"recipe": digest(settings), "pretraining_seed": config["seed"]}


def make_title(text: str) -> str:
    """A title for an encoder: the last part of its path that names it."""
    trained, number = split_untrained(text)
    if number is not None:
        return f"untrained{number or ''}_{make_title(trained)}"
    path = Path(text)
    last = path.parent.name if path.stem == "encoder" else path.name
    return re.sub(r"[^\w.-]+", "_", last.removesuffix(".safetensors")) or "encoder"


def split_streams(text: str) -> list[str]:
    """`RGB+FLOW` -> the two encoders. A path that exists may contain a + itself."""
    return [text] if Path(text).exists() else text.split("+")


def make_titles(encoders: list[str]) -> list[str]:
    """A different file name for each encoder: its title, with a number if that is taken."""
    names: list[str] = []
    for text in encoders:
        stem = name = "+".join(map(make_title, split_streams(text)))
        number = 2
        while name in names:
            name, number = f"{stem}_{number}", number + 1
        names.append(name)
    return names


def list_trainings(text: str) -> list[Json]:
    """`root` and `rows` of every data set that an encoder was trained on, the latest first.

    Empty if the encoder's folder does not record it. `text`: the encoder as the user named it.
    """
    path = Path(text)
    file = (path if path.is_dir() else path.parent) / PROVENANCE
    if not path.exists() or not file.exists():
        return []
    last = read_json_mapping(file, "provenance")
    try:
        records = [last, *last.get("before", [])]
        return [{"root": str(record["root"]), "rows": list(record["rows"])} for record in records]
    except (TypeError, KeyError) as error:
        raise UserError(
            f"The provenance {file} is damaged ({error!r}), so the clips that the encoder was "
            "trained on are unknown: restore it, or remove it."
        ) from error


def check_leak(text: str, test: Manifest) -> Leak:
    """The test clips that an earlier training of the encoder read, as its run folder says."""
    records = list_trainings(text)
    if not records:
        return Leak(checked=False)
    fields = ("path", "label", "split", "group", "video_id")
    shared: list[str] = []
    for record in records:
        rows = tuple(Row(**dict(zip(fields, row, strict=False))) for row in record["rows"])
        shared += [row.path for row in find_leaks(Manifest(rows, Path(record["root"])), test)]
    shared = list(dict.fromkeys(shared))
    return Leak(checked=True, clips=len(shared), first=shared[:5])


def read_commit() -> str | None:
    """The commit of this code, with a + if files differ from it; None without git."""
    try:
        commit = run_git("rev-parse", "HEAD")
        changed = run_git("status", "--porcelain", "-uno")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+" if changed else commit


def run_git(*words: str) -> str:
    folder = Path(__file__).parent
    process = subprocess.run(
        ["git", *words], capture_output=True, text=True, cwd=folder, check=True
    )
    return process.stdout.strip()


def format_command(module: str, config: dict[str, Any] | None) -> str | None:
    """The resolved configuration as a command."""
    if config is None:
        return None
    words: list[str] = []

    def add(key: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, setting in value.items():
                add(key if name == "name" else f"{key}.{name}", setting)
        elif isinstance(value, list) and key == "encoder":
            for encoder in value:
                add(key, encoder)
        elif value is not None:
            text = json.dumps(value) if isinstance(value, list | bool) else str(value)
            words.extend((f"--{key}", shlex.quote(text)))

    for key, value in config.items():
        add(key, value)
    return " ".join([phrase_module(module), *words])
