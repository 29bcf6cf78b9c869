"""What each program that transcribes or downloads writes -> sentences with times in seconds."""

import json

import numpy as np
import pytest

from ssvid.data.datasets.narrated import narrated
from ssvid.data.narration.languages import OTHER_LANGUAGE
from ssvid.data.narration.readers import read
from ssvid.data.narration.skipped import LeftOut
from ssvid.data.narration.spoken_rows import NEGATIVE, NO_END, NO_START, UNREADABLE
from ssvid.errors import UserError
from tests.data.bars import write
from tests.data.test_narration import put, reasons
from tests.helpers import facts, for_each

HELLO = {"v": [(1.0, 3.0, "hello there"), (3.0, 5.5, "cut it")]}


def test_csv_of_one_video_of_many_and_of_single_seconds(tmp_path):
    assert read(put(tmp_path / "v.csv", ',start,end,text\n0,5,6,"two, too"\n1,1.5,2,one\n')) == {
        "v": [(1.5, 2.0, "one"), (5.0, 6.0, "two, too")]
    }
    assert read(
        put(tmp_path / "v.csv", "end;start;task;text;video_id\n6;5;1;two;b\n2;1;1;x;a\n")
    ) == {
        "b": [(5.0, 6.0, "two")],
        "a": [(1.0, 2.0, "x")],
    }
    seconds = "vid,timestamp,text\nb,284,knead it\nb,2,start\nb,-1,x\nb,,y\n"
    spoken, counts = reasons(put(tmp_path / "htm_aa.csv", seconds))
    assert spoken == {"b": [(0.0, 2 + 3.2, "start"), (284 - 3.2, 284 + 3.2, "knead it")]}
    assert counts == {NEGATIVE: 1, NO_START: 1}


YOUTUBE = [
    {"text": "hello\nthere", "start": 1.0, "duration": 2.0},
    {"text": "cut it", "start": 3.0, "duration": 2.5},
]
WHISPER_CPP = [
    {"offsets": {"from": 1000, "to": 3000}, "text": " hello there"},
    {"timestamps": {"from": "00:00:03,000", "to": "00:00:05,500"}, "text": " cut it"},
]
CHUNKS = [
    {"timestamp": [1.0, None], "text": " hello there"},
    {"timestamp": [3.0, 5.5], "text": " cut it"},
]
MANUAL = [
    {"tStartMs": 0, "dDurationMs": 9000, "id": 1},
    {"tStartMs": 1000, "dDurationMs": 2000, "segs": [{"utf8": "hello"}, {"utf8": "\nthere"}]},
    {"tStartMs": 3000, "dDurationMs": 2500, "segs": [{"utf8": "cut it"}]},
]
AUTOMATIC = [
    {
        "tStartMs": 1000,
        "dDurationMs": 4500,
        "segs": [{"utf8": "hello"}, {"utf8": " there", "tOffsetMs": 300}],
    },
    {"tStartMs": 2990, "dDurationMs": 2510, "aAppend": 1, "segs": [{"utf8": "\n"}]},
    {"tStartMs": 3000, "dDurationMs": 2500, "segs": [{"utf8": "cut it"}]},
]


@for_each(
    "content",
    [
        YOUTUBE,
        [YOUTUBE],
        {"v": YOUTUBE},
        {"video_id": "v", "language_code": "en", "snippets": YOUTUBE},
        {"text": ["hello there", "cut it"], "start": [1, 3], "duration": [2, 2.5]},
        {"result": {"language": "en"}, "transcription": WHISPER_CPP},
        {"text": "hello there cut it", "chunks": CHUNKS},
        {"wireMagic": "pb3", "events": MANUAL},
        {"wireMagic": "pb3", "events": AUTOMATIC},
    ],
)
def test_json_of_each_program(tmp_path, content):
    assert read(put(tmp_path / "v.json", json.dumps(content))) == HELLO


def test_json3_of_yt_dlp(tmp_path):
    assert read(put(tmp_path / "v.en-orig.json3", json.dumps({"events": AUTOMATIC}))) == HELLO


def test_an_open_end_is_the_end_of_the_video(tmp_path):
    content = {"chunks": [{"timestamp": [2.0, None], "text": "open"}]}
    path = put(tmp_path / "v.json", json.dumps(content))
    assert read(path, length={"v": 9.5}.get) == {"v": [(2.0, 9.5, "open")]}
    assert read(path, length={"v": 500.0}.get) == {"v": [(2.0, 32.0, "open")]}
    with pytest.raises(UserError, match=facts(NO_END)):
        read(path)


