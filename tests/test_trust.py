"""A file is data: nothing that it names is imported or called but registered entries."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from benchmarks.alignment.aligner import open_aligner
from benchmarks.suites import loader
from ssvid import load_encoder
from ssvid.cli import parse
from ssvid.data.narration.convert import convert_narrations
from ssvid.engine.warm_start import load_earlier_run, warm_start
from ssvid.errors import UserError
from ssvid.hub import create_encoder, open_encoder
from ssvid.pretrain import pretrain
from ssvid.recipe import load_recipe
from ssvid.registry import encoders, objectives
from ssvid.sweep.folder import SweepFolder
from ssvid.sweep.plan import read_plan
from ssvid.sweep.slurm import export_trust
from ssvid.text.joint_files import load_joint
from ssvid.trust import VARIABLE, trust_modules
from ssvid.weights.files import read_weights
from tests.helpers import ROOT, TINY, command, facts, for_each, sentence, tells

# The module writes a file when it is imported and when its function is called.
HOSTILE = """
from pathlib import Path
marker = Path(__file__).with_name("PWNED")
marker.touch()
def run(*args, **kwargs): marker.touch()
class Thing:
    __init__ = run
"""
SPEC = {"frames": 4, "fps": 8.0, "size": 32}
CLASS = {"class_path": "hostile.run", "init_args": {"command": "x"}}
TRAIN = {"encoder": "vit", "data": {"name": "folder", "root": "."}, "out": "out"}
HUGE = {"depth": 1_000_000}
OUTSIDE = {"tower": "words", "arguments": {"words": "../../a"}, "head": [], "cosine": True}
# jsonargparse reads the escape; a search of the text does not find the word.
ESCAPED = '{"class\\u005fpath": "hostile.run"}'
FORMS = ("hostile:run", "hostile.run", CLASS, {"name": "hostile:run"}, ["hostile:run"])


@pytest.fixture(autouse=True)
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the module, from which it could be imported. No module is trusted."""
    folder = tmp_path / "hostile"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hostile.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    return folder


def write_card(file: str, **changes: Any) -> Path:
    """A card and weights in the folder `run`, which is returned."""
    folder = Path("run")
    folder.mkdir(exist_ok=True)
    card = {"spec": SPEC, "mean": [0.5] * 3, "std": [0.5] * 3, "licence": None, **changes}
    (folder / f"{file}.json").write_text(json.dumps(card))
    save_file({"x": torch.zeros(1)}, folder / f"{file}.safetensors")
    return folder


def write_encoder(name: Any = "hostile:run") -> Path:
    return write_card("encoder", name=name, kwargs={"command": "x"})


def write_text(name: Any = "hostile:run") -> Path:
    return write_card("text", tower=name, arguments={}, head=[], cosine=True)


def write_encoder_of(**changes: Any) -> Path:
    return write_card("encoder", **{"name": "vit", "kwargs": {}, **changes})


def write_inner_recipe() -> str:
    Path("inner.yaml").write_text(yaml.safe_dump({"encoder": CLASS}))
    return "inner.yaml"


def write_yaml(content: Any) -> str:
    Path("file.yaml").write_text(yaml.safe_dump(content))
    return "file.yaml"


def write_run() -> str:
    """The folder of a run whose config names an objective of the module."""
    folder = Path("run")
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"objective": "hostile:run"}))
    state = {"step": 1, "model": {}, "optimizer": {}, "rng": [], "config": {}}
    torch.save(state, folder / "checkpoints" / "step_00000001.pt")
    return str(folder)


class Runs:
    """A pickle of it would run code."""

    def __reduce__(self) -> Any:
        return exec, ("import hostile",)


def read_pickle() -> None:
    torch.save({"model": {"x": torch.zeros(1)}, "extra": Runs()}, "a.pt")
    read_weights(Path("a.pt"))


def load_suite(**cell: Any) -> None:
    loader.load(write_yaml({"cells": [{"task": "classify", "probe": "knn", **cell}]}))


def train(**flags: Any) -> None:
    parse(pretrain, ["--config", write_yaml({**TRAIN, "objective": "mae", **flags})])


def read_sweep(**base: Any) -> None:
    read_plan(write_yaml({"base": {**TRAIN, **base} | {"out": None}, "grid": {"seed": [0, 1]}}))


