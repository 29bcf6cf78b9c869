"""Result -> sentences: what its numbers show and what they do not."""

from benchmarks.reports.cell_titles import group_cells
from benchmarks.reports.page_heads import title_of
from ssvid.results import TUNED, Gain, Result
from ssvid.results.text import format_interval, format_percent

WARNING = "WARNING"  # the first word of a sentence that stands before all others


def verdict(result: Result) -> list[str]:
    """A leak comes first; then whether pretraining helps, and what else a reader must know."""
    sentences = warn_of_leak(result)
    if result.kind == TUNED:
        sentences += judge_fine_tuning(result)
    else:
        sentences += over_untrained(result) + over_pixels(result) + use_of_time(result)
    if result.chance is not None and result.score.interval[0] <= result.chance:
        sentences.append("The score is not shown to be above chance.")
    if result.data.bad_files:
        sentences.append(f"{result.data.bad_files} files could not be read and are in no split.")
    return sentences


def select_warnings(sentences: list[str]) -> list[str]:
    return [text for text in sentences if text.startswith(WARNING)]


def warn_of_leak(result: Result) -> list[str]:
    if not result.leak.clips:
        return []
    return [
        f"{WARNING}: pretraining read {result.leak.clips} of the test clips; "
        "the score is not valid."
    ]


def list_leaks(results: list[Result]) -> list[str]:
    """The warnings of all results, each once."""
    warnings: dict[str, None] = {}
    for result in results:
        warnings |= dict.fromkeys(warn_of_leak(result))
    return list(warnings)


def over_untrained(result: Result) -> list[str]:
    if "random" not in result.gains:
        return []
    gain, title = result.gains["random"], result.encoder.title
    untrained = format_percent(result.controls["random"].value)
    scores = f"{format_percent(result.score.value)} against {untrained}"
    if result.encoder.weights != "trained":
        return [f"{title} has random weights: {scores} of another random draw."]
    if not gain.shown:
        return [f"No difference shown between {title} and the same net untrained ({scores})."]
    points = f"{abs(100 * gain.difference):.1f} points {above_or_below(gain)}"
    return [
        f"{title} is {points} the same net untrained "
        f"({scores}; 95 %: {format_interval(gain.interval, '+')})."
    ]


def above_or_below(gain: Gain) -> str:
    return "above" if gain.difference > 0 else "BELOW"


def is_better(gain: Gain) -> bool:
    """The encoder is shown to be better than the control."""
    return gain.shown and gain.difference > 0


def is_worse(gain: Gain) -> bool:
    """The control is shown to be better than the encoder."""
    return gain.shown and gain.difference < 0


def control_leads(name: str, gain: Gain) -> str:
    """The sentence of a control that is shown to be better than the encoder."""
    points = f"{abs(100 * gain.difference):.1f} points above the encoder"
    return f"{name} is shown to be BETTER: {points} (95 %: {format_interval(gain.interval, '+')})."


def over_pixels(result: Result) -> list[str]:
    if "pixels" not in result.gains:
        return []
    gain = result.gains["pixels"]
    if is_worse(gain):
        return [control_leads("A probe on raw pixels", gain)]
    if not gain.shown:
        return [
            "It is not shown to beat raw pixels: colour and layout alone may explain the score."
        ]
    return [f"It beats raw pixels by {100 * gain.difference:.1f} points."]


def use_of_time(result: Result) -> list[str]:
    if not {"single_frame", "shuffled"} <= result.gains.keys():
        return []
    single, shuffled = result.gains["single_frame"], result.gains["shuffled"]
    sentences = []
    if is_better(single):
        order = "their order counts" if is_better(shuffled) else "no use of order is shown"
        points = f"{100 * single.difference:+.1f} points"
        sentences.append(f"Several frames tell it more than one ({points}); {order}.")
    elif is_worse(single):
        sentences.append(control_leads("One frame repeated", single))
    else:
        sentences.append(
            "One frame repeated does as well, as far as this test can tell: "
            "no use of time is shown."
        )
    if is_worse(shuffled):
        sentences.append(control_leads("The clip with its frames shuffled", shuffled))
    return sentences


def judge_fine_tuning(result: Result) -> list[str]:
    title = result.encoder.title
    sentences = [
        f"{title}: {format_percent(result.score.value)} of the test clips are named rightly."
    ]
    if result.encoder.weights == "trained":
        sentences.append(
            "What pretraining adds is not shown here: fine-tune the same net from random weights "
            f"as well (--encoder {result.encoder.name}, all else alike) and compare."
        )
    else:
        sentences.append(
            "It began with random weights: what fine-tuning a pretrained one has to beat."
        )
    return sentences


def summarise(results: list[Result]) -> str:
    """One sentence for a whole page: the best encoder, its gain over untrained, if it is shown.

    Means over folds or seeds are left out, and so are scores that a leak makes invalid.
    """
    valid = list(filter(is_valid, results))
    if not valid:
        return "No score here is valid: pretraining read test clips of every one."
    titles, cells = list(dict.fromkeys(map(title_of, valid))), group_cells(valid)
    if len(cells) == 1:
        best = max(valid, key=value_of)
        return _summarise_score(best, len(titles))
    if len(titles) == 1:
        return f"{titles[0]} {_summarise_gains(valid)}"
    wins = dict.fromkeys(titles, 0)
    for members in cells.values():
        wins[max(members, key=value_of).encoder.title] += 1
    title = max(wins, key=wins.__getitem__)
    gains = _summarise_gains([result for result in valid if title_of(result) == title])
    return f"{title} has the highest score in {wins[title]} of {len(cells)} tasks and {gains}"


def is_valid(result: Result) -> bool:
    """It is no mean, and pretraining read none of its test clips."""
    return result.over is None and not result.leak.clips


def value_of(result: Result) -> float:
    return result.score.value


def _summarise_score(best: Result, encoders: int) -> str:
    score = f"{format_percent(best.score.value)} ({best.metric})"
    name = f"{best.encoder.title} has {'the highest score, ' if encoders > 1 else ''}{score}"
    gain = best.gains.get("random")
    if gain is None:
        return f"{name}; no untrained net stands beside it."
    if not gain.shown:
        return f"{name}; no difference from the same net untrained is shown."
    points = f"{abs(100 * gain.difference):.1f} points {above_or_below(gain)}"
    return f"{name}: {points} the same net untrained (95 %: {format_interval(gain.interval, '+')})."


def _summarise_gains(members: list[Result]) -> str:
    """How the sentence about an encoder goes on."""
    gains = [result.gains["random"] for result in members if "random" in result.gains]
    if not gains:
        return "has no untrained net beside it."
    better, worse = sum(map(is_better, gains)), sum(map(is_worse, gains))
    if not better + worse:
        return f"is not shown to differ from the same net untrained in any of {len(gains)} tasks."
    text = f"is shown to be above the same net untrained in {better} of {len(gains)} tasks"
    if worse:
        text += f" and BELOW it in {worse}"
    unclear = len(gains) - better - worse
    return f"{text}; no difference is shown in {unclear}." if unclear else f"{text}."
