import json

import pytest

from ssvid.data.quarantine import Quarantine
from ssvid.errors import UserError
from tests.helpers import facts


def test_counts_distinct_files_and_remembers(tmp_path):
    bad = Quarantine(tmp_path / "run", rows=300, max_bad=0.01)
    for path, time in [("a.mp4", 1.5), ("a.mp4", 2.0), ("b.mp4", None)]:
        bad.add(path, time, "why")
    lines = [
        json.loads(line) for line in (tmp_path / "run/quarantine.jsonl").read_text().splitlines()
    ]
    assert [(line["path"], line["time"]) for line in lines] == [("a.mp4", 1.5), ("b.mp4", None)]
    bad.check()
    again = Quarantine(tmp_path / "run", rows=300, max_bad=0.01)
    again.add("b.mp4", None, "why")
    again.add("c.mp4", None, "why")
    assert len(again) == 3
    again.check()  # 3 of 300 are 0.01
    again.add("d.mp4", None, "torn")
    with pytest.raises(
        UserError, match=facts("4", "300", "--max_bad", "a.mp4", "d.mp4", "quarantine.jsonl")
    ):
        again.check()


def test_one_bad_file_is_always_allowed():
    bad = Quarantine(None, rows=2)
    bad.add("a.mp4", None, "why")
    bad.check()
    bad.add("b.mp4", None, "why")
    with pytest.raises(UserError):
        bad.check()


def test_a_torn_last_line_is_passed_over(tmp_path):
    (tmp_path / "quarantine.jsonl").write_text(
        '{"path": "a.mp4", "time": null, "why": "x"}\n{"path": "b'
    )
    bad = Quarantine(tmp_path, rows=9)
    bad.add("c.mp4", None, "y")
    assert set(Quarantine(tmp_path, rows=9).bad) == {"a.mp4", "c.mp4"}
