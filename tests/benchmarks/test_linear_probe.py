"""The command linear_probe on one data set: its numbers are those of the probe alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.features.bench import extract_bench
from benchmarks.features.evaluated_encoder import open_evaluated_encoder
from benchmarks.features.options import FeatureOptions
from benchmarks.features.sources import (
    CONTROLS,
    FrozenNet,
    SourceMaker,
    choose_layers,
    list_sources,
)
from benchmarks.linear_probe import linear_probe
from benchmarks.reports.verdict import over_floor, over_untrained, use_of_time, verdict
from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.engine.train_flags import UNCHANGED, ClipChange
from ssvid.errors import UserError
from ssvid.hub import create_encoder
from ssvid.registry import encoders, probes
from ssvid.results import Leak, read_folder, read_result
from ssvid.results.provenance import check_leak, make_titles
from ssvid.shapes import Row
from ssvid.statistics import compare_rows, sum_by_group
from ssvid.weights.encoders import save_encoder
from tests.benchmarks.made import make_gain, old_result
from tests.helpers import facts, tells, write_video
from tests.nn.test_batchnorm import Norms

SOURCES = ("encoder", "twin0", "pixels", "encoder/single_frame", "encoder/shuffled")
SMALL = {"dim": 24, "depth": 4, "heads": 2, "patch": 8, "frames": 4, "stride": 1, "size": 16}


@encoders.register("test_no_statistics")
def no_statistics() -> Encoder:
    return Norms(track=False)


def frames(colour: tuple[int, int, int], seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 60, (6, 32, 32, 3))
    return (noise + np.array(colour)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Red and green clips; one file is damaged."""
    root, rows = tmp_path_factory.mktemp("clips"), []
    for split, count in (("train", 8), ("val", 6), ("test", 12)):
        for i in range(count):
            label = ("green", "red")[i % 2]
            path = f"{split}_{i}.mp4"
            write_video(
                root / path, frames((180, 40, 40) if label == "red" else (40, 180, 40), len(rows))
            )
            rows.append(Row(path=path, label=label, split=split, group=f"{split}_{i // 3}"))
    (root / "train_0.mp4").write_bytes(b"no video")
    return Manifest.build(rows, root)


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    torch.manual_seed(3)
    run = folder / "runs" / "mine"
    save_encoder(create_encoder("vit", **SMALL), run, "encoder", {})
    rows = []
    for row in data.split("train").rows:
        rows.append([row.path, row.label, row.split, row.group, row.video_id])
    rows.append(["test_3.mp4", None, "train", "", ""])  # pretraining cheated
    (run / "provenance.json").write_text(json.dumps({"root": str(data.root), "rows": rows}))
    config = {
        "encoder": [str(run)],
        "data": {"name": "csv", "root": "clips"},
        "seed": 1,
        "threads": None,
    }
    out = folder / "out"
    options = {
        "cache": str(folder / "cache"),
        "workers": 0,
        "min_steps": 10,
        "seed": 1,
        "twins": 2,
        "config": config,
    }
    printed = linear_probe([str(run)], data, str(out), **options)
    return printed, {result.cell: result for result in read_folder(out).values()}, out, run, options


def list_poolings(score):
    return {setting["pooling"] for setting in score.details["grid"]}


def list_times(folder):
    return {file: file.stat().st_mtime_ns for file in folder.glob("*.json")}