@for_each(
    "name, content, words",
    [
        ("v.json", json.dumps([{"text": "a", "start": 1.0}]), (NO_END, "1.0")),
        ("v.json", json.dumps([{"text": "a", "duration": 1.0}]), (NO_START,)),
        ("v.srt", "1\n00:00:01:12 --> 00:00:03:00\na\n", (UNREADABLE, "00:00:01:12")),
        ("v.csv", "start,end,text\nsoon,3,a\n", (UNREADABLE, "soon")),
        ("v.json", json.dumps({"events": [{"tStartMs": "x", "segs": 5}]}), ()),
        ("v.json", json.dumps({"chunks": [{"timestamp": 1, "text": "a"}]}), (NO_START,)),
    ],
)
def test_a_time_that_is_missing_or_unreadable_is_named(tmp_path, name, content, words):
    with pytest.raises(UserError, match=facts(name, *words)):
        read(put(tmp_path / name, content))


def test_durations_in_a_table(tmp_path):
    table = "start,duration,text\n1,2,hello there\n3,2.5,cut it\n"
    assert read(put(tmp_path / "v.csv", table)) == HELLO


MILLISECONDS = [(1000, 3000, "hello there"), (3000, 5500, "cut it")]


@for_each("name, separator", [("v.csv", ","), ("v.tsv", "\t"), ("v.json", "")])
def test_milliseconds_are_known_by_the_time_of_a_word(tmp_path, name, separator):
    rows = [("start", "end", "text"), *MILLISECONDS]
    content = "\n".join(separator.join(map(str, row)) for row in rows)
    if name == "v.json":
        content = json.dumps([dict(zip(rows[0], row, strict=True)) for row in MILLISECONDS])
    path, left = put(tmp_path / name, content), LeftOut()
    assert read(path, left_out=left) == HELLO and len(left.notes) == 1
    assert read(path, length={"v": 6.0}.get) == HELLO
    # In a video that is long enough they are seconds.
    assert read(path, length={"v": 6000.0}.get)["v"][0] == (1000.0, 3000.0, "hello there")


def test_slow_sentences_with_fractions_deserve_a_line(tmp_path):
    path, left = put(tmp_path / "v.csv", "start,end,text\n0.5,2000.5,hello there\n"), LeftOut()
    assert read(path, left_out=left)["v"] == [(0.5, 2000.5, "hello there")]
    assert len(left.notes) == 1


def test_a_single_quote_in_a_table_of_tabs(tmp_path):
    table = 'start\tend\ttext\n1000\t3000\t"hello there\n3000\t5500\tcut it\n'
    first, second = read(put(tmp_path / "v.tsv", table))["v"]
    assert first == (1.0, 3.0, '"hello there') and second == HELLO["v"][1]


def test_quotes_with_a_backslash(tmp_path):
    """whisper.cpp escapes quotes and backslashes; elsewhere a text may end with a backslash."""
    table = 'start,end,text\n1,3," say \\"hi\\", and \\\\ \\"go\\""\n3,5.5," cut it"\n'
    spoken = [(1.0, 3.0, 'say "hi", and \\ "go"'), (3.0, 5.5, "cut it")]
    assert read(put(tmp_path / "v.csv", table)) == {"v": spoken}
    table = 'start,end,text\n1,3,"to C:\\"\n3,5.5,"C:\\new"\n'
    spoken = [(1.0, 3.0, "to C:\\"), (3.0, 5.5, "C:\\new")]
    assert read(put(tmp_path / "v.csv", table)) == {"v": spoken}
    table = 'start,end,text\n1,3,"say \\"hi\\""\n3,5.5,"cut "it" now"\n'
    with pytest.raises(UserError, match=facts("v.csv", "3")):
        read(put(tmp_path / "v.csv", table))


PRINTED = "[00:00:01.000 --> 00:00:03.000]   hello\n  there\n\n[00:03.000 --> 00:00:05.500] cut it"


@for_each(
    "text",
    [
        PRINTED,
        PRINTED.replace("-->", "->"),
        "[1.0s - 3.0s] hello there\n[3.0s - 5.5s] cut it\n",
        "Transcript: [1.0 --> 3.0]  hello there\nTranscript: [3.0 --> 5.5]  cut it\n",
        "0:01 --> 0:03 hello there\n0:03 --> 0:05.5 cut it\n",
    ],
)
def test_times_in_front_of_plain_lines(tmp_path, text):
    assert read(put(tmp_path / "v.txt", text), length={"v": 9.0}.get) == HELLO


@for_each(
    "text",
    [
        "0:01\nhello\nthere\n0:03\ncut it\n",
        "0:01 hello there\n0:03 cut it\n",
        "[0:01] hello there\n(0:03) cut it\n",
        "00:00:01 - hello there\n00:00:03 - cut it",
    ],
)
def test_starts_in_front_of_plain_lines(tmp_path, text):
    path = put(tmp_path / "v.txt", text)
    assert read(path, length={"v": 5.5}.get) == HELLO
    assert read(path, left_out=LeftOut()) == {"v": HELLO["v"][:1]}  # the last one has no end


