"""What every command shares: the list, words by position, --print_config, results for people."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ssvid.arguments import Arguments
from ssvid.cli import (
    import_function,
    parse,
    read_command_outline,
    resolver,
    run_command,
)
from ssvid.command_line import pair_words
from ssvid.commands import (
    COMMANDS,
    CONSOLE,
    list_exports,
    list_names,
    list_start_words,
    phrase_command,
    phrase_next,
)
from ssvid.errors import UserError
from ssvid.pretrain import list_next_steps, pretrain
from ssvid.result_page import format_result
from ssvid.weights.__main__ import weights
from tests.helpers import ROOT, facts, for_each, pretrain_argv, tells

NO_TORCH = "import sys; sys.modules['torch'] = None; from ssvid.__main__ import main; main()"


def run_console(*argv: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`ssvid ARGV` in a process in which torch cannot be imported."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", NO_TORCH, *argv]
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=env)


def test_ssvid_alone_lists_all_commands(tmp_path: Path):
    listed = run_console(cwd=tmp_path)
    assert listed.returncode == 0 and listed.stdout == run_console("--help").stdout
    assert tells(listed.stdout, *list_names())
    version = run_console("--version").stdout.split()
    assert version[0] == "ssvid" and version[1][0].isdigit()


@for_each("words, near", [(["pretrian"], "pretrain"), (["doctor", "--outt", "x"], "--out")])
def test_a_misspelt_word_costs_no_torch(words, near, tmp_path):
    ended = run_console(*words, cwd=tmp_path)
    assert ended.returncode == 2 and tells(ended.stderr, words[-2 if near[0] == "-" else 0], near)


@for_each("name", ["pretrain", "probe", "stages", "sweep status"])
def test_help_and_refusals_without_torch(name, tmp_path):
    ended = run_console(*name.split(), "--help", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.startswith(f"usage: ssvid {name} ")
    ended = run_console(*name.split(), "--ouut", "x", cwd=tmp_path)
    assert ended.returncode == 2 and tells(ended.stderr, "--ouut", "--out"), ended.stderr[-2000:]


@for_each("name", COMMANDS)
def test_an_outline_has_the_flags_of_the_command(name):
    """What is read from the source alone is what the imported function says."""
    outline = read_command_outline(name)
    assert outline is not None
    read, imported = Arguments(outline, name), Arguments(import_function(name), name)
    assert read.flags == imported.flags and read.bools == imported.bools
    assert read.tables == imported.tables and outline.__doc__ == imported.function.__doc__


def test_a_command_is_called_as_it_was_started(monkeypatch):
    assert phrase_command("sweep status") == "python -m ssvid.sweep status"
    assert list_start_words("benchmarks.run") == ["-m", "benchmarks.run"] and not list_exports()
    monkeypatch.setenv(CONSOLE, "1")
    assert phrase_next("report", "runs/a b") == "ssvid report 'runs/a b'"
    assert list_start_words("benchmarks.run") == ["-m", "ssvid", "bench"]
    assert list_start_words("ssvid.sweep.keeper") == ["-m", "ssvid.sweep.keeper"]
    assert f"export {CONSOLE}=1" in list_exports()


@for_each(
    "words, pairs",
    [
        ("F --to a", [["file", "F"], ["to", "a"]]),
        ("--to a F --trust --out b", [["to", "a"], ["file", "F"], ["trust"], ["out", "b"]]),
        ("--trust F", [["trust"], ["file", "F"]]),
        ("--trust true F", [["trust", "true"], ["file", "F"]]),
        ("--dry-run=1", [["dry_run", "1"]]),
    ],
)
def test_words_by_position(words, pairs):
    assert pair_words(words.split(), ("file",), {"trust"}) == pairs


def test_words_by_position_that_are_too_many():
    assert pair_words(["a", "b"], ("folder",), many=True) == [["folder", "a"], ["folder", "b"]]
    with pytest.raises(UserError, match=facts("b")):
        pair_words(["a", "b"], ("file",))
    with pytest.raises(UserError, match=facts("--file")):
        parse(weights, [])


@for_each("objective, encoder", [("mae", "vit_tiny"), ("infonce", "resnet18_2d3d"), ("tan", None)])
def test_print_config_is_a_recipe(objective, encoder, tmp_path, capsys):
    argv = ["--objective", objective, "--data", "synthetic", "--steps", "3", "--betas", "[0.5,0.9]"]
    argv += ["--encoder", encoder] if encoder else []
    with pytest.raises(SystemExit) as ended:
        run_command("pretrain", [*argv, "--print_config"])
    text = capsys.readouterr().out
    recipe = yaml.safe_load(text)
    assert ended.value.code == 0 and "class_path" not in text and "out" not in recipe
    assert recipe["objective"]["name"] == objective and recipe["betas"] == [0.5, 0.9]
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    complete = {**recipe, "out": "o"}
    assert resolver(pretrain)(complete) == complete
    with pytest.raises(SystemExit):
        run_command("pretrain", ["--config", str(file), "--print_config"])
    assert capsys.readouterr().out == text


@for_each(
    "flag, words",
    [
        ("--objective.mask_rato", "--objective mae mask_ratio"),
        ("--data.rot", "--data folder root"),
        ("--data.zzz", "--data folder root"),
        ("--clip.zzz", "--clip.zzz --clip.fps --clip.whole"),
        ("--encoder.dpth", "--encoder vit depth"),
        ("--steps+", "--steps+ --steps"),
    ],
)
def test_near_names_of_settings(flag, words, videos, tmp_path):
    with pytest.raises(UserError, match=facts(*words.split())):
        parse(pretrain, pretrain_argv(videos, tmp_path, flag, "1"))


@for_each("argv, words", [(["compare"], ("A is", "compare A B")), (["--seed", "1"], ("--seed",))])
def test_a_word_that_is_missing_is_named(argv, words, tmp_path):
    ended = run_console(*argv, cwd=tmp_path)
    assert ended.returncode == 2 and tells(ended.stderr, *words) and "--a" not in ended.stderr


def test_a_setting_that_is_missing_is_named():
    with pytest.raises(UserError, match=facts("--data.root", "folder")):
        parse(pretrain, ["--objective", "mae", "--data", "folder", "--out", "o"])


def test_next_steps_name_no_probe_where_no_encoder_is_saved():
    assert list_next_steps(False, "runs/a") == [phrase_next("report", "runs/a")]
    assert len(list_next_steps(True, "runs/a")) == 2
    assert len(list_next_steps(True, "runs/a", has_text=True)) == 3


def test_a_list_takes_the_form_with_a_plus(videos: Path):
    from benchmarks.linear_probe import linear_probe

    argv = ["--encoder", "vit_tiny", "--encoder+", "r3d_18", "--out", "o"]
    argv += ["--data", "folder", "--data.root", str(videos)]
    assert parse(linear_probe, argv)["encoder"] == ["vit_tiny", "r3d_18"]


def test_a_result_is_json_for_programs_and_a_list_for_people():
    result = {"out": "runs/a", "loss": 0.123456789, "bad": [], "rows": [{"top1": 0.5}, {"top1": 1}]}
    result["next"] = ["ssvid report runs/a"]
    assert json.loads(format_result(dict(result), for_people=False)) == result
    text = format_result(dict(result), for_people=True)
    assert tells(text, "runs/a", "0.1235", "ssvid report runs/a") and "bad" not in text
    assert "{" not in text and '"' not in text
    assert format_result({"out": "x", "page": "all is well"}, for_people=True) == "all is well"
    assert "page" not in format_result({"out": "x", "page": "all is well"}, for_people=False)


def test_a_reader_that_leaves_is_no_error():
    """`ssvid doctor --help | true`."""
    words = [sys.executable, "-m", "ssvid", "doctor", "--help"]
    read_end, write_end = os.pipe()
    os.close(read_end)
    ended = subprocess.run(words, stdout=write_end, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write_end)
    assert ended.returncode == 0 and not ended.stderr


def test_json_on_a_terminal_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    run_command("suite", ["quick", "--json"])
    cells = json.loads(capsys.readouterr().out)["cells"]
    run_command("suite", ["quick"])
    assert tells(capsys.readouterr().out, "quick", *cells.values())
