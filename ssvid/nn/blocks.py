"""A clip in blocks -> a map of features for each, and the contrast of predicted maps: what DPC and MemDPC share."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from ssvid.data.decode import stamps
from ssvid.data.manifest import Manifest
from ssvid.data.sampling import clip_times, words
from ssvid.encoder import Encoder
from ssvid.errors import DecodeError, UserError
from ssvid.nn.convgru import ConvGRU
from ssvid.nn.gather import Gathered, gather_rows
from ssvid.randomness import permutation
from ssvid.shapes import Clip, Views

Rows = Float[Tensor, "R D"]  # (clip, block, row, column) flattened
LOOKED = 16  # videos
NEGATIVES = (
    "all",
    "process",
)  # whose: of all devices; published: each device has those of its own clips


def check_blocks(name: str, blocks: int, predicted: int, negatives: str) -> None:
    if not 0 < predicted < blocks:
        raise UserError(
            f"{name}: predicted {predicted} of blocks {blocks}: some must be seen and some predicted."
        )
    if negatives not in NEGATIVES:
        raise UserError(
            f"{name}: there is no negatives {negatives!r}: take {' or '.join(NEGATIVES)}."
        )


def block_views(encoder: Encoder, blocks: int, augment: str) -> Views:
    """One clip of `blocks` times the encoder's own frames."""
    long = replace(encoder.spec, frames=blocks * encoder.spec.frames)
    return Views(clips=(long,), augment=augment, mean=encoder.mean, std=encoder.std)


def long_enough(data: Manifest, views: Views) -> None:
    """Refuse data of which none of LOOKED videos holds all blocks: its last ones would be one picture repeated."""
    (spec,), longest = views.clips, 0
    for row in permutation(0, 0, len(data))[:LOOKED].tolist():
        try:
            table = stamps(data.path(row), data.rows[row].fps)
            if not clip_times(spec, table, 0.0)[1]:
                return
        except DecodeError:
            continue
        longest = max(longest, len(table))
    if longest:
        raise UserError(
            f"{data.root}: all blocks of a clip take {words(spec)}, and of {min(LOOKED, len(data))} videos looked at "
            f"the longest has {longest}: give fewer --objective.blocks, or fewer frames or a smaller stride of each."
        )


def block_maps(name: str, encoder: Encoder, clip: Clip, blocks: int) -> Float[Tensor, "B N D h w"]:
    """Each block's features, averaged over its time; before any ReLU, as they are the targets."""
    if clip.shape[2] % blocks:
        raise UserError(
            f"{name}: a clip of {clip.shape[2]} frames is not {blocks} blocks of as many each: "
            "--clip.frames counts all of them; --objective.blocks and --encoder.frames make it up."
        )
    tokens, _, grid, _ = encoder(rearrange(clip, "B C (N T) H W -> (B N) C T H W", N=blocks))
    return reduce(tokens, "(B N) (t h w) D -> B N D h w", "mean", N=blocks, t=grid.t, h=grid.h)


def roll_out(
    gru: ConvGRU, seen: Float[Tensor, "B N D h w"], steps: int, predict: Callable[[Tensor], Tensor]
) -> Float[Tensor, "B P D h w"]:
    """Predict a block from the state, then take the prediction for seen."""
    _, state = gru(seen.relu())
    made: list[Tensor] = []
    for step in range(steps):
        if step:
            _, state = gru(made[-1].relu()[:, None], state)
        made.append(predict(state[-1]))
    return torch.stack(made, dim=1)


def rows(maps: Float[Tensor, "B P D h w"]) -> Rows:
    return rearrange(maps, "B P D h w -> (B P h w) D")


def contrast(
    pred: Rows, true: Rows, negatives: str, tops: Sequence[int] = (1, 5)
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross entropy of plain products, no temperature: each prediction's own true row among those of all clips."""
    keys = gather_rows(true) if negatives == "all" else Gathered(true, 0)
    scores = pred @ keys.rows.T  # R R'
    place = torch.arange(len(scores), device=scores.device) + keys.first
    loss = F.cross_entropy(scores, place)
    with torch.no_grad():
        above = (scores > scores.gather(1, place[:, None])).sum(1)  # better than the true one
        return loss, {f"top{k}": (above < k).float().mean() for k in tops}
