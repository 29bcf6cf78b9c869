"""What the objectives of LiteVL log as pictures."""

import torch

from objectives.litevl.pictures import BLUE, LEFT, STEP, draw_scales, find_height
from ssvid.shapes import Batch, Question
from ssvid.text.grad_cam import explain_match
from ssvid.text.heat import lay_heat
from tests.benchmarks.explained import create_questions, create_retrieval

QUESTION = Question("what colour is the star ?", (("red", 0.2), ("blue", 0.8)))


def draw_batch() -> Batch:
    clips = torch.randn(2, 1, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    sentences = [["a red star moves left"], ["a blue star grows"]]
    return {"clips": clips, "sentences": sentences, "questions": [[QUESTION], [QUESTION]]}


def test_a_run_of_retrieval_shows_the_heat_of_the_first_clips_own_sentence():
    objective, batch = create_retrieval(), draw_batch()
    pictures = objective.visualize(batch)
    assert set(pictures) == {"scales", "grad_cam"}
    assert pictures["grad_cam"].dtype == torch.uint8
    assert pictures["grad_cam"].shape == (3, 2 * 16, 4 * 16)
    with torch.no_grad():
        features = objective.encoder(batch["clips"][:1, 0])
    heat = explain_match(objective.joint_space(), features, "a red star moves left").heat
    mean, std = (
        torch.tensor(x).view(3, 1, 1, 1) for x in (objective.encoder.mean, objective.encoder.std)
    )
    pixels = (255 * (batch["clips"][0, 0] * std + mean).clamp(0, 1)).round().to(torch.uint8)
    laid = lay_heat(pixels.transpose(0, 1), heat.sentence)
    assert torch.equal(pictures["grad_cam"][:, :16, 16:32], pixels[:, 1])
    assert torch.equal(pictures["grad_cam"][:, 16:, 16:32], laid[1])
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_a_run_of_questions_shows_the_heat_of_the_answer_that_weighs_most(monkeypatch):
    from objectives.litevl import questions as module

    calls = []
    real = module.explain_answer
    monkeypatch.setattr(
        module, "explain_answer", lambda *arguments: (calls.append(arguments), real(*arguments))[1]
    )
    pictures = create_questions().visualize(draw_batch())
    assert set(pictures) == {"scales", "grad_cam"}
    assert calls[0][2:] == (QUESTION.text, "blue")


def test_without_scaling_there_is_no_curve():
    for options in ({"scaling": "none"}, {"time": False}):
        assert set(create_retrieval(**options).visualize(draw_batch())) == {"grad_cam"}


def test_the_curve_goes_through_the_scales_of_the_last_batch():
    objective, batch = create_retrieval(), draw_batch()
    objective.encoder(batch["clips"][:, 0])
    scales = objective.encoder.read_scales()
    assert torch.equal(objective.visualize(batch)["scales"], draw_scales(scales))
    curve = draw_scales([0.5, 1.5])
    for number, scale in enumerate((0.5, 1.5)):
        x, y = int(LEFT + STEP * (number + 0.5)), round(find_height(scale))
        assert curve[:, y, x].tolist() == list(BLUE)
