"""a run of tan, or its published file -> Aligner: the only place that builds an objective to ask it something."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from benchmarks.alignment.realign import Aligner
from ssvid.engine.checkpoint import RunFolder
from ssvid.errors import UserError
from ssvid.files import read_yaml
from ssvid.nn.timeline import ALIGNER_CARD, Aligned
from ssvid.registry import objectives
from ssvid.shapes import Window
from ssvid.text.words import read_words
from ssvid.weights.files import read
from ssvid.weights.layout import State
from ssvid.weights.published import find, unknown
from ssvid.weights.state_dict import fit, weights_hash

PLACES = {
    "words": "words",
    "text": "folder",
}  # arguments of an objective, and of its tower, that are paths
PATHS = (*PLACES, "init")


@runtime_checkable
class Aligns(Protocol):
    """What an objective has that can be asked."""

    def similarities(self, features: Tensor, sentences: Sequence[str]) -> Aligned:
        """Of one window: 1 T D, and what may be said in it."""


def open_aligner(
    path: str, device: torch.device | str = "cpu", words: str | None = None
) -> Aligner:
    """`words`: the list that the word table of a published file is of."""
    place = Path(path).expanduser()
    if words is not None and not place.is_file():
        raise UserError(
            f"--words is the list of a published aligner, and {path} is none: a run knows its own."
        )
    name, given, state = (
        of_file(place, words) if place.is_file() else of_run(RunFolder(place), path)
    )
    built = read_built(place / ALIGNER_CARD) if place.is_dir() else {}
    given |= built.get("given", {})
    if name is None or not issubclass(kind := objectives[name], Aligns):  # type: ignore[arg-type]
        raise UserError(
            f"--aligner {path} is of {name or 'no objective'}, which aligns nothing: name one of tan."
        )
    given = {
        key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
    }
    net = kind(
        None, **given | ({"init": None} if "init" in given else {})
    )  # its weights are in the state
    fit(net, state, path)
    net.eval().to(device)
    window = net.views.text
    assert isinstance(window, Window)
    told = {key: value for key, value in given.items() if key not in PATHS}
    what = [
        json.dumps(told, sort_keys=True, default=str),
        read_words(given["words"]) if given.get("words") else None,
    ]
    return Aligner(
        net.similarities,
        window,
        given.get("features"),
        weights_hash(net, what),
        built.get("features"),
    )


def read_built(file: Path) -> dict[str, Any]:
    """What TAN.keep wrote: the arguments of its tower, with the paths of the lists in the run's own folder."""
    if not file.exists():
        return {}
    try:
        told = json.loads(file.read_text())
        options = dict(told["arguments"])
        places = {key: options.pop(theirs, None) for key, theirs in PLACES.items()}
        paths = {key: str(file.parent / place) if place else None for key, place in places.items()}
        given = {"tower": told["tower"], "options": options, **paths}
        return {"given": given, "features": told["features"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} describes no aligner ({error}): name another run.") from error


def same_features(by: Aligner, fingerprint: str | None, what: str) -> None:
    """Refuse features of another encoder than the one that it learnt from, where both are known."""
    if by.features is not None and fingerprint is not None and by.features != fingerprint:
        raise UserError(
            f"{what} is of the encoder {fingerprint}, and the aligner learnt from features of {by.features}: name the "
            "encoder (or the store) that it was trained on."
        )


def of_run(folder: RunFolder, path: str) -> tuple[str | None, dict[str, Any], State]:
    """Its config.yaml, and the newest checkpoint that can be read."""
    if not (folder.path / "config.yaml").is_file():
        inside = ", ".join(sorted(file.parent.name for file in folder.path.glob("*/config.yaml")))
        near = f"name one of its stages: {inside}" if inside else "name one of tan"
        raise UserError(f"--aligner {path} is no folder of a run (it has no config.yaml): {near}.")
    config = read_yaml(folder.path / "config.yaml", "config")
    given = dict(config.get("objective") or {}) if isinstance(config, dict) else {}
    return given.pop("name", None), given, dict(folder.readable(f"--aligner {path}")["model"])


def of_file(path: Path, words: str | None) -> tuple[str | None, dict[str, Any], State]:
    """No tensor tells the words, nor the number of heads, which is 8 in all that was published."""
    file = read(path)
    found = find(file)
    if found is None:
        raise unknown(file)
    found.whole()
    if found.net.objective == "tan" and words is None:
        raise UserError(
            f"{path} holds word vectors and not their words: give the list with --words s3d_dict.npy."
        )
    return found.net.objective, {**found.net.settings, "words": words}, found.ours
