"""manifest + an objective's views -> the Samples to train on.

This is the only file that chooses the kind of sample.
"""

from collections.abc import Mapping
from typing import Any

from ssvid.data.captions import CaptionedClips
from ssvid.data.clips import Clips
from ssvid.data.manifest import Manifest
from ssvid.data.narration.samples import Bags, FeatureWindows
from ssvid.data.questions import QuestionedClips
from ssvid.data.samples import Samples
from ssvid.shapes import Bag, Caption, Questions, Views, Window


def training(
    rows: Manifest, views: Views, *, seed: int, short: str = "pad", decoder: str = "pyav"
) -> Samples:
    """Clips, those with sentences or questions, or stored features: whichever the views declare.

    A part of a mixture may have a clip of its own.
    """
    if rows.mixture is None:
        return make_samples(rows, views, seed=seed, short=short, decoder=decoder)
    views_of = rows.mixture.change_views(views)
    samples_of: dict[str, Samples] = {}
    for name, of_part in views_of.items():
        samples_of[name] = make_samples(rows, of_part, seed=seed, short=short, decoder=decoder)
    if all(of_part == views for of_part in views_of.values()):
        return next(iter(samples_of.values()))
    return SamplesByPart(views, samples_of)


def make_samples(rows: Manifest, views: Views, *, seed: int, short: str, decoder: str) -> Samples:
    """The samples of all rows with the same views."""
    if isinstance(views.text, Window):
        return FeatureWindows(rows, views, seed=seed)
    if isinstance(views.text, Bag):
        return Bags(rows, views, seed=seed, decoder=decoder)
    if isinstance(views.text, Caption):
        return CaptionedClips(rows, views, seed=seed, short=short, decoder=decoder)
    if isinstance(views.text, Questions):
        return QuestionedClips(rows, views, seed=seed, short=short, decoder=decoder)
    return Clips(rows, views, seed=seed, short=short, decoder=decoder)


class SamplesByPart(Samples):
    """Samples of a mixture whose parts have different clips.

    A sample has the same coordinates as in a mixture of one clip: its row among all rows.
    """

    def __init__(self, views: Views, samples_of: Mapping[str, Samples]) -> None:
        """`views`: those of the objective, without the clip of any part."""
        first = next(iter(samples_of.values()))
        self.manifest, self.seed, self.row = first.manifest, first.seed, first.row
        self.views, self.samples_of = views, samples_of

    def _load(self, epoch: int, index: int) -> dict[str, Any]:
        return self.samples_of[self.find_source(index)]._load(epoch, index)
