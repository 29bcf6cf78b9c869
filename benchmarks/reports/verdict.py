"""Result -> sentences: what its numbers show and what they do not."""

from collections.abc import Iterable, Sequence

from benchmarks.reports.named_probes import Named, compare_named, find_named
from ssvid.results import TUNED, Gain, Result
from ssvid.results.text import (
    TOO_FEW,
    format_gain,
    format_leak,
    format_least,
    format_percent,
    format_points,
    format_rank,
    format_test,
    format_untrained,
    is_old,
    name_floor,
)
from ssvid.statistics import TOO_FEW_GROUPS

WARNING = "WARNING"  # the first word of a sentence that stands before all others


def verdict(result: Result, others: Iterable[Result] = ()) -> list[str]:
    """A leak comes first; then whether pretraining helps, and what else a reader must know.

    Of a test that is too small to show anything one sentence says so, instead of one for each
    control. `others`: results among which those of the two probes are looked up that were named
    beforehand.
    """
    sentences = warn_of_leak(result)
    if too_small := judge_size(result):
        sentences += too_small
    elif result.kind == TUNED:
        sentences += judge_fine_tuning(result)
    else:
        named = find_named(result, [result, *others])
        sentences += over_untrained(result, named) + over_floor(result) + use_of_time(result)
    sentences += above_chance(result)
    if result.data.bad_files:
        sentences.append(f"{result.data.bad_files} files could not be read and are in no split.")
    if is_old(result):
        sentences.append("Its file is of before schema 3: old inference.")
    return sentences


def select_warnings(sentences: list[str]) -> list[str]:
    return [text for text in sentences if text.startswith(WARNING)]


def select_others(sentences: list[str]) -> list[str]:
    return [text for text in sentences if not text.startswith(WARNING)]


def warn_of_leak(result: Result) -> list[str]:
    leak = format_leak(result)
    return [f"{WARNING}: {leak}"] if leak else []


def list_leaks(results: list[Result]) -> list[str]:
    """The warnings of all results, each once."""
    warnings: dict[str, None] = {}
    for result in results:
        warnings |= dict.fromkeys(warn_of_leak(result))
    return list(warnings)


def over_untrained(result: Result, named: Sequence[Named] = ()) -> list[str]:
    """Whether pretraining helps, and what the two probes say of it that were named beforehand."""
    title, is_asked = result.encoder.title, "random" in result.gains
    if is_asked and result.encoder.weights != "trained":
        return [f"{title} has random weights: {compare_scores(result)} of other random draws."]
    sentences = []
    if is_asked and id(result) not in {id(other) for _, other in named}:
        sentences.append(f"{title} {compare_untrained(result)}.")
    if named:
        sentences.append(compare_named(title, named, compare_untrained))
    return sentences


def compare_scores(result: Result) -> str:
    return f"{format_percent(result.score.value)} against {format_untrained(result)}"


def compare_untrained(result: Result) -> str:
    """How a sentence about the encoder goes on."""
    gain, rank, scores = result.gains["random"], format_rank(result), compare_scores(result)
    net = name_untrained(result)
    if rank:
        scores += f", rank {rank}"
    if not gain.shown:
        test = f"{format_test(gain)}; {format_least(gain)}"
        return f"is not shown to differ from {net} ({scores}; {test})"
    points = f"{format_points(gain.difference)} {above_or_below(gain)}"
    return f"is {points} {net} ({scores}; {format_test(gain)})"


def name_untrained(result: Result) -> str:
    """What the row `random` is, in a sentence."""
    if result.kind == TUNED:
        return "the same net fine-tuned from random weights"
    return "the same net untrained"


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
    points = f"{format_points(gain.difference)} above the encoder"
    return f"{name} is shown to be BETTER: {points} ({format_test(gain)})."


