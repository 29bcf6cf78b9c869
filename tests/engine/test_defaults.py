"""What a command does where flags are left out: the objectives' defaults, and presets."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ssvid import registry
from ssvid.cli import parse, resolver
from ssvid.engine.train_flags import TrainFlags
from ssvid.errors import UserError
from ssvid.finetune import finetune
from ssvid.objective import Objective
from ssvid.preset_batch import fit_batch
from ssvid.presets import PRESETS
from ssvid.pretrain import pretrain
from tests.helpers import facts
from tests.languages import small_nets

SETS = {"mil_nce": "synthetic_narrated", "tan": "synthetic_narrated"}
SETS |= dict.fromkeys(("clip", "video_text", "bridge", "litevl_retrieval"), "synthetic_captioned")
SETS["litevl_qa"] = "synthetic_qa"
NAMES = registry.objectives.names()


def argv(name: str, out: Path, *others: str) -> list[str]:
    words = ["--objective", name, "--data", SETS.get(name, "synthetic")]
    return [*words, "--steps", "2", "--out", str(out), *others]


def run(words: list[str]) -> dict[str, Any]:
    return pretrain(**parse(pretrain, words))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the synthetic sets of this file, of 8 videos each."""
    return tmp_path_factory.mktemp("drawn")


@pytest.mark.parametrize("name", NAMES)
def test_each_objective_runs_without_flags(name: str, drawn: Path, tmp_path: Path):
    """The videos and the batch are few here, and are the defaults in the slow test below."""
    few = ["--data.root", str(drawn), "--data.train", "8", "--data.val", "1", "--data.test", "1"]
    few += ["--batch_size", "4", "--workers", "0", "--threads", "1"]
    if name in ("infonce", "coclr"):
        few += ["--objective.queue", "8"]
    if SETS.get(name) == "synthetic_narrated":
        few += ["--data.seconds", "16"]
    if name == "bridge":
        for flag, folder in small_nets().items():
            few += [f"--objective.{flag}", folder]
        few += ["--objective.queries", "4", "--objective.length", "12"]
    if SETS.get(name) == "synthetic_qa":  # one order of two motions balances the other
        few += ["--data.motions", '["grows", "shrinks"]', "--data.val", "2", "--data.test", "2"]
    if name == "tan":
        few += ["--objective.video_layers", "1", "--objective.joint_layers", "2"]
    result = run(argv(name, tmp_path / "run", *few))
    assert result["step"] == 2 and result["loss"] == result["loss"]


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in NAMES if name != "bridge"])  # names two nets
def test_each_objective_runs_with_all_its_defaults(name: str, tmp_path: Path):
    assert run(argv(name, tmp_path / "run"))["step"] == 2


def resolve(name: str, **flags: Any) -> dict[str, Any]:
    return resolver(pretrain)({"objective": name, "data": "synthetic", **flags})


def test_a_named_encoder_has_its_own_defaults(tmp_path: Path):
    left_out, named = resolve("mae"), resolve("mae", encoder="vit")
    assert (left_out["encoder"]["frames"], left_out["clip"]["fps"]) == (8, 8)
    assert (named["encoder"]["frames"], named["clip"]["fps"]) == (16, None)
    assert (left_out["batch_size"], named["batch_size"]) == (32, 256)
    assert resolve("mae", encoder={"dim": 96})["encoder"]["dim"] == 96  # of the one left out
    assert resolve("mae", clip={"stride": 2})["clip"]["fps"] is None
    assert resolve("tan")["encoder"] is None
    assert resolve("clip")["objective"]["tower"] == "words"  # goes with the small encoder alone
    assert resolve("clip", encoder="clip_vit_b32")["objective"]["tower"] == "clip_text"
    assert resolve("xclip", preset="one_gpu")["objective"]["tower"] == "clip_text"
    assert resolve("mae")["out"] == "runs/mae"


def test_a_preset_lies_between_the_defaults_and_the_user():
    preset = resolve("mae", preset="laptop")
    assert (preset["batch_size"], preset["lr_batch"], preset["steps"]) == (8, None, 300)
    changed = resolve("mae", preset="laptop", batch_size=3, epochs=2)
    assert (changed["batch_size"], changed["steps"], changed["epochs"]) == (3, None, 2)
    assert resolve("infonce", preset="laptop")["objective"]["queue"] == 16
    queue = {"name": "infonce", "queue": 24}
    assert resolve(queue, preset="laptop")["objective"]["queue"] == 24
    assert resolve("mae", preset="one_gpu")["encoder"]["name"] == "vit_base"
    assert resolve("mae", preset="one_gpu", encoder="vit_tiny")["encoder"]["name"] == "vit_tiny"


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_objective_takes_every_preset(preset: str):
    for name in NAMES:
        assert resolve(name, preset=preset)["preset"] == preset
    flags = {"encoder": "vit_tiny", "data": "synthetic", "out": "o", "preset": preset}
    assert resolver(finetune)(flags)["batch_size"] < 64


def test_another_preset_is_refused():
    with pytest.raises(UserError, match=facts("--preset", "laptop", "one_gpu")):
        resolve("mae", preset="huge")


def test_the_batch_of_a_preset_is_no_larger_than_the_set():
    def fit(preset: str | None, batch_size: int, videos: int) -> int:
        config = resolve("mae", preset=preset, batch_size=batch_size)
        flags = fit_batch("pretrain", config, TrainFlags(batch_size=batch_size), videos)
        assert config["batch_size"] == flags.batch_size
        return flags.batch_size

    assert (fit("laptop", 8, 5), fit("laptop", 8, 9)) == (5, 8)
    assert (fit("laptop", 7, 5), fit(None, 8, 5)) == (7, 8)  # the user's own
    assert fit(None, 32, 20) == 20  # that of the objective's small encoder
    config = resolve("mae", encoder="vit_tiny", batch_size=32)
    assert fit_batch("pretrain", config, TrainFlags(batch_size=32), 20).batch_size == 32


def test_a_preset_resumes_as_it_stood(videos: Path, tmp_path: Path):
    words = ["--objective", "mae", "--data", "folder", "--data.root", str(videos)]
    words += ["--out", str(tmp_path / "run"), "--preset", "laptop", "--steps", "1"]
    assert run([*words, "--workers", "0"])["step"] == 1
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["preset"], config["lr_batch"], config["batch_size"]) == ("laptop", None, 8)
    assert run([*words, "--workers", "0"])["step"] == 1
    again = ["--config", str(tmp_path / "run" / "config.yaml"), "--preset", "one_gpu"]
    assert run([*again, "--out", str(tmp_path / "run")])["step"] == 1  # the recipe lies above


def test_an_own_objective_without_a_default_takes_the_general_encoder():
    class Own(Objective):
        pass

    assert Own.default_flags["encoder"]["name"] == "vit"
