"""The runner as a user starts it: a file for each cell, and failing cells are reported."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.run import run
from benchmarks.suites.loader import FOLDER, load, open_manifest
from benchmarks.suites.runner import advise_probe
from ssvid import create_encoder
from ssvid.encoder import Encoder
from ssvid.errors import UserError
from ssvid.results import Fold
from tests.helpers import command, facts, for_each, sentence, tells

SUITE = """
cells:
  - {task: classify, probe: prototypes}
  - {task: retrieval, ks: [1, 5]}
  - {task: classify, probe: attentive, with: {heads: 2, rates: [0.001], epochs: 1, min_steps: 2}}
  - {task: few_shot, probe: prototypes, shots: [1, 500], main: 500, name: too_many}
  - {task: order, probe: prototypes}
"""
SMALL = "train: 24, val: 12, test: 24"
NET = ["--encoder", "tests.benchmarks.test_run:tiny_vit", "--twins", "2"]


def tiny_vit(**kwargs) -> Encoder:
    from ssvid.encoders.vit import ViT

    sizes = {"dim": 24, "depth": 2, "heads": 2, "patch": 8, "frames": 6, "stride": 1, "size": 16}
    return ViT(**{**sizes, **kwargs})


def argv(out: Path, cache: Path, suite: str) -> list[str]:
    data = f"--data synthetic --data.root {cache} --data.train 24 --data.val 12 --data.test 24"
    flags = f"--suite {suite} --out {out} --cache {cache} --workers 0 --threads 1"
    return [*NET, *data.split(), *flags.split()]


def list_times(folder: Path, pattern: str) -> dict[Path, int]:
    """When each file was written."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob(pattern)}


def ask(folder: Path, suite: str, *words: str) -> tuple[Any, dict[str, Any]]:
    """The command with a suite of its own, and its last line."""
    (folder / "s.yaml").write_text(suite)
    argv = [*words, "--suite", str(folder / "s.yaml"), "--out", str(folder / "o")]
    result = command("benchmarks.run", *argv, "--workers", "0", "--threads", "1")
    assert "Traceback" not in result.stderr, result.stderr[-2000:]
    return result, json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("bench")
    (folder / "suite.yaml").write_text(SUITE)
    words = argv(folder / "out", folder / "cache", str(folder / "suite.yaml"))
    return folder, words, command("benchmarks.run", *words)


def test_each_cell_is_a_file_and_a_failing_one_is_told_of(done):
    folder, _, result = done
    assert result.returncode == 3 and "Traceback" not in result.stderr, result.stderr[-2000:]
    last = json.loads(result.stdout.splitlines()[-1])
    assert [row["cell"] for row in last["failed"]] == ["too_many"]
    assert tells(last["failed"][0]["why"], "500")
    cells = {"classify.prototypes", "classify.attentive", "retrieval", "order.prototypes"}
    assert {row["cell"] for row in last["results"]} == cells
    for file in (folder / "out").glob("*.json"):
        results = json.loads(file.read_text())
        metric = results["metric"]
        assert results["interval"][0] <= results[metric] <= results["interval"][1]
        assert (
            {"random", "floor"} <= results["controls"].keys()
            and results["protocol_hash"]
            and results["command"]
        )


def test_what_is_there_is_not_made_again(done):
    folder, words, _ = done
    before = list_times(folder / "out", "*.json")
    again = command("benchmarks.run", *words)
    assert again.returncode == 3 and list_times(folder / "out", "*.json") == before
    other = command("benchmarks.run", *words, "--clips", "2")
    assert tells(other.stderr, "--out", "protocol") and "Traceback" not in other.stderr


@pytest.mark.slow
def test_views_and_seeds(done, tmp_path: Path):
    """Two clips of two crops each: four views of a clip, whose scores are averaged."""
    _, words, _ = done
    views = ["--seeds", "2", "--clips", "2", "--crops", "2", "--average", "scores"]
    cells = "cells: [{task: classify, probe: knn}, {task: retrieval}]"
    result, _ = ask(tmp_path, cells, *words, *views)
    assert result.returncode == 0, result.stderr[-2000:]
    results = json.loads(
        (tmp_path / "o" / "tests.benchmarks.test_run_tiny_vit.classify.knn.json").read_text()
    )
    assert (
        results["protocol"]["clip"]["crops"] == 2
        and results["seeds"] == [0, 1]
        and len(results["of_seeds"]) == 2
    )
    assert len(results["test"]["labels"]) == 24 == len(results["test"]["predictions"]["encoder"])
    assert results["controls"]["random"]["std_over_seeds"] == 0  # nothing is drawn in this probe


