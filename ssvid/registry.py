"""Name -> class or function: the registries of the plug-in points.

All names are resolved here. Looking up a name imports the one file that registers it. The names are
read from the sources without importing them, because importing every file takes seconds.
`module.path:Class` is accepted for a module that the user trusts (ssvid.trust), so a plug-in of a
user needs no entry here.
"""

import ast
import difflib
import functools
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ssvid.errors import UserError
from ssvid.trust import (
    check_kind,
    import_checked,
    import_module_of_user,
    list_trusted_modules,
)

Plugin = TypeVar("Plugin", bound=Callable[..., Any])


class Registry:
    """A table of one kind of plug-in. An unknown name raises a UserError with similar names.

    `kind`: what error sentences call a plug-in. `base`: the class of plug-ins that are not
    registered, as MODULE:CLASS.
    """

    def __init__(self, package: str, kind: str, base: str) -> None:
        self.package, self.kind, self.base = package, kind, base
        self.table: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[Plugin], Plugin]:
        def add(entry: Plugin) -> Plugin:
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
        if not isinstance(name, str):
            raise UserError(f"The name of the {self.kind} is a text, not {name!r}.")
        if "." in name or ":" in name:
            module, _, attribute = name.replace(":", ".").rpartition(".")
            entry = self.find_entry_of_module(module, attribute)
            return entry or import_checked(f"{module}:{attribute}", self.kind, self.base)
        if name not in self.table and name in self.modules:
            importlib.import_module(self.modules[name])  # a broken file raises its own error
        if name not in self.table:
            # A run of a user's objective records the name under which his module registered it.
            for module in list_trusted_modules():
                import_module_of_user(module)
            if name in self.table:
                return check_kind(self.table[name], name, self.kind, self.base)
            near = difflib.get_close_matches(name, self.names(), cutoff=0.5) or self.names()
            raise UserError(
                f"There is no {self.kind} {name!r}; near: {', '.join(near)}. If a module of yours "
                "registers it, add --trust MODULE."
            )
        return self.table[name]

    def find_entry_of_module(self, module: str, attribute: str) -> Callable[..., Any] | None:
        """The registered entry with this path, as files of earlier versions name entries."""
        if module in self.modules.values():
            importlib.import_module(module)
        for entry in self.table.values():
            if (entry.__module__, entry.__qualname__) == (module, attribute):
                return entry
        return None

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


encoders = Registry("ssvid.encoders", "encoder", "ssvid.encoder:Encoder")
objectives = Registry("objectives", "objective", "ssvid.objective:Objective")
datasets = Registry("ssvid.data.datasets", "data set", "ssvid.data.manifest:Manifest")
probes = Registry("benchmarks.probes", "probe", "benchmarks.probes.base:Probe")
tasks = Registry("benchmarks.tasks", "task", "benchmarks.tasks.base:Task")
