"""A batch that a preset or an objective chose -> one that is no larger than the set.

It is a file of its own, because the flags of a run import torch, and help of a preset needs none.
"""

from dataclasses import replace
from typing import TypeVar

from ssvid.engine.train_flags import TrainFlags
from ssvid.presets import lay_below, read_name
from ssvid.recipe import Recipe

Flags = TypeVar("Flags", bound=TrainFlags)


def fit_batch(command: str, config: Recipe, flags: Flags, videos: int) -> Flags:
    """The flags of a run, with a batch that is no larger than the set if the user left it out.

    The batch is changed in `config` too. One that the user typed stays, unless it is the very one
    that would have been chosen.
    """
    if flags.batch_size <= videos:
        return flags
    left_out = {"objective": config.get("objective"), "preset": config["preset"]}
    below = lay_below(command, left_out)
    if below.get("batch_size") != flags.batch_size:
        return flags
    # Without a preset only the small encoder of the objective comes with a batch of its own.
    is_small = read_name(config.get("encoder")) == read_name(below.get("encoder"))
    if config["preset"] is None and not is_small:
        return flags
    config["batch_size"] = videos
    return replace(flags, batch_size=videos)
