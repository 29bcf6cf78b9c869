"""The deliberate breaks of `tests/breaks.yaml` still fit the source.

`make nightly` applies them.
"""

from tests.breaks import BREAKS, find


def test_every_break_can_be_applied():
    missing = [each_break.what for each_break in BREAKS if find(each_break.line) is None]
    assert not missing, f"their line is not there, or more than once: {missing}"
