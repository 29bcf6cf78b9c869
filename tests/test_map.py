"""The arrows of the map and the habits of the house, enforced over every file."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {"ssvid": {"ssvid"}, "objectives": {"objectives", "ssvid"}, "benchmarks": {"benchmarks", "ssvid"}}
TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".cff", ".sh", ""}
FILES = sorted(p for room in MAY_IMPORT for p in (ROOT / room).rglob("*.py"))


def test_a_room_imports_only_upstream():
    offenders = []
    for path in FILES:
        room = path.relative_to(ROOT).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            tops = {name.split(".")[0] for name in names} & MAY_IMPORT.keys()
            offenders += [f"{path}: imports {top}" for top in tops - MAY_IMPORT[room]]
    assert offenders == []


def test_files_and_functions_are_short_and_say_what_they_are():
    offenders = []
    for path in FILES:
        text = path.read_text()
        tree = ast.parse(text)
        offenders += [f"{path} is too long"] if len(text.splitlines()) > 400 else []
        offenders += [] if ast.get_docstring(tree) else [f"{path} has no docstring"]
        offenders += [] if text.isascii() else [f"{path} is not ASCII"]
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.end_lineno - (node.body[0].lineno if node.body else node.lineno) + 1
                offenders += [f"{path}: {node.name} has {body} lines"] if body > 60 else []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
                offenders.append(f"{path}: declare a capability, do not probe for it")
    assert offenders == []


def test_the_core_names_no_objective():
    for path in (ROOT / "ssvid").rglob("*.py"):
        assert not re.search(r"objective(\.name)? ==", path.read_text()), path


def test_no_file_names_a_package_host_or_a_machine_path():
    host = re.compile(
        r"files\.python" + r"hosted|pypi\." + r"org|/sim" + r"ple/|--(extra-)?index" + r"-url|/wo" + r"rk/|/ro" + r"ot/"
    )
    tracked = [p for p in ROOT.rglob("*") if p.is_file() and p.suffix in TEXT]
    made = {".venv", ".git", "runs", ".cache", ".hypothesis"}
    tracked = [p for p in tracked if not made & set(p.relative_to(ROOT).parts)]
    tracked = [
        p for p in tracked if not any(part.endswith(("cache", "egg-info")) for part in p.relative_to(ROOT).parts)
    ]
    assert len(tracked) > 50
    for path in tracked:
        found = host.search(path.read_text(errors="ignore"))
        assert not found, f"{path}: {found[0] if found else ''}"
