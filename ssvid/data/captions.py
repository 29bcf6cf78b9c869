"""Rows whose sentences describe the whole video -> clips with captions.

This is the only file that chooses which caption goes with a clip. The times of the sentences are
not used: any of a row's sentences describes any of its clips.
"""

from collections.abc import Sequence
from itertools import filterfalse, repeat
from typing import Any

from ssvid.data.clips import Clips
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.randomness import uniform
from ssvid.shapes import Caption, Row, Views


class CaptionedClips(Clips):
    """The clips of a video as any objective takes them, with captions of the video.

    A caption is drawn from (seed, epoch, row). Raises a UserError if a row has no caption.
    """

    def __init__(
        self,
        manifest: Manifest,
        views: Views,
        *,
        seed: int,
        short: str = "pad",
        decoder: str = "pyav",
    ) -> None:
        super().__init__(manifest, views, seed=seed, short=short, decoder=decoder)
        assert isinstance(views.text, Caption)
        self.caption = views.text
        need_captions(manifest)

    def _load(self, epoch: int, row: int) -> dict[str, Any]:
        texts = list_captions(self.manifest.rows[row])
        u = uniform(self.seed, "caption", epoch, row, len(texts))[0]
        order = u.argsort(stable=True).tolist()
        sentences = choose_captions(texts, order, self.caption.sentences)
        return {**super()._load(epoch, row), "sentences": sentences}


def list_captions(row: Row) -> list[str]:
    """The texts of a row's sentences that are not blank."""
    return [text for _, _, text in row.sentences if text.strip()]


def choose_captions(texts: Sequence[str], order: Sequence[int], n: int) -> list[str]:
    """The first n texts of an order. Where there are fewer, they are taken again in turn."""
    return [texts[order[i % len(order)]] for i in range(n)]


def need_captions(manifest: Manifest) -> None:
    """Raise a UserError if a row has no caption."""
    mute = list(filterfalse(list_captions, manifest.rows))
    if mute:
        raise UserError(
            f"{len(mute)} of {len(manifest)} clips of {manifest.title} have no caption, first "
            f"{mute[0].path}: this objective learns from clips with sentences, such as --data csv "
            "or --data images with a column caption. Leave rows without one out of the list."
        )


def describe_whole(texts: Sequence[str], seconds: float) -> tuple[tuple[float, float, str], ...]:
    """A row's sentences, each of which lasts as long as the video. Blank texts are left out."""
    captions = filter(None, map(str.strip, texts))
    return tuple(zip(repeat(0.0), repeat(seconds), captions))
