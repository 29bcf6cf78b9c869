"""The command benchmarks.search: its answers by hand, its index after accidents, its refusals."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.features.text_side import open_text_side
from benchmarks.search import search
from benchmarks.searching import ledger as files
from benchmarks.searching.index import KEY, Reader, build_index, check_same_index, describe_index
from benchmarks.searching.query import choose_best, find_moments, match_again, score_keys
from benchmarks.searching.windows import Pace, open_film, read_windows
from objectives.clip import CLIP
from objectives.xclip import XCLIP
from ssvid import create_encoder
from ssvid.cli import parse
from ssvid.data.augment import RECIPES, crop_frames
from ssvid.data.decode import read
from ssvid.errors import UserError
from ssvid.hub import open_encoder
from ssvid.shapes import ClipSpec
from ssvid.text.joint import TOKENS, VIDEO, JointSpace, ProductSpace
from ssvid.text.words import Words
from tests.benchmarks.browser import read_page
from tests.benchmarks.test_label import LETTERS, PICTURE, save_run
from tests.helpers import command, facts, for_each, sentence, squares, tells, write_video

QUERY = "red ball"
EACH_S = 1.0  # the windows of these tests
Json = dict


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of clip: products order its windows."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("clip")
    (folder / "words.txt").write_text("red\nblue\nball\nbox\n")
    net = create_encoder("clip_vit", **PICTURE, frames=2, size=16)
    sizes = {"width": 8, "hidden": 16, "length": 6}
    objective = CLIP(net, tower="words", words=str(folder / "words.txt"), options=sizes)
    return save_run(objective, folder)


@pytest.fixture(scope="module")
def xclip_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of xclip: its sentences depend on the clip."""
    torch.manual_seed(0)
    net = create_encoder("xclip", image="clip_vit", image_kwargs=PICTURE, frames=2, size=16)
    objective = XCLIP(net, tower="clip_text", options=LETTERS, train="both", prompt_layers=1)
    objective.set_classes(("red ball", "blue box"))
    return save_run(objective, tmp_path_factory.mktemp("xclip"))


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Three videos of 2, 3 and 2.5 s, in each of whose seconds another square moves."""
    for number, (name, frames) in enumerate((("a", 20), ("b", 30), ("sub/c", 25))):
        parts = [squares(10 * number + second, frames=10) for second in range(3)]
        write_video(tmp_path / f"v/{name}.mp4", np.concatenate(parts)[:frames])
    return tmp_path


def run_search(films: Path, encoder: Path | str, *flags: str) -> Json:
    argv = ["--folder", str(films / "v"), "--encoder", str(encoder), "--out", str(films / "out")]
    return search(**parse(search, [*argv, "--window", str(EACH_S), *flags]))


def list_moments(printed: Json, query: int = 0) -> list[tuple[str, float]]:
    return [(row["video"], row["start"]) for row in printed["queries"][query]["moments"]]


@torch.inference_mode()
def score_by_hand(films: Path, encoder: Path, query: str = QUERY) -> dict[tuple[str, float], float]:
    """(video, start) -> similarity, by the contract of joint spaces, a window at a time."""
    net, joint = open_encoder(str(encoder)), open_text_side(str(encoder), None)
    text, scores = joint.embed_texts([query]), {}
    for name, count in (("a.mp4", 2), ("b.mp4", 3), ("sub/c.mp4", 3)):
        for second in range(count):
            # Two frames of a second come from the middles of its halves.
            pictures = read(films / f"v/{name}", [second + 0.25, second + 0.75])
            clip = crop_frames(pictures, RECIPES["none"], 16, torch.zeros(0))
            vectors = joint.read_clips(net(net.normalise(clip[None]), layers=joint.layers))
            scores[name, float(second)] = float(joint.compare(vectors, text)) / np.exp(2.0)
    return scores


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
        assert row["end"] == (
            2.5 if row["start"] == 2 and row["video"] == "sub/c.mp4" else row["start"] + 1
        )
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
    "syncs, half, kept", [(1, False, 0), (3, False, 0), (6, False, 2), (6, True, 1), (7, False, 2)]
)
def test_a_killed_build_goes_on(syncs, half, kept, run, tmp_path):
    """Syncs: the card, the ledger, and of each video its rows and its line."""
    for number, name in enumerate("abc"):
        write_video(tmp_path / f"v/{name}.mp4", squares(number, frames=20))
    kill_search(tmp_path, run, syncs, half)
    printed = run_search(tmp_path, run, "--query", QUERY)
    assert (printed["kept"], printed["read"]) == (kept, 3 - kept)
    resumed = read_index(tmp_path)
    shutil.rmtree(tmp_path / "out")
    whole = run_search(tmp_path, run, "--query", QUERY)
    assert whole["queries"] == printed["queries"] and read_index(tmp_path) == resumed


@for_each("damage", ["keys", "no keys", "ledger", "junk", "another type", "beyond"])
def test_a_truncated_index_is_mended(damage, run, tmp_path):
    for number, name in enumerate("abc"):
        write_video(tmp_path / f"v/{name}.mp4", squares(number, frames=20))
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
    changed = score_by_hand_of_a(films, run)
    for row in printed["queries"][0]["moments"]:
        assert row["score"] == pytest.approx(changed[row["start"]], abs=1e-3)
    (films / "b.mp4").rename(films / "v/b.mp4")  # it comes back as it was
    printed = run_search(films, run, "--query", QUERY)
    assert (printed["read"], printed["kept"], printed["windows"]) == (0, 2, 5)
    for row in printed["queries"][0]["moments"]:
        if row["video"] == "b.mp4":
            assert row["score"] == pytest.approx(scores["b.mp4", row["start"]], abs=1e-3)


def score_by_hand_of_a(films: Path, run: Path) -> dict[float, float]:
    for name, frames in (("b", 30), ("sub/c", 30)):  # to be read, and not compared
        shutil.copy(films / "v/a.mp4", films / "a.mp4")
        write_video(films / f"w/v/{name}.mp4", squares(0, frames=frames))
    shutil.copy(films / "v/a.mp4", films / "w/v/a.mp4")
    scores = score_by_hand(films / "w", run)
    return {start: score for (name, start), score in scores.items() if name == "a.mp4"}


def test_scores_are_exact_and_ties_are_ordered():
    """Small whole numbers have exact products, and many of them are equal."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(-3, 4, (5000, 8), generator=generator).half()
    queries = torch.randint(-3, 4, (3, 8), generator=generator).float()
    ranks = torch.randperm(5000, generator=generator)
    ranks[torch.randperm(5000, generator=generator)[:500]] = -1
    scores = score_keys(keys, queries)
    assert torch.equal(scores.double(), queries.double() @ keys.double().T)
    for row in scores:
        places = [i for i in range(5000) if ranks[i] >= 0]
        places.sort(key=lambda i: (-float(row[i]), int(ranks[i])))
        for count in (1, 10, 700, 9000):
            best = choose_best(row, ranks, count)
            assert best.rows.tolist() == places[:count]
            assert torch.equal(best.scores, row[best.rows])
    # Beside the products of all rows at once.
    keys, queries = torch.randn(4999, 64, generator=generator).half(), torch.randn(2, 64)
    plain = keys.float() @ queries.T
    torch.testing.assert_close(score_keys(keys, queries), plain.T, atol=2e-5, rtol=0)
    assert torch.equal(score_keys(keys, queries).topk(50).indices, plain.T.topk(50).indices)