@pytest.mark.slow
def test_seconds_and_boxes_of_films(tmp_path: Path):
    """Several classes, segments and boxes from files to tables; a second run computes nothing."""
    sizes = "train: 8, val: 4, test: 6, actors: 2, scenes: 2"
    films = f"{{name: synthetic_films, root: {tmp_path}/set, {sizes}}}"
    quick = "probe: linear, with: {rates: [30.0], min_steps: 40}, data: films"
    names = ("multi_label", "localisation", "detection")
    cells = ", ".join(f"{{task: {task}, {quick}}}" for task in names)
    suite = f"sets: {{films: {films}}}\ncells: [{cells}]"
    words = [*NET, "--cache", str(tmp_path / "c")]
    result, _ = ask(tmp_path, suite, *words)
    assert result.returncode == 0, result.stderr[-2000:]
    results, pooled = {}, {}
    for file in (tmp_path / "o").glob("*.linear.json"):
        results[file.name.split(".")[-3]] = json.loads(file.read_text())
    assert results.keys() == set(names)
    for task, result in results.items():
        assert result["metric"] == "map" and len(result["per_class"]) == 4
        assert len(result["test"]["of_groups"]["random"]) == len(result["test"]["groups"])
        assert result["data"]["set"]["name"] == "synthetic_films", task
        assert result["data"]["clips"]["test"] == 6, task
        pooled[task] = {setting["pooling"].split("@")[0] for setting in result["grid"]}
    assert results["detection"]["test"]["units"] > results["multi_label"]["test"]["units"] == 6
    assert (
        pooled["localisation"] == {"mean"} == set(results["localisation"]["protocol"]["poolings"])
    )
    assert (
        pooled["detection"] == {"box", "slots"} == set(results["detection"]["protocol"]["poolings"])
    )
    times = list_times(tmp_path / "c", "*.safetensors")
    again, _ = ask(tmp_path, suite, *words)
    assert again.returncode == 0 and times == list_times(tmp_path / "c", "*.safetensors")
    assert "detection" in (tmp_path / "o" / "board.md").read_text()


@for_each(
    "text, fact",
    [
        ("cells: []", "`cells`"),
        ("cells: [{probe: knn}]", "task"),
        ("cells: [{task: clasify, probe: knn}]", "clasify | classify"),
        ("cells: [{task: classify}]", "classify"),
        ("cells: [{task: classify, probe: knn, ks: 3}]", "classify | ks"),
        ("cells: [{task: classify, probe: knn}, {task: classify, probe: knn}]", "classify.knn"),
        ("cells: [{task: retrieval, data: ucf101}]", "--datasets"),
        ("cells: [{task: classify, probe: [knn]}]", "`probe`"),
        ("cells: [{task: classify, probe: knn, with: 3}]", "`with`"),
        ("cells: [{task: classify, probe: knn, data: [3]}]", "`data`"),
        ("{data: {name: synthetic, at_most: {fps: 3}}, cells: [{task: retrieval}]}", "`sets`"),
        ("{sets: {a: {name: ucf101, folds: 3}}, cells: [{task: retrieval, data: a}]}", "`sets`"),
        ("cells: [{task: classify, probe: knn, with: {ks: []}}]", "--ks | 0"),
        ("{sets: {a: 3}, cells: [{task: retrieval, data: a}]}", "`sets` | `name`"),
        (
            "{sets: {a: {name: ucf101, folds: [1]}}, cells: [{task: retrieval, data: a}]}",
            "DIR/ucf101",
        ),
        ("cells: [{task: localisation, probe: linear, smooth: [2]}]", "smooth"),
        ("cells: [{task: 3}]", "task"),
        ("cells: [{task: retrieval, probe: knn}]", "retrieval"),
        ("cells: [{task: retrieval, name: a/b}]", "name"),
        ("cells: [{task: few_shot, probe: knn, shots: 4}]", "few_shot"),
        ("cells: [{task: few_shot, probe: knn, shots: [0, 4]}]", "--shots | 0"),
        ("cells: [{task: classify, probe: linear, with: {epochs: -3}}]", "-3 | 0"),
        ("cells: [{task: classify, probe: linear, with: {epochs: many}}]", "linear | epochs"),
        ("cells: [{task: detection, probe: attentive}]", "probe"),
        ("{colour: blue, cells: [{task: retrieval}]}", "colour"),
        ("{", "s.yaml"),
    ],
)
def test_a_bad_suite_is_one_sentence(text: str, fact: str, tmp_path: Path):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=facts(*fact.split(" | "))):
        run(
            ["vit_tiny"], str(tmp_path / "out"), suite=str(tmp_path / "s.yaml"), cache=str(tmp_path)
        )


