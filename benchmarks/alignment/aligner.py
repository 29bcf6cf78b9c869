"""a run of tan, or its published file -> Aligner.

Only this file builds an objective in order to use it after training.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from benchmarks.alignment.realign import Aligner
from ssvid.engine.checkpoint import RunFolder
from ssvid.errors import UserError
from ssvid.files import read_json_mapping, read_yaml_mapping
from ssvid.nn.timeline import ALIGNER_CARD, Aligned
from ssvid.recipe import with_name
from ssvid.registry import objectives
from ssvid.shapes import Window
from ssvid.text.words import read_words
from ssvid.weights.files import read_weights
from ssvid.weights.layout import State
from ssvid.weights.published import identify_file, unknown_layout_error
from ssvid.weights.state_dict import hash_weights, load_state

# Arguments of an objective that are paths, and the names that its text tower has for them.
TOWER_PATHS = {"words": "words", "text": "folder"}
PATHS = (*TOWER_PATHS, "init")


@runtime_checkable
class HasSimilarities(Protocol):
    """What an objective has that can align."""

    def similarities(self, features: Tensor, sentences: Sequence[str]) -> Aligned:
        """Of one window: features 1 T D, and the sentences that may be spoken in it."""


class SavedObjective(NamedTuple):
    name: str | None  # None: the run's config names no objective
    arguments: dict[str, Any]
    state: State


def open_aligner(
    path: str, device: torch.device | str = "cpu", words: str | None = None
) -> Aligner:
    """The aligner of a run folder or of a published file.

    `words`: the word list of a published file. Raises a UserError that names --aligner or --words.
    """
    location = Path(path).expanduser()
    if words is not None and not location.is_file():
        raise UserError(
            f"--words is the word list of a published aligner, and {path} is none: a run has its "
            "own list."
        )
    saved = read_published(location, words) if location.is_file() else read_run(location, path)
    card = read_aligner_card(location / ALIGNER_CARD) if location.is_dir() else {}
    arguments = saved.arguments | card.get("arguments", {})
    kind = objectives[saved.name] if saved.name is not None else None
    if kind is None or not issubclass(kind, HasSimilarities):  # type: ignore[arg-type]
        raise UserError(
            f"--aligner {path} is of {saved.name or 'no objective'}, which cannot align: name a "
            "run of tan."
        )
    for name, value in arguments.items():
        if isinstance(value, list):
            arguments[name] = tuple(value)
    # The weights are in the state, so the run's own initialisation is not read again.
    net = kind(None, **arguments | ({"init": None} if "init" in arguments else {}))
    load_state(net, saved.state, path)
    net.eval().to(device)
    window = net.views.text
    assert isinstance(window, Window)
    settings = {name: value for name, value in arguments.items() if name not in PATHS}
    word_list = read_words(arguments["words"]) if arguments.get("words") else None
    return Aligner(
        net.similarities,
        window,
        arguments.get("features"),
        hash_weights(net, [json.dumps(settings, sort_keys=True, default=str), word_list]),
        card.get("features"),
    )


def read_aligner_card(file: Path) -> dict[str, Any]:
    """What TAN.save_assets wrote: the `arguments` of its tower, and the hash of the `features`.

    Paths of word lists are those in the run's own folder. Empty where there is no such file.
    """
    if not file.exists():
        return {}
    try:
        card = read_json_mapping(file, "card")
        options = dict(card["arguments"])
        paths = {}
        for name, tower_name in TOWER_PATHS.items():
            relative = options.pop(tower_name, None)
            paths[name] = str(file.parent / relative) if relative else None
        arguments = {"tower": card["tower"], "options": options, **paths}
        return {"arguments": arguments, "features": card["features"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} describes no aligner ({error}): name another run.") from error


def check_same_features(aligner: Aligner, encoder_hash: str | None, source: str) -> None:
    """Raise a UserError where the aligner learnt from features of another encoder.

    `encoder_hash`: of the encoder that made the features of `source`. Where one of the two hashes
    is unknown nothing is checked.
    """
    learnt_from = aligner.features
    if learnt_from is not None and encoder_hash is not None and learnt_from != encoder_hash:
        raise UserError(
            f"{source} is of the encoder {encoder_hash}, and the aligner learnt from features of "
            f"{learnt_from}: name the encoder (or the store) that it was trained on."
        )


def read_run(folder: Path, path: str) -> SavedObjective:
    """The objective in a run's config.yaml, and the newest checkpoint that can be read."""
    run = RunFolder(folder)
    if not (run.path / "config.yaml").is_file():
        stages = sorted(file.parent.name for file in run.path.glob("*/config.yaml"))
        hint = f"name one of its stages: {', '.join(stages)}" if stages else "name a run of tan"
        raise UserError(f"--aligner {path} is no folder of a run (it has no config.yaml): {hint}.")
    config = read_yaml_mapping(run.path / "config.yaml", "config")
    objective = with_name(config.get("objective"))
    arguments = dict(objective) if isinstance(objective, dict) else {}
    name = arguments.pop("name", None)
    return SavedObjective(name, arguments, dict(run.read_newest(f"--aligner {path}")["model"]))


def read_published(path: Path, words: str | None) -> SavedObjective:
    """The objective of a published file.

    No tensor holds the words or the number of heads. The latter is 8 in all published files.
    """
    file = read_weights(path)
    published = identify_file(file)
    if published is None:
        raise unknown_layout_error(file)
    published.require_complete()
    if published.net.objective == "tan" and words is None:
        raise UserError(
            f"{path} holds word vectors but not their words: give the list with --words "
            "s3d_dict.npy."
        )
    arguments = {**published.net.settings, "words": words}
    return SavedObjective(published.net.objective, arguments, published.ours)
