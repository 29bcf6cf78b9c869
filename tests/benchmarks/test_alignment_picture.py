"""The picture of an alignment: room for each sentence, and a warning of answers that are alike."""

import io

import torch
from PIL import Image

from benchmarks.reports.alignment import Span, draw_alignment, warn_of_equal_answers
from tests.helpers import tells


def size_of(picture: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(picture)) as image:
        return image.size


def make_spans(count: int, step: float) -> list[Span]:
    return [(step * k, step * k + 2) for k in range(count)]


def test_a_picture_has_room_for_each_sentence():
    likelihood = torch.rand(30, 300)
    likelihood[0, 250:] = torch.nan
    spans = make_spans(30, 9.0)
    texts, aligned = ["a long $5 sentence " * 9] * 30, [*spans[:29], None]
    picture = draw_alignment("v", likelihood, texts, spans, aligned, [True, False, None] * 10)
    width, height = size_of(picture)
    assert width == 1600 and height >= 30 * 20
    many = ["x"] * 600, [spans[0]] * 600, [spans[1]] * 600, [True] * 600
    width, height = size_of(draw_alignment("v", torch.rand(600, 2000), *many))
    assert width == 1600 and height < 10_000


def test_answers_that_do_not_depend_on_the_sentence_are_warned_of():
    stripes = torch.rand(300).expand(11, -1) * (1 + 0.1 * torch.rand(11, 1))
    assert tells(warn_of_equal_answers(stripes), "WARNING", "11")
    stripes = stripes.clone()
    stripes[0], stripes[1, :200], stripes[2:, 290:] = torch.nan, torch.nan, torch.nan
    assert tells(warn_of_equal_answers(stripes), "WARNING", "10")  # the first was not asked
    spread = torch.eye(40)[torch.arange(11) * 3]
    assert warn_of_equal_answers(spread) == "" == warn_of_equal_answers(torch.ones(5, 9))
    spans, heights = make_spans(11, 3.0), []
    for likelihood in (stripes, spread):
        parts = ["x"] * 11, spans, [*spans[:10], None], [None] * 11
        heights.append(size_of(draw_alignment("v", likelihood, *parts))[1])
    assert heights[0] > heights[1]  # room for the warning
