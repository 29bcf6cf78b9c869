"""Runs on a mixture: killed, as two processes, in another place, with other weights."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml

from ssvid.cli import parse
from ssvid.errors import UserError
from ssvid.finetune import finetune
from ssvid.pretrain import pretrain
from tests.engine.pairs import Run, same_as_two
from tests.engine.two_mixture import train, write_corpora
from tests.helpers import facts, for_each, metrics, pretrain_argv, squares, write_video

LOSSES = ("loss", "loss/web", "loss/clean", "share/web", "share/clean")
STEPS = ("--steps", "24", "--checkpoint_every", "5", "--log_every", "4")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("corpora")
    for i in range(6):
        write_video(root / "web" / f"{i}.mp4", squares(i))
    for i in range(3):
        write_video(root / "clean" / f"{i}.mp4", squares(10 + i))
    return root


def list_words(corpora: Path, out: Path, order: str = "alternate", *words: str, **change) -> list:
    parts = {}
    for name in ("web", "clean"):
        parts[name] = {"name": "folder", "root": str(corpora / name), **change.get(name, {})}
    recipe = out.parent / f"{out.name}.yaml"
    recipe.write_text(yaml.safe_dump({"data": {"name": "mixture", "parts": parts}}))
    argv = pretrain_argv(corpora, out, *STEPS, *words)
    start = argv.index("--data")
    del argv[start : start + 4]
    return [*argv, "--config", str(recipe), "--data.order", order]


def run_here(*words, **options):
    return pretrain(**parse(pretrain, list_words(*words, **options)))


def read_losses(out: Path) -> list[list[float]]:
    lines = []
    for row in metrics(out):
        if "loss" in row:
            lines.append(list(map(row.get, LOSSES)))
    return lines


def read_weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "checkpoints" / "step_00000024.pt", weights_only=True)["model"]


@pytest.mark.slow  # of two runs and their parts
@for_each("order", ["alternate", "mix"])
def test_a_killed_run_goes_on_with_the_same_bits(corpora, tmp_path, order):
    run_here(corpora, tmp_path / "whole", order)
    argv = list_words(corpora, tmp_path / "killed", order)
    with Run(argv) as run:
        run.at(tmp_path / "killed", 12).send(signal.SIGKILL).ended()
    run_here(corpora, tmp_path / "killed", order)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert read_losses(whole) == read_losses(killed)
    weights = read_weights(killed)
    for name, value in read_weights(whole).items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.slow  # of two runs and their parts
@for_each("order", ["alternate", "mix"])
def test_two_processes_learn_from_the_batches_of_one(corpora, tmp_path, order):
    run_here(corpora, tmp_path / "one", order)
    argv = list_words(corpora, tmp_path / "two", order, "--devices", "cpu")
    with Run(argv, size=2) as run:
        for code, _, err in run.ended():
            assert code == 0, err[-2000:]
    one, two = read_losses(tmp_path / "one"), read_losses(tmp_path / "two")
    assert len(one) == len(two) == 6
    for first, second in zip(one, two, strict=True):
        assert first[3:] == second[3:]
        for a, b in zip(first[:3], second[:3], strict=True):
            assert (a is None) == (b is None) and (a is None or abs(a - b) < 1e-4)


@pytest.mark.slow  # of other processes
@for_each("order", ["alternate", "mix"])
def test_two_processes_train_video_text_on_a_mixture_as_one_does(order, tmp_path):
    """In float64, to 1e-6: the batches of films and of pictures, gradients, and the weights."""
    write_corpora(tmp_path)
    one = train(order, str(tmp_path))
    assert one["losses"].dtype == torch.float64 and len(one["losses"]) == 6
    argv = ("tests.engine.two_mixture", order, str(tmp_path))
    same_as_two(one, tmp_path / "two.pt", *argv)


def test_the_log_tells_the_loss_and_the_share_of_each_part(corpora, tmp_path):
    result = run_here(corpora, tmp_path / "run", web={"weight": 3, "cleanliness": "noisy"})
    assert {"share/web", "share/clean"} <= result.keys()
    names = set().union(*metrics(tmp_path / "run"))
    assert set(LOSSES) <= names
    shares = [row["share/web"] for row in metrics(tmp_path / "run") if "loss" in row]
    assert all(share in (0, 0.25, 0.5, 0.75, 1) for share in shares)
    assert 0.5 < sum(shares) / len(shares) < 1
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    web = provenance["mixture"]["parts"]["web"]
    assert (web["weight"], web["cleanliness"], web["root"]) == (3, "noisy", str(corpora / "web"))
    mixed = run_here(corpora, tmp_path / "mixed", "mix")
    assert "loss/web" not in mixed and mixed["share/web"] + mixed["share/clean"] == 1


def test_a_run_goes_on_elsewhere_but_not_with_other_weights(corpora, tmp_path):
    out = tmp_path / "run"
    run_here(corpora, out)
    shutil.copytree(corpora, tmp_path / "moved")
    again = run_here(tmp_path / "moved", out, "alternate", "--steps", "26")
    assert again["step"] == 26
    refused = (
        ("alternate", {"web": {"weight": 2}}, "data.parts.web.weight"),
        ("mix", {}, "data.order"),
    )
    for order, change, key in refused:
        with pytest.raises(UserError, match=facts("another run", key)):
            run_here(corpora, out, order, **change)
    (tmp_path / "moved" / "clean" / "0.mp4").unlink()
    with pytest.raises(UserError, match=facts("another run", "data")):
        run_here(tmp_path / "moved", out)


@for_each("change, words", [({"frames": 1}, ["web", "no token"]), ({"frames": 8}, [])])
def test_a_clip_that_the_encoder_cannot_take_is_refused_at_once(corpora, tmp_path, change, words):
    options = {"web": {"clip": change}}
    if not words:
        run_here(corpora, tmp_path / "run", "alternate", "--encoder.tubelet", "1", **options)
        return
    with pytest.raises(UserError, match=facts(*words)):
        run_here(corpora, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_small_part_is_told_where_batches_alternate(corpora, tmp_path, capfd):
    run_here(corpora, tmp_path / "run")
    assert "4 is more than the 3 training videos" in capfd.readouterr().err
    run_here(corpora, tmp_path / "mixed", "mix")
    assert "more than the" not in capfd.readouterr().err


def test_a_mixture_is_fine_tuned_on(tmp_path):
    parts = {}
    for part in ("one", "other"):
        for label in ("red", "blue"):
            for i in range(10):
                seed = 100 * (part == "one") + 10 * (label == "red") + i
                write_video(tmp_path / part / label / f"{label}_{part}_{i}.mp4", squares(seed))
        parts[part] = {"name": "folder", "root": str(tmp_path / part)}
    argv = ["--encoder", "vit_tiny", "--data", "mixture", "--data.parts", json.dumps(parts)]
    argv += ["--out", str(tmp_path / "run"), "--steps", "2", "--batch_size", "2", "--twins", "0"]
    argv += ["--clip.frames", "2", "--clip.size", "16", "--clip.stride", "1", "--workers", "0"]
    argv += ["--test_clips", "1", "--test_crops", "1", "--log_every", "1", "--data.order", "mix"]
    result = finetune(**parse(finetune, argv))
    assert 0 <= result["top1"] <= 1
    assert all("share/one" in row for row in metrics(tmp_path / "run") if "loss" in row)
