"""benchmarks.align: sentences found where a known aligner sees them; files, resume and refusals of the command."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from benchmarks import align as module
from benchmarks.align import align
from benchmarks.alignment.aligner import open_aligner
from benchmarks.alignment.realign import Aligner, Found, box, realign, web_vtt
from benchmarks.metrics.moving_windows import windows_near_speech
from ssvid.cli import parse
from ssvid.data.narration import readers
from ssvid.engine.checkpoint import RunFolder
from ssvid.errors import UserError
from ssvid.hub import create_encoder
from ssvid.nn.timeline import Aligned
from ssvid.registry import objectives
from ssvid.shapes import Window
from ssvid.weights.encoders import save_encoder
from ssvid.weights.tan import LAYOUTS
from tests.engine.test_run import run_pretrain
from tests.helpers import command, facts, for_each, sentence, squares, tells, write_video

WORDS = ["whisk eggs", "add sugar", "fold flour", "melt butter", "bake it"]
NET = {"dim": 24, "depth": 1, "heads": 2, "patch": 8, "frames": 4, "size": 16, "stride": 2}


def knowing(
    truth: dict[str, tuple[int, int]], seen: list | None = None, head: bool = True
) -> Aligner:
    """Row t of its features is t: it is sure of the true seconds, and that what is not in `truth` is not alignable."""

    def ask(features: torch.Tensor, texts: list[str]) -> Aligned:
        seconds = features[0, :, 0]
        at = torch.tensor([truth.get(text, (-9, -9)) for text in texts])
        right = (seconds >= at[:, :1]) & (seconds < at[:, 1:])
        (seen if seen is not None else []).append((int(seconds[0]), len(seconds), list(texts)))
        logits = torch.tensor([5.0 if text in truth else -5.0 for text in texts]).expand(3, -1)
        return Aligned(14.0 * right[None], 10.0 * right.expand(2, -1, -1), logits if head else None)

    return Aligner(ask, Window(seconds=64, can_encode=lambda text: text != "zzz"), 4, "hash")


def clock(seconds: int) -> np.ndarray:
    return np.repeat(np.arange(seconds, dtype=np.float32)[:, None], 4, 1)


def test_sentences_are_found_where_they_are_seen():
    said = [(float(20 * k), 20.0 * k + 4, text) for k, text in enumerate(WORDS)]
    truth = {
        text: (20 * k + 7, 20 * k + 7 + k + 1) for k, text in enumerate(WORDS[:4])
    }  # the last one is never seen
    found, shares = realign(clock(150), said, knowing(truth))
    for k, one in enumerate(found[:4]):
        assert (one.start, one.end) == tuple(map(float, truth[one.text])) == one.found
        assert (
            one.said == said[k][:2]
            and one.score == 12.0
            and one.alignable
            and one.alignability is not None
        )
    last = found[4]
    assert (
        last.alignable is False and (last.start, last.end) == last.said and last.found is not None
    )
    assert (
        shares.shape == (5, 150) and shares[1].nan_to_num(0).argmax() == 27 and shares[1, 27] == 1
    )


def test_a_word_that_nobody_knows_keeps_its_time_and_is_not_asked():
    seen: list = []
    said = [(1.0, 3.0, "zzz"), (2.0, 5.0, "add sugar")]
    found, shares = realign(clock(30), said, knowing({"add sugar": (9, 12)}, seen))
    assert found[0] == Found(1.0, 3.0, "zzz", (1.0, 3.0), None, None, None, False)
    assert (found[1].start, found[1].end) == (9.0, 12.0) and shares[0].isnan().all()
    assert seen == [(0, 30, ["add sugar"])]
    with pytest.raises(UserError, match=facts("1")):
        realign(clock(30), said[:1], knowing({}))


def test_windows_ask_what_is_said_near_and_cover_every_second():
    said = [(float(t), t + 4.0, "x") for t in range(0, 400, 10)]
    calls = list(windows_near_speech(said, 400, 64))
    assert [start for start, _, _ in calls] == list(range(0, 368, 16)) and calls[-1][:2] == (
        352,
        48,
    )
    assert [calls[7][2][0], calls[7][2][-1]] == [5, 24]  # from 48 to 240 s
    for k in range(len(said)):
        asked = {t for start, n, rows in calls if k in rows for t in range(start, start + n)}
        assert set(range(max(0, 10 * k - 40), min(400, 10 * k + 40))) <= asked
    assert list(windows_near_speech(said[:1], 5, 64)) == [(0, 5, [0])]
    assert all(
        rows == [0] for _, _, rows in windows_near_speech([(0.0, 400.0, "x")], 400, 64)
    )  # of a plain list: anywhere


def test_a_box_is_what_is_half_as_likely_without_a_gap():
    half = math.log(2)
    row = torch.tensor(
        [-math.inf, 4.7, 4.0, 4.4, 5.0, 4.9, 5.0 - half + 1e-3, 5.0 - half - 1e-3, 5.0]
    )
    assert box(row) == (4.0 - 1, 7.0)
    assert box(torch.zeros(3)) == (0.0, 3.0) and box(torch.tensor([0.0, 9.0])) == (1.0, 2.0)


def test_thresholds_are_of_the_head_or_of_the_score():
    said = [(1.0, 3.0, "add sugar"), (2.0, 5.0, "melt butter")]
    truth = {"add sugar": (9, 12)}
    expected = {None: [True, False], 0.001: [True, True], 0.999: [False, False]}
    without_head = {None: [None, None], 12.0: [True, False], 12.5: [False, False]}
    for head, answers in ((True, expected), (False, without_head)):
        for threshold, alignable in answers.items():
            found, _ = realign(clock(30), said, knowing(truth, head=head), threshold)
            assert [one.alignable for one in found] == alignable
    with pytest.raises(UserError, match=facts("--threshold")):
        realign(clock(30), said, knowing(truth), 7.0)


def test_features_that_make_no_sense():
    by = knowing({})
    broken = by._replace(ask=lambda *given: Aligned(*[x * torch.nan for x in by.ask(*given)]))
    with pytest.raises(UserError, match=facts("NaN")):
        realign(clock(9), [(1.0, 2.0, "x")], broken)


def test_web_vtt_is_read_again(tmp_path: Path):
    found = [
        Found(3725.5, 3730.0, "a < b & c --> d", (1.0, 2.0), (3725.5, 3730.0), 3.0, 0.9, True),
        Found(7.25, 8.0, "said, not seen", (7.25, 8.0), (1.0, 2.0), 1.0, 0.1, False),
    ]
    (tmp_path / "v.vtt").write_text(web_vtt(found))
    assert tells(web_vtt(found), "01:02:05.500 --> 01:02:10.000", "1.00")
    sentences = [(7.25, 8.0, "said, not seen"), (3725.5, 3730.0, "a < b & c --> d")]
    assert readers.read(tmp_path / "v.vtt") == {"v": sentences}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("run"), 0)


def saved(out: Path, seed: int) -> Path:
    """The folder of a run of tan, as the loop leaves it."""
    torch.manual_seed(seed)
    kind = objectives["tan"]
    given = {**kind.tiny_kwargs, "features": 24, "seconds": 16, "alignability": True}
    net = kind(None, **given)
    (out / "checkpoints").mkdir(parents=True)
    (out / "config.yaml").write_text(
        yaml.safe_dump({"objective": {"name": "tan", **given, "init": "gone.pth"}})
    )
    RunFolder(out).save(3, {"step": 3, "model": net.state_dict(), "optimizer": {}, "rng": {}}, 2)
    return out


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("net")
    save_encoder(create_encoder("vit", **NET), out, "encoder", {})
    return out


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Two videos of 6 s, what is said in them, and a folder of stored features."""
    lists = {}
    for i, name in enumerate(("a", "b")):
        write_video(tmp_path / f"v/{name}.mp4", squares(i, frames=60))
        lists[name] = {"start": [0, 2, 3.5], "end": [1.5, 3, 5], "text": WORDS[:3]}
        (tmp_path / "store").mkdir(exist_ok=True)
        np.save(
            tmp_path / f"store/{name}.npy",
            np.random.default_rng(i).standard_normal((6, 24)).astype(np.float16),
        )
    (tmp_path / "said.json").write_text(json.dumps(lists))
    (tmp_path / "one.srt").write_text(
        "1\n00:00:01,000 --> 00:00:02,500\nWhisk eggs\n\n2\n00:00:03,000 --> 00:00:04,000\nBake it\n"
    )
    return tmp_path


