"""What a result says in words: only what its tests show, and by both probes named beforehand."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.reports.summary import summarise
from benchmarks.reports.verdict import verdict
from ssvid.results import TUNED, Gain, Leak, Result, Score
from ssvid.results.text import (
    TOO_FEW,
    UNKNOWN_LEAST,
    format_floor,
    format_gain,
    format_line,
    format_rank,
    format_score_interval,
    format_untrained,
    name_row,
)
from tests.benchmarks.made import make_gain, make_result
from tests.helpers import tells

BETTER, WORSE = make_gain(0.1, 0.05, 0.2), make_gain(-0.1, -0.2, -0.05)
UNCLEAR = make_gain(0.01, -0.1, 0.2)


def ask(probe: str, gain: Gain = BETTER, title: str = "net", **options: Any) -> Result:
    protocol = {"cell": {"task": "classify", "probe": probe}, "clip": {"frames": 8}}
    result = make_result(title, f"classify.{probe}", protocol=protocol, rank=1, **options)
    return with_gains(result, random=gain)


def with_gains(result: Result, **gains: Gain) -> Result:
    return replace(result, gains={**result.gains, **gains})


def sum_up(results: list[Result]) -> str:
    return " ".join(summarise(results))


def say(result: Result, *others: Result) -> str:
    return " ".join(verdict(result, others))


def test_a_difference_that_is_not_shown_is_followed_by_the_least_that_could_be():
    assert tells(format_gain(UNCLEAR), "no difference shown", "12.0", "p = 0.4")
    few = replace(UNCLEAR, least=None)
    assert tells(format_gain(replace(UNCLEAR, least=1.6)), "100 points")
    assert format_gain(few).endswith(TOO_FEW)
    assert format_gain(replace(few, p=None)).endswith(UNKNOWN_LEAST)
    for gain in (UNCLEAR, few):
        result = with_gains(ask("linear"), random=gain, floor=gain, time=gain, bag=gain)
        texts = [*verdict(result), sum_up([result]), format_line(result)]
        texts.append(sum_up([result, replace(result, cell="two")]))
        least = TOO_FEW if gain is few else "12.0"
        spoken = [text for text in texts if tells(text, "not shown") or "No use of time" in text]
        assert len(spoken) >= 4 and all(least in text for text in spoken)


@pytest.mark.parametrize(
    ("p", "text"), [(0.00001, "p < 0.0001"), (0.0312, "p = 0.031"), (1.0, "p = 1")]
)
def test_a_gain_says_the_level_of_its_interval_and_p(p: float, text: str):
    gain = replace(BETTER, level=0.9875, p=p)
    assert tells(format_gain(gain), "98.75 %: +5.0 to +20.0", text, "+10.0")


def test_the_untrained_nets_have_a_spread_and_the_encoder_a_rank():
    result = ask("linear")
    value = 100 * result.controls["random"].value
    assert format_untrained(result) == f"{value:.1f} +- 1.4 % (8 nets)"
    assert format_rank(result) == "1 of 9" and tells(format_line(result), "rank 1 of 9")
    assert tells(say(result), "rank 1 of 9", "+- 1.4 %")
    single = replace(result.controls["random"], of_nets=None)
    old = replace(result, controls={**result.controls, "random": single})
    assert format_untrained(old) == f"{value:.1f} %" and format_rank(old) == ""


def test_a_wide_interval_is_called_so():
    score = Score(value=0.5, interval=(0.1, 0.9), wide=True)
    assert tells(format_score_interval(score), "10.0 to 90.0", "wide, few sources")
    assert "wide" not in format_score_interval(replace(score, wide=None))


def test_the_floor_is_named_by_descriptor_and_probe():
    result = ask("linear")
    names = ("phase correlation", "nearest neighbours")
    assert tells(format_floor(result), *names)
    for gain, word in ((BETTER, "beats"), (WORSE, "BETTER"), (UNCLEAR, "not shown")):
        (sentence,) = (text for text in verdict(with_gains(result, floor=gain)) if names[0] in text)
        assert tells(sentence, word, *names)


def test_both_probes_named_beforehand_stand_in_every_verdict():
    linear, knn = ask("linear", UNCLEAR), ask("knn", BETTER, seed=1)
    other = replace(make_result("net", "retrieval"), protocol=linear.protocol | {"cell": {}})
    for result in (linear, knn, other):
        text = say(result, linear, knn, other)
        assert tells(text, "linear probe", "nearest neighbours", "DISAGREE")
    agreed = say(linear, ask("knn", UNCLEAR, seed=1))
    assert tells(agreed, "nearest neighbours") and "DISAGREE" not in agreed
    assert tells(say(linear), "Not asked: nearest neighbours")
    page = sum_up([linear, knn, other])
    assert tells(page, "linear probe", "nearest neighbours", "DISAGREE", "12.0")
    assert tells(verdict(linear, [knn])[0], "linear probe", "nearest neighbours")


def test_another_encoder_or_data_set_names_no_probe():
    linear = ask("linear")
    strangers = [
        replace(ask("knn"), encoder=replace(linear.encoder, hash="other")),
        replace(ask("knn"), data=replace(linear.data, hash="e" * 64)),
        replace(ask("knn"), protocol=ask("knn").protocol | {"clip": {"frames": 16}}),
        replace(ask("knn"), over="folds 1, 2"),
    ]
    for stranger in strangers:
        assert tells(say(linear, stranger), "Not asked: nearest neighbours")


def test_a_page_of_several_data_sets_counts_what_the_probes_say():
    results = []
    for number, gain in enumerate((BETTER, UNCLEAR, WORSE)):
        for probe in ("linear", "knn"):
            result = ask(probe, gain if probe == "linear" else BETTER)
            data = replace(result.data, hash=str(number) * 64)
            results.append(replace(result, cell=f"set{number}.{result.cell}", data=data))
    text = sum_up(results)
    assert tells(text, "linear probe", "above in 1 and BELOW in 1 of 3", "above in 3 of 3")


def test_an_encoder_of_random_weights_is_not_compared_with_others_of_its_kind():
    results = [ask("linear"), ask("knn")]
    for number, result in enumerate(results):
        encoder = replace(result.encoder, weights="random")
        results[number] = replace(result, encoder=encoder)
    assert tells(sum_up(results), "random weights") and tells(sum_up(results[:1]), "random weights")
    for text in (say(*results), sum_up(results)):
        assert "the linear probe" not in text and "the same net untrained" not in text


def test_a_leak_is_said_before_all():
    leaky = replace(ask("linear"), leak=Leak(checked=True, clips=3))
    assert tells(verdict(leaky, [ask("knn")])[0], "WARNING", "3")


def test_above_chance_is_above_the_largest_class_too():
    result = replace(ask("linear"), chance=0.25, majority=0.6)
    low = replace(result.score, interval=(0.5, 0.9))
    assert tells(say(replace(result, score=low)), "not shown to be above the largest class", "60.0")
    chance = replace(result, score=low, majority=0.3, chance=0.55)
    assert tells(say(chance), "not shown to be above chance", "55.0")
    assert "not shown to be above" not in say(replace(result, score=low, majority=0.3))


@pytest.mark.parametrize(
    ("gain", "words"),
    [(BETTER, "uses time"), (WORSE, "LESS"), (UNCLEAR, "No use of time is shown")],
)
def test_use_of_time_is_claimed_from_the_interaction_alone(gain: Gain, words: str):
    """Whatever single frames do, and shuffled ones."""
    result = ask("linear")
    for single in (BETTER, WORSE, UNCLEAR):
        rows = dict.fromkeys(("single_frame", "bag", "shuffled"), single)
        text = say(with_gains(result, **rows, time=gain))
        assert words in text and ("It uses time:" in text) == (gain is BETTER)
        assert tells(text, "one frame repeated") or tells(text, "One frame repeated")
        assert text.count("BETTER: 10.0") == (3 if single is WORSE else 0)
    gains = {name: value for name, value in result.gains.items() if name != "time"}
    without = say(replace(result, gains={**gains, "single_frame": BETTER, "shuffled": BETTER}))
    assert "uses time" not in without and tells(without, "not tested")


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (BETTER, ("10.0 points above", "random weights")),
        (WORSE, ("10.0 points BELOW", "random weights")),
        (UNCLEAR, ("not shown to differ", "random weights", "12.0 points")),
    ],
)
def test_a_fine_tuning_is_judged_by_its_twin(gain: Gain, words: tuple[str, ...]):
    tuned = replace(ask("linear", gain), kind=TUNED, protocol={"training": {"lr": 0.1}})
    texts = [say(tuned), sum_up([tuned])]
    for text in texts:
        assert tells(text, *words)
    alone = replace(tuned, gains={}, controls={})
    assert tells(say(alone), "--twins 1") and "random weights" in say(alone)
    rows = name_row(tuned, "random"), name_row(ask("linear"), "random")
    assert "random weights" in rows[0] and "untrained" in rows[1]


def test_a_test_of_few_groups_is_called_so():
    result = ask("linear", clips=12)  # two clips a group
    assert say(result).count(TOO_FEW) == 1, "one sentence, not one for each control"
    assert TOO_FEW not in say(ask("linear", clips=14))
    assert TOO_FEW not in say(replace(result, gains={}))
    hopeless = {name: replace(gain, shown=False, least=None) for name, gain in result.gains.items()}
    assert say(replace(ask("linear", clips=40), gains=hopeless)).count(TOO_FEW) == 1
