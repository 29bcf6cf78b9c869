"""Every sound file decodes as players show it, and one time gives one picture."""

from tests.data.kinds import FPS, KINDS
from tests.data.played import compare
from tests.helpers import for_each


@for_each("name", KINDS)
def test_a_sound_file_of_each_kind_reads_as_players_show_it(tmp_path, name):
    kind = KINDS[name]
    row = compare(kind, tmp_path)
    assert row.frames == row.expected_frames and row.in_order
    # A player joins recordings by the clock of decoding, which may leave out a frame.
    assert row.times_off < (1 / FPS if kind.goes_on else 0) + 1e-6
    assert row.shape == row.expected_shape
    assert row.difference <= (2 if "scale" in kind.graph else 0)  # by another library's filter
    assert row.alone_as_in_batch
