"""Whole files and locks, and what is read from files that may be damaged or hostile."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from ssvid.data.files import read_text
from ssvid.data.store import read_features
from ssvid.errors import UserError
from ssvid.files import (
    Locked,
    locked,
    read_json,
    read_json_lines,
    read_json_mapping,
    read_yaml,
    write_json_whole,
    write_text_whole,
)
from ssvid.text.words import read_words
from ssvid.weights.files import read_weights
from tests.helpers import for_each


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


def test_a_lock_that_is_a_link_is_refused_and_leads_nowhere(tmp_path: Path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    os.mkfifo(tmp_path / "pipe")
    for name in ("lock", "pipe"):
        with (
            pytest.raises(UserError, match=name),
            locked(tmp_path / name, wait=False, what="it"),
        ):
            raise AssertionError("it was taken")
    assert (tmp_path / "precious").read_text() == "precious"


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@for_each(
    "text, fact",
    [
        (ALIASES, "200000"),
        ("a: &a [*a]", "itself"),
        ("a: &a {b: *a}", "itself"),
        ("[" * 3000, "deep"),
        ("a: " + "[" * 90 + "]" * 90, "deep"),
        ("a: 1\nb: 2\na: 3", "line 3"),
        ("a: {b: 1, b: 2}", "'b'"),
        ("a: !!python/object/apply:os.system [x]", "line 1"),
        ("a: \x00", "f.yaml"),
        ("a: b: c", "line 1"),
        ("a: 2026-01-01", "2026-01-01"),
        ("a: !!binary aGk=", "quote"),
        ("a: !!set {b, c}", "quote"),
        ("1: 2", "1"),
        (f"a: {'9' * 400}", "64"),
        ('a: "\\uD800"', "f.yaml"),
    ],
)
def test_yaml_is_bounded_and_gives_each_key_once(tmp_path, text, fact):
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(UserError, match="f.yaml") as refusal:
        read_yaml(tmp_path / "f.yaml", "recipe")
    assert fact in str(refusal.value) and "\n" not in str(refusal.value)


def test_yaml_that_people_write_is_read(tmp_path: Path):
    """Anchors, merge keys and all kinds of values; and as PyYAML reads them."""
    text = "a: &x {p: 1, q: [1.5, yes, null]}\nb: *x\nc: {<<: *x, q: t}\n# end\n"
    (tmp_path / "f.yaml").write_text(text)
    assert read_yaml(tmp_path / "f.yaml", "recipe") == yaml.safe_load(text)
    (tmp_path / "empty.yaml").touch()
    assert read_yaml(tmp_path / "empty.yaml", "recipe") is None


@for_each("name", ["pipe", "/dev/zero", "/proc/self/environ", "folder"])
def test_what_is_no_plain_file_is_refused_without_a_wait(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    readers = [
        lambda path: read_yaml(path, "recipe"),
        lambda path: read_json(path, "card"),
        lambda path: read_json_lines(path, "log"),
        read_text,
        read_words,
        read_weights,
        read_features,
    ]
    for read in readers:
        with pytest.raises(UserError, match=re.escape(Path(name).name)):
            read(tmp_path / name)


@for_each("text", ["{", "[1]", "null", '{"a": %s}' % ("9" * 400), '{"a":' * 50_000, "\xff\xfe", ""])
def test_a_card_that_is_no_mapping_is_one_sentence(tmp_path, text):
    (tmp_path / "card.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="card.json"):
        read_json_mapping(tmp_path / "card.json", "card")


def test_a_log_tells_its_damaged_lines_and_not_the_one_a_kill_cut(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    assert read_json_lines(path, "log") == ([], [])
    path.write_bytes(b'{"a": 1}\n\xff\n[1]\n{"a": 2}\n{"a"')
    assert read_json_lines(path, "log") == ([{"a": 1}, {"a": 2}], [2, 3])
