"""Result -> sentences: what its numbers show and what they do not."""

from ssvid.results import TUNED, Result
from ssvid.results.text import between, percent


def verdict(result: Result) -> list[str]:
    """The first sentence says whether pretraining helps; the others say what else a reader must know."""
    if result.kind == TUNED:
        said = fine_tuning(result)
    else:
        said = [*over_untrained(result), *over_pixels(result), *use_of_time(result)]
    if result.chance is not None and result.score.interval[0] <= result.chance:
        said.append("The score is not shown to be above chance.")
    if result.leak.clips:
        said.append(
            f"WARNING: pretraining read {result.leak.clips} of the test clips; the score is not valid."
        )
    if result.data.bad_files:
        said.append(f"{result.data.bad_files} files could not be read and are in no split.")
    return said


def over_untrained(result: Result) -> list[str]:
    if "random" not in result.gains:
        return []
    gain, title = result.gains["random"], result.encoder.title
    where = f"{percent(result.score.value)} against {percent(result.controls['random'].value)}"
    if result.encoder.weights != "trained":
        return [f"{title} has random weights: {where} of another random draw."]
    if not gain.shown:
        return [f"No difference shown between {title} and the same net untrained ({where})."]
    better = "above" if gain.difference > 0 else "BELOW"
    points = f"{abs(100 * gain.difference):.1f} points {better}"
    return [
        f"{title} is {points} the same net untrained ({where}; 95 %: {between(gain.interval, '+')})."
    ]


def over_pixels(result: Result) -> list[str]:
    if "pixels" not in result.gains:
        return []
    gain = result.gains["pixels"]
    if not gain.shown or gain.difference < 0:
        return [
            "It is not shown to beat raw pixels: colour and layout alone may explain the score."
        ]
    return [f"It beats raw pixels by {100 * gain.difference:.1f} points."]


def use_of_time(result: Result) -> list[str]:
    if not {"single_frame", "shuffled"} <= result.gains.keys():
        return []
    single, shuffled = result.gains["single_frame"], result.gains["shuffled"]
    if not single.shown or single.difference <= 0:
        return [
            "One frame repeated does as well, as far as this test can tell: no use of time is shown."
        ]
    order = (
        "their order counts"
        if shuffled.shown and shuffled.difference > 0
        else "no use of order is shown"
    )
    return [
        f"Several frames tell it more than one ({100 * single.difference:+.1f} points); {order}."
    ]


def fine_tuning(result: Result) -> list[str]:
    said = [
        f"{result.encoder.title}: {percent(result.score.value)} of the test clips are named rightly."
    ]
    if result.encoder.weights == "trained":
        said.append(
            "What pretraining adds is not shown here: fine-tune the same net from random weights as well "
            f"(--encoder {result.encoder.name}, all else alike) and compare."
        )
    else:
        said.append("It began with random weights: what fine-tuning a pretrained one has to beat.")
    return said