def aligned(
    films: Path, run: Path, video: str, transcript: str, *more: str, out: str = "out"
) -> dict:
    argv = [
        "--video",
        str(films / video),
        "--transcript",
        str(films / transcript),
        "--aligner",
        str(run),
    ]
    return align(**parse(align, [*argv, "--out", str(films / out), "--workers", "0", *more]))


def test_one_video_through_an_encoder_as_a_user_runs_it(films: Path, run: Path, net: Path):
    argv = [
        str(films / "v/a.mp4"),
        str(films / "one.srt"),
        "--encoder",
        str(net),
        "--aligner",
        str(run),
    ]
    done = command("benchmarks.align", *argv, "--out", str(films / "out"), "--workers", "0")
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["videos"], told["aligned"], told["bad"], told["sentences"]) == (1, 1, 0, 2)
    held = json.loads((films / "out/a.json").read_text())
    assert held["seconds"] == 6 and [one["text"] for one in held["segments"]] == [
        "Whisk eggs",
        "Bake it",
    ]
    assert set(held["segments"][0]) == set(Found._fields) and held["segments"][0]["said"] == [
        1.0,
        2.5,
    ]
    assert (
        len(readers.read(films / "out/a.vtt")["a"])
        == 2
        == len(readers.read(films / "out/a.json")["a"])
    )
    with Image.open(films / "out/a.png") as picture:
        picture.verify()
    store = next((films / "out/features").glob("*/a.npy"))
    again = aligned(films, run, "a.mp4", "one.srt", "--features", str(store.parent), out="twice")
    twice = json.loads((films / "twice/a.json").read_text())
    assert (
        again["aligned"] == 1 and twice["segments"] == held["segments"]
    )  # stored features are the same


