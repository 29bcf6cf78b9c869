"""The package as a user installs it: from a wheel, and from a clone as an editable install.

No index is asked: the new environments see the packages of this one.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

from tests.helpers import ROOT
from tests.sweep.small import SMALL

pytestmark = pytest.mark.slow

LARGEST_WHEEL = 2_000_000  # bytes
PACKAGES = ("ssvid", "objectives", "benchmarks")
MODULE = "from objectives.mae import MAE\n\n\nclass Mine(MAE):\n    '''The user's own.'''\n"
DATA = {**SMALL["data"], "root": "set"}
BASE = {**SMALL, "data": DATA, "steps": 2}
BASE["objective"] = {**SMALL["objective"], "name": "my_module:Mine"}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this checkout that git knows or would know, in a folder named ssvid."""
    folder = tmp_path_factory.mktemp("parent") / "ssvid"
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def run_words(*words: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program without the paths of this checkout, and return how it ended."""
    clean = {**os.environ, **env}
    for name in {"PYTHONPATH", "SSVID_CONSOLE", "PYTHONSAFEPATH"} - env.keys():
        clean.pop(name, None)
    return subprocess.run(list(map(str, words)), cwd=cwd, env=clean, capture_output=True, text=True)


def install(folder: Path, *words: str | Path) -> Path:
    """Make an environment and install into it; returns its folder of programs.

    It sees the packages of this environment through a path, which runs none of its .pth files.
    """
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python3*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", python, "install", "--no-deps"]
    ended = run_words(*pip, "--no-index", "--no-build-isolation", *words, cwd=folder)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return folder / "bin"


@pytest.fixture(scope="module")
def programs(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation"]
    ended = run_words(*pip, "--wheel-dir", folder, clone, cwd=folder)
    assert ended.returncode == 0, ended.stderr[-2000:]
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < LARGEST_WHEEL
    return install(folder / "environment", wheel)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the user with packages that are called as ours, and a module of his own."""
    folder = tmp_path_factory.mktemp("work")
    for package in PACKAGES:
        (folder / package).mkdir()
        text = f"raise RuntimeError('{package} of the user was imported')\n"
        (folder / package / "__init__.py").write_text(text)
    (folder / "my_module.py").write_text(MODULE)
    stages = {"shared": BASE, "stages": {"first": {}, "second": {"init": "stage:first"}}}
    (folder / "stages.yaml").write_text(yaml.safe_dump(stages))
    suite = {"suite": "quick", "data": DATA, "threads": 1, "workers": 0}
    sweep = {"base": BASE, "grid": {"seed": [0]}, "suite": suite}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    (folder / "run.yaml").write_text(yaml.safe_dump({**BASE, "objective": SMALL["objective"]}))
    return folder


def run_ssvid(programs: Path, work: Path, *words: str, **env: str) -> dict:
    """Run a console command in the user's folder and return what it prints."""
    ended = run_words(programs / "ssvid", *words, cwd=work, **env)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_commands_of_a_wheel_take_our_packages_and_the_users_module(programs: Path, work: Path):
    """One run, its probe and its report; recipes are found by name."""
    settings = []
    for key, value in BASE["objective"].items():
        if key not in ("name", "mask_ratio"):
            settings += [f"--objective.{key}", str(value)]
    objective = ["--objective", "my_module:Mine", *settings]
    run_ssvid(programs, work, "pretrain", "--config", "run.yaml", *objective, "--out", "run")
    data = ["--data", "synthetic"]
    for key, value in DATA.items():
        data += [f"--data.{key}", str(value)] if key != "name" else []
    fast = ["--workers", "0", "--threads", "1", "--twins", "2", "--layers", "last"]
    probe = ["probe", "--encoder", "run", *data, *fast, "--min_steps", "20", "--out", "probe"]
    assert run_ssvid(programs, work, *probe)["results"][0]["encoder"] == "run"
    assert Path(work, run_ssvid(programs, work, "report", "probe")["report"]).is_file()
    shown = run_words(
        programs / "ssvid", "pretrain", "--config", "demo", "--print_config", cwd=work
    )
    assert yaml.safe_load(shown.stdout)["objective"]["name"], shown.stderr


def test_processes_that_a_command_starts_take_our_packages(programs: Path, work: Path):
    """Stages alone and under torchrun, and a local sweep with a suite and its report.

    PYTHONPATH names a folder with packages called as ours, but for `ssvid`: no program can be
    started that imports ours before it.
    """
    tricks = work / "tricks"
    for package in PACKAGES[1:]:
        shutil.copytree(work / package, tricks / package)
    trust = ["--trust", "my_module"]
    for processes in ("1", "2"):
        words = [
            "stages",
            "stages.yaml",
            *trust,
            "--processes",
            processes,
            "--out",
            f"st{processes}",
        ]
        stages = run_ssvid(programs, work, *words, PYTHONPATH=str(tricks))["stages"]
        assert stages["second"]["step"] == 2
    sweep = ["sweep", "sweep.yaml", *trust, "--cluster", "local", "--wait", "--out", "sweep"]
    assert run_ssvid(programs, work, *sweep, PYTHONPATH=str(tricks))["finished"] == 1
    assert run_ssvid(programs, work, "sweep", "report", "sweep")["finished"] == 1


def test_an_editable_clone_named_ssvid_is_imported_in_the_folder_above(clone: Path, tmp_path: Path):
    python = install(tmp_path / "environment", "--editable", clone) / "python"
    code = "import ssvid, benchmarks, objectives; print(ssvid.__file__, ssvid.list_encoders())"
    (clone.parent / "script.py").write_text(code)
    for words in (["script.py"], ["-c", code]):
        ended = run_words(python, *words, cwd=clone.parent)
        assert ended.returncode == 0, ended.stderr[-2000:]
        assert ended.stdout.startswith(str(clone / "ssvid")) and "vit_small" in ended.stdout
    packages = next((tmp_path / "environment").glob("lib/python3*/site-packages"))
    assert not list(packages.glob("*finder*"))
