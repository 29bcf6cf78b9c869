"""Text against clips and seconds: numbers by hand, ties, both directions, runs of tiny nets."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.alignment.realign import Aligner
from benchmarks.features.bench import extract_bench
from benchmarks.features.captions import Captions
from benchmarks.features.evaluated_encoder import open_evaluated_encoder
from benchmarks.features.options import FeatureOptions
from benchmarks.features.text_side import Text, hash_joint, shuffle_weights
from benchmarks.features.units import get_kind, select_usable_rows
from benchmarks.run import run
from benchmarks.tasks.base import make_share_measure
from benchmarks.tasks.scoring import score_task
from benchmarks.tasks.text_retrieval import (
    compute_recalls,
    rank_as_published,
    rank_diagonal,
    repeat_ties,
)
from ssvid.data.decode import read, read_timestamps
from ssvid.data.manifest import Manifest
from ssvid.engine.train_flags import UNCHANGED
from ssvid.errors import UserError
from ssvid.nn.timeline import Aligned
from ssvid.registry import probes, tasks
from ssvid.shapes import ClipSpec, Row, Window
from ssvid.text import create_tower
from ssvid.text.joint import ProductSpace
from ssvid.text.joint_files import save_joint
from ssvid.text.wording import phrase_class
from ssvid.weights.encoders import hash_encoder, save_encoder
from tests.helpers import facts, squares, write_video
from tests.test_videoprism import create_net, create_space

NET = "tests.benchmarks.test_run:tiny_vit"
SPEC = ClipSpec(frames=4, fps=10.0, size=16)


def tiny_joint(cosine: bool = False) -> ProductSpace:
    torch.manual_seed(0)
    tower = create_tower("words", dim=12, buckets=64, width=8, hidden=16, length=8)
    return ProductSpace(tower, nn.Linear(24, 12, bias=False), cosine=cosine).eval()


def test_ranks_by_hand():
    table = torch.tensor([[3.0, 1.0, 2.0], [5.0, 4.0, 6.0], [0.0, 1.0, 2.0]])  # places 1, 3, 1
    recalls = compute_recalls(rank_diagonal(table))
    assert recalls == pytest.approx(
        {"recall1": 2 / 3, "recall5": 1, "recall10": 1, "median_rank": 1, "mean_rank": 5 / 3}
    )
    assert compute_recalls(rank_diagonal(table.T))["mean_rank"] == pytest.approx(
        (2 + 1.5 + 2) / 3
    )  # 4 above 3 and 1 tied with 1, ...


def test_ties_are_an_order_of_chance():
    """Of two tied answers the right one is first in half of the orders, so ties score chance."""
    ranks = rank_diagonal(torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    assert ranks.share_within(1).tolist() == [0.5, 1, 1] and ranks.mean.tolist() == [0.5, 0, 0]
    blind = compute_recalls(rank_diagonal(torch.ones(50, 50)))
    assert blind["recall1"] == pytest.approx(1 / 50) and blind["recall10"] == pytest.approx(0.2)
    assert blind["median_rank"] == blind["mean_rank"] == 25.5


def test_ties_as_published():
    table = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert sorted(rank_as_published(table).tolist()) == [0, 0, 0, 1]
    assert repeat_ties(rank_diagonal(table)).query.tolist() == [0, 0, 1, 2]
    assert compute_recalls(rank_as_published(table))["recall1"] == pytest.approx(3 / 4)


def test_equal_to_the_published_metrics(shared: Path):
    folder = shared / "reference" / "milnce"
    if not folder.is_dir():
        pytest.skip(f"no reference at {folder}")
    table = torch.from_numpy(np.load(folder / "inputs.npz")["retrieval_sim"])
    wanted, recalls = np.load(folder / "outputs.npz"), compute_recalls(rank_as_published(table))
    names = {"R1": "recall1", "R5": "recall5", "R10": "recall10", "MR": "median_rank"}
    assert {name: recalls[ours] for name, ours in names.items()} == pytest.approx(
        {name: float(wanted[f"retrieval.{name}"]) for name in names}, abs=1e-12
    )
    assert len(rank_as_published(table)) == len(table) + 1 and len(
        rank_diagonal(table).above
    ) == len(table)


def test_a_share_of_redrawn_groups():
    """Two answers of group 0, one of group 1, none of group 2."""
    measure = make_share_measure(torch.tensor([1.0, 0.0, 1.0]).double(), torch.tensor([0, 0, 1]), 3)
    shares = measure(
        torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0], [1.0, 2.0, 0.0], [0.0, 0.0, 3.0]]).double()
    )
    assert shares[:3].tolist() == [2 / 3, 0.5, 0.75] and shares[3].isnan()


def test_class_names_as_words():
    names = {
        "ApplyEyeMakeup": "apply eye makeup",
        "brush_hair": "brush hair",
        "TVShow2Go": "tv show2 go",
    }
    assert {name: phrase_class(name) for name in names} == names
    assert phrase_class("Moving something-left") == "moving something left"
    assert phrase_class("!") == "!"


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Four videos of 3 s, two captions each; one train video without any."""
    root = tmp_path_factory.mktemp("told")
    rows = []
    for n in range(8):
        write_video(root / f"{n}.mp4", squares(n, frames=30))
        sentences = ((0.2, 2.6, f"square {n} begins"), (1.0, 1.2, f"square {n} ends"))
        label = ("TurnLeft", "turn_right")[n % 2]
        split = "test" if n < 6 else "train"
        rows.append(
            Row(
                f"{n}.mp4",
                label,
                split,
                f"g{n}",
                sentences=sentences if n != 7 else (),
                video_id=f"v{n}",
            )
        )
    return Manifest(tuple(rows), root, ("TurnLeft", "turn_right"))


