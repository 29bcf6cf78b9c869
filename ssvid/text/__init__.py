"""Sentences -> a vector each: text towers by name, and the space that they share with video (ssvid.text.joint)."""

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
    """A tower by its name, or a stranger's as `module.path:Class`. What it was made with is its `kwargs`."""
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
