"""Source of a command -> its signature, without the seconds that importing torch takes.

A flag that does not exist is refused, and --help is printed, before the command is imported. So a
function is read here without its body, a dataclass without its methods, and what their defaults
and annotations name is read in the same way.
"""

import ast
import builtins
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ssvid.signatures import SOURCES, passes_on

ROOT = Path(__file__).parents[1]
OURS = ("ssvid", "objectives", "benchmarks")


class Unreadable(Exception):
    """A name cannot be read without importing its module."""


class ModuleOutline:
    """A module whose names are read when they are used, as `optim` in `optim.Name`."""

    def __init__(self, module: str, placeholders: frozenset[str]) -> None:
        self.module, self.placeholders = module, placeholders

    def __getattr__(self, name: str) -> Any:
        return read_name(self.module, name, self.placeholders)


def read_outline(path: str, placeholders: frozenset[str]) -> Callable[..., Any] | None:
    """The function MODULE:NAME without its body. None if it cannot be read without an import.

    `placeholders`: paths of classes that an empty class stands for.
    """
    module, _, name = path.partition(":")
    try:
        function: Callable[..., Any] = read_name(module, name, placeholders)
    except Unreadable:
        return None
    return function


@functools.cache
def read_name(module: str, name: str, placeholders: frozenset[str]) -> Any:
    """The value that a name has in a module of ours."""
    if f"{module}.{name}" in placeholders:
        return type(name, (), {"__module__": module})
    file = find_file(module)
    if file is None:
        raise Unreadable(module)
    text = file.read_text()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return build_outline(module, node, text, placeholders)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            code = compile(ast.Expression(node.value), str(file), "eval")
            return eval(code, read_names(module, node.value, placeholders))
        if isinstance(node, ast.ImportFrom | ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return read_import(node, alias.name, placeholders)
    raise Unreadable(f"{module}.{name}")


def find_file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def read_import(node: ast.ImportFrom | ast.Import, name: str, placeholders: frozenset[str]) -> Any:
    """What an import statement gives. Modules of Python itself are imported."""
    source = name if isinstance(node, ast.Import) else str(node.module)
    if source.partition(".")[0] in sys.stdlib_module_names:
        module = importlib.import_module(source)
        return module if isinstance(node, ast.Import) else getattr(module, name)
    if source.partition(".")[0] not in OURS or isinstance(node, ast.Import):
        raise Unreadable(source)
    if find_file(f"{source}.{name}"):
        return ModuleOutline(f"{source}.{name}", placeholders)
    return read_name(source, name, placeholders)


def build_outline(
    module: str, node: ast.FunctionDef | ast.ClassDef, text: str, placeholders: frozenset[str]
) -> Any:
    """The function without its body, or the class with its annotated fields alone."""
    source = "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])
    calls = list(list_receivers(node))
    if isinstance(node, ast.ClassDef):
        fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
        node.body = [*fields, *ast.parse("pass").body]
    else:
        documentation = ast.get_docstring(node, clean=False) or ""
        node.body = [ast.Expr(ast.Constant(documentation))]
    namespace = read_names(module, node, placeholders)
    for call in calls:
        namespace |= read_names(module, call, placeholders)
    tree = ast.fix_missing_locations(ast.Module([node], []))
    exec(compile(tree, str(find_file(module)), "exec"), namespace)
    SOURCES[namespace[node.name]] = source
    return namespace[node.name]


def list_receivers(node: ast.FunctionDef | ast.ClassDef) -> Iterator[ast.expr]:
    """What a function calls with its own `**keywords`."""
    if isinstance(node, ast.FunctionDef) and node.args.kwarg:
        for call in ast.walk(node):
            if isinstance(call, ast.Call) and passes_on(call, node.args.kwarg.arg):
                yield call.func


def read_names(module: str, node: ast.AST, placeholders: frozenset[str]) -> dict[str, Any]:
    """A namespace that holds the names which an expression or a definition uses."""
    namespace: dict[str, Any] = {"__name__": module, "__builtins__": builtins}
    for part in ast.walk(node):
        if not isinstance(part, ast.Name) or part.id in vars(builtins):
            continue
        if isinstance(part.ctx, ast.Load):
            namespace[part.id] = read_name(module, part.id, placeholders)
    return namespace
