import os
from collections.abc import Iterator

import pytest

from benchmarks.probes import floor
from benchmarks.probes.base import Probe
from benchmarks.probes.linear import Linear
from ssvid.trust import VARIABLE


@pytest.fixture(scope="session", autouse=True)
def trust_encoders_of_tests() -> None:
    """Tests name encoders that they define as MODULE:FUNCTION, as plug-ins of a user are named."""
    modules = ("tests.benchmarks.test_run", "tests.benchmarks.test_run_faults")
    os.environ[VARIABLE] = ",".join(modules)


@pytest.fixture(scope="module", autouse=True)
def quick_floor(request: pytest.FixtureRequest) -> Iterator[None]:
    """A floor of two quick probes, because every result has that row.

    The tests of the floor itself, which stand with those of the probes, run it whole.
    """
    create = floor.create_member

    def create_quickly(name: str) -> Probe:
        if name == "linear":
            return Linear(rates=(30.0,), lambdas=(0.1,), min_steps=20)
        return create(name)

    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name != "probes":
            patch.setattr(floor, "MEMBERS", ("linear", "knn"))
            patch.setattr(floor, "create_member", create_quickly)
        yield
