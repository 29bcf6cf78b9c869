"""Names on the command line, help, and one sentence for every mistake."""

import json
import re
from inspect import isclass
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser

from ssvid import __main__ as console
from ssvid import registry
from ssvid.arguments import Arguments
from ssvid.cli import import_function, parse
from ssvid.commands import COMMANDS, list_names
from ssvid.errors import UserError
from ssvid.flags import list_flags
from ssvid.help_page import SECTIONS, format_entry_help, format_help
from ssvid.pretrain import pretrain
from ssvid.trust import trust_modules
from tests.helpers import ROOT, command, facts, for_each, pretrain_argv, sentence, tells


def refused(argv: list[str]) -> str:
    with pytest.raises(UserError) as error:
        pretrain(**parse(pretrain, argv))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def argv(videos: Path, tmp_path: Path) -> list[str]:
    return pretrain_argv(videos, tmp_path / "out")


@for_each(
    "flag, value, said",
    [
        ("--objective", "may", "may mae"),
        ("--encoder", "vit_smal", "vit_smal vit_small"),
        ("--data", "foldr", "foldr"),
        ("--objective.mask_rati", "0.5", "--objective mask_rati"),
        ("--encoder.dimm", "5", "--encoder dimm"),
        ("--step", "3", "--step --steps"),
        ("--clip.fp", "3", "--clip.fp --clip.fps"),
        ("--steps", "many", "--steps many int null"),
        ("--lr", "fast", "--lr fast float"),
        ("--encoder.depth", "x", "--encoder.depth x int"),
        ("--objective.mask", "tubes", "--objective.mask tubes tube random frame block"),
        ("--clip.modality", "x", "--clip.modality x rgb flow"),
        ("--betas", "[1]", "--betas [1] tuple"),
        ("--epochs", "1", "--steps --epochs"),
        ("--objective.augment", "colourful", "colourful"),
        ("--steps", "-1", "--steps -1"),
        ("--accumulate", "0", "--accumulate 0"),
        ("--log_every", "0", "--log_every 0"),
        ("--picture_every", "0", "--picture_every 0"),
        ("--checkpoint_every", "0", "--checkpoint_every 0"),
        ("--threads", "0", "--threads 0"),
        ("--workers", "-1", "--workers -1 0"),
        ("--lr", "-1", "--lr -1"),
        ("--warmup", "2", "--warmup 2.0 0 1"),
        ("--devices", "cuda", "GPU"),
        ("--clip.frames", "0", "frames size fps stride 0"),
        ("--clip.fps", "0", "frames size fps stride 0"),
        ("--encoder.frames", "0", "frames size fps stride 0"),
        ("--encoder.dropout", "2", "--dropout 2.0 0 1"),
        ("--encoder.std", "[0,0,0]", "std 0"),
        ("--objective.repeat", "0", "--repeat 0"),
        ("--encoder.dim", "25", "25 2"),
        ("--encoder.heads", "5", "24 5"),
        ("--encoder.patch", "32", "2 32"),
        ("--encoder.depth", "0", "--depth 0"),
        ("--objective.dec_heads", "3", "16 3"),
        ("--objective.mask_ratio", "1.5", "mae mask_ratio 1.5"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="one of the values is good on this machine")
def test_flags_that_cannot_be(argv, tmp_path, flag, value, said):
    """Unknown names and keys, values of the wrong type or out of range, and contradictions."""
    out = tmp_path / "out"
    refusal = refused([*argv, "--out", str(out), flag, value])
    assert tells(refusal, *said.split()) and "{'name'" not in refusal
    assert not out.exists()


def list_accepted(entry: Any) -> set[str]:
    """The settings that the parser takes for a registered class or function."""
    parser = ArgumentParser(add_help=False, exit_on_error=False)
    add = parser.add_class_arguments if isclass(entry) else parser.add_function_arguments
    add(entry, "it", skip={"encoder", "probe"}, fail_untyped=False)
    names = [action.dest for action in parser._actions]
    return {name.removeprefix("it.") for name in names if name.startswith("it.")}


@for_each("kind", ["encoders", "objectives", "datasets", "probes", "tasks"])
def test_every_parameter_of_every_registered_name_has_help(kind):
    table = getattr(registry, kind)
    names = [name for name in table.names() if not name.startswith("test_")]
    lacking = []
    for name in names:
        flags = list_flags(table[name], skip={"encoder", "probe"})
        assert {flag.name for flag in flags} == list_accepted(table[name]), name
        lacking += [f"{name}.{flag.name}" for flag in flags if not flag.help]
    assert not lacking and len(names) >= 5


def test_every_parameter_of_every_command_has_help():
    lacking = []
    for name in COMMANDS:
        flags = Arguments(import_function(name), name).flags
        assert {*COMMANDS[name].first, COMMANDS[name].after} - {""} <= {flag.name for flag in flags}
        lacking += [f"{name} --{flag.name}" for flag in flags if not flag.help]
    assert not lacking and len(COMMANDS) >= 22


def test_every_command_of_the_code_is_in_the_table():
    started = set()
    for room in ("ssvid", "benchmarks"):
        for file in (ROOT / room).rglob("*.py"):
            for name in re.findall(
                r"^    run_command\(\"(\w+)\"\)", file.read_text(), re.MULTILINE
            ):
                module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
                assert COMMANDS[name].module == module.removesuffix(".__main__")
                started.add(name)
    assert started == set(list_names())


def test_headings_of_help_hold_flags_that_exist():
    flags = set()
    for name in COMMANDS:
        for flag in Arguments(import_function(name), name).flags:
            flags.add(flag.name.partition(".")[0])
    for names in SECTIONS.values():
        assert set(names) <= flags


@for_each(
    "name, usage",
    [
        ("weights", "FILE"),
        ("align", "VIDEO TRANSCRIPT --aligner TEXT --out TEXT"),
        ("stages", "RECIPE --out TEXT"),
        ("sweep", "SWEEP"),
        ("sweep report", "[OUT]"),
        ("report", "FOLDER ..."),
    ],
)
def test_help_shows_by_position_what_is_taken_by_position(name, usage):
    assert console.format_help(name).splitlines()[0].startswith(f"usage: ssvid {name} {usage} [--")


def test_help_of_a_chosen_name_comes_first_and_has_no_words_of_the_parser():
    page = format_help("pretrain", pretrain, Arguments(pretrain).tables, {"objective": "mae"})
    assert page.index("--objective.mask_ratio") < page.index("--encoder NAME")
    assert not re.search(r"Callable|subclass|class_path|type:", page)
    assert max(map(len, page.splitlines())) <= 100


def test_help_is_the_comment_where_a_parameter_is_declared():
    def read_words(kind: str, name: str) -> str:
        table = getattr(registry, f"{kind}s")
        return " ".join(format_entry_help(kind, name, table[name]).split())

    assert "fraction of tokens that are hidden" in read_words("objective", "mae")
    assert "of the file's frames" in read_words("encoder", "vit_small"), "handed on by **kwargs"
    partial = read_words("objective", "partial_mae")
    assert "of the target; mae_st: patch" in partial, "handed on to another file"
    assert "mae_st: random" not in partial, "its own, not its neighbour's"


def test_a_batch_that_micro_batches_cannot_share(argv):
    assert tells(refused([*argv, "--accumulate", "3"]), "--batch_size", "4", "3")


def test_an_incapable_encoder(argv):
    plain = [
        a
        for i, a in enumerate(argv)
        if not a.startswith("--encoder.") and not argv[i - 1].startswith("--encoder.")
    ]
    assert tells(refused([*plain, "--encoder", "r3d_18"]), "mae", "can_skip", "r3d_18")


def test_an_encoder_that_cannot_be_is_refused_before_films_are_drawn(tmp_path):
    words = ["--objective", "mae", "--encoder", "videoprism_tiny", "--encoder.heads", "7"]
    words += ["--data", "synthetic", "--data.root", str(tmp_path / "films"), "--steps", "1"]
    with pytest.raises(UserError, match=facts("128", "7 attention heads")):
        parse(pretrain, [*words, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "films").exists()


def test_a_recipe_is_the_same_flags(tmp_path, videos):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "objective: {name: mae, mask_ratio: 0.6}\nencoder: vit_tiny\n"
        "data: {name: folder}\nsteps: 7\n"
    )
    rest = ["--data.root", str(videos), "--out", "o"]
    got = parse(pretrain, ["--config", str(recipe), *rest, "--objective.dec_depth", "2"])
    assert (
        got["config"]["objective"]["mask_ratio"] == 0.6
        and got["config"]["objective"]["dec_depth"] == 2
    )
    assert got["config"]["encoder"]["name"] == "vit_tiny" and got["steps"] == 7
    recipe.write_text("objective: mae\nencoder: vit\ndata: folder\nstepz: 3\n")
    assert tells(refused(["--config", str(recipe), *rest]), "stepz")
    recipe.write_text("objective: mae\nencoder: vit\n")
    assert tells(refused(["--config", str(recipe), *rest]), "--data", "csv", "folder")
    recipe.write_text("objective: [\n")
    for file in (recipe, tmp_path / "absent.yaml"):
        assert tells(refused(["--config", str(file), *rest]), str(file))


def test_a_strangers_objective_is_a_plug_in(tmp_path, videos, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from objectives.mae import MAE\n\n\nclass Mine(MAE):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    got = parse(pretrain, pretrain_argv(videos, tmp_path / "o", "--objective", "mine:Mine"))
    assert got["config"]["objective"]["name"] == "mine:Mine"
    argv = pretrain_argv(videos, tmp_path / "o", "--objective", "absent:Mine")
    assert tells(refused(argv), "absent")


def test_help_lists_the_objectives_own_flags_and_works_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = command("ssvid.pretrain", "--objective", "mae", "--help")
    assert (
        result.returncode == 0
        and "mask_ratio" in result.stdout
        and "--checkpoint_every" in result.stdout
    )
    assert "vit_small" in result.stdout


def test_the_last_line_is_json_and_a_mistake_is_a_sentence(argv, tmp_path):
    result = command("ssvid.pretrain", *argv)
    assert json.loads(result.stdout.splitlines()[-1])["step"] == 6
    (tmp_path / "empty").mkdir()
    said = sentence(command("ssvid.pretrain", *argv, "--data.root", str(tmp_path / "empty")))
    assert tells(said, str(tmp_path / "empty"))


def test_settings_of_a_class_that_hands_others_on_to_the_class_above(tmp_path, monkeypatch):
    """Its annotations are texts, as with `from __future__ import annotations`."""
    (tmp_path / "pace.py").write_text(
        "from __future__ import annotations\n\nfrom objectives.mae import MAE\n\n\n"
        "class Pace(MAE):\n"
        "    def __init__(self, encoder, *, rate: float = 0.5, **others):  # of the pace\n"
        "        super().__init__(encoder, **others)\n"
    )
    monkeypatch.chdir(tmp_path)
    trust_modules("pace")
    page = format_entry_help("objective", "pace:Pace", registry.objectives["pace:Pace"])
    assert tells(page, "--objective.rate", "X", "0.5", "--objective.mask_ratio", "tokens")
    assert "--objective.encoder" not in page
