"""The interface of picture transformers that see a clip frame by frame.

A video encoder that lets frames exchange messages (ssvid.encoders.xclip) builds on it.
"""

from abc import abstractmethod
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from ssvid.encoder import Encoder, list_encoders
from ssvid.errors import UserError
from ssvid.shapes import Clip, Index


class FrameEncoder(Encoder):
    """`begin`, then every block, then `finish`: the tokens of B x T frames in one batch.

    The blocks are `FrameBlock`s of ssvid.nn.exchange. The first token of a frame is its class
    token.
    """

    per_frame = True
    width: int  # of a token in the blocks; `dim` is that of its outputs
    blocks: nn.ModuleList

    @abstractmethod
    def begin(self, clip: Clip) -> Float[Tensor, "BT N D"]:
        """The tokens of every frame before the first block."""

    @abstractmethod
    def finish(self, x: Float[Tensor, "BT N D"]) -> Float[Tensor, "BT N E"]:
        """The outputs of the tokens after the last block, of each by itself."""


def require_frames(owner: str, encoder: Encoder) -> FrameEncoder:
    """The encoder, if it sees frame by frame; else a UserError that names those which do."""
    if not encoder.per_frame:
        able = ", ".join(list_encoders(per_frame=True))
        raise UserError(f"{owner} needs an encoder of single frames: {able}; not {encoder.name}.")
    return cast(FrameEncoder, encoder)


def check_all_visible(encoder: Encoder, visible: Index | None) -> None:
    """Raise a UserError where tokens are to be left out, which encoders of frames cannot do."""
    if visible is not None:
        raise UserError(f"{encoder.name} sees whole frames and cannot leave tokens out.")
