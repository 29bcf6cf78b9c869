"""Whole files and locks."""

import json
from pathlib import Path

import pytest

from ssvid.errors import UserError
from ssvid.files import Locked, locked, write_json_whole, write_text_whole


def test_text_and_json_are_written_whole(tmp_path: Path):
    write_text_whole(tmp_path / "a.txt", "caf\u00e9\n")
    write_json_whole(tmp_path / "a.json", {"b": [1], "a": 2}, end="\n", indent=1, sort_keys=True)
    assert (tmp_path / "a.txt").read_bytes() == b"caf\xc3\xa9\n"
    text = (tmp_path / "a.json").read_text()
    assert text == json.dumps({"a": 2, "b": [1]}, indent=1) + "\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.txt"]


def test_a_lock_has_one_holder(tmp_path: Path):
    with locked(tmp_path / "lock", wait=False, what="the folder"):
        with (
            pytest.raises(Locked, match="the folder"),
            locked(tmp_path / "lock", wait=False, what="the folder"),
        ):
            raise AssertionError("it was held twice")
    with locked(tmp_path / "lock", wait=False, what="the folder"):
        assert issubclass(Locked, UserError)