def test_a_folder_is_gone_through_and_goes_on(films: Path, run: Path, net: Path):
    told = aligned(films, run, "v", "said.json", "--encoder", str(net))
    assert (told["videos"], told["aligned"], told["kept"], told["bad"]) == (
        2,
        2,
        0,
        0,
    ) and "exit_code" not in told
    before = {path.name: path.read_bytes() for path in (films / "out").glob("*.*")}
    assert {"a.vtt", "a.json", "a.png", "b.vtt", "b.json", "b.png"} <= before.keys()
    (films / "out/b.png").unlink()
    told = aligned(films, run, "v", "said.json", "--encoder", str(net))
    assert (told["aligned"], told["kept"], told["sentences"]) == (1, 1, 6)
    assert before == {path.name: path.read_bytes() for path in (films / "out").glob("*.*")}


@pytest.mark.parametrize("what", ["said", "features", "aligner", "threshold", "torn"])
def test_other_inputs_are_aligned_anew(films: Path, run: Path, what: str):
    store = ["--features", str(films / "store")]
    aligned(films, run, "a.mp4", "one.srt", *store)
    if what == "said":
        (films / "one.srt").write_text((films / "one.srt").read_text().replace("Bake", "Take"))
    elif what == "features":
        np.save(films / "store/a.npy", np.ones((6, 24), np.float16))
    elif what == "torn":
        (films / "out/a.json").write_text("{")
    other = saved(films / "other", 1) if what == "aligner" else run
    more = ["--threshold", "0.9"] if what == "threshold" else []
    assert aligned(films, other, "a.mp4", "one.srt", *store, *more)["aligned"] == 1
    assert aligned(films, other, "a.mp4", "one.srt", *store, *more)["kept"] == 1


def test_bad_pairs_are_listed_and_the_rest_goes_on(films: Path, run: Path, net: Path):
    shutil.copy(films / "v/a.mp4", films / "v/mute.mp4")
    (films / "v/b.mp4").write_bytes(b"no video")
    argv = [
        str(films / "v"),
        str(films / "said.json"),
        "--encoder",
        str(net),
        "--aligner",
        str(run),
    ]
    done = command("benchmarks.align", *argv, "--out", str(films / "out"), "--workers", "0")
    assert done.returncode == 3 and "Traceback" not in done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["videos"], told["aligned"], told["bad"]) == (3, 1, 2) and (
        films / "out/a.vtt"
    ).exists()
    lines = [json.loads(line) for line in (films / "out/quarantine.jsonl").read_text().splitlines()]
    assert {line["path"] for line in lines} == {"b", "mute"}
    assert all(tells(line["why"], line["path"]) for line in lines)


@pytest.mark.parametrize("video, transcript", [("store", "said.json"), ("v/a.mp4", "plain.txt")])
def test_other_forms_of_input(films: Path, run: Path, video: str, transcript: str):
    """A folder of features stands for its videos; sentences without times may be anywhere."""
    (films / "plain.txt").write_text("Whisk eggs\nBake it\n")
    last = aligned(films, run, video, transcript, "--features", str(films / "store"))
    assert last["aligned"] == last["videos"] == (2 if video == "store" else 1)


