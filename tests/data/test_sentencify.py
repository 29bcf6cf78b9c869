"""Each rule of HTM-370K's sentences by a case worked out by hand."""

from ssvid.data.narration.sentences import (
    Marked,
    cut_video,
    reject_foreign,
    reject_short,
    sentencify,
    tidy,
)
from tests.helpers import for_each


def rounded(sentences):
    return [(round(start, 6), round(end, 6), text) for start, end, text in sentences]


def marks(table):
    return lambda words: [Marked(table.get(word, "")) for word in words]


def test_ten_captions_are_too_few_and_five_words_too_short():
    assert reject_short(["one two three four five six"] * 11) == ""
    assert reject_short(["one two three four five six"] * 10) == "10 captions or fewer"
    assert reject_short(["one two three four five"] * 11) == "5 words a caption or fewer"
    assert (
        reject_short(["one two three four five"] * 10 + ["six"] * 1 + ["a b c d e f g h i j"] * 2)
        == ""
    )  # 5.46 in the mean


def test_the_language_of_five_captions_is_asked():
    texts = list(map("caption number {} here".format, range(40)))
    checked = []

    def english(text):
        checked.append(text)
        return 0.9 + 0.001 * len(checked)

    assert reject_foreign(texts, english, 7) == "" and len(checked) == 5 == len(
        set(checked)
    )  # 0.903 in the mean
    first, checked[:] = list(checked), []
    assert (
        reject_foreign(texts, english, 7) == "" and checked == first
    )  # the same five for the same video
    checked.clear()
    reject_foreign(texts, english, 8)
    assert checked != first and reject_foreign(texts, english, 7, seed=1) == ""
    assert (
        reject_foreign(texts, None, 0) == ""
        and reject_foreign(texts, lambda text: 0.9, 0) == "not English"
    )  # more than 0.9
    assert reject_foreign(texts, lambda text: float("nan"), 0) == "not English"  # nobody could tell
    probabilities = iter([float("nan"), 0.95, 0.95, 0.95, 0.95])
    assert reject_foreign(texts, lambda text: next(probabilities), 0) == ""


def test_captions_of_three_words_are_not_asked():
    assert reject_foreign(["just three words"] * 20, lambda text: 1.0, 0) == "not English"
    assert (
        reject_foreign(
            ["these are four words"] * 2 + ["three words only"] * 3,
            lambda text: float("four" in text),
            0,
        )
        == ""
    )


def test_glitches_noises_and_empty_captions_go():
    captions = [
        (0.0, 0.2, "glitch"),
        (1.0, 1.25, "short"),
        (2.0, 3.0, "[Music]"),
        (3.0, 4.0, " "),
        (4.0, 5.0, "a\nb"),
    ]
    assert tidy(captions) == [(1.0, 1.25, "short"), (4.0, 5.0, "a b")]


def test_a_lower_line_that_comes_again_is_dropped():
    captions = [
        (0.0, 2.0, "one\ntwo"),
        (2.0, 4.0, "two\nthree"),
        (4.0, 6.0, "four\nfive\nsix"),
        (6.0, 7.0, "six"),
    ]
    assert tidy(captions) == [
        (0.0, 2.0, "one"),
        (2.0, 4.0, "two three"),
        (4.0, 6.0, "four five"),
        (6.0, 7.0, "six"),
    ]


def test_a_caption_that_grows_is_one():
    captions = [(0.0, 1.0, "now"), (1.0, 2.0, "now we"), (2.0, 3.0, "now we cut"), (3.0, 4.0, "it")]
    assert tidy(captions) == [(0.0, 3.0, "now we cut"), (3.0, 4.0, "it")]


def test_captions_that_overlap_meet_in_the_middle():
    captions = [(0.0, 4.0, "a"), (3.0, 6.0, "b"), (6.0, 8.0, "c")]
    assert tidy(captions) == [(0.0, 3.5, "a"), (3.5, 6.0, "b"), (6.0, 8.0, "c")]


def test_times_are_shared_by_the_words_and_full_stops_cut():
    captions = [(0.0, 4.0, "Now we cut it"), (4.0, 6.0, "Then we"), (6.5, 8.5, "boil it")]
    result = sentencify(captions, marks({"cut": ",", "it": "."}))
    assert rounded(result) == [(0.0, 4.0, "now we cut it"), (4.0, 8.5, "then we boil it")]
    result = sentencify(captions, marks({"we": "?"}))  # two of four words: two of four seconds
    assert rounded(result) == [
        (0.0, 2.0, "now we"),
        (2.0, 6.0, "cut it then we"),
        (6.5, 8.5, "boil it"),
    ]


