"""videos + a question -> the answer of each: `python -m benchmarks.ask VIDEO "a question"`.

It needs a run of litevl_qa, which reads the question while it looks at the video.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from benchmarks.features.answer_side import open_answers
from benchmarks.label import list_videos
from ssvid.data.sampling import eval_clips
from ssvid.encoder import Encoder
from ssvid.engine.distributed import join
from ssvid.engine.train_flags import UNCHANGED, ClipChange
from ssvid.errors import DecodeError, UserError
from ssvid.hub import open_encoder
from ssvid.log import log
from ssvid.text.answering import AnswerSpace
from ssvid.text.tower import Tower

Choice = dict[str, Any]


def ask(
    video: str,  # a file, or a folder of them
    *,
    question: str,  # that every video is asked
    encoder: str,  # the folder of a run of litevl_qa
    choices: str | None = None,  # two or more with commas between them; null: the answer is written
    clip: ClipChange = UNCHANGED,  # changes to the clip of the encoder
    devices: Literal["auto", "cpu", "cuda"] = "auto",  # auto: a GPU where there is one
) -> dict[str, Any]:
    """Answer a question about a video, or about each video of a folder.

    The answer is written word by word, the likeliest word first (greedy), or it is the likeliest of
    --choices. One clip of each video is seen, as in the task video_qa.
    """
    text = clean_text(question, "The question")
    among = [] if choices is None else read_choices(choices)
    videos = list_videos(video, "VIDEO")
    net, space = open_pictures(encoder, clip), open_answers(encoder)
    for sentence in (text, *among):
        check_words(sentence, space.tower)
    device = join(devices).device
    net, space = net.to(device), space.to(device)
    answers: dict[str, str] = {}
    rankings: dict[str, list[Choice]] = {}
    bad: dict[str, str] = {}
    for name, path in zip(videos.ids, videos.paths, strict=True):
        try:
            pixels = eval_clips(path, net.spec)
        except DecodeError as error:
            if not videos.is_folder:
                raise UserError(f"The video cannot be read: {error}.") from error
            bad[name] = str(error)
            log.warning(f"left out: {error}")
            continue
        answers[name], ranking = answer_about(net, space, pixels, text, among)
        if among:
            rankings[name] = ranking
    printed: dict[str, Any] = {"question": text, "answers": answers}
    printed |= {"choices": rankings} if among else {}
    printed |= {"bad": bad, "page": format_answers(answers, rankings, bad)}
    # Exit code 3 says that the run ended, but that some videos could not be read.
    return printed | ({"exit_code": 3} if bad else {})


def clean_text(text: str, name: str) -> str:
    """With single blanks. `name`: what it is, for the UserError of an empty one."""
    cleaned = " ".join(text.split())
    if not cleaned:
        raise UserError(f"{name} is empty: write it in quotes behind VIDEO.")
    return cleaned


def read_choices(text: str) -> list[str]:
    """The answers of --choices. A UserError for fewer than two, an empty one or equal ones."""
    choices = [" ".join(piece.split()) for piece in text.split(",")]
    if len(choices) < 2 or "" in choices:
        raise UserError(
            f"--choices {text!r}: write two or more answers with one comma between each two."
        )
    if len({choice.lower() for choice in choices}) < len(choices):
        raise UserError(f"--choices {text!r} has an answer twice.")
    return choices


def check_words(sentence: str, tower: Tower) -> None:
    """Raise a UserError for a sentence of which the text side knows nothing."""
    if not tower.can_encode(sentence):
        raise UserError(
            f"The text side knows no word of {sentence!r}: its vocabulary has none of its pieces."
        )


def open_pictures(encoder: str, clip: ClipChange) -> Encoder:
    """The encoder with the user's clip. A UserError if it does not see pictures."""
    net = open_encoder(encoder)
    clip.apply_to(net)
    if net.spec.modality != "rgb":
        raise UserError(
            f"--encoder {encoder} sees {net.spec.modality}, and this command reads pictures: take "
            "an encoder of rgb."
        )
    return net


@torch.inference_mode()
def answer_about(
    net: Encoder,
    space: AnswerSpace,
    pixels: UInt8[Tensor, "1 C T s s"],
    question: str,
    among: Sequence[str],
) -> tuple[str, list[Choice]]:
    """The answer, and the choices with their scores, the best first.

    A score is that of the task video_qa: the negative loss of the whole answer, smoothed as in
    training. A probability compares the choices with each other alone.
    """
    device = next(net.parameters()).device
    clips = space.read_clips(net(net.normalise(pixels.to(device))))
    if not among:
        return space.generate(clips, [question])[0], []
    ranking = space.rank(clips, [question], among, len(among))
    shares = ranking.scores[0].double().softmax(0).tolist()
    numbers, scores = ranking.answers[0].tolist(), ranking.scores[0].tolist()
    lines: list[Choice] = []
    for number, score, share in zip(numbers, scores, shares, strict=True):
        lines.append({"choice": among[number], "score": score, "probability": share})
    return lines[0]["choice"], lines


def format_answers(
    answers: dict[str, str], rankings: dict[str, list[Choice]], bad: dict[str, str]
) -> str:
    """A line for each video, and below it one for each choice."""
    lines = []
    for name, answer in answers.items():
        lines.append(f"{Path(name).name}: {answer or '(no word)'}")
        for line in rankings.get(name, []):
            numbers = f"{100 * line['probability']:5.1f} %  {line['score']:8.3f}"
            lines.append(f"  {numbers}  {line['choice']}")
    lines += [f"not read: {name} ({why})" for name, why in bad.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("ask")