def test_the_windows_of_a_caption(captioned: Manifest):
    """From its start to 0.4 s and a clip before its end; in a shorter one all at the start."""
    units = get_kind("captions:3").make_units(
        select_usable_rows(captioned, "captions:3"), SPEC, 1, 1
    )
    assert [units.data.video_id(row) for row in units.clips.row[:3]] == ["v0", "v0", "v1"]
    assert len(units.clips) == 12
    first, second = (units.clips[0, i]["clips"] for i in (0, 1))  # 3 windows, C T H W
    times = read_timestamps(captioned.path(0))
    for window, start in zip(first, np.linspace(0.2, 2.6 - 0.4 - 0.4, 3), strict=True):
        frames = read(captioned.path(0), times[0] + start + np.arange(4) / 10)
        small = F.interpolate(frames.float(), 16, mode="area").transpose(0, 1)
        assert (window.float() - small).abs().mean() < 8
    assert (second[0] == second[1]).all() and (first[0] != first[1]).any()
    with pytest.raises(UserError, match=facts("--clips", "--crops")):
        get_kind("captions:3").make_units(select_usable_rows(captioned, "captions"), SPEC, 2, 1)


def test_a_caption_past_the_end_is_left_out(captioned: Manifest):
    late = Row("0.mp4", None, "test", sentences=((9.0, 12.0, "late"), (0.0, 1.0, "  ")))
    units = Captions(Manifest((late,), captioned.root), SPEC, 2)
    assert len(units) == 1 and not units[0, 0]["readable"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run with a text side exports."""
    folder = tmp_path_factory.mktemp("run")
    encoder = open_evaluated_encoder(NET, "a", UNCHANGED, "last")
    encoder.net.name, encoder.net.kwargs = NET, {}
    save_encoder(encoder.net, folder, "encoder", {})
    save_joint(tiny_joint(), folder)
    return folder


def run_cells(encoder: str, data: Manifest, cells: str, tmp_path: Path):
    """(what the command prints, cell -> content of its result file)."""
    (tmp_path / "s.yaml").write_text(f"cells: [{cells}]")
    paths = {"suite": str(tmp_path / "s.yaml"), "cache": str(tmp_path / "cache")}
    printed = run([encoder], str(tmp_path / "out"), data=data, workers=0, devices="cpu", **paths)
    results = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("*.json")]
    return printed, {result["cell"]: result for result in results}


CELLS = "{task: text_retrieval, windows: 2}, {task: zero_shot, templates: ['a {}.', 'see {}']}"


def test_a_whole_run(trained: Path, captioned: Manifest, tmp_path: Path):
    """The numbers in the files are those of the joint space, computed by hand from the encoder."""
    printed, results = run_cells(str(trained / "encoder.safetensors"), captioned, CELLS, tmp_path)
    assert printed["exit_code"] == 0, printed["failed"]
    retrieval, shot = results["text_retrieval"], results["zero_shot"]
    assert retrieval["chance"] == pytest.approx(1 / 12) and shot["chance"] == 0.5
    assert retrieval["captions"] == 12
    assert retrieval["recall1"] == pytest.approx(retrieval["text_to_video"]["recall1"])
    assert set(retrieval["controls"]) == set(shot["controls"]) == {"random"}
    assert retrieval["text"] == shot["text"]
    assert retrieval["data"]["clips"] == {"train": 0, "val": 0, "test": 6}
    encoder, joint = (
        open_evaluated_encoder(str(trained / "encoder.safetensors"), "a", UNCHANGED, "last"),
        tiny_joint(),
    )
    units = get_kind("captions:2").make_units(
        select_usable_rows(captioned, "captions:2"), encoder.net.spec, 1, 1
    )
    with torch.no_grad():
        clips, texts = [], []
        for i in range(12):
            pooled = encoder.net(encoder.net.normalise(units.clips[0, i]["clips"])).pooled
            clips.append(joint.embed_videos(pooled).mean(0))
            texts.append(f"square {i // 2} {('begins', 'ends')[i % 2]}")
        sentences = joint.embed_texts(texts)
        assert compute_recalls(rank_diagonal(sentences @ torch.stack(clips).T)) == pytest.approx(
            retrieval["text_to_video"]
        )
        assert compute_recalls(rank_diagonal(torch.stack(clips) @ sentences.T)) == pytest.approx(
            retrieval["video_to_text"]
        )


def test_a_space_that_pools_tokens_is_asked_as_any_other(captioned: Manifest, tmp_path: Path):
    """VideoPrism's pooler sees the tokens of every clip, and its vectors are what is compared."""
    net, space = create_net(frames=2), create_space()
    save_encoder(net, tmp_path, "encoder", {})
    save_joint(space, tmp_path)
    printed, results = run_cells(str(tmp_path), captioned, CELLS, tmp_path)
    assert printed["exit_code"] == 0, printed["failed"]
    captions = select_usable_rows(captioned, "captions:2")
    units = get_kind("captions:2").make_units(captions, net.spec, 1, 1)
    clips, texts = [], []
    with torch.no_grad():
        for i in range(12):
            features = net(net.normalise(units.clips[0, i]["clips"]))
            clips.append(space.read_clips(features)["joint"].mean(0))
            texts.append(f"square {i // 2} {('begins', 'ends')[i % 2]}")
        similarity = space.compare({"joint": torch.stack(clips)}, space.embed_texts(texts))
    recalls = compute_recalls(rank_diagonal(similarity))
    assert recalls == pytest.approx(results["text_retrieval"]["video_to_text"])


def test_an_encoder_without_a_text_side(captioned: Manifest, tmp_path: Path):
    printed, results = run_cells(NET, captioned, CELLS, tmp_path)
    assert printed["exit_code"] == 3 and not results
    first, second = printed["failed"]
    assert NET in first["why"] and NET in second["why"]


def test_of_length_one_where_similarity_is_a_cosine():
    text = Text(tiny_joint(cosine=True))
    for vectors in (text.average(torch.randn(2, 4, 12)), text.embed(["a b", "c"])):
        assert torch.allclose(vectors.norm(dim=1), torch.ones(len(vectors)))
    clips, texts = torch.randn(70, 12), torch.randn(4, 12)  # more clips than are compared at once
    unit = torch.nn.functional.normalize(clips, dim=1)
    torch.testing.assert_close(text.compare({"joint": clips}, texts), unit @ texts.T)
    plain = Text(tiny_joint())
    torch.testing.assert_close(plain.average(texts[None]), texts)
    torch.testing.assert_close(plain.compare({"joint": clips}, texts), clips @ texts.T)


def test_nothing_learnt_keeps_its_size():
    net, other = nn.Linear(30, 20), nn.Linear(30, 20)
    before = net.weight.detach().clone()
    shuffle_weights(net, 0)
    assert (net.weight != before).float().mean() > 0.9
    assert (net.weight.flatten().sort().values == before.flatten().sort().values).all()
    other.load_state_dict({"weight": before, "bias": torch.zeros(20)})
    shuffle_weights(other, 0)
    assert (other.weight == net.weight).all()  # the same seed


class Oracle(nn.Module):
    """Reads the answer from the features: second s has a one in column s.

    The sentence `at s` looks for that one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Parameter(torch.eye(48))

    def similarities(self, features, sentences):
        seconds = torch.tensor([int(text.split()[1]) for text in sentences])
        similarity = self.eye[seconds] @ features[0].T + 0.01
        alignable = torch.tensor([float("yes" in text) for text in sentences]).expand(3, -1)
        return Aligned(similarity[None], similarity[None], alignable)


@pytest.fixture
def narrated(captioned: Manifest, tmp_path: Path) -> Manifest:
    """`at s yes` is true at second s and spoken 1 s or 8 s later. `at s no` is not seen."""
    rows, truth = [], {}
    for n in range(6):
        np.save(tmp_path / f"v{n}.npy", np.eye(48, dtype=np.float16))
        first, second, third = f"at {5 + n} yes", "at 20 yes", "at 40 no"
        truth[f"v{n}"] = [(1, 5 + n, 6 + n, first), (1, 20, 21, second), (0, 40, 41, third)]
        spoken = ((6.0 + n, 7.0 + n, first), (28.0, 29.0, second), (40.0, 41.0, third))
        features = str(tmp_path / f"v{n}.npy")
        rows.append(
            Row(
                f"{n}.mp4",
                None,
                "test",
                f"g{n}",
                sentences=spoken,
                video_id=f"v{n}",
                features=features,
            )
        )
    (tmp_path / "htm_align.json").write_text(json.dumps(truth))
    return Manifest(tuple(rows), captioned.root)


def test_an_aligner_and_its_controls(narrated: Manifest, tmp_path: Path, monkeypatch):
    aligner = Aligner(Oracle().similarities, Window(), 48, "0123")
    monkeypatch.setattr("benchmarks.tasks.htm_align.open_aligner", lambda path, words: aligner)
    task = tasks["htm_align"](
        aligner="RUN", annotation=str(tmp_path / "htm_align.json"), narrated=True
    )
    encoder = open_evaluated_encoder(NET, "a", UNCHANGED, "last")
    bench = extract_bench(
        encoder, narrated, FeatureOptions(cache=str(tmp_path)), task.list_source_names(8), task.kind
    )
    scored = score_task(task, bench)
    details = scored.score.details
    assert scored.score.value == 1 and details["auc"] == 1
    assert details["by_head"] and details["alignable"] == 12 and details["never_asked"] == 0
    times = scored.controls["timestamps"]
    assert times.value == 0.5 and times.details["auc"] == 0.5
    each_group = torch.eye(6).double()
    assert task.answer(bench, "timestamps").measure(each_group).tolist() == [0.5] * 6
    assert scored.controls["random"].value < 0.5
    gain = scored.gains["random"]  # six groups of which all agree: 2 of 2^6 patterns
    assert gain.p >= 2 / 2**6 - 1e-9 and not gain.shown and gain.least is None
    assert scored.chance == pytest.approx(2 / 48) and len(scored.test.of_groups["encoder"]) == 6
    other = tasks["htm_align"](
        aligner="RUN", annotation=str(tmp_path / "htm_align.json"), method="global", head=False
    )
    assert score_task(other, bench).score.value == 1 and "RUN" not in str(other.settings())


def test_an_encoders_own_text_side_aligns(narrated: Manifest, trained: Path, tmp_path: Path):
    for n in range(6):
        np.save(
            tmp_path / f"v{n}.npy",
            np.random.default_rng(n).normal(size=(48, 24)).astype(np.float16),
        )
    cell = f"{{task: htm_align, annotation: {tmp_path}/htm_align.json}}"
    printed, results = run_cells(str(trained / "encoder.safetensors"), narrated, cell, tmp_path)
    assert printed["exit_code"] == 0, printed["failed"]
    result = results["htm_align"]
    assert not result["by_head"] and set(result["controls"]) == {"random"}
    assert result["data"]["clips"]["test"] == 6
    joint, right = tiny_joint(), 0
    for n in range(6):
        features = torch.from_numpy(np.load(tmp_path / f"v{n}.npy")).float()
        with torch.no_grad():
            texts = joint.embed_texts([f"at {5 + n} yes", "at 20 yes"])
            first, second = (texts @ joint.embed_videos(features).T).argmax(1).tolist()
        right += (5 + n <= first <= 6 + n) + (20 <= second <= 21)
    assert result["recall1"] == pytest.approx(right / 12)


def test_features_of_another_encoder_are_refused(narrated: Manifest, trained: Path, tmp_path: Path):
    card = {"dim": 48, "encoder": "vit", "hash": "other", "clip": {}, "seconds_per_row": 1}
    (tmp_path / "store.json").write_text(json.dumps(card))
    encoder = open_evaluated_encoder(str(trained / "encoder.safetensors"), "a", UNCHANGED, "last")
    with pytest.raises(UserError, match=facts("vit")):
        extract_bench(encoder, narrated, FeatureOptions(cache=str(tmp_path)), (), "narrations")
    (tmp_path / "store.json").write_text(json.dumps({**card, "hash": hash_encoder(encoder.net)}))
    np.save(tmp_path / "v3.npy", np.zeros((48, 7), np.float16))
    for _ in range(2):
        bench = extract_bench(
            encoder, narrated, FeatureOptions(cache=str(tmp_path), max_bad=0.5), (), "narrations"
        )
        assert (
            bench.unreadable_files == [str(tmp_path / "v3.npy")] and len(bench.splits["test"]) == 5
        )
        # Published features have no such file: then the width is the one that most have.
        (tmp_path / "store.json").unlink(missing_ok=True)


def test_what_a_suite_may_not_say():
    with pytest.raises(UserError, match=facts("templates")):
        tasks["zero_shot"](templates=("no name",))
    with pytest.raises(UserError, match=facts("--windows", "0")):
        tasks["text_retrieval"](windows=0)
    for name in ("text_retrieval", "zero_shot", "htm_align"):
        with pytest.raises(UserError, match=facts(name)):
            tasks[name](probes["knn"]())


def test_another_list_of_words_is_another_text_side():
    def hash_of(*words: str) -> str:
        torch.manual_seed(0)
        tower = create_tower("words", dim=12, buckets=len(words), width=8, hidden=16, length=8)
        tower.words = words
        return hash_joint(ProductSpace(tower, torch.nn.Linear(4, 12), cosine=False))

    assert hash_of("cut", "peel") == hash_of("cut", "peel") != hash_of("peel", "cut")
