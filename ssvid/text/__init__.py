"""Sentences -> one vector each: the text towers by name.

ssvid.text.joint holds the space that a tower shares with video.
"""

import importlib
from typing import Any

from ssvid.errors import UserError
from ssvid.text.tower import Tower

TOWERS = {
    "words": "ssvid.text.words:Words",
    "bert": "ssvid.text.transformers:Bert",
    "clip": "ssvid.text.transformers:Clip",
}


def create_tower(name: str, **kwargs: Any) -> Tower:
    """The tower of a name in TOWERS, or a class from elsewhere, named as `module.path:Class`.

    `kwargs` are its arguments; the tower remembers them. Raises UserError if there is no such
    tower or if the arguments do not fit it.
    """
    path = TOWERS.get(name, name)
    module, colon, attribute = path.partition(":")
    if not colon:
        raise UserError(f"There is no text tower {name!r}: take {', '.join(TOWERS)}.")
    try:
        tower = getattr(importlib.import_module(module), attribute)(**kwargs)
    except (ImportError, AttributeError) as error:
        raise UserError(f"The text tower {name} cannot be imported: {error}.") from error
    except TypeError as error:
        raise UserError(f"The text tower {name} cannot be made: {error}.") from error
    tower.name, tower.kwargs = name, kwargs
    return tower


__all__ = ["TOWERS", "Tower", "create_tower"]