def test_a_result_holds_all_that_a_reader_asks(done):
    printed, results, out, _, _ = done
    result = results["classify.linear"]
    assert set(results) == {"classify.linear", "classify.knn", "retrieval"}
    assert result.score.value == 1.0 and result.chance == 0.5
    assert result.score.interval[0] < 0.8  # four groups of three say little, although all are right
    assert set(result.controls) == set(CONTROLS)
    assert set(result.gains) == {"random", "floor", "single_frame", "bag", "shuffled", "time"}
    assert result.data.clips == {"train": 7, "val": 6, "test": 12} and result.data.bad_files == 1
    assert result.data.groups["test"] == 4 and result.data.set == {"name": "csv", "root": "clips"}
    poolings = {"mean@last", "time@last", "grid@last", "mean@2", "time@2", "grid@2"}
    assert list_poolings(result.score) == poolings
    descriptors = {"colour8", "first32", "motion", "cube8", "differences", "phase"}
    assert list_poolings(result.controls["floor"]) == descriptors
    assert result.protocol["layers_choice"] == "auto" and result.protocol["twins"] == 2
    assert result.ledger == 1 and not result.notes
    # 8 tokens: linear layers, then attention.
    products = 2 * 8 * 24 * (12 * 24 * 4 + 3 * 2 * 64) + 4 * 4 * 8 * 8 * 24
    assert result.cost.gflops_per_clip == pytest.approx(products / 1e9, rel=0.01)
    words = f"--encoder {done[3]} --data csv --data.root clips --seed 1"
    assert result.command == f"python -m benchmarks.linear_probe {words}"
    assert len(results["retrieval"].strips) == 4
    (row,) = printed["results"]
    # Its interval is that of the whole table, by Holm's rule.
    assert row["gain_over_random"]["difference"] == result.gains["random"].difference
    assert row["majority"] == 0.5
    assert row["controls"] == {name: score.value for name, score in result.controls.items()}
    assert printed["report"] == str(out / "report.html") and printed["exit_code"] == 0


def test_its_numbers_are_those_of_the_probe_on_the_features(done, data):
    """Of each row the mean over its nets, by the probe on the cached features."""
    _, results, _, run, options = done
    feature_options = FeatureOptions(cache=options["cache"], workers=0, seed=1, twins=2)
    sources = {row: list_sources(row, 2) for row in ("encoder", *CONTROLS)}
    encoder = open_evaluated_encoder(str(run), "mine", UNCHANGED, "auto")
    features = extract_bench(encoder, data, feature_options, sum(sources.values(), []))
    labels, groups = features.labels[features.splits["test"]], features.get_groups("test")
    for cell, probe in (("linear", probes["linear"](min_steps=10)), ("knn", probes["knn"]())):
        right = {}
        for row, score in results[f"classify.{cell}"].rows.items():
            row_probe = probes["floor"]() if row == "floor" else probe
            of_nets, answers = [], []
            for source in sources[row]:
                answers.append(row_probe.run(*features.get_splits(source), 1))
                of_nets.append((answers[-1].predictions == labels).double())
            right[row] = torch.stack(of_nets).mean(0)
            assert score.value == pytest.approx(right[row].mean().item())
            val_scores = [answer.metrics["val/top1"] for answer in answers]
            assert score.details["val_top1"] == pytest.approx(sum(val_scores) / len(val_scores))
            assert score.details["chosen"] == answers[0].chosen
            assert (score.of_nets is not None) == (len(sources[row]) > 1)
        for row, gain in results[f"classify.{cell}"].gains.items():
            if row != "time":
                expected = (right["encoder"] - right[row]).mean().item()
                assert gain.difference == pytest.approx(expected, abs=1e-6)
        alone = compare_rows(*(sum_by_group(right[row], groups) for row in ("encoder", "shuffled")))
        assert results[f"classify.{cell}"].gains["shuffled"].p == pytest.approx(alone.p)


def test_the_verdict_follows_the_numbers(done):
    _, results, _, _, _ = done
    result = results["classify.linear"]
    assert result.leak == Leak(checked=True, clips=1, first=["test_3.mp4"])
    assert not result.gains["random"].shown  # pixels tell all: its untrained twin does as well
    assert len(verdict(result)) > len(verdict(replace(result, leak=Leak(checked=True))))
    better, worse = make_gain(0.1, 0.05, 0.2), make_gain(-0.1, -0.2, -0.05)
    unclear = make_gain(0.0, -1.0, 1.0)
    for say, row in ((over_untrained, "random"), (over_floor, "floor")):
        sentences = []
        for gain in (better, unclear, worse):
            sentences.append(say(replace(result, gains={**result.gains, row: gain})))
        assert sentences[0] != sentences[1] and sentences[0] != sentences[2], row
    random = replace(result, encoder=replace(result.encoder, weights="random"))
    assert over_untrained(random) != over_untrained(result)
    assert use_of_time(result) != use_of_time(
        replace(result, gains=dict.fromkeys(result.gains, better))
    )