def test_mistakes_of_a_user_are_one_sentence(tmp_path: Path):
    """The data set is optional here, and jsonargparse lists why no type of the union fits."""
    words = ["--encoder", "vit_tiny", "--out", str(tmp_path / "o")]
    assert tells(sentence(command("benchmarks.run", *words, "--suite", "mimi")), "mimi", "mini")
    words += ["--data", "folder", "--data.root", str(tmp_path / "no")]
    assert tells(sentence(command("benchmarks.run", *words)), f"{tmp_path}/no")


def test_a_cell_on_a_set_with_folds_is_one_for_each(tmp_path: Path):
    sets = "{short: {name: hmdb51, root: hm, splits: hm/lists, folds: [1, 2, 3]}}"
    (tmp_path / "s.yaml").write_text(f"sets: {sets}\ncells: [{{task: retrieval, data: short}}]")
    cells, _ = load(str(tmp_path / "s.yaml"))
    assert [cell.name for cell in cells] == [f"short.retrieval.fold{n}" for n in (1, 2, 3)]
    assert cells[1].data["fold"] == 2 and cells[1].fold == Fold(
        cell="short.retrieval", number=2, folds=[1, 2, 3]
    )
    with pytest.raises(UserError, match=f"{tmp_path}/sets/hm"):
        open_manifest(cells[0].data, str(tmp_path / "sets"))


def test_a_cell_that_cannot_be_asked_costs_itself_alone(done, tmp_path: Path):
    """An unknown task, a value of the wrong type and a half-written result are reported.

    The other cells still run.
    """
    _, words, _ = done
    cells = (
        "{task: clasify, probe: knn}, {task: classify, probe: knn, with: {ks: many}, name: odd}, "
    )
    cells += "{task: retrieval, ks: [1]}, {task: retrieval, ks: [1], name: half}"
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "tests.benchmarks.test_run_tiny_vit.half.json").write_text('{"kind": "bench')
    nets = ["--encoder", str(tmp_path / "nothing")]
    result, last = ask(tmp_path, f"cells: [{cells}]", *nets, *words)
    assert result.returncode == 3
    why = {}
    for row in last["failed"]:
        why[row["encoder"], row["cell"]] = row["why"]
    (net,) = {encoder for encoder, _ in why} - {"nothing", ""}
    assert (tmp_path / "o" / f"{net}.retrieval.json").exists()
    assert tells(why[net, "cell 1"], "clasify") and tells(why[net, "odd"], "ks")
    assert tells(why[net, "half"], f"{net}.half.json")
    assert tells(why["", "report"], f"{net}.half.json")
    assert tells(why["nothing", "retrieval"], "nothing")


def test_a_data_set_that_is_not_there_fails_its_cells_alone(done, tmp_path: Path):
    folder, _, _ = done
    small = f"{{name: synthetic, root: {folder}/cache, {SMALL}}}"
    sets = f"{{gone: {{name: folder, root: nowhere}}, small: {small}}}"
    cells = "{task: retrieval, data: gone}, {task: retrieval, data: small}, "
    cells += "{task: localisation, probe: linear, data: small}"
    words = [*NET, "--datasets", str(tmp_path), "--cache", str(folder / "cache")]
    result, last = ask(tmp_path, f"sets: {sets}\ncells: [{cells}]", *words)
    assert result.returncode == 3
    why = {row["cell"]: row["why"] for row in last["failed"]}
    assert [row["cell"] for row in last["results"]] == ["small.retrieval"]
    assert tells(why["gone.retrieval"], "nowhere")
    assert tells(why["small.localisation.linear"], "segments")


def test_the_docs_state_every_cell_of_ours_with_its_hash():
    """A changed protocol must be documented: results of another hash do not compare."""
    docs = (FOLDER.parents[1] / "docs" / "protocols" / "suites.md").read_text()
    for file in sorted(FOLDER.glob("*.yaml")):
        cells, broken = load(file.stem)
        assert cells and not broken
        for cell in cells:
            name = cell.fold.cell if cell.fold else cell.name
            assert f"| `{file.stem}` | `{name}` | `{cell.hash}` |" in docs


def test_an_encoder_whose_mean_misleads_says_so_of_other_probes_alone():
    encoder = SimpleNamespace(streams=[SimpleNamespace(net=create_encoder("videoprism_tiny"))])
    plain = SimpleNamespace(streams=[SimpleNamespace(net=create_encoder("vit_tiny"))])
    for probe, notes in (("linear", 1), ("knn", 1), ("attentive", 0), (None, 0)):
        cell = SimpleNamespace(settings={"task": "classify", "probe": probe})
        assert len(advise_probe(encoder, cell)) == notes and not advise_probe(plain, cell)
