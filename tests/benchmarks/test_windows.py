"""CoCLR's tests on made-up features by hand: windows of a video, both sides' means, who answers, what is averaged."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.features.bench import Bench
from benchmarks.features.late_fusion import restrict_to_rows
from benchmarks.tasks.base import score_task
from benchmarks.tasks.retrieval import BANKS
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.registry import probes, tasks
from ssvid.shapes import ClipSpec, Grid, Row
from ssvid.statistics import topk
from tests.helpers import facts, for_each

CLASSES = 7
COUNTS = {"train": 28, "val": 14, "test": 42}
ROWS = (
    "encoder",
    "random",
    "pixels",
    "encoder/single_frame",
    "encoder/shuffled",
    "single_frame",
    "shuffled",
)
COCLR = {"rates": (0.3,), "weight_decays": (1e-3,), "epochs": 20}


def made(seed: int = 0, signal: float = 1.0) -> Bench:
    """Videos of one to three windows, of lengths that mean nothing; pixels in two descriptions."""
    rows = [
        Row(f"{s}/{i}.mp4", f"c{i % CLASSES}", s, f"{s}{i // 2}")
        for s, n in COUNTS.items()
        for i in range(n)
    ]
    data = Manifest(tuple(rows), Path("nowhere"), tuple(f"c{n}" for n in range(CLASSES)))
    of = [row for row in range(len(rows)) for _ in range(1 + row % 3)]
    draw, labels = torch.Generator().manual_seed(seed), data.labels[of]

    def features(row: str) -> dict[str, torch.Tensor]:
        x = (
            torch.randn(len(of), 8, generator=draw)
            + 2
            + signal * F.one_hot(labels, 8) * (row == "encoder")
        )
        x = x * (torch.rand(len(of), 1, generator=draw) * 9 + 0.1)
        return {"mean@last": x} if row != "pixels" else {"first": x, "second": x[:, :5]}

    splits = {s: [i for i, row in enumerate(of) if rows[row].split == s] for s in COUNTS}
    at = [(0, 0)] * len(of)
    arrays = {name: features(name) for name in ROWS}
    return Bench(data, of, at, labels, splits, arrays, [], ClipSpec(stride=1), Grid(2, 1, 1), {}, 0)


def plain(bench: Bench, source: str, rows: list[int]) -> torch.Tensor:
    """One video at a time, as the facts say it."""
    x = bench.features[source]["mean@last"]
    means = []
    for row in rows:
        windows = [x[i] / x[i].norm() for i, of in enumerate(bench.row_of_unit) if of == row]
        means.append(torch.stack(windows).mean(0))
    table = torch.stack(means)
    table = table - table.mean(0)
    return table / table.norm(dim=1, keepdim=True)


def rows_of(bench: Bench, *splits: str) -> list[int]:
    return [i for i, row in enumerate(bench.data.rows) if row.split in splits]


def recalls(similarity: torch.Tensor, bench: Bench) -> dict[str, float]:
    asked, bank = (
        bench.data.labels[rows_of(bench, "test")],
        bench.data.labels[rows_of(bench, "train", "val")],
    )
    found = bank[similarity.argsort(1, descending=True)] == asked[:, None]
    return {f"recall{k}": found[:, :k].any(1).double().mean().item() for k in (1, 5, 10, 20)}


@for_each("streams", [1, 2])
def test_retrieval_as_published(streams: int):
    """Similarities of two streams are summed; val, which is a part of the published train split, answers too."""
    benches = [made(seed) for seed in range(streams)]
    whole = benches[0]._replace(other_streams=tuple(benches[1:]))
    found = score_task(tasks["retrieval"](preset="coclr", ks=(1, 5, 10, 20)), whole, pictures=False)
    for row in ("encoder", "random"):
        sims = [
            plain(b, row, rows_of(b, "test")) @ plain(b, row, rows_of(b, "train", "val")).T
            for b in benches
        ]
        wanted = recalls(torch.stack(sims).sum(0), benches[0])
        got = found.score if row == "encoder" else found.controls[row]
        numbers = {"recall1": got.value, **got.more}
        assert {key: numbers[key] for key in wanted} == pytest.approx(wanted)
    assert found.score.value > found.controls["random"].value and found.chance == pytest.approx(
        1 / CLASSES
    )
    assert len(found.test.paths) == len(found.test.groups) == len(found.test.labels) == 42
    assert len(found.test.predictions["encoder"]) == 42 and len(set(found.test.groups)) == 21
    pixels = found.controls["pixels"].more
    chosen = pixels.get("streams", [pixels])
    assert len(chosen) == streams and {one["chosen"]["pooling"] for one in chosen} <= {
        "first",
        "second",
    }


def test_two_windows_of_one_video_by_hand():
    """Unit vectors (1, 0) and (0, 1) are averaged to (.5, .5); lengths say nothing. The mean of a side goes to zero."""
    from benchmarks.tasks.retrieval import average_windows, centre
    from ssvid.shapes import Frozen

    feats = torch.tensor([[9.0, 0.0], [0.0, 0.2], [3.0, 4.0]])
    got = average_windows(
        Frozen({"a": feats}, torch.tensor([4, 4, 2]), ["x", "x", "y"]), torch.tensor([0, 0, 1])
    )
    assert torch.allclose(got.feats["a"], torch.tensor([[0.5, 0.5], [0.6, 0.8]]))
    assert got.labels.tolist() == [4, 2] and got.groups == ["x", "y"]
    assert torch.allclose(centre(got.feats["a"]), torch.tensor([[-0.05, -0.15], [0.05, 0.15]]))


@for_each("streams", [1, 2])
def test_classes_by_the_mean_softmax_of_windows_and_streams(streams: int):
    benches, probe = [made(seed) for seed in range(streams)], probes["coclr"](**COCLR)
    whole = benches[0]._replace(other_streams=tuple(benches[1:]))
    found = score_task(tasks["classify"](probe, kind="ten_crops"), whole)
    total = torch.zeros(42, CLASSES)
    for bench in benches:
        scores = probe.run(
            *(bench.get_frozen("encoder", split) for split in COUNTS), 0
        ).scores.softmax(-1)
        own = [bench.row_of_unit[i] for i in bench.splits["test"]]
        for place, row in enumerate(rows_of(bench, "test")):
            total[place] += torch.stack([scores[i] for i, of in enumerate(own) if of == row]).mean(
                0
            )
    assert found.test.predictions["encoder"] == total.argmax(1).tolist()
    more = found.score.more
    assert more["top5"] == pytest.approx(
        topk(total, benches[0].data.labels[rows_of(whole, "test")], 5)
    )
    assert (
        len(more.get("streams", [more])) == streams
        and "val_top1" in more.get("streams", [more])[-1]
    )
    assert len(found.test.groups) == 42 and found.gains["random"].shown


def test_plain_clips_fuse_too():
    """One clip a video, in two streams: each has a probe of its own, and a fused row is no worse than noise allows."""
    views = [made(seed) for seed in (0, 1)]
    views = [b._replace(splits={s: b.index_videos(s)[0] for s in COUNTS}) for b in views]
    whole = views[0]._replace(other_streams=(views[1],))
    for task in (tasks["retrieval"](), tasks["classify"](probes["knn"]())):
        alone = [score_task(task, one).score.value for one in views]
        assert score_task(task, whole).score.value > max(alone) - 0.05
    assert BANKS[tasks["retrieval"]().settings().get("preset", "house")] == ("train",)


def test_settings_of_the_house_keep_their_hash():
    assert (
        tasks["retrieval"]().settings() == {"ks": (1, 5, 10, 20, 50)}
        and tasks["retrieval"]().kind == "clips"
    )
    published = {"ks": (1, 5, 10, 20, 50), "preset": "coclr", "kind": "windows"}
    assert tasks["retrieval"](preset="coclr").settings() == published
    assert tasks["classify"](probes["knn"]()).settings() == {}
    assert tasks["classify"](probes["knn"](), kind="windows").settings() == {"kind": "windows"}


def test_a_video_that_one_stream_lacks_is_left_out_of_both():
    bench = made()
    less = restrict_to_rows(bench, set(range(len(bench.data))) - {0, 30})
    assert [len(less.index_videos(split)[0]) for split in COUNTS] == [27, 13, 42]
    with pytest.raises(UserError, match=facts("clip")):
        score_task(
            tasks["retrieval"](preset="coclr"),
            restrict_to_rows(bench, set(rows_of(bench, "train", "val"))),
        )
