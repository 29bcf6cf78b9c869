"""CoCLR's tests on made-up features, by hand: windows of a video, means, the bank, averages."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.features.bench import Bench
from benchmarks.features.late_fusion import restrict_to_rows
from benchmarks.tasks.retrieval import BANKS
from benchmarks.tasks.scoring import score_task
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import probes, tasks
from ssvid.shapes import ClipSpec, Grid, Row
from ssvid.statistics import topk
from tests.helpers import facts, for_each

CLASSES = 7
COUNTS = {"train": 28, "val": 14, "test": 42}
SOURCES = (
    "encoder",
    "twin0",
    "pixels",
    "encoder/single_frame",
    "encoder/bag",
    "encoder/shuffled",
    "twin0/single_frame",
    "twin0/shuffled",
)
COCLR = {"rates": (0.3,), "weight_decays": (1e-3,), "epochs": 20}


def make_bench(seed: int = 0, signal: float = 1.0) -> Bench:
    """Videos of one to three windows whose lengths mean nothing; pixels in two descriptions."""
    rows, row_of_window = [], []
    for split, count in COUNTS.items():
        for i in range(count):
            row_of_window += [len(rows)] * (1 + len(rows) % 3)
            rows.append(Row(f"{split}/{i}.mp4", f"c{i % CLASSES}", split, f"{split}{i // 2}"))
    data = Manifest(tuple(rows), Path("nowhere"), tuple(map("c{}".format, range(CLASSES))))
    draw, labels = torch.Generator().manual_seed(seed), data.labels[row_of_window]

    def features(row: str) -> dict[str, torch.Tensor]:
        x = (
            torch.randn(len(row_of_window), 8, generator=draw)
            + 2
            + signal * F.one_hot(labels, 8) * (row == "encoder")
        )
        x = x * (torch.rand(len(row_of_window), 1, generator=draw) * 9 + 0.1)
        return {"mean@last": x} if row != "pixels" else {"first": x, "second": x[:, :5]}

    splits = {split: [] for split in COUNTS}
    for window, row in enumerate(row_of_window):
        splits[rows[row].split].append(window)
    positions = [(0, 0)] * len(row_of_window)
    arrays = {name: features(name) for name in SOURCES}
    return Bench(
        data,
        row_of_window,
        positions,
        labels,
        splits,
        arrays,
        [],
        ClipSpec(stride=1),
        Grid(2, 1, 1),
        {},
        0,
    )


def average_plainly(bench: Bench, source: str, rows: list[int]) -> torch.Tensor:
    """One video at a time, as the definition reads."""
    x = bench.features[source]["mean@last"]
    means = []
    for row in rows:
        windows = x[torch.tensor(bench.row_of_unit) == row]
        means.append((windows / windows.norm(dim=1, keepdim=True)).mean(0))
    table = torch.stack(means)
    table = table - table.mean(0)
    return table / table.norm(dim=1, keepdim=True)


def list_rows(bench: Bench, *splits: str) -> list[int]:
    return [i for i, row in enumerate(bench.data.rows) if row.split in splits]


def compute_recalls(similarity: torch.Tensor, bench: Bench) -> dict[str, float]:
    queries = bench.data.labels[list_rows(bench, "test")]
    bank = bench.data.labels[list_rows(bench, "train", "val")]
    matches = bank[similarity.argsort(1, descending=True)] == queries[:, None]
    return {f"recall{k}": matches[:, :k].any(1).double().mean().item() for k in (1, 5, 10, 20)}


def made_streams(count: int) -> Bench:
    first, *others = map(make_bench, range(count))
    return first._replace(other_streams=tuple(others))


@for_each("streams", [1, 2])
def test_retrieval_as_published(streams: int):
    """Similarities of two streams are summed. The bank holds val, a part of the published train."""
    whole = made_streams(streams)
    scored = score_task(
        tasks["retrieval"](preset="coclr", ks=(1, 5, 10, 20)), whole, pictures=False
    )
    for row, source in (("encoder", "encoder"), ("random", "twin0")):
        sims = []
        for bench in whole.streams:
            queries = average_plainly(bench, source, list_rows(bench, "test"))
            bank = average_plainly(bench, source, list_rows(bench, "train", "val"))
            sims.append(queries @ bank.T)
        wanted = compute_recalls(torch.stack(sims).sum(0), whole)
        score = scored.score if row == "encoder" else scored.controls[row]
        numbers = {"recall1": score.value, **score.details}
        for key, value in wanted.items():
            assert numbers[key] == pytest.approx(value)
    assert scored.score.value > scored.controls["random"].value and scored.chance == pytest.approx(
        1 / CLASSES
    )
    assert len(scored.test.paths) == len(scored.test.groups) == len(scored.test.labels) == 42
    assert len(scored.test.predictions["encoder"]) == 42 and len(set(scored.test.groups)) == 21
    pixels = scored.controls["floor"].details
    chosen = pixels.get("streams", [pixels])
    assert len(chosen) == streams
    for stream in chosen:
        assert stream["chosen"]["pooling"] in ("first", "second")


def test_two_windows_of_one_video_by_hand():
    """Unit vectors (1, 0) and (0, 1) are averaged to (.5, .5), whatever the features' lengths.

    After centring the mean of the videos is zero.
    """
    from benchmarks.tasks.retrieval import average_windows, centre
    from ssvid.shapes import Frozen

    feats = torch.tensor([[9.0, 0.0], [0.0, 0.2], [3.0, 4.0]])
    averaged = average_windows(
        Frozen({"a": feats}, torch.tensor([4, 4, 2]), ["x", "x", "y"]), torch.tensor([0, 0, 1])
    )
    assert torch.allclose(averaged.feats["a"], torch.tensor([[0.5, 0.5], [0.6, 0.8]]))
    assert averaged.labels.tolist() == [4, 2] and averaged.groups == ["x", "y"]
    assert torch.allclose(centre(averaged.feats["a"]), torch.tensor([[-0.05, -0.15], [0.05, 0.15]]))


@for_each("streams", [1, 2])
def test_classes_by_the_mean_softmax_of_windows_and_streams(streams: int):
    whole, probe = made_streams(streams), probes["coclr"](**COCLR)
    scored = score_task(tasks["classify"](probe, kind="ten_crops"), whole)
    total = torch.zeros(42, CLASSES)
    for bench in whole.streams:
        result = probe.run(*bench.get_splits("encoder"), 0)
        probability = result.scores.softmax(-1)
        window_rows = torch.tensor([bench.row_of_unit[i] for i in bench.splits["test"]])
        for video, row in enumerate(list_rows(bench, "test")):
            total[video] += probability[window_rows == row].mean(0)
    assert scored.test.predictions["encoder"] == total.argmax(1).tolist()
    details = scored.score.details
    assert details["top5"] == pytest.approx(
        topk(total, whole.data.labels[list_rows(whole, "test")], 5)
    )
    assert (
        len(details.get("streams", [details])) == streams
        and "val_top1" in details.get("streams", [details])[-1]
    )
    assert len(scored.test.groups) == 42 and scored.gains["random"].difference > 0


def test_plain_clips_fuse_too():
    """One clip a video, in two streams with a probe each. Noise alone can make the fusion worse."""
    views = []
    for bench in made_streams(2).streams:
        splits = {split: bench.index_videos(split)[0] for split in COUNTS}
        views.append(bench._replace(splits=splits))
    whole = views[0]._replace(other_streams=(views[1],))
    for task in (tasks["retrieval"](), tasks["classify"](probes["knn"]())):
        alone = [score_task(task, stream).score.value for stream in views]
        assert score_task(task, whole).score.value > max(alone) - 0.05
    assert BANKS[tasks["retrieval"]().settings().get("preset", "house")] == ("train",)


def test_settings_of_the_house_keep_their_hash():
    assert (
        tasks["retrieval"]().settings() == {"ks": (1, 5, 10, 20, 50), "centred": True}
        and tasks["retrieval"]().kind == "clips"
    )
    published = {"ks": (1, 5, 10, 20, 50), "preset": "coclr", "kind": "windows"}
    assert tasks["retrieval"](preset="coclr").settings() == published
    assert tasks["classify"](probes["knn"]()).settings() == {}
    assert tasks["classify"](probes["knn"](), kind="windows").settings() == {"kind": "windows"}


def test_a_video_that_one_stream_lacks_is_left_out_of_both():
    bench = make_bench()
    restricted = restrict_to_rows(bench, set(range(len(bench.data))) - {0, 30})
    assert [len(restricted.index_videos(split)[0]) for split in COUNTS] == [27, 13, 42]
    with pytest.raises(UserError, match=facts("clip")):
        score_task(
            tasks["retrieval"](preset="coclr"),
            restrict_to_rows(bench, set(list_rows(bench, "train", "val"))),
        )
