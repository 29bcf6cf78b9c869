"""Where words look: the layout of the maps, the scores, the layers, and the colours of heat."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssvid.errors import UserError
from ssvid.nn.bert import PAD, Context
from ssvid.nn.text_pooling import TextPooling
from ssvid.shapes import Features, Grid
from ssvid.text import create_tower
from ssvid.text.answering import AnswerSpace
from ssvid.text.blip import AnswerDecoder, BlipText
from ssvid.text.grad_cam import choose_layer, explain_answer, explain_match, map_words
from ssvid.text.heat import COVER, HOT, lay_heat, repeat_slots
from ssvid.text.matching import MatchingSpace, join_frame_tokens
from ssvid.text.wordpiece import SMALL, WordPieces
from tests.helpers import for_each, tells

GRID = Grid(2, 2, 3)
SENTENCE = "a red zebra moves left"
TEXT: dict[str, Any] = {"width": 24, "heads": 2, "length": 16, "dropout": 0.0, "context_dim": 24}


def draw_features(seed: int = 0) -> Features:
    torch.manual_seed(seed)
    cls = torch.randn(1, GRID.t, 24)
    return Features(torch.randn(1, GRID.n, 24), cls.mean(1), GRID, (), cls)


def wake(net: torch.nn.Module) -> None:
    torch.manual_seed(1)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


def build_space(layers: int = 3) -> MatchingSpace:
    tower = create_tower("blip_text", dim=8, layers=layers, **TEXT)
    assert isinstance(tower, BlipText)
    heads = torch.nn.Linear(24, 8), torch.nn.Linear(24, 2)
    temperature = torch.nn.Parameter(torch.tensor(0.07))
    pooling = TextPooling(variant="both")
    space = MatchingSpace(tower, *heads, temperature=temperature, pooling=pooling, has_cls=True)
    wake(space)
    return space.eval()


def build_answers() -> AnswerSpace:
    tower = create_tower("blip_text", dim=None, layers=2, **TEXT)
    assert isinstance(tower, BlipText)
    decoder = AnswerDecoder(tower)
    space = AnswerSpace(tower, decoder, pooling=TextPooling(variant="both"), has_cls=True)
    wake(space)
    return space.eval()


def test_maps_lie_where_their_tokens_are_and_leave_out_what_has_no_place():
    """Tokens are time-major, each frame's class token first; means of pooling come last."""
    cam = torch.zeros(5, 2 * (1 + 6) + 2)
    cam[1, 7 + 1 + 3] = 2.0  # frame 2, row 2, column 1, of the first piece of a word
    cam[2, 7 + 1 + 3] = 4.0  # the same, of its second piece
    cam[3, 1 + 2] = 1.0  # frame 1, row 1, column 3
    cam[3, 7], cam[3, 14] = 3.0, 4.0  # a class token and a mean
    cam[0, 5], cam[4, 5] = 9.0, 9.0  # start and end, which are no words
    heat = map_words(cam, [("zebra", [1, 2]), ("left", [3])], GRID, has_cls=True)
    expected = torch.zeros(2, *GRID)
    expected[0, 1, 1, 0], expected[1, 0, 0, 2] = 3.0, 1.0
    assert torch.equal(heat.maps, expected) and torch.equal(heat.sentence, expected.mean(0))
    assert heat.words == ["zebra", "left"]
    total = 3 + 1 + 3 + 4
    assert heat.shares == pytest.approx(
        {"patches": 4 / total, "class_tokens": 3 / total, "pooled_means": 4 / total}
    )


def test_pieces_of_a_word_are_one_word():
    pieces = WordPieces(SMALL)
    ids = pieces.encode([SENTENCE], 16)[0]
    words = pieces.group_pieces(ids)
    assert [word for word, _ in words] == SENTENCE.split()
    positions = sum((where for _, where in words), [])
    assert positions == list(range(1, int((ids != PAD).sum()) - 1))
    assert len(dict(words)["zebra"]) > 1


