"""The online probe tells what the features hold, reads no test clip and changes no weight."""

from pathlib import Path

import numpy as np
import pytest

from ssvid.cli import parse
from ssvid.data.manifest import Manifest
from ssvid.engine import online
from ssvid.errors import UserError
from ssvid.pretrain import pretrain
from ssvid.shapes import ClipSpec, Row, Views
from tests.engine.test_run import same, weights
from tests.helpers import facts, metrics, pretrain_argv, run_pretrain, write_video

CLASSES = ("bright", "dark")


def split_clips(root: Path, informative: bool) -> Path:
    """train, val and test folders of bright and dark clips; the label is the brightness or nothing
    at all.
    """
    rng = np.random.default_rng(0)
    for split, count in {"train": 16, "val": 40, "test": 2}.items():
        for n in range(count):
            light = n % 2 if informative else rng.integers(2)
            frames = rng.integers(0, 60, (8, 32, 32, 3), dtype=np.uint8) + np.uint8(
                150 * (1 - light)
            )
            write_video(root / split / CLASSES[n % 2] / f"{n}.mp4", frames)
    return root


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_clips(tmp_path_factory.mktemp("telling"), informative=True)


def test_it_reads_what_is_there_and_changes_nothing(telling: Path, tmp_path: Path):
    summary = run_pretrain(
        telling, tmp_path / "probed", "--probe_every", "3", "--objective.mask_ratio", "0.5"
    )
    rows = [m for m in metrics(tmp_path / "probed") if "probe/encoder/knn" in m]
    assert [m["step"] for m in rows] == [3, 6]
    assert all(m["probe/encoder/knn"] >= 0.9 and m["probe/encoder/linear"] >= 0.9 for m in rows)
    assert summary["probe/encoder/linear"] == rows[-1]["probe/encoder/linear"]
    run_pretrain(telling, tmp_path / "plain", "--objective.mask_ratio", "0.5")
    assert same(weights(tmp_path / "probed"), weights(tmp_path / "plain"))


def test_it_scores_chance_on_labels_that_mean_nothing(tmp_path: Path):
    data = split_clips(tmp_path / "data", informative=False)
    summary = run_pretrain(
        data, tmp_path / "run", "--probe_every", "6", "--objective.mask_ratio", "0.5"
    )
    assert (
        0.1 <= summary["probe/encoder/linear"] <= 0.9
    )  # 20 clips read: 0.5 +- 0.4 is more than three deviations


def test_it_reads_no_test_clip(telling: Path, tmp_path: Path):
    for file in (telling / "test").rglob("*.mp4"):
        file.write_bytes(b"")
    summary = run_pretrain(telling, tmp_path / "run", "--probe_every", "6")
    assert (
        summary["probe/encoder/knn"] >= 0.9 and not (tmp_path / "run" / "quarantine.jsonl").exists()
    )


def test_it_needs_labels(videos: Path, tmp_path: Path):
    with pytest.raises(UserError, match=facts("--probe_every")):
        pretrain(**parse(pretrain, pretrain_argv(videos, tmp_path / "run", "--probe_every", "3")))
    assert not (tmp_path / "run").exists()


def test_more_classes_than_it_looks_at(monkeypatch: pytest.MonkeyPatch):
    """Val clips of classes that its train clips lack cannot be asked, and no group chooses and is
    read.
    """
    monkeypatch.setattr(online, "TRAIN", 3)
    rows = [Row(path=f"train/{n}", label=f"c{n}", split="train", group=f"t{n}") for n in range(9)]
    rows += [
        Row(path=f"val/{n}", label=f"c{n % 9}", split="val", group=f"v{n // 18}") for n in range(72)
    ]
    data = Manifest(tuple(rows), Path("nowhere"), tuple(f"c{n}" for n in range(9)))
    views = Views(clips=(ClipSpec(stride=1),), augment="none")
    probe = online.OnlineProbe(data, views, seed=0, decoder="pyav", workers=0)
    train, select, test = probe.split(list(range(len(probe.sample))))
    labels, groups = probe.sample.labels, probe.sample.groups
    assert len(train) == 3 and select and test and len(select) + len(test) == 24
    assert set(labels[select].tolist() + labels[test].tolist()) == set(labels[train].tolist())
    assert not {groups[i] for i in select} & {groups[i] for i in test}
