"""name -> class or function: the plug-in points, and the only place where names are resolved.

A table fills itself: a miss imports every file of its package once, then looks again. ``module.path:Class`` is
accepted anywhere a name is, so a stranger's plug-in needs no entry here.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

from ssvid.errors import UserError

Entry = TypeVar("Entry", bound=Callable[..., Any])


class Registry:
    def __init__(self, package: str, kind: str) -> None:
        self.package, self.kind = package, kind
        self.table: dict[str, Callable[..., Any]] = {}
        self.loaded = False

    def register(self, name: str) -> Callable[[Entry], Entry]:
        def add(entry: Entry) -> Entry:
            old = self.table.setdefault(name, entry)
            if (old.__module__, old.__qualname__) != (entry.__module__, entry.__qualname__):
                raise KeyError(f"{self.package}: {name!r} is already {old.__module__}.{old.__qualname__}")
            self.table[name] = entry  # the same thing imported again, as `python -m` does with its own module
            return entry

        return add

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if ":" in name:
            module, _, attribute = name.partition(":")
            try:
                return getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise UserError(f"{self.kind} {name!r} cannot be imported: {error}.") from error
        if name not in self.table and name not in self.names():
            near = difflib.get_close_matches(name, self.table, cutoff=0.5) or sorted(self.table)
            raise UserError(f"There is no {self.kind} {name!r}; near: {', '.join(near)}.")
        return self.table[name]

    def names(self) -> list[str]:
        if not self.loaded:
            for file in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
                importlib.import_module(f"{self.package}.{file.name}")  # a broken file raises its own error
            self.loaded = True
        return sorted(self.table)


encoders = Registry("ssvid.encoders", "encoder")
objectives = Registry("objectives", "objective")
datasets = Registry("ssvid.data.datasets", "data set")
probes = Registry("benchmarks.probes", "probe")
tasks = Registry("benchmarks.tasks", "task")
