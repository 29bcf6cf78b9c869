import os

import pytest

from ssvid.trust import VARIABLE


@pytest.fixture(scope="session", autouse=True)
def trust_encoders_of_tests() -> None:
    """Tests name encoders that they define as MODULE:FUNCTION, as plug-ins of a user are named."""
    modules = ("tests.benchmarks.test_run", "tests.benchmarks.test_run_faults")
    os.environ[VARIABLE] = ",".join(modules)
