"""manifest + an objective's views -> the Samples to train on.

This is the only file that chooses the kind of sample.
"""

from ssvid.data.captions import CaptionedClips
from ssvid.data.clips import Clips
from ssvid.data.manifest import Manifest
from ssvid.data.narration.samples import Bags, FeatureWindows
from ssvid.data.samples import Samples
from ssvid.shapes import Bag, Caption, Views, Window


def training(
    rows: Manifest, views: Views, *, seed: int, short: str = "pad", decoder: str = "pyav"
) -> Samples:
    """Clips, clips with sentences, or windows of stored features: whichever the views declare."""
    if isinstance(views.text, Window):
        return FeatureWindows(rows, views, seed=seed)
    if isinstance(views.text, Bag):
        return Bags(rows, views, seed=seed, decoder=decoder)
    if isinstance(views.text, Caption):
        return CaptionedClips(rows, views, seed=seed, short=short, decoder=decoder)
    return Clips(rows, views, seed=seed, short=short, decoder=decoder)