def plan(entry: str, content: Any) -> None:
    base = {"objective": "mae", "encoder": "vit", "data": TRAIN["data"]}
    read_plan(write_yaml({"base": base, "grid": {"seed": [0, 1]}, entry: content}))


def start_from(folder: Path) -> None:
    encoder = create_encoder("vit", dim=8, depth=1, heads=1)
    warm_start(objectives["mae"](encoder, dec_dim=8, dec_depth=1, dec_heads=1), str(folder))


LOADERS: dict[str, Callable[[], Any]] = {
    "card": lambda: load_encoder(write_encoder()),
    "card with a dotted name": lambda: load_encoder(write_encoder("hostile.run")),
    "card with a list as name": lambda: load_encoder(write_encoder(["hostile:run"])),
    "card of --encoder": lambda: open_encoder(str(write_encoder())),
    "file of --encoder": lambda: open_encoder(str(write_encoder() / "encoder.safetensors")),
    "card of --init": lambda: start_from(write_encoder()),
    "card of an earlier run": lambda: load_earlier_run(write_run(), str(write_encoder())),
    "name that is no typed word": lambda: open_encoder("hostile:run"),
    "text card": lambda: load_joint(write_text()),
    "text card with a list": lambda: load_joint(write_text(["hostile:run"])),
    "config of an aligner": lambda: open_aligner(write_run()),
    "pickle": read_pickle,
    "probe of a suite": lambda: load_suite(probe="hostile:run"),
    "task of a suite": lambda: load_suite(task="hostile:run"),
    "settings of a suite": lambda: load_suite(**{"with": {"ks": [CLASS]}}),
    "data of a suite": lambda: loader.open_manifest({"name": "hostile:run"}, "."),
    "nested class": lambda: train(objective={"name": "tan", "options": {"a": CLASS}}),
    "nested text": lambda: train(objective={"name": "tan", "options": json.dumps({"a": CLASS})}),
    "escaped text": lambda: train(objective={"name": "tan", "options": {"a": ESCAPED}}),
    "recipe in a recipe": lambda: train(config=write_inner_recipe()),
    "size of a card": lambda: load_encoder(write_card("encoder", name="vit", kwargs=HUGE)),
    "clip of a card": lambda: load_encoder(write_encoder_of(spec={**SPEC, "frames": 10**9})),
    "words of a text card": lambda: load_joint(write_card("text", **OUTSIDE)),
    "dotted flag": lambda: train(**{"objective.class_path": "hostile.run"}),
    "trust in a recipe": lambda: train(trust="hostile"),
    "settings of a sweep": lambda: plan("set", {"objective": "hostile:run"}),
    "axis of a sweep": lambda: plan("grid", {"encoder": ["hostile:run", "vit"]}),
    "trust in a sweep": lambda: plan("set", {"trust": "hostile"}),
}