@pytest.mark.slow
def test_a_result_of_something_else_is_not_overwritten(done, data, tmp_path, monkeypatch):
    """Before any work: no cache is made. The page is left out here, which would take seconds."""
    monkeypatch.setattr("benchmarks.reports.board.write_board", lambda folder: folder)
    _, _, out, run, options = done
    times = list_times(out)
    linear_probe([str(run)], data, str(out), **options)
    assert list_times(out) == times  # existing results are not made again
    fewer = data.take([*range(7), *range(8, len(data))])
    other = tmp_path / "runs" / "mine"
    save_encoder(create_encoder("vit", **SMALL), other, "encoder", {})
    none = {**options, "cache": str(tmp_path / "c")}
    for encoder, rows, change, parts in (
        (run, fewer, {}, ["data"]),
        (other, data, {}, ["encoder"]),
        (run, data, {"seed": 2}, ["protocol"]),
        (run, data, {"calibrate_bn": 8}, ["protocol"]),
        (other, fewer, {"clips": 2}, ["data", "encoder", "protocol"]),
    ):
        failed = linear_probe([str(encoder)], rows, str(out), **none | change)["failed"]
        assert len(failed) == 3 and all(tells(row["why"], "--out", *parts) for row in failed)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.json").write_text(json.dumps(old_result("linear_probe")))
    with pytest.raises(UserError, match=facts("--out")):
        linear_probe([str(run)], data, str(tmp_path / "out"), **none)
    assert not (tmp_path / "c").exists()


def test_flags_that_cannot_be(data, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").touch()
    wrong = {
        "clips": 0,
        "batch_size": 0,
        "workers": -1,
        "calibrate_bn": -1,
        "twins": 1,
        "threads": 0,
        "devices": "cuda",
    }
    for name, value in {**wrong, "out": "FILE", "cache": "FILE"}.items():
        with pytest.raises(UserError, match=facts(f"--{name}", str(value))):
            linear_probe(
                ["test_no_statistics"],
                data,
                **{"out": "o", "cache": "c", "workers": 0, name: value},
            )
    refused = linear_probe(
        ["test_no_statistics", "vit_tiny"], data, "o", cache="c", workers=0, clip=ClipChange(size=0)
    )
    assert len(refused["failed"]) == 6 and not (tmp_path / "c").exists()


def test_batch_norm_is_measured_where_asked(data, tmp_path):
    options = {"cache": str(tmp_path / "c"), "workers": 0, "min_steps": 20, "seed": 1}
    refused = linear_probe(["test_no_statistics"], data, str(tmp_path / "none"), **options)
    assert refused["exit_code"] == 3 and tells(refused["failed"][0]["why"], "--calibrate_bn")
    linear_probe(["test_no_statistics"], data, str(tmp_path), calibrate_bn=6, **options)
    result = read_result(tmp_path / "test_no_statistics.classify.linear.json")
    assert result.score.value == 1.0 and result.protocol["calibrate_bn"] == 6


def test_a_layer_that_is_none_is_refused():
    with pytest.raises(UserError, match=facts("1", "4")):
        choose_layers(create_encoder("vit", **SMALL), [5])


def test_sources_know_themselves_apart():
    """A cached feature must never be taken for another one."""
    net = create_encoder("vit", **SMALL)
    nets = {"encoder": FrozenNet("a", lambda: net), "twin0": FrozenNet("b", lambda: net)}
    keys: set[str] = set()
    for seed in (0, 1):
        sources = SourceMaker(nets, (2,), ("mean",), seed).make_all(SOURCES)
        keys.update(source.key for source in sources)
    assert len(keys) == 6  # only the shuffled frames depend on the seed
    last_layer = SourceMaker(nets, (), ("mean",), 2).make_all(SOURCES)
    assert keys & {source.key for source in last_layer} == {"pixels version 2"}


def test_titles_and_leaks(data):
    encoders = ["runs/a", "runs/b/encoder.safetensors", "x/a", "vit_tiny", "z/a"]
    assert make_titles(encoders) == ["a", "b", "a_2", "vit_tiny", "a_3"]
    assert make_titles(["runs/rgb", "runs/flow", "runs/rgb+runs/flow"]) == [
        "rgb",
        "flow",
        "rgb+flow",
    ]
    assert check_leak("vit_tiny", data) == Leak(checked=False)
