"""Names stand for one thing each."""

import pytest

from ssvid.errors import UserError
from ssvid.registry import Registry
from tests.helpers import facts


def test_a_name_is_taken_once_and_a_near_one_is_shown():
    table = Registry("tests", "thing")
    table.loaded = True
    table.register("first")(int)
    table.register("first")(int)  # the same thing imported again
    with pytest.raises(KeyError, match="first"):
        table.register("first")(float)
    assert table["first"] is int
    with pytest.raises(UserError, match=facts("frist")):
        table["frist"]
