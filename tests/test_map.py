"""The rooms of the house and who may import whom, and the habits that every file keeps."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TOP = {
    "ssvid",
    "objectives",
    "benchmarks",
    "tests",
    "docs",
    ".ci",
}  # folders at top level
# The data's way, from the disk to the page. A file may import from its own room and from rooms
# above it in this list. A file belongs to the longest name that it begins with.
ROOMS = (
    "ssvid.errors",
    "ssvid.log",
    "ssvid.output",
    "ssvid.commands",
    "ssvid.old_names",
    "ssvid.progress",
    "ssvid.near_names",
    "ssvid.files",
    "ssvid.trust",
    "ssvid.registry",
    "ssvid.shapes",
    "ssvid.randomness",
    "ssvid.statistics",
    "ssvid.data",
    "ssvid.encoder",
    "ssvid.nn",
    "ssvid.encoders",
    "ssvid.weights",
    "ssvid.text",
    "ssvid.objective",
    "ssvid.hub",
    "ssvid.engine.checkpoint",
    "ssvid.results",
    "ssvid.engine",
    "ssvid.recipe",
    "ssvid.presets",
    "ssvid.signatures",
    "ssvid.outlines",
    "ssvid.flags",
    "ssvid.refusals",
    "ssvid.help_page",
    "ssvid.command_line",
    "ssvid.arguments",
    "ssvid.result_page",
    "ssvid.cli",
    "ssvid",  # the commands
    "ssvid.sweep",
    "objectives",
    "benchmarks.metrics",
    "benchmarks.features",
    "benchmarks.probes",
    "benchmarks.alignment",
    "benchmarks.labelling",
    "benchmarks.searching",
    "benchmarks.tasks",
    "benchmarks.suites",
    "benchmarks.reports",
    "benchmarks",  # the commands
    "benchmarks.profiling",
)
# Folders inside a room, whose files are bound by the room's place and by the ban on circles.
INNER = (
    "ssvid.data.datasets",
    "ssvid.data.narration",
    "ssvid.data.preprocess",
    "objectives.litevl",
    "objectives.masked_distillation",
    "objectives.tan",
    "objectives.two_view",
    "benchmarks.profiling.scaling",
    "benchmarks.profiling.speed",
)
READ_BY_REPORTS = (
    "ssvid.results",
    "ssvid.sweep.folder",
    "ssvid.statistics",
    "ssvid.files",
    "ssvid.errors",
    "ssvid.old_names",
)
READ_BY_REPORTS += (
    "ssvid.registry",
    "ssvid.engine.train_flags",
)  # a picture's caption; steps of epochs
MADE = {"runs", "build", "dist"}  # what commands make, which git ignores
TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".cff", ".sh", ""}
LIBRARY = ("ssvid", "objectives", "benchmarks")
FILES = sorted(path for top in LIBRARY for path in (ROOT / top).rglob("*.py"))


UNCOUNTED = ("TYPE_CHECKING", "__name__ == '__main__'")  # conditions of imports that are no arrows


class Import(NamedTuple):
    importer: str  # dotted names of modules
    imported: str

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported}"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def room_of(module: str) -> str:
    inside = [room for room in ROOMS if module == room or module.startswith(f"{room}.")]
    return max(inside, key=len)


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of ours in a file, but for types alone and for what the file does when it is
    run.
    """
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in UNCOUNTED:
            continue
        pending += ast.iter_child_nodes(node)
        for name in imported_names(node):
            if name in MODULES and name != module_name(path):
                yield Import(module_name(path), name)


def imported_names(node: ast.AST) -> Iterator[str]:
    """The dotted names that one statement may mean: `from a import b` is the module a.b, or a."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module:
        inner = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in inner if name in MODULES)
        if any(name not in MODULES for name in inner):
            yield node.module


IMPORTS = [one for path in FILES for one in imports_of(path)]


def test_a_room_imports_only_rooms_before_it():
    order = {room: number for number, room in enumerate(ROOMS)}
    climbs = [one for one in IMPORTS if order[room_of(one.imported)] > order[room_of(one.importer)]]
    assert not climbs, "\n".join(map(str, climbs))


def test_no_files_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for one in IMPORTS:
        graph[one.importer].add(one.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_reports_stand_beside_the_rooms_that_measure():
    """They read files through ssvid.results.

    Only commands, which are files of benchmarks, use them.
    """
    reports = "benchmarks.reports"
    theirs = [one.imported for one in IMPORTS if one.importer.startswith(reports)]
    outside = [name for name in theirs if not name.startswith((reports, *READ_BY_REPORTS))]
    users = ("benchmarks", "benchmarks.profiling", reports)
    inside = [one for one in IMPORTS if room_of(one.imported) == reports]
    inside = [one for one in inside if room_of(one.importer) not in users]
    assert not outside + inside, f"{outside} {inside}"


def test_benchmarks_know_no_objective_and_no_paper_knows_another():
    crossing = [one for one in IMPORTS if one.imported.split(".")[0] == "objectives"]
    crossing = [
        one for one in crossing if one.imported.split(".")[:2] != one.importer.split(".")[:2]
    ]
    assert not crossing, "\n".join(map(str, crossing))


def test_no_folder_is_added():
    """At the top, and among the rooms: a new one gets its place in ROOMS or in INNER."""
    inside = [path for path in ROOT.iterdir() if path.is_dir() and any(path.rglob("*.py"))]
    tops = {path.name for path in inside if not path.name.startswith(".") and path.name not in MADE}
    assert tops <= TOP, tops - TOP
    folders = {module_name(path.parent) for path in FILES}
    assert folders <= {*ROOMS, *INNER}, folders - {*ROOMS, *INNER}


def test_files_have_a_docstring_are_ascii_and_probe_for_nothing():
    """A capability is declared and not asked of hasattr."""
    faults = []
    for path in FILES:
        text, tree = path.read_text(), ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            faults.append(f"{path} has no docstring")
        if not text.isascii():
            faults.append(f"{path} is not ASCII")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr":
                faults.append(f"{path}:{node.lineno} asks hasattr")
    assert not faults, "\n".join(faults)


def test_the_core_names_no_objective():
    for path in (ROOT / "ssvid").rglob("*.py"):
        assert not re.search(r"objective(\.name)? ==", path.read_text()), path


def test_no_file_names_a_package_host_or_a_machine_path():
    parts = (
        r"files\.python" + "hosted",
        r"pypi\." + "org",
        "/sim" + "ple/",
        "/wo" + "rk/",
        "/ro" + "ot/",
    )
    host = re.compile("|".join([*parts, "--(extra-)?index" + "-url"]))
    made = {".venv", ".git", "runs", ".cache", ".hypothesis"}
    checked = 0
    for path in ROOT.rglob("*"):
        inside = path.relative_to(ROOT).parts
        if made & set(inside) or any(part.endswith(("cache", "egg-info")) for part in inside):
            continue
        if path.is_file() and path.suffix in TEXT:
            checked += 1
            hit = host.search(path.read_text(errors="ignore"))
            assert not hit, f"{path}: {hit[0] if hit else ''}"
    assert checked > 50
