"""Names are read from the sources; only what is asked for is imported."""

import subprocess
import sys

import pytest

from ssvid import registry
from ssvid.errors import UserError
from tests.helpers import facts

LISTS_NAMES = """
import sys
from ssvid import registry
for table in (registry.encoders, registry.objectives, registry.datasets):
    assert len(table.names()) > 5
assert "torch" not in sys.modules
assert not [name for name in sys.modules if name.startswith(("objectives.", "ssvid.encoders."))]
registry.datasets["csv"]
print(*[name for name in sys.modules if name.startswith("ssvid.data.datasets.")])
"""


def test_listing_names_imports_nothing():
    shell = subprocess.run([sys.executable, "-c", LISTS_NAMES], capture_output=True, text=True)
    assert shell.stdout.split() == ["ssvid.data.datasets.csv"], shell.stderr


@pytest.mark.parametrize("kind", ["encoders", "objectives", "datasets", "probes", "tasks"])
def test_the_names_of_the_sources_are_those_that_are_registered(kind):
    table = getattr(registry, kind)
    for name in table.names():
        assert callable(table[name])
    written = {
        name for name, entry in table.table.items() if entry.__module__.startswith(table.package)
    }
    assert written == set(table.modules)


def test_a_name_that_is_registered_twice_is_refused(tmp_path, monkeypatch):
    (tmp_path / "doubled").mkdir()
    for file in ("__init__", "one", "two"):
        text = '@things.register("thing")\ndef thing(): ...\n' if file != "__init__" else ""
        (tmp_path / "doubled" / f"{file}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(KeyError, match="thing"):
        registry.Registry("doubled", "thing", "builtins:object").names()
    with pytest.raises(UserError, match=facts("mea", "mae")):
        registry.objectives["mea"]


def test_a_name_is_taken_once():
    registry.encoders.register("vit")(registry.encoders["vit"])  # the same again
    with pytest.raises(KeyError, match="vit"):
        registry.encoders.register("vit")(int)
