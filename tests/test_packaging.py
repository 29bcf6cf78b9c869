"""pyproject.toml is the one list: environment.yml and constraints.txt follow it."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())


def test_files_that_are_no_code_are_installed():
    """What the library reads beside its code: suites, templates, the style of figures."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    installed = set()
    for package, patterns in settings["package-data"].items():
        folder = ROOT.joinpath(*package.split("."))
        for pattern in patterns:
            installed |= set(folder.glob(pattern))
    for top in ("ssvid", "objectives", "benchmarks"):
        for file in (ROOT / top).rglob("*.*"):
            is_code = file.suffix in (".py", ".pyc") or "cache" in file.parent.name
            assert is_code or file in installed, f"{file} would not be in a wheel"


# Modules of packages that a declared one cannot be without.
REQUIRED_BY = {"google": "tensorboard"}


def list_imported_modules() -> set[str]:
    """The modules of other packages that the library imports, wherever it does."""
    modules = set()
    for top in ("ssvid", "objectives", "benchmarks"):
        for file in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    for alias in node.names:
                        modules.add(alias.name.split(".")[0])
                elif isinstance(node, ast.ImportFrom):
                    modules.add((node.module or "").split(".")[0])
    return modules - sys.stdlib_module_names - {"ssvid", "objectives", "benchmarks"}


def test_what_the_library_imports_is_declared():
    """Not only brought along by the packages of the tests."""
    declared = set()
    for line in sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"]):
        declared.add(Requirement(line).name.lower())
    distributions = packages_distributions()
    for module in list_imported_modules():
        names = set(map(str.lower, distributions.get(module, [module])))
        names.add(REQUIRED_BY.get(module, module))
        assert names & declared, f"{module} is imported and {names} are not in pyproject.toml"


def test_environment_yml_is_thin_and_true():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment.keys() == {"name", "channels", "dependencies"}
    python, ffmpeg, pip, packages = environment["dependencies"]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    assert ffmpeg.startswith("ffmpeg") and pip == "pip" and packages == {"pip": ["-e ."]}


def test_constraints_pin_what_is_tested():
    pinned = {name.lower().replace("_", "-"): number for name, number in PINNED.items()}
    for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        requirement = Requirement(line)
        number = pinned.get(requirement.name.lower().replace("_", "-"))
        assert number and requirement.specifier.contains(number), (
            f"{line}: constraints.txt says {number}"
        )
        assert version(requirement.name).split("+")[0] == number, (
            f"{requirement.name}: this is not the tested set"
        )


def test_it_promises_what_the_user_fixed():
    named = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert {"torch", "pytorchvideo", "lightly", "einops", "submitit", "tensorboard"} <= named
    assert {"text", "torchcodec", "dev"} <= PROJECT["optional-dependencies"].keys()