def test_the_scores_of_a_match_are_those_of_the_space():
    space, features = build_space(), draw_features()
    explanation = explain_match(space, features, SENTENCE)
    scores, heat = explanation.scores, explanation.heat
    with torch.no_grad():
        match = space.match(space.read_clips(features), [SENTENCE])
    assert scores["match_logit"] + scores["cosine"] == pytest.approx(float(match), abs=1e-5)
    assert heat.maps.shape == (5, *GRID) and heat.maps.min() >= 0 and heat.maps.any()
    assert sum(heat.shares.values()) == pytest.approx(1.0)
    assert explanation.layer == 2


def test_the_score_of_an_answer_is_the_sum_over_its_words():
    """And heat is there in the last layer too, for the decoder reads every word."""
    space, features = build_answers(), draw_features()
    explanation = explain_answer(space, features, SENTENCE, "a blue star", layer=2)
    tokens, ids = join_frame_tokens(features), space.decoder.tokens(["a blue star"])
    with torch.no_grad():
        states, mask = space.read_questions([SENTENCE], tokens)
        hidden = space.decoder.bert(ids[:, :-1], Context(states, mask=mask), causal=True)
        logits = space.decoder.head(hidden, space.decoder.bert.table.weight)[0]
    by_word: list[Tensor] = []
    for position, number in enumerate(ids[0, 1:].tolist()):
        by_word.append(F.log_softmax(logits[position], 0)[number])
    total = float(torch.stack(by_word).sum())
    assert explanation.scores["answer_log_probability"] == pytest.approx(total, abs=1e-4)
    assert explanation.heat.maps.flatten(1).sum(1).min() > 0


def test_padding_of_answers_has_no_probability():
    space, features = build_answers(), draw_features()
    with torch.no_grad():
        states, mask = space.read_questions(
            [SENTENCE] * 2, join_frame_tokens(features).repeat(2, 1, 1, 1)
        )
        ids = space.decoder.tokens(["star", "a blue star"])
        both = space.decoder.compute_log_probabilities(ids, states, mask)
        alone = space.decoder.compute_log_probabilities(ids[:1, :3], states[:1], mask[:1])
    assert float(both[0]) == pytest.approx(float(alone[0]), abs=1e-5)


@for_each("layers, uses_last, chosen", [(12, False, 8), (2, False, 1), (1, True, 1), (3, True, 2)])
def test_the_watched_layer_is_two_thirds_of_the_way_up(layers, uses_last, chosen):
    tower = create_tower("blip_text", dim=8, layers=layers, **TEXT)
    assert choose_layer(tower, None, uses_last) == chosen


def test_layers_without_maps_of_words_are_refused():
    space, features = build_space(), draw_features()
    for layer in (0, 3, 4):
        with pytest.raises(UserError) as error:
            explain_match(space, features, SENTENCE, layer)
        assert tells(str(error.value), f"--layer {layer}", "1 to 2")
    with pytest.raises(UserError, match="one layer"):
        explain_match(build_space(layers=1), features, SENTENCE)


def test_heat_colours_its_place_and_leaves_the_rest_grey():
    frames = torch.full((4, 3, 8, 8), 100, dtype=torch.uint8)
    heat = torch.zeros(2, 2, 2)
    heat[1, 0, 1] = 5.0
    laid = lay_heat(frames, heat)
    assert torch.equal(laid[:2], frames[:2]) and torch.equal(laid[2], laid[3])
    expected = (1 - COVER) * 100 + COVER * torch.tensor(HOT)
    assert torch.equal(laid[2, :, 0, -1], expected.round().to(torch.uint8))
    assert laid[2, :, -1, 0].tolist() == [100, 100, 100]
    assert torch.equal(lay_heat(frames, torch.zeros(2, 2, 2)), frames)
    assert repeat_slots(torch.arange(2.0)[:, None, None], 4).flatten().tolist() == [0, 0, 1, 1]