def test_an_index_of_another_encoder_is_refused_with_both_hashes(films, run, xclip_run):
    run_search(films, run)
    before = read_index(films)
    encoders = [
        Reader(open_encoder(str(r)), open_text_side(str(r), None)) for r in (run, xclip_run)
    ]
    hashes = [reader.hashes[0] for reader in encoders]
    with pytest.raises(UserError, match=facts(*hashes, "--out")):
        run_search(films, xclip_run)
    card = describe_index(encoders[0], Pace(EACH_S, EACH_S))
    with pytest.raises(UserError, match=facts("text side", "other", card["text"])):
        check_same_index(films / "out", {**card, "text": "other"})
    with pytest.raises(UserError, match=facts("window", "1.0", "2.0")):
        run_search(films, run, "--window", "2")
    assert read_index(films) == before


def test_the_best_of_windows_that_overlap_is_kept(films: Path, run: Path):
    printed = run_search(films, run, "--step", "0.25", "--query", QUERY, "--top", "50")
    assert printed["windows"] == 5 + 9 + 7
    moments = list_moments(printed)
    for video in ("a.mp4", "b.mp4", "sub/c.mp4"):
        starts = sorted(start for name, start in moments if name == video)
        assert starts and min(np.diff(starts), default=1.0) >= 1.0
    wide = run_search(films, run, "--query", QUERY, "--step", "0.25", "--top", "2")
    assert list_moments(wide) == moments[:2]


@for_each(
    "length, window, step, count",
    [(10, 2, 2, 5), (10.5, 2, 2, 6), (10, 4, 2, 4), (1, 4, 4, 1), (10, 2, 5, 2), (10, 3, 0.5, 15)],
)
def test_windows_reach_the_end_of_a_video(length, window, step, count):
    assert Pace(window, step).count(length) == count


def test_a_clip_of_its_own_spacing_lies_in_the_middle_of_its_window(films: Path):
    path, pace = films / "v/b.mp4", Pace(1.0, 1.0)
    film = open_film(path, pace)
    for spec in (ClipSpec(frames=2, fps=5.0, size=16), ClipSpec(frames=2, stride=2, size=16)):
        clips = list(read_windows(film, spec, pace, np.array([0, 2])))
        for clip, second in zip(clips, (0, 2), strict=True):
            pictures = read(path, [second + 0.3, second + 0.5])
            assert torch.equal(clip, crop_frames(pictures, RECIPES["none"], 16, torch.zeros(0)))


