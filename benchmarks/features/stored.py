"""videos with stored features and true times -> what aligners are asked. No clip is read, no pixel decoded."""

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

Asked = Callable[[Float[Tensor, "1 T D"], list[str]], Aligned]


def readable(data: Manifest, rows: Sequence[int], fingerprint: str, given: str) -> set[int]:
    """Rows whose features can be read and are as wide as most. Refused where another encoder made them."""
    widths: dict[int, int] = {}
    for row in rows:
        path = data.root / data.rows[row].features
        card = find_card(path)
        if card and card.get("hash") not in (None, fingerprint):
            raise UserError(
                f"The features {path} were made by the encoder {card.get('encoder')} of hash {card['hash']}, and "
                f"{given} is {fingerprint}: name that encoder, or extract them anew."
            )
        try:
            widths[row] = read_features(path, card["dim"] if card else None).shape[1]
        except UserError:
            continue  # counted and listed
    most = max(set(widths.values()), key=list(widths.values()).count, default=0)
    return {row for row, width in widths.items() if width == most}


def model_of(
    ask: Asked, data: Manifest, rows: dict[str, int], said: dict[str, list[Spoken]]
) -> Model:
    """`rows`: of the manifest, by video id."""

    def model(video: str, start: int, seconds: int, which: list[int]) -> Aligned:
        table = read_features(data.root / data.rows[rows[video]].features)
        features = torch.from_numpy(table[start : start + seconds].copy()).float()
        with torch.inference_mode():
            return ask(features[None], [said[video][k].text for k in which])

    return model


def by_text(text: Text) -> Asked:
    """An encoder's own text side: each second by itself, one stage, no head."""

    def ask(features: Float[Tensor, "1 T D"], sentences: list[str]) -> Aligned:
        alike = (text.embed(sentences) @ text.videos(features[0]).T)[None]
        return Aligned(alike, alike, None)

    return ask
