import json
import sys

import pytest

from ssvid.cli import run_command
from ssvid.data.narration import readers, subtitles
from ssvid.data.narration.readers import read
from ssvid.data.narration.skipped import LeftOut
from ssvid.data.narration.spoken_rows import (
    BACKWARDS,
    EMPTY,
    NAMELESS,
    NEGATIVE,
    NO_END,
    NO_START,
    OUTSIDE,
    UNREADABLE,
)
from ssvid.errors import UserError
from tests.helpers import facts, for_each, tells

VTT = """WEBVTT - a title
Kind: captions

NOTE made by hand
00:09.000 is no time of a cue

STYLE
::cue { color: red }

intro
00:01.000 --> 00:02.500 align:start position:0%
<v Ann>Hello &amp; <i>welcome</i></v>

01:00:03.000 --> 01:00:04.250
two
lines
NOTE a line that is said

NOTE
nobody says this

name of the last
01:00:05.000 --> 01:00:06.000
bye
"""
AUTO = """WEBVTT
Kind: captions
Language: en

00:00:00.160 --> 00:00:02.389 align:start position:0%
 
hello<00:00:00.480><c> there</c>

00:00:02.389 --> 00:00:02.399 align:start position:0%
hello there
 

00:00:02.399 --> 00:00:04.309 align:start position:0%
hello there
first<00:00:02.720><c> we</c><00:00:03.000><c> cut</c>

00:00:04.309 --> 00:00:04.319 align:start position:0%
first we cut
 

00:00:09.000 --> 00:00:10.000 align:start position:0%
first we cut
"""
SRT = (
    "1\n00:00:01,000 --> 00:00:02,5\n{\\an8}<i>Hello</i>\n\n2\n"
    "00:00:03,000 --> 00:00:04,000\n13\n3\n"
    "00:00:05,000 --> 00:00:06,000\na < b\n"
)
TABLE = {
    "b": {"text": ["two", "one"], "start": [5, 1.5], "end": [6, 2]},
    "a": {"text": ["x"], "start": [0], "end": [1]},
}


