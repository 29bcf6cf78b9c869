"""The command benchmarks.align: its files, how it continues, and what it refuses."""

import json
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
from ssvid.cli import parse
from ssvid.data.narration import readers
from ssvid.engine.checkpoint import RunFolder
from ssvid.errors import UserError
from ssvid.hub import create_encoder
from ssvid.registry import objectives
from ssvid.weights.encoders import save_encoder
from ssvid.weights.tan import LAYOUTS
from tests.engine.test_run import run_pretrain
from tests.helpers import command, facts, for_each, sentence, squares, tells, write_video

WORDS = ["whisk eggs", "add sugar", "fold flour", "melt butter", "bake it"]
SEGMENT_KEYS = {"start", "end", "text", "said", "found", "score", "alignability", "alignable"}
NET = {"dim": 24, "depth": 1, "heads": 2, "patch": 8, "frames": 4, "size": 16, "stride": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("run"), 0)


def save_run(out: Path, seed: int) -> Path:
    """The folder of a run of tan, as the loop leaves it."""
    torch.manual_seed(seed)
    kind = objectives["tan"]
    settings = {**kind.tiny_kwargs, "features": 24, "seconds": 16, "alignability": True}
    net = kind(None, **settings)
    (out / "checkpoints").mkdir(parents=True)
    (out / "config.yaml").write_text(
        yaml.safe_dump({"objective": {"name": "tan", **settings, "init": "gone.pth"}})
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
        "1\n00:00:01,000 --> 00:00:02,500\nWhisk eggs\n\n"
        "2\n00:00:03,000 --> 00:00:04,000\nBake it\n"
    )
    return tmp_path


def run_align(
    films: Path, run: Path, video: str, transcript: str, *flags: str, out: str = "out"
) -> dict:
    argv = ["--video", str(films / video), "--transcript", str(films / transcript)]
    argv += ["--aligner", str(run)]
    return align(**parse(align, [*argv, "--out", str(films / out), "--workers", "0", *flags]))


def test_one_video_through_an_encoder_as_a_user_runs_it(films: Path, run: Path, net: Path):
    argv = [str(films / "v/a.mp4"), str(films / "one.srt"), "--encoder", str(net)]
    argv += ["--aligner", str(run)]
    ended = command("benchmarks.align", *argv, "--out", str(films / "out"), "--workers", "0")
    assert ended.returncode == 0, ended.stderr[-2000:]
    printed = json.loads(ended.stdout.splitlines()[-1])
    assert (printed["videos"], printed["aligned"]) == (1, 1)
    assert (printed["bad"], printed["sentences"]) == (0, 2)
    content = json.loads((films / "out/a.json").read_text())
    assert content["seconds"] == 6 and [segment["text"] for segment in content["segments"]] == [
        "Whisk eggs",
        "Bake it",
    ]
    assert set(content["segments"][0]) == SEGMENT_KEYS and content["segments"][0]["said"] == [
        1.0,
        2.5,
    ]
    assert len(readers.read(films / "out/a.vtt")["a"]) == 2
    assert len(readers.read(films / "out/a.json")["a"]) == 2
    with Image.open(films / "out/a.png") as picture:
        picture.verify()
    store = next((films / "out/features").glob("*/a.npy"))
    again = run_align(films, run, "a.mp4", "one.srt", "--features", str(store.parent), out="twice")
    twice = json.loads((films / "twice/a.json").read_text())
    # Stored features give the same times.
    assert again["aligned"] == 1 and twice["segments"] == content["segments"]


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.*")}


def test_a_folder_is_gone_through_and_goes_on(films: Path, run: Path, net: Path):
    printed = run_align(films, run, "v", "said.json", "--encoder", str(net))
    assert (printed["videos"], printed["aligned"], printed["kept"], printed["bad"]) == (2, 2, 0, 0)
    assert "exit_code" not in printed
    before = read_files(films / "out")
    assert {"a.vtt", "a.json", "a.png", "b.vtt", "b.json", "b.png"} <= before.keys()
    (films / "out/b.png").unlink()
    printed = run_align(films, run, "v", "said.json", "--encoder", str(net))
    assert (printed["aligned"], printed["kept"], printed["sentences"]) == (1, 1, 6)
    assert before == read_files(films / "out")


