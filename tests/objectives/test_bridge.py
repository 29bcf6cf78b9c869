"""The bridge: what learns, what a checkpoint holds, how it resumes, and what a run answers."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.describe import describe
from objectives.bridge import BridgeObjective
from ssvid.bridge import load_bridge
from ssvid.cli import parse
from ssvid.engine.checkpoint import read
from ssvid.errors import UserError
from ssvid.files import read_json_mapping, write_json_whole
from ssvid.nn.resampler import Resampler
from ssvid.pretrain import pretrain
from tests.helpers import facts, for_each, squares, write_video
from tests.languages import small_nets, write_language, write_vision
from tests.objectives.test_contract import batch_for, build

SIZES = "--objective.queries 4 --objective.heads 2 --objective.length 12 --objective.augment none"
LOOP = "--steps 4 --batch_size 2 --lr 0.01 --checkpoint_every 2 --workers 0 --threads 1"


def argv(data: Path, out: Path, *others: str) -> list[str]:
    words = ["--objective", "bridge", "--data", "csv", "--data.root", str(data), "--out", str(out)]
    for flag, folder in small_nets().items():
        words += [f"--objective.{flag}", folder]
    return [*words, *SIZES.split(), *LOOP.split(), *others]


def run(data: Path, out: Path, *others: str) -> Path:
    pretrain(**parse(pretrain, argv(data, out, *others)))
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root, lines = tmp_path_factory.mktemp("captioned"), ["path,split,caption"]
    answers = ("red square goes left", "question: what colour ? answer: blue")
    for i in range(4):
        write_video(root / f"{i}.mp4", squares(i))
        lines.append(f"{i}.mp4,train,{answers[i % 2]}")
    (root / "rows.csv").write_text("\n".join(lines) + "\n")
    return root / "rows.csv"


@pytest.fixture(scope="module")
def done(data, tmp_path_factory) -> Path:
    return run(data, tmp_path_factory.mktemp("bridged") / "run")


def weights(out: Path, step: int = 4) -> dict[str, torch.Tensor]:
    return read(out / "checkpoints" / f"step_{step:08d}.pt")["model"]


def test_a_run_holds_what_learns_alone(done: Path):
    saved = weights(done)
    learnt = {key for key in saved if not torch.equal(saved[key], weights(done, 2)[key])}
    assert learnt == saved.keys() - {"frozen_hash"}
    assert all(key.startswith("resampler.") for key in learnt)
    assert sorted(path.name for path in done.glob("*.safetensors")) == ["bridge.safetensors"]


def test_it_goes_on_bit_for_bit(done: Path, data: Path, tmp_path: Path):
    run(data, tmp_path / "parts")
    (tmp_path / "parts" / "checkpoints" / "step_00000004.pt").unlink()
    run(data, tmp_path / "parts")
    for key, value in weights(done).items():
        assert torch.equal(weights(tmp_path / "parts")[key], value)
    first, second = (
        read_json_mapping(d / "bridge.json", "card") for d in (done, tmp_path / "parts")
    )
    assert first == second


def test_other_frozen_nets_than_before_are_refused(data: Path, tmp_path: Path):
    """The paths stay, and what lies there changes."""
    places = {"vision": write_vision(tmp_path / "v"), "language": write_language(tmp_path / "l")}
    words = [f"--objective.vision={places['vision']}", f"--objective.language={places['language']}"]
    out = run(data, tmp_path / "run", *words)
    write_vision(tmp_path / "v", seed=1)
    with pytest.raises(UserError, match=facts("--objective.vision", "--out")):
        run(data, out, *words)
    with pytest.raises(UserError, match=facts("vision", places["vision"], "--vision")):
        load_bridge(out)
    write_vision(tmp_path / "v")
    write_language(tmp_path / "l", seed=1)
    with pytest.raises(UserError, match=facts("language", places["language"], "--language")):
        load_bridge(out)


def test_a_loaded_bridge_says_what_the_trained_one_says(done: Path, data: Path, tmp_path: Path):
    objective = BridgeObjective(None, **small_nets(), queries=4, heads=2, length=12, augment="none")
    objective.load_state_dict(weights(done))
    bridge = load_bridge(done)
    batch = batch_for(objective)
    clip = batch["clips"][:, 0]
    assert torch.equal(bridge.read_clip(clip), objective.bridge.read_clip(clip))
    moved = {}
    for name, folder in small_nets().items():
        moved[name] = str(shutil.copytree(folder, tmp_path / name))
    elsewhere = load_bridge(done, **moved)
    assert elsewhere.describe(clip) == bridge.describe(clip)


def test_a_command_describes_videos_and_answers(done: Path, data: Path, tmp_path: Path):
    video = str(data.parent / "0.mp4")
    caption = describe(video, bridge=str(done))
    answer = describe(video, bridge=str(done), question="what colour ?")
    assert list(caption["answers"]) == ["0"] and caption["question"] is None
    words = set(answer["answers"]["0"].split()) | set(caption["answers"]["0"].split())
    assert words <= {*load_bridge(done).language.tokenizer.get_vocab()}
    shutil.copy(video, tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    both = describe(str(tmp_path), bridge=str(done))
    assert both["exit_code"] == 3 and list(both["bad"]) == ["bad"]
    assert both["answers"] == {"good": caption["answers"]["0"]}
    with pytest.raises(UserError, match=facts("cannot be read")):
        describe(str(tmp_path / "bad.mp4"), bridge=str(done))
    with pytest.raises(UserError, match=facts("positions", "64")):
        describe(video, bridge=str(done), tokens=60)


def test_the_clip_decides_and_the_question_too():
    objective = build("bridge")
    batch = batch_for(objective)
    other = {**batch, "clips": batch["clips"].flip(0)}
    assert not torch.equal(objective(batch).total, objective(other).total)


def test_queries_attend_to_tokens_by_hand():
    """One layer, one head, against the sums of the formulae; the skip is the query itself."""
    torch.manual_seed(0)
    net = Resampler(6, 4, queries=3, layers=1, heads=1, scale=0.5).double()
    tokens = torch.randn(2, 5, 6, dtype=torch.float64)
    block = net.blocks[0]
    q = block.query(block.norm_query(net.queries))
    k, v = block.key_value(block.norm_key(tokens)).chunk(2, -1)
    mixed = (torch.einsum("ke,bne->bkn", q, k) / 2).softmax(-1) @ v
    x = net.queries + block.proj(mixed)
    x = x + block.fc2(torch.nn.functional.gelu(block.fc1(block.norm(x))))
    torch.testing.assert_close(net(tokens), net.norm(x))
    assert torch.equal(net.norm.weight, torch.full((4,), 0.5, dtype=torch.float64))


@for_each(
    "change, words",
    [
        ({"vision": None}, ("--objective.vision", "--objective.language")),
        ({"language": None}, ("--objective.language",)),
        ({"language": "absent"}, ("absent", "config.json")),
        ({"vision": "absent/run"}, ("absent/run",)),
        ({"heads": 3}, ("3 heads", "16")),
        ({"queries": 60}, ("60 queries", "64")),
        ({"queries": 0}, ("--queries", "0")),
    ],
)
def test_nets_that_do_not_fit_are_refused(change, words):
    arguments = {**BridgeObjective.tiny_kwargs, **small_nets(), **change}
    with pytest.raises(UserError, match=facts(*words)):
        BridgeObjective(None, **arguments)


def test_an_encoder_beside_the_run_is_refused(data: Path, tmp_path: Path):
    with pytest.raises(UserError, match=facts("--encoder", "trained encoder")):
        run(data, tmp_path / "run", "--encoder", "vit_tiny")


@for_each(
    "change",
    [
        {"queries": 10**9},
        {"layers": True},
        {"heads": None},
        {"vision": "path"},
        {"spec": {"frames": 4}},
        {"spec": {"frames": 10**9, "stride": 1}},
    ],
)
def test_a_card_of_something_else_is_one_sentence(change, done: Path, tmp_path: Path):
    shutil.copytree(done, tmp_path / "run")
    card = json.loads((done / "bridge.json").read_text())
    write_json_whole(tmp_path / "run" / "bridge.json", {**card, **change})
    with pytest.raises(UserError, match=facts("bridge.json")):
        load_bridge(tmp_path / "run")


def test_a_run_of_something_else_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=facts("bridge.json")):
        load_bridge(write_vision(tmp_path / "run"))


def test_a_card_names_no_code_to_run(done: Path, tmp_path: Path):
    shutil.copytree(done, tmp_path / "run")
    card = json.loads((done / "bridge.json").read_text())
    vision = {**card["vision"], "path": "tests.languages:small_nets"}
    write_json_whole(tmp_path / "run" / "bridge.json", {**card, "vision": vision})
    with pytest.raises(UserError, match=facts("tests.languages", "--trust")):
        load_bridge(tmp_path / "run")