def put(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def reasons(path, **options):
    left = LeftOut()
    return read(path, left_out=left, **options), left.counts


# forms


def test_web_vtt(tmp_path):
    spoken, bye = read(put(tmp_path / "ID.en-US.vtt", VTT)), (3605.0, 3606.0, "bye")
    assert spoken == {
        "ID": [
            (1.0, 2.5, "Hello & welcome"),
            (3603.0, 3604.25, "two lines NOTE a line that is said"),
            bye,
        ]
    }


def test_what_rolls_over_the_screen_is_said_once(tmp_path):
    once = [
        (0.16, 2.389, "hello there"),
        (2.399, 4.309, "first we cut"),
        (9.0, 10.0, "first we cut"),
    ]
    assert read(put(tmp_path / "a.vtt", AUTO)) == {
        "a": once
    }  # the last one is said again, much later
    plain = subtitles.TAG.sub("", AUTO)
    assert read(put(tmp_path / "b.vtt", plain)) == {"b": once}
    srt = plain.partition("\n\n")[2].replace(" align:start position:0%", "")
    assert read(put(tmp_path / "c.srt", srt)) == {"c": once}


def test_what_is_said_twice_by_hand_stays(tmp_path):
    cues = [f"00:0{i}.000 --> 00:0{i + 1}.000\nYes.\n" for i in (1, 2, 3)]
    text = "\n".join(["WEBVTT\n", *cues])
    assert [text for *_, text in read(put(tmp_path / "a.vtt", text))["a"]] == ["Yes."] * 3


@for_each("end", ["\n", "\r\n", "\r"])
@for_each("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_srt(tmp_path, end, encoding):
    spoken = read(put(tmp_path / "a.srt", SRT.replace("\n", end), encoding))
    assert spoken == {"a": [(1.0, 2.5, "Hello"), (3.0, 4.0, "13"), (5.0, 6.0, "a < b")]}


@for_each(
    "text, seconds",
    [
        ("1:02:03.5", 3723.5),
        ("02:03,25", 123.25),
        ("100:00:00", 360000.0),
        ("-00:01.0", -1.0),
        ("1.5", None),
    ],
)
def test_clock(text, seconds):
    assert subtitles.parse_clock(text) == seconds


def test_json_of_many_videos_and_of_one(tmp_path):
    both = {"b": [(1.5, 2.0, "one"), (5.0, 6.0, "two")], "a": [(0.0, 1.0, "x")]}
    assert read(put(tmp_path / "caption.json", json.dumps(TABLE))) == both
    assert read(put(tmp_path / "b.json", json.dumps(TABLE["b"]))) == {"b": both["b"]}
    rows = [
        {"start": 5, "end": 6, "text": "two"},
        {"start": "00:01.500", "end": 2, "text": " one\n"},
    ]
    assert read(put(tmp_path / "b.mp4.json", json.dumps(rows))) == {"b": both["b"]}
    assert read(put(tmp_path / "b.json", json.dumps({"language": "en", "segments": rows}))) == {
        "b": both["b"]
    }
    assert (
        read(put(tmp_path / "x.json", json.dumps({"b": rows, "a": {**TABLE["a"], "more": 1}})))
        == both
    )


def test_a_plain_list_has_the_times_of_the_whole_video(tmp_path):
    path = put(tmp_path / "v.txt", "cut it\n\n boil  it \n")
    assert read(path, length={"v": 30.0}.get) == {
        "v": [(0.0, 30.0, "cut it"), (0.0, 30.0, "boil it")]
    }
    with pytest.raises(UserError, match=facts("v.txt")):
        read(path)


def test_a_folder_of_all_forms(tmp_path):
    put(tmp_path / "in/a.en.vtt", VTT)
    put(tmp_path / "in/a.srt", SRT)
    put(tmp_path / "in/deep/b.csv", "start,end,text\n1,2,x\n")
    put(tmp_path / "in/.hidden/c.csv", "start,end,text\n1,2,x\n")
    put(tmp_path / "in/odd.json", '{"a": 1}')
    for folder in "xy":
        put(tmp_path / f"in/{folder}/1.csv", f"start,end,text\n1,2,{folder}\n")
    spoken, counts = reasons(tmp_path / "in")
    assert {video: len(rows) for video, rows in spoken.items()} == {
        "a": 3,
        "b": 1,
        "x/1": 1,
        "y/1": 1,
    }
    assert spoken["x/1"][0][2] == "x" and counts == {readers.AGAIN: 3, readers.FORM: 1}
    torn = "start,end,text\n1,2,x\n1,2," + "y" * 200_000  # what stands before a fault goes too
    put(tmp_path / "in/deep/b.csv", torn)
    spoken, counts = reasons(tmp_path / "in")
    assert set(spoken) == {"a", "x/1", "y/1"} and counts == {readers.AGAIN: 3, readers.FORM: 2}


# bad rows


def test_bad_rows_are_left_out_counted_and_listed(tmp_path, capsys):
    nan, inf = float("nan"), float("inf")
    rows = [(0, 4, "fine"), (1, 3, "overlaps"), (0, 9, " \n"), (0, 9, None)]
    rows += [(None, 2, "a"), (1, nan, "a"), (1, inf, "a")]
    rows += [
        ("x", 2, "a"),
        (-1, 2, "a"),
        (3, 3, "a"),
        (4, 3, "a"),
        (9, 12, "half outside"),
        (10, 12, "outside"),
    ]
    start, end, text = zip(*rows, strict=True)
    path = put(tmp_path / "t.json", json.dumps({"v": {"text": text, "start": start, "end": end}}))
    spoken, counts = reasons(path, length=lambda video: 10.0)
    assert [text for *_, text in spoken["v"]] == ["fine", "overlaps", "half outside"]
    times = {NO_END: 2, NO_START: 1, UNREADABLE: 1}
    assert counts == {**times, EMPTY: 2, BACKWARDS: 2, NEGATIVE: 1, OUTSIDE: 1}
    assert capsys.readouterr().err == ""
    assert len(read(path)["v"]) == 4  # the length is not known
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and tells(error, str(path), "9", f"2 x {NO_END}", f"2 x {EMPTY}")
    assert tells(error, EMPTY, "v", "3")


def test_bad_times_of_subtitles(tmp_path):
    text = "WEBVTT\n\n00:01.000 --> soon\na\n\n00:03.000 -->\nb\n\n00:05.000 --> 00:04.000\nc\n\n"
    text += "-00:01.000 --> 00:04.000\nd\n\n00:01.000 --> 00:02.000\n\n"
    text += "00:01.000 --> 00:02.000\ngood"
    spoken, counts = reasons(put(tmp_path / "a.vtt", text))
    assert spoken == {"a": [(1.0, 2.0, "good")]} and counts == {
        UNREADABLE: 1,
        NO_END: 1,
        BACKWARDS: 1,
        NEGATIVE: 1,
        EMPTY: 1,
    }


def test_bad_lines_of_a_csv(tmp_path):
    text = "video_id,start,end,text\nv,1,2,a, and b\nv,1,2\n,1,2,x\nv,1,2,good\n"
    spoken, counts = reasons(put(tmp_path / "a.csv", text))
    assert spoken == {"v": [(1.0, 2.0, "good")]} and counts == {EMPTY: 2, NAMELESS: 1}


def test_a_video_whose_lists_differ_is_left_out(tmp_path):
    uneven = {"c": {"text": ["x"], "start": [0, 1], "end": [1]}, "d": 3}
    spoken, counts = reasons(put(tmp_path / "t.json", json.dumps({**TABLE, **uneven})))
    assert set(spoken) == {"a", "b"} and counts == {"video of another form": 2}


@for_each("encoding", ["cp1252", "utf-16-le", "utf-16-be", "utf-16"])
def test_other_encodings_are_read_and_said(tmp_path, capsys, encoding):
    path = put(tmp_path / "a.csv", "start,end,text\n1,2,saut\u00e9 the onions\n", encoding)
    assert read(path) == {"a": [(1.0, 2.0, "saut\u00e9 the onions")]}
    assert tells(capsys.readouterr().err, str(path), "1", encoding)
    latin = b"start,end,text\n1,2,\x81\xe9\n"  # \x81 is nothing in cp1252
    (tmp_path / "a.csv").write_bytes(latin)
    assert read(path) == {"a": [(1.0, 2.0, "\x81\xe9")]} and tells(
        capsys.readouterr().err, "latin-1"
    )


@for_each(
    "name, data, words",
    [
        ("a.docx", b"x", (".vtt", ".srt", ".json", ".csv", ".txt")),
        ("a.vtt", b"", ()),
        ("a.vtt", b"1\n00:01.000 --> 00:02.000\nx\n", ("1", "WebVTT")),
        ("a.vtt", b"WEBVTT\n\n", ()),
        ("a.srt", b"some words\n", ("some words", "SRT")),
        ("a.txt", SRT.encode(), ()),
        ("a.csv", b"1,2,some words\n", ("some words", "start", "end", "text")),
        ("a.csv", b"start,end,text\n2,1,x\n", (f"1 x {BACKWARDS}",)),
        ("a.csv", b"start,end,text\n1,2," + b"y" * 200_000, ("2",)),
        ("a.json", b"{", ()),
        ("a.json", b"[1]", ("list", "video id")),
        ("a.json", b"{}", ("dict", "video id")),
        ("a.json", b'{"a": [[1, 0.5, 2, "x"]]}', ("--data", "htm_align")),
        ("a.json", b'{"a": {"duration": 3, "sentences": []}}', ("duration", "sentences")),
        ("a.json", bytes(range(256)), ()),
        ("", b"", ()),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, name, data, words):
    folder = tmp_path / "in"
    folder.mkdir()
    if name:
        (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=facts(str(folder / name), *words)):
        read(folder / name)
    with pytest.raises(UserError):
        read(folder)
    with pytest.raises(UserError, match=facts("none")):
        read(tmp_path / "none")


# the command


def run(argv, capsys):
    run_command("narration", argv)
    out, error = capsys.readouterr()
    return json.loads(out.splitlines()[-1]), error


def test_the_command_writes_the_one_form(tmp_path, capsys):
    put(tmp_path / "in/v.txt", "cut it\n")
    put(tmp_path / "in/a.csv", "start,end,text\n5,6,two\n1,2,one\n3,3,bad\n")
    lengths = put(tmp_path / "l.csv", "video,seconds\nv,30\na,5.5\n")
    out = tmp_path / "made/said.json"
    argv = ["--source", str(tmp_path / "in"), "--out", str(out)]
    result, error = run([*argv, "--durations", str(lengths)], capsys)
    assert result == {
        **{"source": str(tmp_path / "in"), "out": str(out), "videos": 2, "rows": 3, "sentences": 3},
        "left_out": {BACKWARDS: 1},
    }
    written = json.loads(out.read_text())
    assert written["a"] == {"text": ["one", "two"], "start": [1.0, 5.0], "end": [2.0, 6.0]}
    assert written["v"] == {"text": ["cut it"], "start": [0.0], "end": [30.0]}
    assert read(out) == read(tmp_path / "in", length={"v": 30.0}.get) and tells(error, "1")
    (line,) = (tmp_path / "made/said.left_out.jsonl").read_text().splitlines()
    assert (
        json.loads(line)["why"] == BACKWARDS
        and json.loads(line)["what"] == "a, row 3: 3 to 3 'bad'"
    )
    put(tmp_path / "in/a.csv", "start,end,text\n1,2,one\n")
    assert run([*argv, "--durations", str(lengths)], capsys)[0]["left_out"] == {}
    assert not (tmp_path / "made/said.left_out.jsonl").exists()


def test_the_command_makes_sentences(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine_narration.py").write_text(
        "from ssvid.data.narration.sentences import Marked\n"
        "def english(text): return 0.95 if 'stir' in text.lower() else 0.1\n"
        "def marks(words): return [Marked('.' if word == 'now' else '') for word in words]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    text = ["Stir it WELL now and", "then we stir it some more"] * 6
    long = {"text": text, "start": list(range(12)), "end": list(range(1, 13))}
    table = {
        "few": TABLE["b"],
        "good": long,
        "french": {**long, "text": ["on va bien le remuer maintenant"] * 12},
    }
    source = put(tmp_path / "raw.json", json.dumps(table))
    argv = ["--source", str(source), "--out", str(tmp_path / "o.json"), "--sentencify", "true"]
    plugs = ["--language", "mine_narration:english", "--punctuation", "mine_narration:marks"]
    result, _ = run([*argv, *plugs], capsys)
    assert (
        result["left_out"] == {"10 captions or fewer": 1, "not English": 1}
        and result["videos"] == 1
    )
    spoken = read(tmp_path / "o.json")["good"]
    assert spoken[0] == (0.0, 0.8, "stir it well now") and len(spoken) == 7
    assert spoken[1] == (0.8, 2.8, "and then we stir it some more stir it well now")
    sys.modules.pop("mine_narration")
    for wrong, words in [
        (
            ["--language", "mine_narration:none"],
            ("--language", "mine_narration:none"),
        ),
        (["--punctuation", "nowhere"], ("--punctuation", "nowhere", "MODULE:FUNCTION")),
        (["--sentencify", "false", "--language", "a:b"], ("--sentencify", "true")),
        (["--out", "a.csv"], ("--out", "a.csv", ".json")),
        (["--durations", str(source)], (str(source),)),
    ]:
        with pytest.raises(SystemExit):
            run_command("narration", [*argv, *wrong])
        assert tells(capsys.readouterr().err, *words)


def test_captions_that_are_hardly_cut_are_told_of(tmp_path, capsys):
    """Eleven captions without a mark or a pause become one sentence."""
    rows = [(3.0 * i, 3.0 * i + 3, f"and then we put number {i} in the pan") for i in range(11)]
    source = {
        "a": {
            "start": [r[0] for r in rows],
            "end": [r[1] for r in rows],
            "text": [r[2] for r in rows],
        }
    }
    (tmp_path / "in.json").write_text(json.dumps(source))
    argv = [
        "--source",
        str(tmp_path / "in.json"),
        "--out",
        str(tmp_path / "o.json"),
        "--sentencify",
        "true",
    ]
    result, error = run(argv, capsys)
    assert result["sentences"] == 1 and tells(error, "warning", "99")