@pytest.mark.parametrize("change", ["said", "features", "aligner", "threshold", "torn"])
def test_other_inputs_are_aligned_anew(films: Path, run: Path, change: str):
    store = ["--features", str(films / "store")]
    run_align(films, run, "a.mp4", "one.srt", *store)
    if change == "said":
        (films / "one.srt").write_text((films / "one.srt").read_text().replace("Bake", "Take"))
    elif change == "features":
        np.save(films / "store/a.npy", np.ones((6, 24), np.float16))
    elif change == "torn":
        (films / "out/a.json").write_text("{")
    other = save_run(films / "other", 1) if change == "aligner" else run
    flags = ["--threshold", "0.9"] if change == "threshold" else []
    assert run_align(films, other, "a.mp4", "one.srt", *store, *flags)["aligned"] == 1
    assert run_align(films, other, "a.mp4", "one.srt", *store, *flags)["kept"] == 1


def test_bad_pairs_are_listed_and_the_others_aligned(films: Path, run: Path, net: Path):
    shutil.copy(films / "v/a.mp4", films / "v/mute.mp4")
    (films / "v/b.mp4").write_bytes(b"no video")
    argv = [str(films / "v"), str(films / "said.json"), "--encoder", str(net)]
    argv += ["--aligner", str(run)]
    ended = command("benchmarks.align", *argv, "--out", str(films / "out"), "--workers", "0")
    assert ended.returncode == 3 and "Traceback" not in ended.stderr
    printed = json.loads(ended.stdout.splitlines()[-1])
    assert (printed["videos"], printed["aligned"], printed["bad"]) == (3, 1, 2)
    assert (films / "out/a.vtt").exists()
    lines = [json.loads(line) for line in (films / "out/quarantine.jsonl").read_text().splitlines()]
    assert {line["path"] for line in lines} == {"b", "mute"}
    for line in lines:
        assert tells(line["why"], line["path"])


@pytest.mark.parametrize("video, transcript", [("store", "said.json"), ("v/a.mp4", "plain.txt")])
def test_other_forms_of_input(films: Path, run: Path, video: str, transcript: str):
    """A folder of features stands for its videos; sentences without times may be anywhere."""
    (films / "plain.txt").write_text("Whisk eggs\nBake it\n")
    last = run_align(films, run, video, transcript, "--features", str(films / "store"))
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
        run_align(films, run, video, transcript, *flags[source])
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
        path = damage()
        with pytest.raises(UserError, match=facts(fact)):
            open_aligner(str(path if isinstance(path, Path) else bare))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_published_file_aligns_with_its_list_of_words(layout, films: Path, tmp_path: Path):
    (tmp_path / "words.txt").write_text("\n".join(sorted(set(" ".join(WORDS).split()))))
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
    opened = open_aligner(str(file), words=sizes["words"])
    assert opened.hash == open_aligner(str(file), words=sizes["words"]).hash
    features = torch.randn(1, 10, 24)
    torch.testing.assert_close(
        opened.align_window(features, WORDS).joint, net.similarities(features, WORDS).joint
    )
    printed = run_align(
        films,
        file,
        "v/a.mp4",
        "one.srt",
        "--words",
        sizes["words"],
        "--features",
        str(films / "store"),
    )
    assert printed["aligned"] == 1 and printed["sentences"] == 2


def test_words_are_for_published_files(run: Path, tmp_path: Path):
    with pytest.raises(UserError, match=facts("--words")):
        open_aligner(str(run), words="words.txt")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=facts("other.pth")):
        open_aligner(str(tmp_path / "other.pth"))