def over_floor(result: Result) -> list[str]:
    if "floor" not in result.gains:
        return []
    gain, score = result.gains["floor"], format_percent(result.controls["floor"].value)
    floor = f"pixel floor ({', '.join(filter(None, (name_floor(result), score)))})"
    if is_worse(gain):
        return [control_leads(f"The {floor}", gain)]
    if not gain.shown:
        return [
            f"It is not shown to beat the {floor}: pixels alone may explain the score "
            f"({format_test(gain)}; {format_least(gain)})."
        ]
    return [f"It beats the {floor} by {format_points(gain.difference)} ({format_test(gain)})."]


def use_of_time(result: Result) -> list[str]:
    """Use of time is claimed from the interaction alone: what shuffling costs beyond the untrained
    net. What one frame and single frames do stands beside it.
    """
    gains, sentences = result.gains, []
    if "time" in gains:
        sentences.append(judge_time(gains["time"]))
    elif {"single_frame", "shuffled"} & gains.keys():
        sentences.append(
            "Whether it learnt to use time is not tested: the untrained nets have no row of "
            "shuffled frames."
        )
    names = {
        "shuffled": "the clip with its frames shuffled",
        "single_frame": "one frame repeated",
        "bag": "single frames, averaged",
    }
    for row, name in names.items():
        if row in gains:
            sentences.append(compare_frames(name, gains[row]))
    return sentences


def judge_time(gain: Gain) -> str:
    if not gain.shown:
        return (
            "No use of time is shown: shuffling its frames costs it as much as the untrained net, "
            f"as far as this test can tell ({format_test(gain)}; {format_least(gain)})."
        )
    degree = "more" if gain.difference > 0 else "LESS"
    start = "It uses time" if gain.difference > 0 else "It uses time LESS than the untrained net"
    return (
        f"{start}: shuffling its frames costs it {format_points(gain.difference)} {degree} than it "
        f"costs the untrained net ({format_test(gain)})."
    )


def compare_frames(name: str, gain: Gain) -> str:
    """Of a control that takes time away. It says nothing of what was learnt."""
    if is_worse(gain):
        return control_leads(name[0].upper() + name[1:], gain)
    if gain.shown:
        return f"It is {format_points(gain.difference)} above {name} ({format_test(gain)})."
    return f"Over {name}: {format_gain(gain)}."


def above_chance(result: Result) -> list[str]:
    """Above a blind guess, and above the answer that is always the largest class."""
    levels = {"chance": result.chance, "the largest class": result.majority}
    present = {name: share for name, share in levels.items() if share is not None}
    if not present:
        return []
    name = max(present, key=present.__getitem__)
    if result.score.interval[0] > present[name]:
        return []
    return [f"The score is not shown to be above {name} ({format_percent(present[name])})."]


def judge_size(result: Result) -> list[str]:
    """Whether the test is so small that its differences tell nothing."""
    groups = len(set(result.test.groups))
    if not result.gains or (groups > TOO_FEW_GROUPS and can_show(result)):
        return []
    have = "is a single group" if groups == 1 else f"are {groups} groups"
    title, score = result.encoder.title, format_percent(result.score.value)
    return [
        f"{title}: {score}. Its test clips {have}: {TOO_FEW}, however large a difference looks. "
        "Take more labelled clips, or --folds with a column of the groups."
    ]


def can_show(result: Result) -> bool:
    """Whether any gain is shown, or could have been. Old files do not tell."""
    gains = result.gains.values()
    return is_old(result) or any(gain.shown or gain.least is not None for gain in gains)


def judge_fine_tuning(result: Result) -> list[str]:
    title = result.encoder.title
    sentences = [
        f"{title}: {format_percent(result.score.value)} of the test clips are named rightly."
    ]
    if "random" in result.gains:
        sentences.append(f"Pretraining: {title} {compare_untrained(result)}.")
    elif result.encoder.weights == "trained":
        sentences.append(
            "What pretraining adds is not shown here: the same command with --twins 1 fine-tunes "
            "the same net from random weights as well."
        )
    else:
        sentences.append(
            "It began with random weights: what fine-tuning a pretrained one has to beat."
        )
    return sentences
