"""README and docs: their links, and the examples of docs/extend as plug-ins of a user."""

import importlib
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ssvid.arguments import Arguments
from ssvid.cli import import_function
from ssvid.commands import COMMANDS
from ssvid.errors import UserError
from ssvid.registry import objectives
from ssvid.shapes import Frozen
from ssvid.signatures import parameters_of
from tests.helpers import ROOT, TINY, command, for_each

README = (ROOT / "README.md").read_text()
EXTEND = ROOT / "docs" / "extend"
ROWS = {"train": 60, "val": 30, "test": 60}


def write_example(page: str, folder: Path) -> str:
    """Write the first block of Python of a page as a module of the folder. The module's name."""
    (code,) = re.findall(r"```python\n(.*?)```", (EXTEND / page).read_text(), re.DOTALL)[:1]
    name = f"example_{Path(page).stem}"
    (folder / f"{name}.py").write_text(code)
    return name


@pytest.fixture
def load_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def load(page: str) -> ModuleType:
        monkeypatch.syspath_prepend(str(tmp_path))
        name = write_example(page, tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


def test_the_readme_is_short_has_a_row_for_each_method_and_no_dead_link():
    methods = objectives.names()
    assert len(README.splitlines()) <= 132 + len(methods)
    for name in methods:
        assert re.search(rf"^\| \[`{name}`\]\(docs/methods/", README, re.MULTILINE), name
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", README):
        assert (ROOT / target).exists(), target


def test_the_example_of_an_objective_trains(videos: Path, tmp_path: Path):
    name = write_example("objective.md", tmp_path)
    argv = ["--objective", f"{name}:ClipOrder", "--objective.hidden", "8", "--encoder", "vit"]
    argv += [*TINY, "--data", "folder", "--data.root", str(videos), "--out", str(tmp_path / "run")]
    argv += ["--steps", "2", "--batch_size", "4", "--workers", "0"]
    result = command("ssvid.pretrain", *argv, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr[-2000:]


def test_the_example_of_an_encoder_has_the_grid_that_it_tells(load_example):
    encoder = load_example("encoder.md").PerFrame(frames=2, size=40).eval()
    features = encoder(torch.zeros(1, 3, 2, 40, 40))
    assert features.tokens.shape == (1, features.grid.n, encoder.dim)
    assert features.grid == encoder.grid(2, 40, 40) == (2, 2, 2)


def test_the_example_of_a_data_set_keeps_cameras_apart(load_example, tmp_path: Path):
    for stem in ("c1_run_1", "c1_jump_2", "c2_run_1", "c2_jump_1", "c3_run_1", "c3_jump_1"):
        (tmp_path / f"{stem}.mp4").touch()
    data = load_example("dataset.md").cameras(str(tmp_path), test_camera="c1")
    assert {row.path for row in data.split("test").rows} == {"c1_run_1.mp4", "c1_jump_2.mp4"}
    assert data.classes == ("jump", "run")


@for_each("apart, low, high", [(0.0, 0.1, 0.6), (4.0, 0.95, 1.0)])
def test_the_example_of_a_probe_tells_what_can_be_told(load_example, apart, low, high):
    splits = []
    for seed, rows in enumerate(ROWS.values()):
        labels = torch.arange(rows) % 3
        noise = torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))
        splits.append(Frozen({"mean": noise + apart * torch.eye(3, 8)[labels]}, labels, []))
    top1 = load_example("probe.md").NearestMean().run(*splits, 0).metrics["test/top1"]
    assert low <= top1 <= high


@pytest.mark.slow
def test_a_suite_takes_the_examples_of_a_task_and_a_probe(tmp_path: Path):
    probe, task = write_example("probe.md", tmp_path), write_example("task.md", tmp_path)
    cells = [
        f'{{task: classify, probe: "{probe}:NearestMean", name: plain}}',
        f'{{task: "{task}:Agreement", probe: linear, name: groups}}',
    ]
    (tmp_path / "suite.yaml").write_text(f"cells: [{', '.join(cells)}]")
    argv = ["--encoder", "vit_tiny", "--suite", str(tmp_path / "suite.yaml"), "--twins", "2"]
    argv += ["--data", "synthetic", "--data.train", "24", "--data.val", "12", "--data.test", "12"]
    argv += ["--data.root", str(tmp_path / "data"), "--cache", str(tmp_path / "cache")]
    argv += ["--clip.frames", "2", "--clip.size", "16", "--layers", "last", "--workers", "0"]
    argv += ["--trust", f"{probe},{task}", "--out", str(tmp_path / "out")]
    result = command("benchmarks.run", *argv, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(list((tmp_path / "out").glob("*.json"))) == 2


def list_commands() -> list[tuple[str, str]]:
    """(page, command) of every command of ssvid in README and docs."""
    commands = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split(";"):
                    if match := re.search(r"(?:^|&& )\s*(ssvid [a-z].*)$", part.split(" #")[0]):
                        commands.append((page.name, match[1].strip()))
    return commands


def test_commands_of_the_docs_have_only_flags_that_exist():
    commands = list_commands()
    assert len(commands) > 80
    for page, text in commands:
        words = shlex.split(text.replace("[", "").replace("]", ""))[1:]
        check_words(f"{page}: {text}", [word for word in words if word != "..."])


def check_words(source: str, words: list[str]) -> None:
    """The flags of a command, and those of the objective, encoder and data set that it names."""
    name, *flags = words
    if flags and f"{name} {flags[0]}" in COMMANDS:
        name, flags = f"{name} {flags[0]}", flags[1:]
    assert name in COMMANDS, source
    if "--" in flags:
        flags = flags[: flags.index("--")]
    arguments = Arguments(import_function(name), name)
    try:
        pairs = arguments.take_common(arguments.join_lists(arguments.pair_words(flags)))
        arguments.check_flags([pair for pair in pairs if pair[0] != "config"])
    except UserError as error:
        raise AssertionError(f"{source}: {error}") from error
    chosen = {flag: value[0] for flag, *value in pairs if value}
    for flag in chosen:
        kind, _, setting = flag.partition(".")
        entry = chosen.get(kind, "")
        if setting and kind in arguments.tables and entry in arguments.tables[kind].names():
            parameters = parameters_of(arguments.tables[kind][entry])
            assert setting.partition(".")[0] in parameters, f"{source}: {flag}"
