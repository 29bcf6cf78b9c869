"""videos -> a caption of each, or the answer to a question: `python -m benchmarks.describe VIDEO`.

It needs a run of `--objective bridge`, which names its encoder and its language model.
"""

from typing import Any, Literal

from benchmarks.label import list_videos
from ssvid.bridge import ANSWER, load_bridge
from ssvid.data.sampling import eval_clips
from ssvid.engine.distributed import join
from ssvid.errors import DecodeError, UserError, check_positive
from ssvid.log import log


def describe(
    video: str,  # a file, or a folder of them
    *,
    bridge: str,  # the folder of a run of --objective bridge
    question: str | None = None,  # the answer to it; null: a caption
    tokens: int = ANSWER,  # of an answer, at most
    vision: str | None = None,  # where the encoder lies now; null: where it lay in training
    language: str | None = None,  # where the language model lies now; null: as in training
    devices: Literal["auto", "cpu", "cuda"] = "auto",  # auto: a GPU where there is one
) -> dict[str, Any]:
    """Describe a video, or each video of a folder, by the likeliest next words (greedy).

    One clip of each video is seen, from its middle, or over the whole where the encoder has it so.
    """
    check_positive(tokens=tokens)
    videos = list_videos(video, "VIDEO")
    net = load_bridge(bridge, vision, language).to(join(devices).device)
    answers: dict[str, str] = {}
    bad: dict[str, str] = {}
    for name, path in zip(videos.ids, videos.paths, strict=True):
        try:
            clips = eval_clips(path, net.encoder.spec)
        except DecodeError as error:
            if not videos.is_folder:
                raise UserError(f"The video cannot be read: {error}.") from error
            bad[name] = str(error)
            log.warning(f"left out: {error}")
            continue
        (answers[name],) = net.describe_pixels(clips, question, tokens)
        log.info(f"{name}: {answers[name]}")
    printed: dict[str, Any] = {"question": question, "answers": answers, "bad": bad}
    # Exit code 3 says that the run ended, but that some videos could not be read.
    return printed | ({"exit_code": 3} if bad else {})


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("describe")
