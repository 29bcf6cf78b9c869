"""Name -> class or function: the registries of the plug-in points.

All names are resolved here. Looking up a name imports the one file that registers it. The names are
read from the sources without importing them, because importing every file takes seconds.
`module.path:Class` is accepted wherever a name is, so a plug-in of a user needs no entry here.
"""

import ast
import difflib
import functools
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ssvid.errors import UserError

Entry = TypeVar("Entry", bound=Callable[..., Any])


class Registry:
    """A table of one kind of plug-in. A UserError names near misses of an unknown name."""

    def __init__(self, package: str, kind: str) -> None:
        self.package, self.kind = package, kind
        self.table: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        def add(entry: Entry) -> Entry:
            old = self.table.setdefault(name, entry)
            if (old.__module__, old.__qualname__) != (entry.__module__, entry.__qualname__):
                raise KeyError(
                    f"{self.package}: {name!r} is already {old.__module__}.{old.__qualname__}"
                )
            # `python -m` imports its own module twice, so the same entry may come again.
            self.table[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if ":" in name:
            module, _, attribute = name.partition(":")
            try:
                return getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise UserError(f"{self.kind} {name!r} cannot be imported: {error}.") from error
        if name not in self.table and name in self.modules:
            importlib.import_module(self.modules[name])  # a broken file raises its own error
        if name not in self.table:
            near = difflib.get_close_matches(name, self.names(), cutoff=0.5) or self.names()
            raise UserError(f"There is no {self.kind} {name!r}; near: {', '.join(near)}.")
        return self.table[name]

    def names(self) -> list[str]:
        return sorted(self.table.keys() | self.modules.keys())

    @functools.cached_property
    def modules(self) -> dict[str, str]:
        """Name -> the module that registers it, for every file of the package."""
        modules: dict[str, str] = {}
        for folder in map(Path, importlib.import_module(self.package).__path__):
            for file in sorted(folder.rglob("*.py")):
                inner = file.relative_to(folder).with_suffix("").parts
                module = ".".join([self.package, *inner]).removesuffix(".__init__")
                for name in read_registered_names(file):
                    if modules.setdefault(name, module) != module:
                        raise KeyError(f"{name!r} is registered in {modules[name]} and in {module}")
        return modules


def read_registered_names(file: Path) -> Iterator[str]:
    """The names in the `@TABLE.register("NAME")` decorators of a source file."""
    for node in ast.walk(ast.parse(file.read_text())):
        for call in getattr(node, "decorator_list", []):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".register"):
                yield ast.literal_eval(call.args[0])


encoders = Registry("ssvid.encoders", "encoder")
objectives = Registry("objectives", "objective")
datasets = Registry("ssvid.data.datasets", "data set")
probes = Registry("benchmarks.probes", "probe")
tasks = Registry("benchmarks.tasks", "task")
