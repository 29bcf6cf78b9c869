"""The page of a run: made from a real one by the command, then from runs that are hostile, cut short or torn."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from benchmarks import report
from benchmarks.linear_probe import linear_probe
from benchmarks.reports import board, run_curves, run_page, run_pictures
from benchmarks.reports.run_pictures import Shot
from ssvid.data.manifest import Manifest
from ssvid.results import read_folder
from ssvid.results.run_files import read_metrics
from ssvid.shapes import Row
from tests.benchmarks.browser import PageReader, read_page
from tests.helpers import command, metrics, run_pretrain, tells


@pytest.fixture(scope="module")
def finished(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mine"
    run_pretrain(videos, out, "--picture_every", "2")
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "mine"))


def make_page(run: Path) -> PageReader:
    return read_page(Path(report.report(run)["run"]).read_text())


def test_the_command_makes_the_page_of_a_run(copy: Path):
    done = command("benchmarks.report", str(copy))
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"run": str(copy / "run.html")}
    page = read_page((copy / "run.html").read_text())
    assert page.tags["img"] == 1 + 2 * 3  # curves; clips, reconstruction
    config = yaml.safe_load((copy / "config.yaml").read_text())
    assert yaml.safe_dump(config, sort_keys=False) in page.text
    provenance = json.loads((copy / "provenance.json").read_text())
    origin = {text for _, text in run_page.origin(provenance)}
    assert {provenance[key] for key in ("hash", "torch", "cpu", "root")} <= origin
    assert run_page.said(config)  # what the objective says of its pictures
    rows, damaged = read_metrics(copy / "metrics.jsonl")
    cost = dict(run_page.cost(copy, rows, config, provenance, 6))
    assert (
        damaged == 0
        and "step_00000006.pt" in cost
        and cost["clips seen"].split()[:2] == ["24,", "2.4"]
    )


def test_every_number_of_the_log_has_its_curve(finished: Path):
    lines = metrics(finished)
    found = run_curves.curves(lines)
    names = [name for curve in found for name in (curve.name, *curve.also)]
    assert sorted(names) == sorted(
        {key for line in lines for key in line} - {"step", "cpu_s", "wall_s"}
    )
    assert names[:2] == ["loss", "mse"] and names[-2:] == ["clips_per_s", "data_wait"]
    (loss,) = (curve for curve in found if curve.name == "loss")
    assert loss.steps.tolist() == [1, 2, 3, 4, 5, 6] and loss.values[2] == lines[2 + 1]["loss"]
    figure = run_curves.panels(found)
    assert [axes.get_title("left") for axes in figure.axes[: len(found)]] == [
        curve.title for curve in found
    ]
    assert all(axes.get_xlim()[1] >= 6 and axes.lines for axes in figure.axes[: len(found)])


def test_accuracies_are_shares_and_smoothing_keeps_the_ends():
    rows = [
        {"step": i, "loss": 1.0, "nce": 1.0, "top1": 0.5, "probe/encoder/knn": i / 50, "lr": 2.0}
        for i in range(1, 41)
    ]
    found = {curve.name: curve for curve in run_curves.curves(rows)}
    assert list(found) == ["loss", "top1", "probe/encoder/knn", "lr"]
    assert (
        found["top1"].text(0.5) == "50.0 %"
        and found["probe/encoder/knn"].share
        and not found["loss"].share
    )
    assert found["probe/encoder/knn"].title == "online probe knn, encoder"
    values = found["probe/encoder/knn"].values
    smooth = run_curves.smoothed(values)
    assert smooth.shape == values.shape and np.allclose(smooth[5:-5], values[5:-5])
    assert np.allclose(run_curves.smoothed(np.ones(30)), 1)


def test_the_report_links_to_the_page(copy: Path, videos: Path, tmp_path: Path):
    splits = ("train", "val", "test")
    files = sorted(videos.glob("*.mp4"))
    rows = [
        Row(path=f.name, label="ab"[i % 2], split=splits[i % 3], group=str(i))
        for i, f in enumerate(files)
    ]
    options = {"cache": str(tmp_path / "cache"), "workers": 0, "min_steps": 4, "threads": 1}
    given = str(copy / "encoder.safetensors")  # a file inside the run tells of the run too
    linear_probe([given], Manifest.build(rows, videos), str(copy / "probe"), **options)
    names = ("report.html", "run_mine.html")
    results, page = (read_page((copy / "probe" / name).read_text()) for name in names)
    assert "run_mine.html" in results.places and "probe/report.html" not in page.places
    assert "probe/report.html" in make_page(copy).places
    moved = copy.rename(tmp_path / "there")
    assert (
        board.write_runs(read_folder(moved / "probe"), tmp_path) == {}
    )  # another name: not surely it
    (tmp_path / "new").mkdir()
    again = moved.rename(tmp_path / "new" / "mine")
    assert board.write_runs(read_folder(again / "probe"), tmp_path) == {"mine": "run_mine.html"}


def test_hostile_text_is_text(copy: Path):
    bad = "<script>alert(1)</script>"
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config |= {"data": {"name": bad, "root": bad}, "objective": {"name": bad + "'\""}, "out": bad}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    origin = json.loads((copy / "provenance.json").read_text())
    (copy / "provenance.json").write_text(json.dumps(origin | {"root": bad, bad: bad}))
    with open(copy / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 6, f'"{bad}': 1.0, "$x_{$": 2.0}) + "\n")
    with SummaryWriter(str(copy / "tensorboard")) as board:
        board.add_image(f'"{bad}', torch.zeros(3, 8, 8, dtype=torch.uint8), 6)
    (copy / 'x"><script>').mkdir()
    (copy / 'x"><script>' / "report.html").touch()
    page = make_page(copy)
    assert page.text.count("<script>") >= 7 and page.tags["img"] == 1 + 2 * 3 + 1


def test_damaged_lines_are_counted(copy: Path):
    file = copy / "metrics.jsonl"
    whole, _ = read_metrics(file)
    torn = b'{"step": 6, "loss": NaN, "note": "x"}\n\xff\n[1]\n{"loss": 1}\n{"step": null}\n{"step": 7, "lo'
    file.write_bytes(file.read_bytes() + torn)
    rows, damaged = read_metrics(file)
    assert damaged == 5 and rows[: len(whole)] == whole
    assert [curve.title for curve in run_curves.curves(rows)] == [
        curve.title for curve in run_curves.curves(whole)
    ]
    shutil.rmtree(copy / "tensorboard")
    file.write_text("")
    assert not make_page(copy).tags["img"]  # without steps and pictures


TORN = "objective: {}\nencoder: 3\nclip: {size: 0}\nsteps: x\nepochs: y\nbatch_size: 0\nrows: 1"


@pytest.mark.parametrize("text", ["", "[1", "\x00", TORN])
def test_torn_files_still_give_a_page(copy: Path, text: str):
    (copy / "config.yaml").write_text(text)
    (copy / "provenance.json").write_text(text)
    (copy / "encoder.json").unlink()
    (copy / "metrics.jsonl").write_text(text)
    for file in (copy / "tensorboard").iterdir():
        file.write_bytes(file.read_bytes()[:-100] if text else b"\xff" * 99)
    assert ("reconstruction" in make_page(copy).text) == bool(text)


def test_pictures_are_the_first_a_middle_and_the_last(tmp_path: Path):
    grey = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with SummaryWriter(str(tmp_path), filename_suffix=".1") as board:
        for step in range(1, 101):
            board.add_image("a", grey, step)
    with SummaryWriter(
        str(tmp_path), purge_step=91, filename_suffix=".2"
    ) as board:  # went on from step 90
        board.add_image("a", grey + 9, 95)
        board.add_image("b", grey, 95)
    found = run_pictures.read(tmp_path)
    first, middle, last = (shot.step for shot in found["a"])
    assert first == 1 and last == 95 and 40 <= middle <= 56
    assert [shot.step for shot in found["b"]] == [95]
    assert found["a"][-1].png != found["a"][0].png


def make_figure(*shape: int) -> str:
    picture = Image.fromarray(np.zeros((*shape, 3), np.uint8))
    return run_pictures.figure(Shot(1, run_pictures._encoded(picture, "png")), "x")


def test_small_pictures_are_enlarged_and_huge_ones_made_smaller():
    assert tells(make_figure(32, 96), "576", "image/png")  # of its width and form
    assert read_page(make_figure(500, 900)).attributes == {"alt", "src"}
    assert tells(make_figure(448, 4000), "image/jpeg")
    assert not read_page(run_pictures.figure(Shot(1, b"no picture"), "x")).tags["img"]


def test_long_clips_are_folded_frame_by_frame():
    pixels = np.repeat(np.arange(240, dtype=np.uint8).reshape(6, 40), 32, axis=0).repeat(32, axis=1)
    folded = np.asarray(run_pictures.fold(Image.fromarray(pixels).convert("RGB"), 32))[
        16::32, 16::32, 0
    ]
    first = [[*range(14)], [*range(14, 28)], [*range(28, 40), 255, 255]]
    assert folded[:3].tolist() == first
    assert folded[3:].tolist() == [[min(255, value + 40) for value in row] for row in first]
    for other in (np.zeros((32, 96, 3), np.uint8), np.zeros((33, 2000, 3), np.uint8)):
        assert run_pictures.fold(Image.fromarray(other), 32).size == other.shape[1::-1]
