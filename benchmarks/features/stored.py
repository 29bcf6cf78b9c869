"""videos with stored features and true times -> a function that aligns a window of a video.

Nothing here reads a clip or decodes a pixel.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.features.text_side import Text
from benchmarks.metrics.htm_align import Model
from ssvid.data.datasets.htm_align import Spoken
from ssvid.data.manifest import Manifest
from ssvid.data.store import find_card, read_features
from ssvid.errors import UserError
from ssvid.nn.timeline import Aligned

AlignWindow = Callable[[Float[Tensor, "1 T D"], list[str]], Aligned]  # features, sentences


def find_readable_rows(
    data: Manifest, rows: Sequence[int], encoder_hash: str, encoder: str
) -> set[int]:
    """The rows whose features can be read and are as wide as most of them.

    Raises a UserError where another encoder than `encoder` (of `encoder_hash`) made the features.
    """
    widths: dict[int, int] = {}
    for row in rows:
        path = data.root / data.rows[row].features
        card = find_card(path)
        if card and card.get("hash") not in (None, encoder_hash):
            raise UserError(
                f"The features {path} were made by the encoder {card.get('encoder')} of hash "
                f"{card['hash']}, but {encoder} has the hash {encoder_hash}: name that encoder, or "
                "extract the features again."
            )
        try:
            widths[row] = read_features(path, card["dim"] if card else None).shape[1]
        except UserError:
            continue  # the caller counts and lists these rows
    usual_width = max(set(widths.values()), key=list(widths.values()).count, default=0)
    return {row for row, width in widths.items() if width == usual_width}


def make_window_model(
    align_window: AlignWindow,
    data: Manifest,
    row_of_video: dict[str, int],
    sentences: dict[str, list[Spoken]],
) -> Model:
    """The function that the metric calls: it reads the features of a window and aligns them.

    `row_of_video` and `sentences` are keyed by video id; the rows are those of the manifest.
    """

    def model(video: str, start: int, seconds: int, numbers: list[int]) -> Aligned:
        table = read_features(data.root / data.rows[row_of_video[video]].features)
        features = torch.from_numpy(table[start : start + seconds].copy()).float()
        with torch.inference_mode():
            return align_window(features[None], [sentences[video][k].text for k in numbers])

    return model


def make_text_aligner(text: Text) -> AlignWindow:
    """An aligner made of an encoder's text side.

    It compares each second by itself, so it has one stage and no alignability head.
    """

    def align_window(features: Float[Tensor, "1 T D"], sentences: list[str]) -> Aligned:
        similarity = text.compare(text.read_pooled(features[0]), text.embed(sentences)).T[None]
        return Aligned(similarity, similarity, None)

    return align_window
