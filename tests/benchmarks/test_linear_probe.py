import json
import re

import av
import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import report, results
from benchmarks.linear_probe import linear_probe, titles
from benchmarks.sources import chosen_layers, make_sources
from ssvid.data.manifest import Manifest, labelled
from ssvid.encoder import Encoder, create_encoder
from ssvid.engine.run import ClipChange
from ssvid.errors import UserError
from ssvid.registry import encoders
from ssvid.results import leak
from ssvid.shapes import ClipSpec, Features, Grid, Row
from ssvid.weights import save_encoder
from tests.helpers import facts, for_each

OWN = ("encoder", "random", "pixels", "encoder/single_frame", "encoder/shuffled")
SMALL = {"dim": 24, "depth": 4, "heads": 2, "patch": 8, "frames": 4, "stride": 1, "size": 16}


@encoders.register("test_no_statistics")
class NoStatistics(Encoder):
    dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.spec = ClipSpec(frames=4, stride=1, size=16)
        self.norm = nn.BatchNorm3d(3, track_running_stats=False)

    def grid(self, T, H, W):
        return Grid(T, H, W)

    def forward(self, clip, keep=None, layers=None):
        tokens = self.norm(clip).flatten(2).transpose(1, 2)
        return Features(tokens, tokens.mean(1), self.grid(*clip.shape[2:]))


