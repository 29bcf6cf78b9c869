"""a video + a sentence -> which places of its frames decide: `python -m benchmarks.explain VIDEO`.

It writes OUT/index.html, OUT/strip.png and OUT/explanation.json. ssvid.text.grad_cam says what is
computed.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from benchmarks.ask import check_words, clean_text, open_pictures
from benchmarks.features.answer_side import open_answers
from benchmarks.features.text_side import open_text_side
from ssvid.data.decode import read_timestamps
from ssvid.data.files import need_file
from ssvid.data.sampling import clip_times, eval_clips
from ssvid.encoder import Encoder
from ssvid.encoders.litevl import LiteVL
from ssvid.engine.distributed import join
from ssvid.engine.train_flags import UNCHANGED, ClipChange
from ssvid.errors import DecodeError, UserError
from ssvid.files import write_bytes_whole, write_json_whole, write_text_whole
from ssvid.shapes import ClipSpec
from ssvid.text.answering import STEM, AnswerSpace
from ssvid.text.grad_cam import Explanation, Heat, explain_answer, explain_match
from ssvid.text.heat import lay_heat, repeat_slots
from ssvid.text.matching import MatchingSpace

PAGE, STRIP, RECORD = "index.html", "strip.png", "explanation.json"
LEAST_SIDE = 160  # pixels of a frame that is shown; smaller ones are enlarged
MIDDLE = 0.5  # where the one clip of a video lies
Json = dict[str, Any]


class Shown(NamedTuple):
    """The one clip of a video."""

    pixels: UInt8[Tensor, "1 C T s s"]
    times_s: list[float]  # of each frame


def explain(
    video: str,  # a file
    *,
    sentence: str,  # with --answer it is a question
    encoder: str,  # a run of litevl_retrieval or litevl_qa, or a file of BLIP's retrieval
    out: str,  # folder
    words: str | None = None,  # vocabulary of a file of BLIP
    answer: str | None = None,  # of a run of litevl_qa: the answer whose probability is explained
    # Layer of the text encoder whose attention is shown, counted from 1; null: two thirds of the
    # way up (8 of 12). Shallow layers have read little of the clip, and after the last one words
    # have no part in a match.
    layer: int | None = None,
    clip: ClipChange = UNCHANGED,  # changes to the clip of the encoder
    devices: Literal["auto", "cpu", "cuda"] = "auto",  # auto: a GPU where there is one
) -> dict[str, Any]:
    """Show which places of a video's frames make your sentence match it, word by word.

    It is Grad-CAM of the text encoder that looks at the clip, so it needs a net that has one. Of a
    run that answers questions, it shows which places make an answer likely.
    """
    text = clean_text(sentence, "The sentence")
    if answer is not None:
        answer = clean_text(answer, "--answer")
    path, target = need_video(video), Path(out).expanduser()
    if target.is_file():
        raise UserError(f"--out {out} is a file; name a folder.")
    net, space = open_pictures(encoder, clip), open_space(encoder, words, answer)
    for part in filter(None, (text, answer)):
        check_words(part, space.tower)
    device = join(devices).device
    shown = read_shown(path, net.spec)
    explanation, scales = look(net.to(device), space.to(device), shown, text, answer, layer)
    record: Json = {"video": video, "sentence": text, "answer": answer, "encoder": net.name}
    record |= describe_explanation(explanation, shown, len(space.tower.bert.layers), scales)
    write_results(target, record, explanation.heat, shown)
    record["page"] = format_for_people(record)
    record["out"] = out
    return record | {"next": [f"open {target / PAGE} in a browser"]}


def need_video(video: str) -> Path:
    if Path(video).expanduser().is_dir():
        raise UserError(f"{video} is a folder: name one video of it.")
    return need_file(video, "VIDEO")


def open_space(encoder: str, words: str | None, answer: str | None) -> MatchingSpace | AnswerSpace:
    """What looks at clips for sentences. A UserError where --answer does not fit it."""
    answers_questions = (Path(encoder).expanduser() / f"{STEM}.json").exists()
    if answer is not None:
        return open_answers(encoder)
    if answers_questions:
        raise UserError(
            f"{encoder} answers questions and has no match head: give --answer, whose probability "
            "is then explained."
        )
    space = open_text_side(encoder, words)
    if not isinstance(space, MatchingSpace):
        raise UserError(
            f"{encoder} has no text encoder that looks at clips: take a run of litevl_retrieval or "
            "litevl_qa, or a file of BLIP's retrieval."
        )
    return space


def read_shown(path: Path, spec: ClipSpec) -> Shown:
    """The clip in the middle of the video, or over the whole of it."""
    try:
        times, _ = clip_times(spec, read_timestamps(path), MIDDLE)
        return Shown(eval_clips(path, spec), times.tolist())
    except DecodeError as error:
        raise UserError(f"The video cannot be read: {error}.") from error


def look(
    net: Encoder,
    space: MatchingSpace | AnswerSpace,
    shown: Shown,
    sentence: str,
    answer: str | None,
    layer: int | None,
) -> tuple[Explanation, list[float]]:
    """The explanation, and how strongly each block attends over time, where it learnt to scale."""
    with torch.no_grad():
        device = next(net.parameters()).device
        features = net(net.normalise(shown.pixels.to(device)))
    scales = net.read_scales() if isinstance(net, LiteVL) else []
    if isinstance(space, MatchingSpace):
        return explain_match(space, features, sentence, layer), scales
    assert answer is not None, "checked where the space is opened"
    return explain_answer(space, features, sentence, answer, layer), scales


def describe_explanation(
    explanation: Explanation, shown: Shown, layers: int, scales: list[float]
) -> Json:
    """All numbers but the maps. Shares are of the heat on the patches of all frames."""
    heat = explanation.heat
    frames = []
    of_frames = share_frames(heat, len(shown.times_s))
    for time, share in zip(shown.times_s, of_frames, strict=True):
        frames.append({"time_s": round(time, 3), "share": share})
    total = max(float(heat.maps.sum()), torch.finfo(torch.float32).tiny)
    lines = []
    for word, part in zip(heat.words, heat.maps, strict=True):
        lines.append({"word": word, "share": float(part.sum()) / total})
    return {
        **explanation.scores,
        "layer": explanation.layer,
        "layers": layers,
        "frames": frames,
        "words": lines,
        "shares": heat.shares,
        "scales": scales,
    }


def share_frames(heat: Heat, frames: int) -> list[float]:
    """The share of each frame in the heat. Frames of one slot of time divide its heat."""
    of_frames = repeat_slots(heat.sentence, frames).double().sum((1, 2))
    shares: list[float] = (of_frames / of_frames.sum().clamp(min=1e-300)).tolist()
    return shares


def write_results(target: Path, record: Json, heat: Heat, shown: Shown) -> None:
    from benchmarks.reports.explain_page import (  # matplotlib is imported at the end
        draw_film,
        make_explain_page,
    )

    target.mkdir(parents=True, exist_ok=True)
    frames = enlarge(rearrange(shown.pixels[0], "C T H W -> T C H W"))
    maps = torch.cat([heat.sentence[None], heat.maps]).cpu()
    strips = [frames]
    for one in maps:
        strips.append(lay_heat(frames, one))
    pictures = [rearrange(strip, "T C H W -> T H W C").numpy() for strip in strips]
    film = draw_film(record, pictures)
    write_bytes_whole(target / STRIP, film)
    write_json_whole(target / RECORD, {**record, "maps": heat.maps.tolist()})
    write_text_whole(target / PAGE, make_explain_page(record, film))


def enlarge(frames: UInt8[Tensor, "T C H W"]) -> UInt8[Tensor, "T C H W"]:
    """Small frames, each pixel as a square of pixels."""
    times = -(-LEAST_SIDE // min(frames.shape[2:]))
    return frames.repeat_interleave(times, 2).repeat_interleave(times, 3)


def format_for_people(record: Json) -> str:
    from benchmarks.reports.explain_page import summarise

    lines = summarise(record)
    for word in record["words"]:
        lines.append(f"  {100 * word['share']:5.1f} %  {word['word']}")
    return "\n".join(lines)


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("explain")