def test_a_space_that_is_no_product_orders_a_shortlist(films: Path, xclip_run: Path):
    scores = score_by_hand(films, xclip_run)
    best = sorted(scores, key=scores.__getitem__, reverse=True)
    printed = run_search(films, xclip_run, "--query", QUERY)
    assert list_moments(printed) == best and tells(printed["order"], "8 of 8", "clip changes")
    for row in printed["queries"][0]["moments"]:
        assert row["score"] == pytest.approx(scores[row["video"], row["start"]], abs=2e-3)
    arrays = {name for name, _ in read_index(films)[1].items()}
    assert arrays == {"key.f16", "joint.f16", "context.f16"}
    few = run_search(films, xclip_run, "--query", QUERY, "--shortlist", "3", "--top", "3")
    chosen = list_moments(few)
    assert chosen == [moment for moment in best if moment in chosen] and len(chosen) == 3
    assert tells(few["order"], "3 of 8")
    # The shortlist is that of the products.
    net, joint = open_encoder(str(xclip_run)), open_text_side(str(xclip_run), None)
    reader = Reader(net, joint)
    index = build_index(reader, films / "out", name_paths(films), Pace(EACH_S, EACH_S)).index
    products = score_keys(index.keys, joint.compute_queries(joint.embed_texts([QUERY])).detach())[0]
    rows = choose_best(products, index.ranks, 3).rows.tolist()
    assert {(w.video, w.begin_s) for w in map(index.locate, rows)} == set(chosen)


def test_names_that_are_no_utf8_are_kept(run: Path, tmp_path: Path):
    write_video(tmp_path / "a.mp4", squares(0, frames=10))
    (tmp_path / "v").mkdir()
    os.rename(os.fsencode(tmp_path / "a.mp4"), os.fsencode(tmp_path / "v") + b"/\xff %41.mp4")
    assert run_search(tmp_path, run)["read"] == 1
    printed = run_search(tmp_path, run, "--query", QUERY)
    assert printed["kept"] == 1 and list_moments(printed) == [("\udcff %41.mp4", 0.0)]


def name_paths(films: Path) -> dict[str, Path]:
    return {name: films / "v" / name for name in ("a.mp4", "b.mp4", "sub/c.mp4")}


class Matching(ProductSpace):
    """Its second stage likes dark clips, and short sentences less."""

    can_match = True
    needs_tokens = True

    def read_clips(self, features):
        return {VIDEO: self.embed_videos(features.pooled), TOKENS: features.tokens}

    def match(self, clips, sentences):
        assert len(clips[TOKENS]) == len(sentences)
        length = torch.tensor([float(len(text)) for text in sentences])
        return length - clips[TOKENS].flatten(1).sum(1)


def test_matching_reads_the_shortlist_again(films: Path, monkeypatch):
    torch.manual_seed(0)
    net = create_encoder("clip_vit", **PICTURE, frames=2, size=16).eval()
    tower = Words(dim=16, width=8, hidden=8)
    tower.name, tower.kwargs = "words", {}
    joint: JointSpace = Matching(tower, torch.nn.Identity(), cosine=True).eval()
    reader, pace, paths = Reader(net, joint, batch_size=2), Pace(EACH_S, EACH_S), name_paths(films)
    index = build_index(reader, films / "out", paths, pace).index
    assert index.arrays.keys() == {KEY}
    sums = {}
    for name, path in paths.items():
        film = open_film(path, pace)
        for number in range(film.windows):
            (vectors,) = reader.read(film, pace, np.array([number]))
            sums[name, float(number)] = float(vectors[TOKENS].sum())
    reads = []
    plain = Reader.read

    def count_reads(self, film, pace, rows):
        reads.extend((film.path.name, number) for number in rows.tolist())
        return plain(self, film, pace, rows)

    monkeypatch.setattr(Reader, "read", count_reads)
    moments = find_moments(index, reader, ["a red ball", "box"], top=8, shortlist=8)
    best = sorted(sums, key=sums.__getitem__)
    assert sorted(reads) == sorted((Path(name).name, start) for name, start in sums)  # each once
    for ordered, text in zip(moments, ("a red ball", "box"), strict=True):
        assert [(moment.video, moment.start_s) for moment in ordered] == best
        for moment in ordered:
            expected = len(text) - sums[moment.video, moment.start_s]
            assert moment.score == pytest.approx(expected, abs=1e-4)
    reads.clear()
    (few,) = find_moments(index, reader, ["box"], top=2, shortlist=2)
    products = score_keys(index.keys, joint.compute_queries(joint.embed_texts(["box"])).detach())
    shortlist = choose_best(products[0], index.ranks, 2)
    windows = {(w.video, w.begin_s) for w in map(index.locate, shortlist.rows.tolist())}
    assert {(moment.video, moment.start_s) for moment in few} == windows and len(reads) == 2
    paths["a.mp4"].write_bytes(b"torn")  # after the index was opened
    rows = torch.arange(len(index))
    (scored,) = match_again(index, reader, ["box"], [shortlist._replace(rows=rows)])
    assert len(scored.rows) == 6


def test_a_long_query_is_read_in_part_and_says_so(films: Path, run: Path, caplog):
    run_search(films, run, "--query", "red ball " * 5)
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert tells(line, "6 of 10 words")
    caplog.clear()
    run_search(films, run, "--query", "red ball and blue box")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


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
