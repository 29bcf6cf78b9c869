"""What tests lean on: `for_each`."""

import pytest

from tests.helpers import for_each


def test_for_each_names_only_parameters_of_the_test():
    def add(a: int, b: int) -> None:
        assert a < b

    for_each("a, b", [(1, 2)])(add)()
    with pytest.raises(AssertionError, match="1 cases failed"):
        for_each("a, b", [(1, 2), (2, 1)])(add)()
    with pytest.raises(AssertionError, match="add has no parameter c"):
        for_each("a, c", [(1, 2)])(add)
