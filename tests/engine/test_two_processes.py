"""Two processes do what one does: exactly, in float64."""

from pathlib import Path

import pytest

from tests.engine.pairs import same_as_two
from tests.engine.two import FORMS, two_steps


@pytest.mark.parametrize("name", FORMS)
def test_loss_gradients_and_statistics_agree(name: str, tmp_path: Path):
    """Gathered negatives carry gradient, batch norm sees all clips, each rank has its slice of the
    global batch.
    """
    same_as_two(two_steps(name), tmp_path / "two.pt", "tests.engine.two", name)
