"""Several data sets, each with a weight -> Manifest: `data: {name: mixture, parts: {...}}`.

A part is a data set by its name and its settings, as `--data` takes them, with a few settings of
the part beside them.
"""

import inspect
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jsonargparse import ArgumentError, ArgumentParser

from ssvid.data.manifest import Manifest
from ssvid.data.mixture import join
from ssvid.data.parts import Order, Part
from ssvid.errors import UserError
from ssvid.near_names import list_near_names
from ssvid.registry import datasets

# Settings of a part. All others are those of its data set.
OF_PART = ("weight", "cleanliness", "clip")
OF_CLIP: dict[str, tuple[type, ...]] = {
    "frames": (int,),
    "fps": (int, float),
    "stride": (int,),
    "whole": (bool,),
    "size": (int,),
}
EXAMPLE = "{web: {name: folder, root: web/, weight: 2}, clean: {name: csv, root: clean.csv}}"


class Setup(NamedTuple):
    """The settings of a part, apart from those of its data set."""

    weight: float
    cleanliness: str
    clip: dict[str, Any]


@datasets.register("mixture")
def mixture(
    *,
    # name of each part -> its data set with settings, as in {web: {name: folder, root: web/,
    # weight: 2, cleanliness: noisy, clip: {frames: 1}}}; weight (default: 1), cleanliness (a word)
    # and clip (what differs from the clip of all) are settings of the part
    parts: dict[str, dict[str, Any]],
    # alternate: each batch is of one part, which is drawn by weight; mix: the part of each clip is
    order: Order = "alternate",
) -> Manifest:
    """The clips of all parts. Each part walks through its own epochs."""
    if not parts:
        raise UserError(f"The mixture has no parts: give --data.parts '{EXAMPLE}'.")
    if order not in ("alternate", "mix"):
        raise UserError(f"There is no order {order!r} of a mixture: take alternate or mix.")
    setups = []  # all are checked before the first folder is listed
    for name, settings in parts.items():
        setups.append(read_setup(name, settings, list(parts)))
    joined = []
    for setup, (name, settings) in zip(setups, parts.items(), strict=True):
        data = build_data(f"The part {name} of the mixture", settings, OF_PART)
        part = Part(name, setup.weight, data.root, "", setup.cleanliness, setup.clip)
        joined.append((part, data))
    return join(joined, order)


def read_setup(name: str, settings: Any, names: list[str]) -> Setup:
    """The settings of a part that are not those of its data set. A UserError if one is wrong."""
    part = f"The part {name} of the mixture"
    if not re.fullmatch(r"[\w-]+", str(name)):
        raise UserError(f"{part} has a name that is not made of letters, digits, _ and -.")
    if not isinstance(settings, Mapping) or not isinstance(settings.get("name"), str):
        others = [other for other in names if other != name]
        raise UserError(
            f"{part} names no data set: give it a `name`, as in {EXAMPLE}"
            f"{'; other parts are ' if others else ''}{', '.join(others)}."
        )
    if settings["name"] == "mixture":
        raise UserError(f"{part} is a mixture itself: list its parts among the others.")
    weight = settings.get("weight", 1.0)
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not is_number or not 0 < weight < math.inf:
        raise UserError(
            f"{part} has the weight {weight!r}: a weight is more than 0; leave out a part that is "
            "not wanted."
        )
    cleanliness = settings.get("cleanliness", "")
    if not isinstance(cleanliness, str):
        raise UserError(f"{part} has the cleanliness {cleanliness!r}: it is a word, such as noisy.")
    return Setup(float(weight), cleanliness, read_clip(part, settings.get("clip") or {}))


def read_clip(part: str, clip: Any) -> dict[str, Any]:
    """What differs in the clip of a part. A UserError if it is no clip."""
    if not isinstance(clip, Mapping):
        raise UserError(f"{part} has the clip {clip!r}: it is a mapping, such as {{frames: 1}}.")
    for key, value in clip.items():
        if key not in OF_CLIP:
            raise UserError(
                f"{part} has a clip with {key!r}, which is none of {', '.join(OF_CLIP)}."
            )
        is_bool = isinstance(value, bool)
        if not isinstance(value, OF_CLIP[key]) or is_bool != (key == "whole"):
            kinds = " or ".join(kind.__name__ for kind in OF_CLIP[key])
            raise UserError(f"{part}: clip.{key} takes {kinds}, not {value!r}.")
    return {key: float(value) if key == "fps" else value for key, value in clip.items()}


def build_data(title: str, settings: Mapping[str, Any], apart: tuple[str, ...] = ()) -> Manifest:
    """The data set that a mapping of `name` and settings describes. `apart`: keys that are no
    settings of it.

    `title` begins the sentence of every UserError.
    """
    try:
        entry = datasets[settings["name"]]
    except UserError as error:
        raise UserError(f"{title}: {error}") from error
    settings_of_set = {key: value for key, value in settings.items() if key not in ("name", *apart)}
    parameters = inspect.signature(entry).parameters
    for key in settings_of_set:
        if key not in parameters:
            near = list_near_names(str(key), parameters) or list(parameters)
            raise UserError(
                f"{title}: {settings['name']} has no option {key!r}; near: {', '.join(near)}."
            )
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and settings_of_set.get(key) is None:
            raise UserError(f"{title}: {key} is missing: {settings['name']} needs it.")
    parser = ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_function_arguments(entry)
    try:
        values = parser.instantiate(parser.parse_object(settings_of_set))
    except ArgumentError as error:
        is_named = [f'"{key}"' in str(error) for key in settings_of_set]
        wrong = list(settings_of_set)[is_named.index(True) if any(is_named) else 0]
        kind = inspect.formatannotation(parameters[wrong].annotation)
        raise UserError(
            f"{title}: {wrong} takes {kind}, not {settings_of_set[wrong]!r}."
        ) from error
    try:
        return entry(**values)
    except UserError as error:
        raise UserError(f"{title}: {error}") from error
