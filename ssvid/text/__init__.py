"""Sentences -> one vector each: the text towers by name.

ssvid.text.joint holds the space that a tower shares with video.
"""

import importlib
from typing import Any

from ssvid.errors import UserError
from ssvid.text.tower import Tower
from ssvid.trust import import_checked

TOWERS = {
    "words": "ssvid.text.words:Words",
    "bert": "ssvid.text.transformers:Bert",
    "clip": "ssvid.text.transformers:Clip",
    "clip_text": "ssvid.text.clip:ClipText",
    "names": "ssvid.text.names:Names",
    "videoprism_text": "ssvid.text.videoprism:PrismText",
    "blip_text": "ssvid.text.blip:BlipText",
}


def create_tower(name: str, **kwargs: Any) -> Tower:
    """The tower of a name in TOWERS, or `module.path:Class` of a module that the user trusts.

    `kwargs` are its arguments; the tower remembers them. Raises UserError if there is no such
    tower or if the arguments do not fit it.
    """
    kind = find_tower_class(name)
    try:
        tower: Tower = kind(**kwargs)
    except TypeError as error:
        raise UserError(f"The text tower {name} cannot be made: {error}.") from error
    tower.name, tower.kwargs = name, kwargs
    return tower


def find_tower_class(name: str) -> Any:
    if name in TOWERS:
        module, _, attribute = TOWERS[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    if not isinstance(name, str) or ":" not in name:
        raise UserError(f"There is no text tower {name!r}: take {', '.join(TOWERS)}.")
    return import_checked(name, "text tower", "ssvid.text.tower:Tower")


__all__ = ["TOWERS", "Tower", "create_tower"]
