"""rows + what an objective eats -> Samples: the one place that tells which kind of sample that is."""

from ssvid.data.clips import Clips
from ssvid.data.manifest import Manifest
from ssvid.data.narration.samples import Bags, FeatureWindows
from ssvid.data.samples import Samples
from ssvid.shapes import Bag, Views, Window


def training(
    rows: Manifest, views: Views, *, seed: int, short: str = "pad", decoder: str = "pyav"
) -> Samples:
    if isinstance(views.text, Window):
        return FeatureWindows(rows, views, seed=seed)
    if isinstance(views.text, Bag):
        return Bags(rows, views, seed=seed, decoder=decoder)
    return Clips(rows, views, seed=seed, short=short, decoder=decoder)
