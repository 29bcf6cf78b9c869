"""Names on the command line, help, and one sentence for every mistake."""

import json
import re
from pathlib import Path

import pytest
import torch

from ssvid import registry
from ssvid.cli import parse
from ssvid.errors import UserError
from ssvid.flags import of_entry
from ssvid.pretrain import pretrain
from tests.helpers import command, for_each, pretrain_argv, sentence, tells


def refused(argv: list[str]) -> str:
    with pytest.raises(UserError) as error:
        pretrain(**parse(pretrain, argv))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def argv(videos: Path, tmp_path: Path) -> list[str]:
    return pretrain_argv(videos, tmp_path / "out")


def test_unknown_names_list_near_ones(argv):
    assert tells(refused([*argv, "--objective", "may"]), "may", "mae")
    assert tells(refused([*argv, "--encoder", "vit_smal"]), "vit_smal", "vit_small")
    assert tells(refused([*argv, "--data", "foldr"]), "foldr")


def test_unknown_keys_and_wrong_values_name_the_flag(argv):
    assert tells(refused([*argv, "--objective.mask_rati", "0.5"]), "--objective", "mask_rati")
    assert tells(refused([*argv, "--encoder.dimm", "5"]), "--encoder", "dimm")
    assert tells(refused([*argv, "--step", "3"]), "--step", "3", "--steps")
    assert tells(refused([*argv, "--steps", "many"]), "--steps", "many")
    assert tells(refused([*argv, "--encoder.depth", "x"]), "--encoder.depth", "x", "--help")
    assert "mask" in refused([*argv, "--objective.mask", "tubes"])


@for_each(
    "flag, value, said",
    [
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
def test_values_out_of_range(argv, tmp_path, flag, value, said):
    assert tells(refused([*argv, flag, value]), *said.split())
    assert not (tmp_path / "out").exists()


def test_a_recipe_with_a_key_that_is_no_flag(argv, tmp_path):
    (tmp_path / "r.yaml").write_text("colour: red\n")
    assert tells(refused(["--config", str(tmp_path / "r.yaml"), *argv]), "colour")


@for_each("kind", ["encoders", "objectives", "datasets"])
def test_every_registered_name_has_help(kind):
    """Its own flags, each comment behind a parameter its help."""
    for name in getattr(registry, kind).names():
        if not name.startswith("test_"):
            assert "--it." in of_entry("it", getattr(registry, kind)[name])
    assert "of tokens; 0.75 on UCF101" in " ".join(of_entry("objective", registry.objectives["mae"]).split())
    assert "of the file's frames" in of_entry("encoder", registry.encoders["vit_small"]), "handed on by **kwargs"
    partial = " ".join(of_entry("objective", registry.objectives["partial_mae"]).split())
    assert "of the target; mae_st: patch" in partial, "handed on to another file"
    assert "mae_st: random" not in partial, "its own, not its neighbour's"


def test_contradictions(argv):
    assert tells(refused([*argv, "--epochs", "1"]), "--steps", "--epochs")
    assert "exclude each other" in refused([*argv, "--clip.fps", "5", "--clip.stride", "2"])
    assert "take a multiple of 3" in refused([*argv, "--accumulate", "3"])
    assert tells(refused([*argv, "--objective.augment", "colourful"]), "colourful")


def test_an_incapable_encoder(argv):
    plain = [
        a for i, a in enumerate(argv) if not a.startswith("--encoder.") and not argv[i - 1].startswith("--encoder.")
    ]
    assert tells(refused([*plain, "--encoder", "r3d_18"]), "mae", "can_skip", "r3d_18")


def test_a_recipe_is_the_same_flags(tmp_path, videos):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("objective: {name: mae, mask_ratio: 0.6}\nencoder: vit_tiny\ndata: {name: folder}\nsteps: 7\n")
    rest = ["--data.root", str(videos), "--out", "o"]
    got = parse(pretrain, ["--config", str(recipe), *rest, "--objective.dec_depth", "2"])
    assert got["config"]["objective"]["mask_ratio"] == 0.6 and got["config"]["objective"]["dec_depth"] == 2
    assert got["config"]["encoder"]["name"] == "vit_tiny" and got["steps"] == 7
    recipe.write_text("objective: mae\nencoder: vit\ndata: folder\nstepz: 3\n")
    assert "stepz" in refused(["--config", str(recipe), *rest])
    recipe.write_text("objective: mae\nencoder: vit\n")
    assert re.search("--data is missing: choose one of .*csv, folder", refused(["--config", str(recipe), *rest]))
    recipe.write_text("objective: [\n")
    assert "cannot be read" in refused(["--config", str(recipe), *rest])
    assert "cannot be read" in refused(["--config", str(tmp_path / "absent.yaml"), *rest])


def test_a_strangers_objective_is_a_plug_in(tmp_path, videos, monkeypatch):
    (tmp_path / "mine.py").write_text("from objectives.mae import MAE\n\n\nclass Mine(MAE):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    got = parse(pretrain, pretrain_argv(videos, tmp_path / "o", "--objective", "mine:Mine"))
    assert got["config"]["objective"]["name"] == "mine:Mine"
    assert "cannot be imported" in refused(pretrain_argv(videos, tmp_path / "o", "--objective", "absent:Mine"))


def test_help_lists_the_objectives_own_flags_and_works_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = command("ssvid.pretrain", "--objective", "mae", "--help")
    assert result.returncode == 0 and "mask_ratio" in result.stdout and "--checkpoint_every" in result.stdout
    assert "vit_small" in result.stdout


def test_the_last_line_is_json_and_a_mistake_is_a_sentence(argv, tmp_path):
    result = command("ssvid.pretrain", *argv)
    assert json.loads(result.stdout.splitlines()[-1])["step"] == 6
    (tmp_path / "empty").mkdir()
    said = sentence(command("ssvid.pretrain", *argv, "--data.root", str(tmp_path / "empty")))
    assert "holds no video files" in said


@for_each(
    "text, said",
    [
        ("path,label,split\n0.mp4,a,train\nabsent.mp4,b,val\n", "1 of 2 files are missing, first absent.mp4"),
        ("path,label,split\n0.mp4,a,train\n1.mp4,b,exam\n", "split 'exam'"),
        ("path,label,split\n0.mp4,a,train\n0.mp4,b,val\n", "more than once, first 0.mp4"),
        ("path,label,split,group\n0.mp4,a,train,g\n1.mp4,a,val,g\n", "leaks"),
    ],
)
def test_bad_manifests(argv, videos, tmp_path, text, said):
    for name in ("0.mp4", "1.mp4"):
        (tmp_path / name).symlink_to(videos / name)
    (tmp_path / "rows.csv").write_text(text)
    assert said in refused([*argv, "--data", "csv", "--data.root", str(tmp_path / "rows.csv")])
