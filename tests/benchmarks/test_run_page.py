"""The page of a run: of a real one by the command, then of runs that are hostile or torn."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from benchmarks import report
from benchmarks.linear_probe import linear_probe
from benchmarks.reports import board, run_curves, run_page, run_pictures
from benchmarks.reports.page import Picture
from benchmarks.reports.run_pictures import Shot
from ssvid.data.manifest import Manifest
from ssvid.results import read_folder
from ssvid.results.run_files import read_mapping, read_metrics
from ssvid.shapes import Row
from tests.benchmarks.browser import LAYOUT, PageReader, measure_page, read_page
from tests.benchmarks.made import make_whole_result, pick, put
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


def head_of(run: Path) -> run_page.Head:
    config, provenance = read_mapping(run / "config.yaml"), read_mapping(run / "provenance.json")
    return run_page.head_of_run(run, config, provenance, run_page.read_results_inside(run))


def test_the_command_makes_the_page_of_a_run(copy: Path):
    done = command("benchmarks.report", str(copy))
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"run": str(copy / "run.html")}
    page = read_page((copy / "run.html").read_text())
    assert page.tags["img"] == 1 + 2 * 3  # curves; clips, reconstruction
    config = yaml.safe_load((copy / "config.yaml").read_text())
    assert yaml.safe_dump(config, sort_keys=False) in page.text
    provenance = json.loads((copy / "provenance.json").read_text())
    origin = dict(run_page.list_origin(provenance)).values()
    for key in ("hash", "torch", "cpu", "root"):
        assert provenance[key] in origin
    assert run_page.describe_pictures(config)  # what the objective says of its pictures
    rows, damaged = read_metrics(copy / "metrics.jsonl")
    cost = dict(run_page.list_cost(copy, rows, config, provenance, 6))
    assert damaged == 0 and "step_00000006.pt" in cost
    assert cost["clips seen"].split()[:2] == ["24,", "2.4"]


def test_the_head_and_the_summary_name_what_came_of_it(copy: Path):
    head, rows = head_of(copy), metrics(copy)
    date = run_page.date_of([copy / "metrics.jsonl"])
    assert tells(head.title, "mine", "mae") and tells(head.about, "10 videos", date)
    losses = [f"{row['loss']:.4g}" for row in rows if "loss" in row]
    (summary,) = run_page.summarise_run(run_curves.make_curves(rows), [])
    assert tells(summary, "loss", losses[0], losses[-1], "1", "6")
    probed = [{**row, "probe/encoder/knn": row["step"] / 10} for row in rows]
    (summary,) = run_page.summarise_run(run_curves.make_curves(probed), [])
    assert tells(summary, "online probe knn", "10.0 %", "60.0 %")
    result = make_whole_result("mine", "one")
    (put(copy / "probe", result) / "report.html").touch()
    assert "40 test clips" in head_of(copy).about
    summary = run_page.summarise_run([], run_page.read_results_inside(copy))[0]
    assert tells(summary, "mine", f"{100 * result.score.value:.1f}")
    (copy / "probe" / "torn.json").write_text("{")
    assert run_page.read_results_inside(copy) == []  # its own report says what is wrong


def test_every_number_of_the_log_has_its_curve(finished: Path):
    lines = metrics(finished)
    curves = run_curves.make_curves(lines)
    names, logged = [], set()
    for curve in curves:
        names += [curve.name, *curve.also]
    for line in lines:
        logged |= line.keys()
    assert sorted(names) == sorted(logged - {"step", "cpu_s", "wall_s"})
    assert names[:2] == ["loss", "mse"] and names[-2:] == ["clips_per_s", "data_wait"]
    loss = curves[0]
    assert loss.steps.tolist() == [1, 2, 3, 4, 5, 6] and loss.values[2] == lines[2 + 1]["loss"]
    panels = run_curves.draw_panels(curves).axes[: len(curves)]
    assert [axes.get_title("left") for axes in panels] == pick(curves, "title")
    assert all(axes.get_xlim()[1] >= 6 and axes.lines for axes in panels)


def test_the_online_probe_comes_first_and_shares_are_known():
    rows = []
    for i in range(1, 41):
        row = {"step": i, "loss": 1.0, "nce": 1.0, "top1": 0.5, "probe/encoder/knn": i / 50}
        rows.append({**row, "lr": 2.0})
    curve_list = run_curves.make_curves(rows)
    curves = dict(zip(pick(curve_list, "name"), curve_list, strict=True))
    assert list(curves) == ["probe/encoder/knn", "loss", "top1", "lr"]
    probe = curves["probe/encoder/knn"]
    assert curves["top1"].text(0.5) == "50.0 %" and probe.share and not curves["loss"].share
    assert probe.title == "online probe knn, encoder" and curves["loss"].also == ("nce",)
    smooth = run_curves.smooth_values(probe.values)
    assert smooth.shape == probe.values.shape and np.allclose(smooth[5:-5], probe.values[5:-5])
    assert np.allclose(run_curves.smooth_values(np.ones(30)), 1)


def test_the_report_links_to_the_page(copy: Path, videos: Path, tmp_path: Path):
    splits = ("train", "val", "test")
    rows = []
    for i, file in enumerate(sorted(videos.glob("*.mp4"))):
        rows.append(Row(path=file.name, label="ab"[i % 2], split=splits[i % 3], group=str(i)))
    options = {
        "cache": str(tmp_path / "cache"),
        "workers": 0,
        "min_steps": 4,
        "threads": 1,
        "twins": 2,
    }
    given_file = str(copy / "encoder.safetensors")  # a file inside the run tells of the run too
    linear_probe([given_file], Manifest.build(rows, videos), str(copy / "probe"), **options)
    results = read_page((copy / "probe" / "report.html").read_text())
    page = read_page((copy / "probe" / "run_mine.html").read_text())
    assert "run_mine.html" in results.addresses and "probe/report.html" not in page.addresses
    assert "probe/report.html" in make_page(copy).addresses
    moved = copy.rename(tmp_path / "there")
    # another name: not surely the same run
    assert board.write_run_pages(read_folder(moved / "probe"), tmp_path) == {}
    (tmp_path / "new").mkdir()
    again = moved.rename(tmp_path / "new" / "mine")
    pages = board.write_run_pages(read_folder(again / "probe"), tmp_path)
    assert pages == {"mine": "run_mine.html"}


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
    torn = b'{"step": 6, "loss": NaN, "note": "x"}\n\xff\n[1]\n{"loss": 1}\n{"step": null}\n'
    torn += b'{"step": 7, "lo'
    file.write_bytes(file.read_bytes() + torn)
    rows, damaged = read_metrics(file)
    assert damaged == 5 and rows[: len(whole)] == whole
    titles = [pick(run_curves.make_curves(lines), "title") for lines in (rows, whole)]
    assert titles[0] == titles[1]
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
    # a second start that went on from step 90
    with SummaryWriter(str(tmp_path), purge_step=91, filename_suffix=".2") as board:
        board.add_image("a", grey + 9, 95)
        board.add_image("b", grey, 95)
    pictures = run_pictures.read_pictures(tmp_path)
    first, middle, last = pick(pictures["a"], "step")
    assert first == 1 and last == 95 and 40 <= middle <= 56
    assert pick(pictures["b"], "step") == [95]
    assert pictures["a"][-1].png != pictures["a"][0].png


def show(
    pixels: np.ndarray, name: str = "x", frame: int | None = None
) -> run_pictures.ShownPicture:
    png = run_pictures.encode_image(Image.fromarray(pixels), "png")
    return run_pictures.show_picture(name, Shot(1, png), frame)


def blank(*shape: int) -> np.ndarray:
    return np.zeros((*shape, 3), np.uint8)


def picture_of(*shape: int) -> Picture:
    picture = show(blank(*shape)).picture
    assert picture is not None
    return picture


def test_small_pictures_are_enlarged_and_huge_ones_made_smaller():
    small = picture_of(32, 96)
    assert (small.width, small.pixelated) == (576, True) and small.url[:15] == "data:image/png;"
    plain = picture_of(500, 900)
    assert (plain.width, plain.pixelated) == (None, False)
    assert picture_of(448, 4000).url.startswith("data:image/jpeg;")
    assert run_pictures.show_picture("x", Shot(1, b"no picture"), None).picture is None


def test_steps_stand_side_by_side_unless_a_picture_is_broad():
    assert not show(blank(64, 6 * 16), "clips", 16).broad
    medium = show(blank(64, 7 * 16), "clips", 16)
    assert medium.half and not medium.broad and not show(blank(64, 6 * 16), "clips", 16).half
    assert not show(blank(64, 10 * 16), "clips", 16).broad
    assert show(blank(64, 11 * 16), "clips", 16).broad
    assert not show(blank(64, 600)).broad and show(blank(64, 601)).broad


def test_frames_have_gaps_and_rows_have_names():
    shown = show(blank(4 * 32, 3 * 32), "reconstruction")
    assert shown.rows == list(run_pictures.ROW_NAMES["reconstruction"]) and len(shown.rows) == 4
    assert shown.picture is not None and shown.picture.width == 3 * (3 * 33 - 1)  # enlarged thrice
    assert show(blank(4 * 32, 3 * 32), "another").rows == []
    assert show(blank(33, 50), "reconstruction").rows == []  # of no frames that we know
    assert len(show(blank(4 * 8, 20 * 8), "reconstruction").rows) == 8  # over two lines
    frames = run_pictures.cut_frames(Image.fromarray(blank(32, 64)), 32)
    joined = np.asarray(run_pictures.join_frames([frames[0]], gap=2))
    assert (
        joined.shape == (32, 66, 3)
        and (joined[:, 32:34] == 255).all()
        and joined.sum() == (255 * 32 * 2 * 3)
    )


def test_long_clips_are_folded_frame_by_frame():
    pixels = np.arange(240, dtype=np.uint8).reshape(6, 40).repeat(32, axis=0).repeat(32, axis=1)
    frames = run_pictures.cut_frames(Image.fromarray(pixels).convert("RGB"), 32)
    lines = run_pictures.clips_to_lines(frames)
    joined = np.asarray(run_pictures.join_frames(lines, gap=0))
    folded = joined[16::32, 16::32, 0]
    first = [[*range(14)], [*range(14, 28)], [*range(28, 40), 255, 255]]
    assert folded[:3].tolist() == first
    assert folded[3:].tolist() == np.minimum(255, np.array(first) + 40).tolist()
    rows = run_pictures.rows_to_lines(frames[:2])
    assert [line[0, 0, 0, 0] for line in rows] == [0, 40, 14, 54, 28, 68]
    assert run_pictures.lines_of(3) == (1, 3)
    assert not run_pictures._has_frames(Image.fromarray(blank(33, 2000)), 32)


@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_it_whole(copy: Path, width: int):
    layout: dict[str, Any] = measure_page(Path(report.report(copy)["run"]), LAYOUT, width)
    assert layout == {"images": 1 + 2 * 3, "broken": 0, "wide": 0, "out": 0}