def test_tokens_of_a_word_take_their_share_of_the_time():
    result = sentencify([(0.0, 4.0, "chop it")], lambda words: [Marked(".", 3), Marked()])
    assert rounded(result) == [(0.0, 3.0, "chop"), (3.0, 4.0, "it")]


@for_each("mark", list(",:;"))
def test_from_twenty_tokens_on_any_mark_cuts(mark):
    words = [f"w{i}" for i in range(30)]
    captions = [(0.0, 30.0, " ".join(words))]
    assert len(sentencify(captions, marks({"w18": mark}))) == 1  # the nineteenth
    result = sentencify(captions, marks({"w19": mark, "w25": mark}))
    assert rounded(result) == [
        (0.0, 20.0, " ".join(words[:20])),
        (20.0, 30.0, " ".join(words[20:])),
    ]
    two = sentencify(
        captions, lambda words: [Marked(mark if word == "w9" else "", 2) for word in words]
    )
    assert [len(text.split()) for *_, text in two] == [10, 20]  # ten words of two tokens
    assert len(sentencify(captions, marks({"w25": "-"}))) == 1


def test_a_gap_of_more_than_a_second_cuts():
    captions = [(0.0, 1.0, "one"), (2.0, 3.0, "two"), (4.001, 5.0, "three")]
    assert rounded(sentencify(captions)) == [(0.0, 3.0, "one two"), (4.001, 5.0, "three")]


def test_half_with_marks_were_written_so_and_are_cut_at_their_full_stops_alone():
    captions = [
        (0.0, 2.0, "Cut it, now."),
        (5.0, 7.0, "Then boil"),
        (9.0, 10.0, "it! Why?"),
        (10.0, 11.0, "So, well"),
    ]
    assert rounded(sentencify(captions, marks({"boil": "."}))) == [
        (0.0, 2.0, "Cut it, now."),
        (5.0, 9.5, "Then boil it!"),  # no gap cuts, no model is asked
        (9.5, 10.0, "Why?"),
        (10.0, 11.0, "So, well"),
    ]
    fewer = [*captions, (11.0, 12.0, "and the rest")]  # two of five hold , or .
    result = rounded(sentencify(fewer, marks({"boil": "."})))
    assert result[1:] == [(5.0, 7.0, "then boil"), (9.0, 12.0, "it why so well and the rest")]
    long = [(float(i), i + 1.0, "a b c d e f g h, i") for i in range(4)]
    assert len(sentencify(long)) == 1  # commas never cut


def test_without_a_model_the_marks_that_are_there_cut():
    captions = [(0.0, 2.0, "Cut it."), (2.0, 4.0, "Then boil"), (4.0, 5.0, "IT")]
    assert rounded(sentencify(captions)) == [(0.0, 2.0, "Cut it."), (2.0, 5.0, "Then boil IT")]


def test_a_model_sees_lower_case_without_marks():
    words_seen = []

    def listen(words):
        words_seen.extend(words)
        return [Marked()] * len(words)

    captions = [
        (0.0, 1.0, "Cut 3.5 CUPS, now!"),
        (1.0, 2.0, "then"),
        (2.0, 3.0, "boil"),
        (3.0, 4.0, "..."),
    ]
    assert rounded(sentencify(captions[:3], listen)) == [(0.0, 3.0, "cut 3 5 cups now then boil")]
    assert words_seen == ["cut", "3", "5", "cups", "now", "then", "boil"]
    assert sentencify([], listen) == []


def test_a_video_is_left_out_with_its_reason():
    good = [(float(i), i + 1.0, f"caption {i} has some six words") for i in range(12)]
    result, why = cut_video(good, index=0)
    assert why == "" and len(result) == 1 and result[0][:2] == (0.0, 12.0)
    assert cut_video(good, index=0, language=lambda text: 0.5) == ([], "not English")
    assert cut_video(good[:10], index=0) == ([], "10 captions or fewer")
    glitches = [
        *good[:5],
        *((float(i), i + 0.1, text) for i, (_, _, text) in enumerate(good[5:], start=5)),
    ]
    assert (
        cut_video(glitches, index=0)[1]
        == "fewer than 6 captions once glitches and repeats are gone"
    )
