"""The command benchmarks.search: its answers, its index after accidents, its refusals."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from benchmarks.search import search
from benchmarks.searching import ledger as files
from benchmarks.searching.index import KEY, Reader, check_same_index, describe_index
from benchmarks.searching.windows import Pace
from ssvid.cli import parse
from ssvid.errors import DecodeError, UserError
from tests.benchmarks.browser import read_page
from tests.benchmarks.searches import (
    EACH_S,
    QUERY,
    Json,
    list_moments,
    open_reader,
    run_search,
    save_clip,
    save_xclip,
    score_by_hand,
    write_films,
    write_three,
)
from tests.helpers import command, facts, for_each, sentence, squares, tells, write_video


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def xclip_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_xclip(tmp_path_factory.mktemp("xclip"))


@pytest.fixture
def films(tmp_path: Path) -> Path:
    return write_films(tmp_path)


def test_a_folder_as_a_user_searches_it(films: Path, run: Path):
    out = films / "out"
    argv = [str(films / "v"), "--encoder", str(run), "--query", QUERY, "--query", "blue box"]
    argv += ["--out", str(out), "--window", "1", "--top", "4"]
    ended = command("benchmarks.search", *argv)
    assert ended.returncode == 0, ended.stderr[-2000:]
    printed = json.loads(ended.stdout.splitlines()[-1])
    counts = {"videos": 3, "read": 3, "kept": 0, "bad": 0, "gone": 0, "windows": 8}
    assert {name: printed[name] for name in counts} == counts
    scores = score_by_hand(films, run)
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:4]
    assert list_moments(printed) == best
    for row in printed["queries"][0]["moments"]:
        assert row["score"] == pytest.approx(scores[row["video"], row["start"]], abs=1e-3)
    assert tells(printed["order"], "all 8 windows")
    with open(out / "moments.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["rank"] for line in lines] == ["1", "2", "3", "4"] * 2
    assert (lines[0]["video"], float(lines[0]["start"])) == best[0]
    page = read_page((out / "search.html").read_text())
    assert page.tags["img"] == 8 and tells(page.text, QUERY, "blue box", "8 windows")
    video, start = best[0]
    assert f"../v/{video}#t={start:g},{start + 1:g}" in page.addresses


def test_an_index_is_kept_and_asked_without_decoding(films: Path, run: Path, monkeypatch):
    assert run_search(films, run)["queries"] == [] and not (films / "out/search.html").exists()
    monkeypatch.setattr(Reader, "read", None)  # nobody may read a video
    printed = run_search(films, run, "--query", QUERY)
    assert (printed["read"], printed["kept"]) == (0, 3) and len(list_moments(printed)) == 8
    for row in printed["queries"][0]["moments"]:
        is_last = (row["video"], row["start"]) == ("sub/c.mp4", 2.0)
        assert row["end"] == (2.5 if is_last else row["start"] + EACH_S)
    # The index knows its windows.
    argv = ["--folder", str(films / "v"), "--encoder", str(run), "--out", str(films / "out")]
    assert search(**parse(search, argv))["windows"] == 8


def read_index(films: Path) -> tuple[list[Json], dict[str, bytes]]:
    out = films / "out"
    lines = [json.loads(line) for line in (out / files.LEDGER).read_text().splitlines()]
    return lines, {file.name: file.read_bytes() for file in sorted(out.glob("*.f16"))}


def kill_search(films: Path, encoder: Path, syncs: int, half: bool = False) -> None:
    """Search in a forked process that is killed with -9 before its n-th sync of a file."""
    child = os.fork()
    if child == 0:
        calls = []

        def sync_or_die(file: int) -> None:
            calls.append(file)
            if len(calls) == syncs:
                if half:  # the disk has a part of the last line
                    os.ftruncate(file, os.fstat(file).st_size - 9)
                os.kill(os.getpid(), signal.SIGKILL)

        files.os.fsync = sync_or_die
        run_search(films, encoder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@for_each(
    "syncs, half, skipped",
    [(1, False, 0), (3, False, 0), (6, False, 2), (6, True, 1), (7, False, 2)],
)
def test_a_killed_build_goes_on(syncs, half, skipped, run, tmp_path):
    """Syncs: the card, the ledger, and of each video its rows and its line."""
    write_three(tmp_path)
    kill_search(tmp_path, run, syncs, half)
    printed = run_search(tmp_path, run, "--query", QUERY)
    assert (printed["kept"], printed["read"]) == (skipped, 3 - skipped)
    resumed = read_index(tmp_path)
    shutil.rmtree(tmp_path / "out")
    whole = run_search(tmp_path, run, "--query", QUERY)
    assert whole["queries"] == printed["queries"] and read_index(tmp_path) == resumed


@for_each("damage", ["keys", "no keys", "ledger", "junk", "another type", "beyond"])
def test_a_truncated_index_is_mended(damage, run, tmp_path):
    write_three(tmp_path)
    whole = run_search(tmp_path, run, "--query", QUERY)
    keys, ledger = tmp_path / "out/key.f16", tmp_path / "out" / files.LEDGER
    lines = ledger.read_text().splitlines()
    if damage == "keys":
        os.truncate(keys, keys.stat().st_size - 1)
    elif damage == "no keys":
        keys.unlink()
    elif damage == "ledger":
        os.truncate(ledger, ledger.stat().st_size - 5)
    else:
        entry = json.loads(lines[2])
        entry |= {"another type": {"rows": "2"}, "beyond": {"rows": 3}}.get(damage, {})
        lines[2] = "{" if damage == "junk" else json.dumps(entry)
        ledger.write_text("\n".join(lines) + "\n")
    printed = run_search(tmp_path, run, "--query", QUERY)
    assert printed["read"] == (3 if damage == "no keys" else 1)
    assert printed["queries"] == whole["queries"]
    assert run_search(tmp_path, run)["read"] == 0


def test_rows_of_a_video_that_breaks_are_cut_off(tmp_path: Path):
    ledger = files.Ledger(tmp_path, {})

    def read_rows(blocks: int):
        for _ in range(3):
            yield {KEY: torch.ones(4, 2)}
            blocks -= 1
            if not blocks:
                raise DecodeError("a.mp4", "torn")

    with pytest.raises(DecodeError):
        ledger.add("a", "", 1.0, read_rows(2))
    ledger.add("b", "", 1.0, [{KEY: torch.zeros(1, 2)}])
    assert (tmp_path / "key.f16").read_bytes() == bytes(4)
    ledger.add("a", "", 1.0, read_rows(9))
    again = files.Ledger(tmp_path, {})
    assert again.entries == ledger.entries and again.end == 13 and not again.lost
    assert again.map_rows(KEY).tolist() == [[0, 0]] + [[1, 1]] * 12


def test_videos_that_change_go_and_break(films: Path, run: Path, caplog):
    run_search(films, run)
    scores = score_by_hand(films, run)
    write_video(films / "v/a.mp4", squares(77, frames=20))
    (films / "v/b.mp4").rename(films / "b.mp4")
    (films / "v/sub/c.mp4").write_bytes(b"no video")
    printed = run_search(films, run, "--query", QUERY)
    counts = {"videos": 2, "read": 1, "kept": 0, "bad": 1, "gone": 1, "windows": 2}
    assert {name: printed[name] for name in counts} == counts and printed["exit_code"] == 3
    assert {video for video, _ in list_moments(printed)} == {"a.mp4"}
    warnings = [record.getMessage() for record in caplog.records if "left out" in record.message]
    assert len(warnings) == 1 and tells(warnings[0], "1 of 2 videos", "c.mp4")
    changed = score_changed(films, run)
    for row in printed["queries"][0]["moments"]:
        assert row["score"] == pytest.approx(changed[row["start"]], abs=1e-3)
    (films / "b.mp4").rename(films / "v/b.mp4")  # it comes back as it was
    printed = run_search(films, run, "--query", QUERY)
    assert (printed["read"], printed["kept"], printed["windows"]) == (0, 2, 5)
    for row in printed["queries"][0]["moments"]:
        if row["video"] == "b.mp4":
            assert row["score"] == pytest.approx(scores["b.mp4", row["start"]], abs=1e-3)


def score_changed(films: Path, run: Path) -> dict[float, float]:
    """The scores of the film a as it is now, by its starts."""
    shutil.copy(films / "v/a.mp4", films / "a.mp4")
    write_films(films / "w")
    shutil.copy(films / "a.mp4", films / "w/v/a.mp4")
    scores = score_by_hand(films / "w", run)
    return {0.0: scores["a.mp4", 0.0], 1.0: scores["a.mp4", 1.0]}


def test_an_index_of_another_encoder_is_refused_with_both_hashes(films, run, xclip_run):
    run_search(films, run)
    before = read_index(films)
    reader = open_reader(run)
    hashes = (reader.hashes[0], open_reader(xclip_run).hashes[0])
    with pytest.raises(UserError, match=facts(*hashes, "--out")):
        run_search(films, xclip_run)
    card = describe_index(reader, Pace(EACH_S, EACH_S))
    with pytest.raises(UserError, match=facts("text side", "other", card["text"])):
        check_same_index(films / "out", {**card, "text": "other"})
    with pytest.raises(UserError, match=facts("window", "1.0", "2.0")):
        run_search(films, run, "--window", "2")
    assert read_index(films) == before


def test_names_that_are_no_utf8_are_kept(run: Path, tmp_path: Path):
    write_video(tmp_path / "a.mp4", squares(0, frames=10))
    (tmp_path / "v").mkdir()
    os.rename(os.fsencode(tmp_path / "a.mp4"), os.fsencode(tmp_path / "v") + b"/\xff %41.mp4")
    assert run_search(tmp_path, run)["read"] == 1
    printed = run_search(tmp_path, run, "--query", QUERY)
    assert printed["kept"] == 1 and list_moments(printed) == [("\udcff %41.mp4", 0.0)]


@for_each(
    "flags, fact",
    [
        (["--query", " "], "--query | empty"),
        (["--query", "zebra"], "'zebra' | word"),
        (["--folder", "none"], "none | FOLDER"),
        (["--folder", "gone"], "gone | FOLDER"),
        (["--folder", "torn.mp4"], "torn.mp4"),
        (["--encoder", "xclip_b32"], "ViT-B-32.pt | MIT"),
        (["--encoder", "clip@random"], "untrained"),
        (["--encoder", "mute"], "mute | text side"),
        (["--encoder", "gone.pt"], "gone.pt"),
        (["--top", "0"], "--top 0"),
        (["--shortlist", "0"], "--shortlist 0"),
        (["--encoder", "xclip", "--top", "9", "--shortlist", "5"], "--shortlist 5 | --top 9"),
        (["--window", "0"], "--window 0"),
        (["--window", "-1"], "--window -1"),
        (["--step", "0"], "--step 0"),
        (["--window", "nan"], "--window | nan"),
        (["--out", "torn.mp4"], "--out"),
        (["--out", "bad"], "bad"),
    ],
)
def test_bad_input_is_one_sentence(flags, fact, run, xclip_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "v/a.mp4", squares(0, frames=2))
    for name, source in (("mute", run), ("clip", run), ("xclip", xclip_run)):
        shutil.copytree(source, tmp_path / name)
    for file in (tmp_path / "mute").glob("text.*"):
        file.unlink()
    (tmp_path / "none").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/index.json").write_text('{"encoder": 1, "window": []')
    (tmp_path / "torn.mp4").write_bytes(b"no video")
    argv = ["--folder", "v", "--encoder", "clip", "--query", QUERY, "--out", "out"]
    if "--query" in flags:
        argv.remove("--query")
        argv.remove(QUERY)
    with pytest.raises(UserError, match=facts(*fact.split(" | "))) as caught:
        search(**parse(search, [*argv, *flags]))
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert not list(tmp_path.glob("out/*.html"))


def test_a_refusal_of_the_command_ends_with_code_2(films: Path, run: Path):
    argv = [str(films / "v"), "--encoder", str(run), "--query", "", "--out", str(films / "out")]
    assert tells(sentence(command("benchmarks.search", *argv)), "--query", "empty")
