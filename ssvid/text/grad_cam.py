"""A clip and a sentence -> where each word looks: Grad-CAM of the grounded text encoder.

Grad-CAM (arXiv:1610.02391) of cross-attention, as ALBEF (arXiv:2107.07651) and BLIP
(arXiv:2201.12086) show it: the weights of one layer, times the gradient of a score with respect to
them. What lowers the score is left out.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ssvid.errors import UserError
from ssvid.nn.bert import PAD
from ssvid.nn.plain_attention import ground_watched
from ssvid.shapes import Features, Grid
from ssvid.text.answering import AnswerSpace
from ssvid.text.blip import BlipText
from ssvid.text.matching import MatchingSpace, join_frame_tokens

DEPTH = 2 / 3  # of the layers that come up to the watched one; a choice that nobody tuned
WordPositions = Sequence[tuple[str, list[int]]]  # each word, and where its pieces are


class Heat(NamedTuple):
    """Where words look. A map of the sentence is the mean of those of its words."""

    words: list[str]
    maps: Float[Tensor, "K t h w"]  # of each word, not normalised
    # What share of the heat lies on the patches, on the class tokens of frames, and on the means of
    # text-dependent pooling. The last two have no place in a frame, so the maps lack them.
    shares: dict[str, float]

    @property
    def sentence(self) -> Float[Tensor, "t h w"]:
        return self.maps.mean(0)


class Explanation(NamedTuple):
    """Heat, the layer whose attention it comes from (counted from 1), and the scores by name."""

    heat: Heat
    layer: int
    scores: dict[str, float]


def explain_match(
    space: MatchingSpace, features: Features, sentence: str, layer: int | None = None
) -> Explanation:
    """What in a clip makes the sentence match it: the gradient is that of the logit of yes.

    `features`: of one clip. The space is in eval mode. Raises a UserError where `layer` is none of
    those that words look through.
    """
    layer = choose_layer(space.tower, layer, uses_last=False)
    ids = space.tower.tokens([sentence]).to(features.tokens.device)
    with torch.no_grad():
        text = F.normalize(space.tower.embed(ids), dim=1)
        cosine = (space.embed_videos(features.pooled) * text).sum()
        context = space.make_context(space.guide(ids, text), join_frame_tokens(features))
    states, weights = ground_watched(
        space.tower.bert, space.tower.mark_grounded(ids), context, layer
    )
    with torch.enable_grad():
        logits = space.matcher(states[:, 0])[0]
        cam = compute_cam(logits[1], weights)[0]
    words = space.tower.pieces.group_pieces(ids[0])
    heat = map_words(cam, words, features.grid, space.has_cls)
    logits = logits.detach()
    scores = {"match_logit": float(logits[1]), "match_probability": float(logits.softmax(0)[1])}
    return Explanation(heat, layer, {**scores, "cosine": float(cosine)})


def explain_answer(
    space: AnswerSpace, features: Features, question: str, answer: str, layer: int | None = None
) -> Explanation:
    """What in a clip makes the answer to the question likely. See `explain_match`.

    The gradient is that of the log-probability of the whole answer.
    """
    layer = choose_layer(space.tower, layer, uses_last=True)
    device = features.tokens.device
    ids = space.tower.tokens([question]).to(device)
    answer_ids = space.decoder.tokens([answer]).to(device)
    with torch.no_grad():
        context = space.make_context(ids, join_frame_tokens(features))
    states, weights = ground_watched(
        space.tower.bert, space.tower.mark_grounded(ids), context, layer
    )
    with torch.enable_grad():
        log_probability = space.decoder.compute_log_probabilities(answer_ids, states, ids != PAD)
        cam = compute_cam(log_probability[0], weights)[0]
    words = space.tower.pieces.group_pieces(ids[0])
    heat = map_words(cam, words, features.grid, space.has_cls)
    value = float(log_probability.detach()[0])
    scores = {"answer_log_probability": value, "answer_probability": math.exp(value)}
    return Explanation(heat, layer, scores)


def choose_layer(tower: BlipText, layer: int | None, uses_last: bool) -> int:
    """The watched layer. `uses_last`: whether the score reads all words after the last layer.

    Without it the score reads the first token alone, so words have no part in the last attention.
    Raises a UserError for a layer that there is not.
    """
    last = len(tower.bert.layers) - (not uses_last)
    if last < 1:
        raise UserError(
            "The text encoder has one layer, after which its first token alone says whether a "
            "sentence matches: its words have no map. Take a run with two or more."
        )
    if layer is None:
        return min(last, max(1, round(DEPTH * len(tower.bert.layers))))
    if not 1 <= layer <= last:
        why = "" if uses_last else " After the last one the first token alone counts."
        raise UserError(f"--layer {layer}: words look through the layers 1 to {last}.{why}")
    return layer


def compute_cam(
    score: Float[Tensor, ""], weights: Float[Tensor, "B a W M"]
) -> Float[Tensor, "B W M"]:
    """The mean over heads of weight times gradient, where this is positive."""
    (gradient,) = torch.autograd.grad(score, weights)
    return (gradient * weights.detach()).relu().mean(1)


def map_words(cam: Float[Tensor, "W M"], words: WordPositions, grid: Grid, has_cls: bool) -> Heat:
    """The maps of words, which are the means over their pieces. Start and end are no words."""
    rows = []
    for _, positions in words:
        rows.append(cam[positions].mean(0))
    of_words = torch.stack(rows)  # K M
    count = grid.h * grid.w + has_cls  # tokens of a frame
    frames = of_words[:, : grid.t * count].unflatten(1, (grid.t, count))
    patches = frames[:, :, int(has_cls) :].unflatten(2, (grid.h, grid.w))
    total = max(float(of_words.sum()), torch.finfo(torch.float32).tiny)
    shares = {"patches": float(patches.sum()) / total}
    if has_cls:
        shares["class_tokens"] = float(frames[:, :, 0].sum()) / total
    if of_words.shape[1] > grid.t * count:
        shares["pooled_means"] = float(of_words[:, grid.t * count :].sum()) / total
    return Heat([word for word, _ in words], patches, shares)
