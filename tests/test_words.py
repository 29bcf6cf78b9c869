"""Names say what they hold, and a line says one thing: rules of the house style that are counted.

`python -m tests.test_words` writes the allowances anew, where they shrink.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
ALLOWANCES = ROOT / "tests" / "allowances.yaml"
FILES = [
    file
    for top in ("ssvid", "objectives", "benchmarks", "tests")
    for file in sorted((ROOT / top).rglob("*.py"))
]
# Words that say neither what a thing is nor of which type: "found" is the verb of the line before.
BARE_WORDS = set(
    "found made said told given kept asked known each own got seen at of place more rest".split()
)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
PER_LINE = 40 / 1000  # comprehensions of a file; a short file may have two
FUNCTION_LINES = 60  # signature included
FILE_LINES = 400
Counts = dict[str, int]


def names_in(tree: ast.AST) -> Iterator[str]:
    """Every name that a file gives: of variables, attributes, parameters, functions, classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def count_faults(text: str) -> Counts:
    """Kind of fault -> how many of them a file's text has. Kinds without a fault are left out."""
    tree = ast.parse(text)
    lines = len(text.splitlines())
    comprehensions = [node for node in ast.walk(tree) if isinstance(node, COMPREHENSIONS)]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    bare_words = [name for name in names_in(tree) if name.strip("_") in BARE_WORDS]
    counts = {
        "bare_words": len(bare_words),
        "comprehensions": max(0, len(comprehensions) - max(2, int(PER_LINE * lines))),
        "nested": sum(map(is_nested, comprehensions)),
        "long_functions": sum(map(is_long, functions)),
        "lines": max(0, lines - FILE_LINES),
    }
    return {kind: count for kind, count in counts.items() if count}


def is_nested(comprehension: ast.AST) -> bool:
    """It has two `for`s, or another comprehension inside."""
    inside = [node for node in ast.walk(comprehension) if isinstance(node, COMPREHENSIONS)]
    return len(inside) > 1 or len(comprehension.generators) > 1


def is_long(function: ast.FunctionDef) -> bool:
    return function.end_lineno - function.lineno >= FUNCTION_LINES


def count_all() -> dict[str, Counts]:
    """File -> its faults, for the files that have any."""
    counts = {str(file.relative_to(ROOT)): count_faults(file.read_text()) for file in FILES}
    return {file: faults for file, faults in counts.items() if faults}


def read_allowances() -> dict[str, Counts]:
    return yaml.safe_load(ALLOWANCES.read_text()) or {}


def excesses(counts: dict[str, Counts], allowances: dict[str, Counts]) -> list[str]:
    """What is more than allowed, and allowances that are larger than needed: they only shrink."""
    differences = []
    for file in sorted(counts.keys() | allowances.keys()):
        here, allowed = counts.get(file, {}), allowances.get(file, {})
        for kind in sorted(here.keys() | allowed.keys()):
            if here.get(kind, 0) != allowed.get(kind, 0):
                differences.append(
                    f"{file}: {kind} {here.get(kind, 0)}, {allowed.get(kind, 0)} allowed"
                )
    return differences


def test_no_file_has_more_faults_than_it_had():
    differences = excesses(count_all(), read_allowances())
    assert not differences, "\n".join(differences)


def test_each_kind_of_fault_is_counted():
    text = "found = [[x for x in y] for y in z]\ndef said(at): self.made = 1\n"
    assert count_faults(text) == {"bare_words": 4, "nested": 1}
    assert count_faults("a = [x for x in y if z for w in x]")["nested"] == 1
    assert count_faults("a = [x for x in y]\n" * 10)["comprehensions"] == 8
    assert count_faults("def f():\n" + "    x = 1\n" * 60)["long_functions"] == 1
    assert count_faults("x = 1\n" * 401)["lines"] == 1


def write_allowances() -> None:
    """Refuses what would grow."""
    counts, allowances = count_all(), read_allowances()
    for file, faults in counts.items():
        for kind, count in faults.items():
            allowed = allowances.get(file, {}).get(kind, 0)
            if count > allowed:
                raise SystemExit(
                    f"{file}: {kind} {count}, {allowed} allowed: an allowance only shrinks."
                )
    ALLOWANCES.write_text(yaml.safe_dump(counts, default_flow_style=None, width=200))


if __name__ == "__main__":
    write_allowances()