def video(path, colour, seed):
    noise = np.random.default_rng(seed).integers(0, 60, (6, 32, 32, 3))
    frames = (noise + np.array(colour)).clip(0, 255).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Red and green clips; one file is damaged."""
    root, rows = tmp_path_factory.mktemp("clips"), []
    for split, count in (("train", 8), ("val", 6), ("test", 12)):
        for i in range(count):
            label = ("green", "red")[i % 2]
            path = f"{split}_{i}.mp4"
            video(root / path, (180, 40, 40) if label == "red" else (40, 180, 40), len(rows))
            rows.append(Row(path=path, label=label, split=split, group=f"{split}_{i // 3}"))
    (root / "train_0.mp4").write_bytes(b"no video")
    return Manifest.build(rows, root)


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    torch.manual_seed(3)
    run = folder / "runs" / "mine"
    save_encoder(create_encoder("vit", **SMALL), run, "encoder", {})
    rows = [[row.path, row.label, row.split, row.group, row.video_id] for row in data.split("train").rows]
    rows.append(["test_3.mp4", None, "train", "", ""])  # pretraining cheated
    (run / "provenance.json").write_text(json.dumps({"root": str(data.root), "rows": rows}))
    config = {"encoder": [str(run)], "data": {"name": "csv", "root": "clips"}, "seed": 1, "threads": None}
    out = folder / "out"
    options = {"cache": str(folder / "cache"), "workers": 0, "min_steps": 40, "seed": 1, "config": config}
    printed = linear_probe([str(run)], data, str(out), **options)
    (run / "options.json").write_text(json.dumps(options))
    return printed, json.loads((out / "mine.json").read_text()), out


def test_a_result_holds_all_that_a_reader_asks(done):
    printed, result, out = done
    assert result["top1"] == 1.0 and result["chance"] == 0.5 and result["majority"] == 0.5
    assert result["interval"][0] < 0.8  # four groups of three say little, although all are right
    assert set(result["controls"]) == {"random", "pixels", "single_frame", "shuffled"} == set(result["gains"])
    assert all({"top1", "interval", "chosen"} <= set(row) for row in result["controls"].values())
    assert result["data"]["clips"] == {"train": 7, "val": 6, "test": 12} and result["data"]["bad_files"] == 1
    assert result["data"]["groups"]["test"] == 4
    assert result["confusion"] == [[6, 0], [0, 6]]
    poolings = {setting["pooling"] for setting in result["grid"]["encoder"]}
    assert poolings == {f"{p}@{layer}" for p in ("mean", "time", "grid") for layer in ("last", "2")}
    assert {setting["pooling"] for setting in result["grid"]["pixels"]} == {"colour8", "first32", "motion", "cube8"}
    assert len(result["grid"]["shuffled"]) == len(result["grid"]["encoder"])
    products = 2 * 8 * 24 * (12 * 24 * 4 + 3 * 2 * 64) + 4 * 4 * 8 * 8 * 24  # 8 tokens: linear layers, then attention
    assert result["cost"]["gflops_per_clip"] == pytest.approx(products / 1e9, rel=0.01)
    assert result["data"]["hash"] and result["encoder"]["hash"] and result["protocol_hash"]
    printed = json.loads(json.dumps(printed))
    assert printed["results"][0]["gain_over_random"] == result["gains"]["random"]
    assert "reading" in printed["results"][0]


def test_a_leak_and_an_equal_twin_are_said_aloud(done):
    _, result, out = done
    assert result["leak"] == {"checked": True, "clips": 1, "first": ["test_3.mp4"]}
    said = results.reading(result)
    assert said[0].startswith("No difference shown") and any(
        "WARNING" in line and "1 of the test" in line for line in said
    )
    page = (out / "report.html").read_text()
    assert "WARNING" in page and "no difference shown" in page


def test_words_follow_the_numbers(done):
    _, result, _ = done
    result = json.loads(json.dumps(result))
    result["gains"]["random"] = {"difference": 0.2, "interval": [0.1, 0.3], "shown": True}
    assert "20.0 points above the same net untrained" in results.verdict(result)
    result["gains"]["random"] = {"difference": -0.2, "interval": [-0.3, -0.1], "shown": True}
    assert "20.0 points BELOW" in results.verdict(result)
    result["gains"]["random"] = {"difference": 0.2, "interval": [-0.1, 0.3], "shown": False}
    assert results.verdict(result).startswith("No difference shown")
    result["encoder"]["weights"] = "random (a registered name, no file)"
    assert "has random weights" in results.verdict(result)
    result["gains"]["pixels"] = {"difference": 0.1, "interval": [0.05, 0.2], "shown": True}
    assert "It beats raw pixels by 10.0 points." in results.reading(result)


def test_the_report_stands_alone_and_has_the_numbers(done, tmp_path):
    _, result, out = done
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert re.findall(r'src="(?!data:image/(?:png|jpeg);base64,)', page) == []
    assert page.count("data:image/png;base64,") == 2 and page.count("data:image/jpeg;base64,") == 4 * (1 + 3)
    for label, top1, interval, _ in results.lines(result):
        assert label in page and label in text and top1 in page and top1 in text and interval in page
    assert "python -m benchmarks.linear_probe --encoder" in page and "--data csv --data.root clips --seed 1" in text
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "mine.json").write_bytes((out / "mine.json").read_bytes())
    assert report.report(str(copy)) == {"report": str(copy / "report.html")}  # from the file alone
    assert (copy / "report.md").read_text() == text
    (copy / "two.json").write_text((out / "mine.json").read_text().replace("mine", "<b>two"))
    report.write(copy)
    page = (copy / "report.html").read_text()
    assert "Overview" in page and "&lt;b&gt;two" in page and "<b>two" not in page


def test_the_table_has_both_nearest_neighbours(done):
    _, result, _ = done
    table = {label: (top1, interval, more) for label, top1, interval, more in results.lines(result)}
    for label, row in (("encoder", result["knn"]), ("untrained", result["controls"]["random"]["knn"])):
        low, high = (100 * end for end in row["interval"])
        seen = table[f"nearest neighbours, {label}"]
        assert seen == (f"{100 * row['top1']:.1f} %", f"{low:.1f} to {high:.1f}", "")


def test_a_result_gives_way_to_the_same_alone(done, data, tmp_path):
    """Before any work: no cache is made."""
    _, _, out = done
    run = out.parent / "runs" / "mine"
    options = json.loads((run / "options.json").read_text())
    before = (out / "mine.json").read_text()
    linear_probe([str(run)], data, str(out), **options)
    again = json.loads((out / "mine.json").read_text())
    assert again["confusion"] == json.loads(before)["confusion"] and again["cost"] != json.loads(before)["cost"]
    fewer = data.take([i for i in range(len(data)) if i != 7])
    other = tmp_path / "runs" / "mine"
    save_encoder(create_encoder("vit", **SMALL), other, "encoder", {})
    none = {**options, "cache": str(tmp_path / "c")}
    for encoder, rows, change, said in (
        (run, fewer, {}, "a result of other data: name"),
        (other, data, {}, "a result of another encoder: name"),
        (run, data, {"seed": 2}, "a result of another protocol: name"),
        (run, data, {"calibrate_bn": 8}, "a result of another protocol: name"),
        (other, fewer, {"clips": 2}, "a result of other data and another encoder and another protocol: name"),
    ):
        with pytest.raises(UserError, match=rf"mine\.json holds {said} another --out\.$"):
            linear_probe([str(encoder)], rows, str(out), **none | change)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.json").write_text("[]")
    with pytest.raises(UserError, match=facts("--out")):
        linear_probe([str(run)], data, str(tmp_path / "out"), **none)
    assert not (tmp_path / "c").exists()


@for_each(
    "flags, said",
    [
        ({"clips": 0}, "--clips | 0"),
        ({"batch_size": 0}, "--batch_size | 0"),
        ({"workers": -1}, "--workers | -1"),
        ({"calibrate_bn": -1}, "--calibrate_bn | -1"),
        ({"threads": 0}, "--threads | 0"),
        ({"clip": ClipChange(frames=0)}, "more than 0"),
        ({"out": "FILE"}, "--out"),
        ({"cache": "FILE"}, "--cache"),
        ({"devices": "cuda"}, "--devices"),
    ],
)
def test_flags_that_cannot_be(data, tmp_path, monkeypatch, flags, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").touch()
    with pytest.raises(UserError, match=facts(*said.split(" | "))):
        linear_probe(["test_no_statistics"], data, **{"out": "o", "cache": "c", "workers": 0} | flags)


def test_an_encoder_that_diverged_gets_no_score(data, tmp_path):
    net = create_encoder("vit", **SMALL)
    with torch.no_grad():
        net.norm.weight.fill_(torch.nan)
    save_encoder(net, tmp_path / "mine", "encoder", {})
    with pytest.raises(UserError, match=r"^mine: the features of \S+ \(encoder\) hold NaN or infinity"):
        linear_probe([str(tmp_path / "mine")], data, str(tmp_path / "o"), cache=str(tmp_path / "c"), workers=0)
    assert not list((tmp_path / "o").glob("*.json"))


def test_batch_norm_is_measured_where_asked(data, tmp_path):
    options = {"cache": str(tmp_path / "c"), "workers": 0, "min_steps": 20, "seed": 1}
    linear_probe(["test_no_statistics"], data, str(tmp_path), calibrate_bn=6, **options)
    result = json.loads((tmp_path / "test_no_statistics.json").read_text())
    assert result["top1"] == 1.0 and result["protocol"]["calibrate_bn"] == 6


def test_refusals_say_what_to_do(data, tmp_path):
    with pytest.raises(UserError, match=facts("--calibrate_bn", "256")):
        linear_probe(["test_no_statistics"], data, str(tmp_path), cache=str(tmp_path / "c"), workers=0)
    with pytest.raises(UserError, match="no result"):
        report.report(str(tmp_path))
    with pytest.raises(UserError, match="labelled clips in the val split"):
        labelled(data.take([i for i, row in enumerate(data.rows) if row.split != "val"]))
    with pytest.raises(UserError, match=facts("1", "4")):
        chosen_layers(create_encoder("vit", **SMALL), [5])


def test_sources_know_themselves_apart():
    """A cached feature must never be taken for another one."""
    net, other = create_encoder("vit", **SMALL), create_encoder("vit", **SMALL)
    keys = [s.key for seed in (0, 1) for s in make_sources(net, other, (2,), ("mean",), seed, OWN)]
    assert len(set(keys)) == 6  # only the shuffled frames depend on the seed
    assert not set(keys) & {s.key for s in make_sources(net, other, (), ("mean",), 2, OWN)} - {"pixels version 1"}


def test_titles_and_leaks(data):
    assert titles(["runs/a", "runs/b/encoder.safetensors", "x/a", "vit_tiny", "z/a"]) == [
        "a",
        "b",
        "a_2",
        "vit_tiny",
        "a_3",
    ]
    assert leak("vit_tiny", data) == {"checked": False}