@for_each(
    "video, transcript, source, fact",
    [
        ("c.mp4", "one.srt", "store", "c"),
        ("v/a.mp4", "one.srt", "one.srt", "one.srt"),
        ("c.mp4", "one.srt", "net", "c.mp4"),
        ("v/a.mp4", "none.srt", "net", "none.srt"),
        ("v/a.mp4", "one.srt", "nothing", "--encoder | --features"),
        ("v/a.mp4", "one.srt", "both", "--encoder | --features"),
        ("a.mp4", "one.srt", "wide store", "24 | 25"),
        ("v/a.mp4", "one.srt", "wide net", "24 | 32"),
        ("a.mp4", "empty.srt", "store", "empty.srt"),
        ("a.mp4", "three.json", "store", "a | 2"),
        ("v/c.mp4", "one.srt", "net", "c"),
        ("v/a.mp4", "one.srt", "unmeasured net", "--features"),
    ],
)
def test_bad_input(video, transcript, source, fact, films, run, net, tmp_path, monkeypatch):
    """Is refused in one sentence, before anything is written."""
    (films / "empty.srt").write_text("1\n00:00:01,000 --> 00:00:02,500\n\n")
    (films / "three.json").write_text((films / "said.json").read_text().replace('"a"', '"x"'))
    (films / "v/c.mp4").write_bytes(b"no video")
    folder = tmp_path / "wide"
    folder.mkdir()
    if source == "wide net":
        save_encoder(create_encoder("vit", **{**NET, "dim": 32}), folder, "encoder", {})
    else:
        np.save(folder / "a.npy", np.ones((6, 25), np.float16))
    by_net, by_store = ["--encoder", str(net)], ["--features", str(films / "store")]
    flags = {"store": by_store, "net": by_net, "unmeasured net": by_net, "both": by_store + by_net}
    flags |= {"nothing": [], "one.srt": ["--features", str(films / "one.srt")]}
    flags |= {"wide net": ["--encoder", str(folder)], "wide store": ["--features", str(folder)]}
    monkeypatch.setattr(module, "lacks_statistics", lambda encoder: source == "unmeasured net")
    with pytest.raises(UserError, match=facts(*fact.split(" | "))) as caught:
        aligned(films, run, video, transcript, *flags[source])
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert not list(films.glob("out/*.vtt"))


def test_runs_that_are_no_aligner(films: Path, run: Path, videos: Path, tmp_path: Path):
    argv = [str(films / "a.mp4"), str(films / "one.srt"), "--features", str(films / "store")]
    (films / "file").touch()
    for aligner, out in ((films / "v", films / "out"), (run, films / "file")):
        words = [*argv, "--out", str(out), "--aligner", str(aligner)]
        fact = aligner if aligner != run else out
        assert tells(sentence(command("benchmarks.align", *words)), str(fact))
    shutil.copytree(run, tmp_path / "stages/init")
    run_pretrain(videos, tmp_path / "mae", "--steps", "1")
    bare = shutil.copytree(run, tmp_path / "bare")
    checkpoint = bare / "checkpoints/step_00000003.pt"
    damages = {
        "init": lambda: tmp_path / "stages",
        "mae": lambda: tmp_path / "mae",
        checkpoint.name: lambda: checkpoint.write_bytes(b"torn"),
        str(bare): checkpoint.unlink,
        "config.yaml": lambda: (bare / "config.yaml").write_text("["),
    }
    for fact, damage in damages.items():
        place = damage()
        with pytest.raises(UserError, match=facts(fact)):
            open_aligner(str(place if isinstance(place, Path) else bare))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_published_file_aligns_with_its_list_of_words(layout, films: Path, tmp_path: Path):
    (tmp_path / "words.txt").write_text(
        "\n".join(sorted({word for text in WORDS for word in text.split()}))
    )
    torch.manual_seed(0)
    kind, tower = objectives["tan"], {"width": 8, "hidden": 16, "dim": 8}
    sizes = {
        "features": 24,
        "dim": 16,
        "video_layers": 1,
        "joint_layers": 3,
        "words": str(tmp_path / "words.txt"),
    }
    net = kind(
        None,
        **sizes,
        options=tower,
        cotrain="keep" if layout.name.endswith("cotrained") else "none",
    )
    file = tmp_path / "tan.pth.tar"
    torch.save({"epoch": 1, "state_dict": layout.to_theirs(net.state_dict())}, file)
    with pytest.raises(UserError, match=facts("--words")):
        open_aligner(str(file))
    by = open_aligner(str(file), words=sizes["words"])
    assert by.hash == open_aligner(str(file), words=sizes["words"]).hash
    features = torch.randn(1, 10, 24)
    torch.testing.assert_close(
        by.ask(features, WORDS).joint, net.similarities(features, WORDS).joint
    )
    told = aligned(
        films,
        file,
        "v/a.mp4",
        "one.srt",
        "--words",
        sizes["words"],
        "--features",
        str(films / "store"),
    )
    assert told["aligned"] == 1 and told["sentences"] == 2


def test_words_are_for_published_files(run: Path, tmp_path: Path):
    with pytest.raises(UserError, match=facts("--words")):
        open_aligner(str(run), words="words.txt")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=facts("other.pth")):
        open_aligner(str(tmp_path / "other.pth"))