@for_each("name", LOADERS)
def test_nothing_that_a_file_names_is_imported(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        LOADERS[name]()
    assert not list(Path(tmp_path).rglob("PWNED")) + list(tmp_path.parent.rglob("PWNED"))


@for_each("flag", ["objective", "encoder", "data"])
def test_no_form_of_a_recipe_names_a_class(tmp_path, monkeypatch, flag):
    monkeypatch.chdir(tmp_path)
    for form in FORMS:
        with pytest.raises(UserError, match=facts("hostile")):
            train(**{flag: form})
    assert not list(tmp_path.parent.rglob("PWNED"))


def test_a_flag_that_takes_a_function_is_no_setting_of_a_file(tmp_path: Path):
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nwords\n")
    with pytest.raises(UserError, match=facts("hostile", "--trust")):
        convert_narrations(
            str(tmp_path / "a.vtt"), "o.json", sentencify=True, language="hostile:run"
        )
    assert not list(tmp_path.rglob("PWNED"))


def test_what_is_trusted_must_be_of_its_kind(hostile: Path):
    """It is imported, for its module is trusted, and refused before it is called."""
    trust_modules("hostile")
    for name in ("hostile:run", "hostile:Thing"):
        (hostile / "PWNED").unlink(missing_ok=True)
        with pytest.raises(UserError, match=facts(name, "ssvid.encoder.Encoder")):
            encoders[name]
    assert not (hostile / "PWNED").exists()


def test_a_module_to_trust_is_a_name():
    for text in ("", "a b", "../a", "a:b", "a,,b"):
        with pytest.raises(UserError, match=facts("--trust")):
            trust_modules(text)
    trust_modules("a.b,c")
    trust_modules("c")
    assert export_trust() == [f"export {VARIABLE}=a.b,c"]


def test_a_folder_of_a_sweep_cannot_name_a_folder_outside(tmp_path: Path):
    (tmp_path / "sweep.json").write_text(json.dumps({"cells": {"../../outside": {}}}))
    with pytest.raises(UserError, match=facts("outside")):
        SweepFolder(tmp_path).read()


def read_own_objective() -> str:
    """The objective that README shows."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "class Mine(Objective)" in block]
    return str(code)


def test_an_objective_of_the_user_is_named_by_files_he_trusts(
    videos: Path, tmp_path: Path, hostile: Path
):
    """Typed, it needs no more. In a recipe, and on resuming from a config, its module is trusted.

    The warm server's processes have no copy of the module.
    """
    (hostile / "own_module.py").write_text(read_own_objective())
    argv = ["--objective", "own_module:Mine", "--encoder", "vit", *TINY, "--steps", "2"]
    argv += ["--data", "folder", "--data.root", str(videos), "--out", str(tmp_path / "typed")]
    argv += ["--batch_size", "4", "--workers", "0", "--threads", "1", "--checkpoint_every", "1"]
    environment = {"PYTHONPATH": str(hostile), VARIABLE: ""}
    assert command("ssvid.pretrain", *argv, **environment).returncode == 0
    config = str(tmp_path / "typed" / "config.yaml")
    assert load_recipe(config)["objective"]["name"] == "own_module:Mine"
    again = ["--config", config, "--out", str(tmp_path / "typed"), "--steps", "4"]
    refusal = sentence(command("ssvid.pretrain", *again, **environment))
    assert tells(refusal, "own_module:Mine", "--trust")
    result = command("ssvid.pretrain", *again, "--trust", "own_module", **environment)
    assert json.loads(result.stdout.splitlines()[-1])["step"] == 4, result.stderr[-2000:]


@pytest.mark.slow
def test_a_sweep_and_its_benchmarks_hand_on_the_trust(
    videos: Path, tmp_path: Path, hostile: Path, monkeypatch: pytest.MonkeyPatch
):
    """Objective and encoder are of the user's module; the suite reads the encoder's card."""
    monkeypatch.chdir(ROOT)
    code = read_own_objective() + "from ssvid.encoders.vit import ViT\nclass Net(ViT):\n    pass\n"
    (hostile / "own_module.py").write_text(code)
    small = {"dim": 24, "depth": 1, "heads": 2, "patch": 8, "frames": 4, "stride": 1, "size": 16}
    data = {"name": "synthetic", "train": 24, "val": 12, "test": 12, "root": str(tmp_path / "set")}
    base = {
        "objective": {"name": "own_module:Mine"},
        "encoder": {"name": "own_module:Net", **small},
        "data": data,
        **{"steps": 2, "batch_size": 4, "workers": 0, "threads": 1},
    }
    suite = {"suite": "quick", "data": data, "threads": 1, "workers": 0}
    suite["cache"] = str(tmp_path / "cache")
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump({"base": base, "grid": {"seed": [0]}, "suite": suite}))
    argv = [str(file), "--out", str(tmp_path / "out"), "--cluster", "debug"]
    environment = {"PYTHONPATH": f"{hostile}:{ROOT}", VARIABLE: ""}
    assert "own_module" in sentence(command("ssvid.sweep", *argv, **environment))
    result = command("ssvid.sweep", *argv, "--trust", "own_module", **environment)
    assert json.loads(result.stdout.splitlines()[-1])["finished"] == 1, result.stderr[-3000:]
    (run,) = tmp_path.glob("out/cells/*/run_*")
    argv = ["--encoder", str(run), "--data", "synthetic", "--data.root", str(tmp_path / "set")]
    argv += ["--data.train", "24", "--data.val", "12", "--data.test", "12", "--workers", "0"]
    argv += ["--out", str(tmp_path / "probe"), "--cache", str(tmp_path / "cache")]
    assert "own_module" in sentence(command("benchmarks.linear_probe", *argv, **environment))
    result = command("benchmarks.linear_probe", *argv, "--trust", "own_module", **environment)
    assert result.returncode == 0, result.stderr[-3000:]
    shutil.rmtree(tmp_path / "probe")