def test_plain_sentences_may_begin_with_a_time_of_day(tmp_path):
    path = put(tmp_path / "v.txt", "get up\n7:30 is early\neat\n")
    assert [text for *_, text in read(path, length={"v": 9.0}.get)["v"]] == [
        "get up",
        "7:30 is early",
        "eat",
    ]
    path = put(tmp_path / "v.txt", "Transcript of my video\n0:01\nhello\n0:03\ncut it\n")
    with pytest.raises(UserError, match=facts("v.txt", "2", "0:01")):
        read(path, length={"v": 9.0}.get)


def test_the_end_of_a_whole_stem_is_no_language(tmp_path):
    for stem in ("how.to", "how.en", "other"):
        write(tmp_path / f"{stem}.mp4", np.arange(30) / 10)
    for name, text in [("how.to", "to"), ("how.en", "en"), ("other.en", "o")]:
        put(tmp_path / f"said/{name}.vtt", f"WEBVTT\n\n00:00.000 --> 00:02.000\n{text}\n")
    data = narrated(str(tmp_path), transcripts="said", least_s=0.0)
    assert {row.path: row.sentences[0][2] for row in data.rows} == {
        "how.en.mp4": "en",
        "how.to.mp4": "to",
        "other.mp4": "o",
    }
    put(tmp_path / "how.to.vtt", "WEBVTT\n\n00:00.000 --> 00:02.000\nto\n")
    assert set(read(tmp_path / "how.to.vtt")) == {"how.to"}


def test_a_colon_before_milliseconds(tmp_path):
    text = "1\n00:00:01:500 --> 00:00:03:000\na\n"
    assert read(put(tmp_path / "v.srt", text)) == {"v": [(1.5, 3.0, "a")]}


@for_each("name, head", [("v.srt", ""), ("v.vtt", "WEBVTT\n\n")])
def test_an_arrow_that_is_said_is_text(tmp_path, name, head):
    cues = "1\n00:00:01.000 --> 00:00:03.000\na --> b\n3:00 --> home\n\n"
    cues += "2\n00:00:03.000 --> 00:00:05.000\n10:00 --> 11:00\n"
    spoken = [(1.0, 3.0, "a --> b 3:00 --> home"), (3.0, 5.0, "10:00 --> 11:00")]
    assert read(put(tmp_path / name, head + cues)) == {"v": spoken}
    plain_list = put(tmp_path / "plain/v.txt", "from a --> b\n")
    assert read(plain_list, length={"v": 3.0}.get) == {"v": [(0.0, 3.0, "from a --> b")]}


def test_time_maps_of_hls(tmp_path):
    """Segments that were joined: each has a map, and a cue on the border is in both."""
    cue = "00:00:0{}.000 --> 00:00:0{}.000\n{}\n\n"
    first = "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:900000,LOCAL:00:00:01.000\n\n"
    first += cue.format(2, 4, "hello there") + cue.format(7, 9, "border")
    second = "WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:1440000\n\n"
    second += cue.format(0, 2, "border") + cue.format(3, 5, "cut it")
    left = LeftOut()
    spoken = [(1.0, 3.0, "hello there"), (6.0, 8.0, "border"), (9.0, 11.0, "cut it")]
    assert read(put(tmp_path / "v.vtt", first + "\ufeff" + second), left_out=left) == {"v": spoken}
    assert len(left.notes) == 1 and not left.items


def test_one_language_is_chosen_or_both_are_named(tmp_path):
    write(tmp_path / "talk.mp4", np.arange(30) / 10)
    for language, text in [("de", "zuerst"), ("en-GB", "first"), ("en", "at first")]:
        put(tmp_path / f"talk.{language}.vtt", f"WEBVTT\n\n00:00.000 --> 00:02.000\n{text}\n")
    put(tmp_path / "other.fr.srt", "1\n00:00:00,000 --> 00:00:02,000\nautre\n")
    with pytest.raises(UserError, match=facts("talk.de.vtt", "talk.en.vtt", "--data.language")):
        narrated(str(tmp_path), transcripts=".", least_s=0.0)
    for language, text in [("de", "zuerst"), ("en", "at first"), ("en-GB", "first")]:
        data = narrated(str(tmp_path), transcripts=".", least_s=0.0, language=language)
        assert [row.sentences for row in data.rows] == [((0.0, 2.0, text),)]
    _, counts = reasons(tmp_path, language="en")
    assert counts[OTHER_LANGUAGE] == 2
    with pytest.raises(UserError, match=facts("--data.language", "it", "de", "en")):
        narrated(str(tmp_path), transcripts=".", least_s=0.0, language="it")


@for_each(
    "name, text",
    [
        ("a.json", '[{"text": "x", "start": %s, "end": 2}]' % ("9" * 400)),
        ("a.srt", f"1\n{'9' * 5000}:00:00,000 --> 00:00:02,000\nwords\n"),
        ("a.json", "[" * 100_000),
    ],
)
def test_numbers_of_hundreds_of_digits_are_one_sentence(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=name):
        read(tmp_path / name)
