"""Runs: what they leave, how they go on, what they refuse. In this process where that is enough."""

import json
import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ssvid import registry
from ssvid.cli import parse
from ssvid.data.datasets.folder import folder
from ssvid.data.quarantine import Quarantine
from ssvid.encoder import Encoder
from ssvid.engine import distributed, loop, run
from ssvid.engine.checkpoint import read
from ssvid.engine.distributed import World
from ssvid.engine.train_flags import ClipChange
from ssvid.errors import RunError, UserError
from ssvid.hub import create_encoder
from ssvid.objective import Objective
from ssvid.pretrain import pretrain
from ssvid.shapes import Batch, Loss, Views
from tests.helpers import (
    facts,
    for_each,
    metrics,
    pretrain_argv,
    run_pretrain,
    squares,
    tells,
    write_video,
)

DROPOUT = ("--encoder.dropout", "0.2")


def weights(out: Path) -> dict[str, torch.Tensor]:
    newest = max((out / "checkpoints").glob("step_*.pt"))
    return read(newest)["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def check_refusal(
    out: Path, videos: Path, *flags: str, words: tuple[str, ...], error: type[Exception] = UserError
) -> None:
    """The run ends in this error, whose message names each of `words`."""
    with pytest.raises(error, match=facts(*words)):
        run_pretrain(videos, out, *flags)


@pytest.fixture(scope="module")
def finished(videos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "a"
    run_pretrain(videos, out, *DROPOUT)
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_a_run_leaves_what_others_need(finished: Path):
    assert sorted(p.name for p in (finished / "checkpoints").iterdir()) == [
        "step_00000003.pt",
        "step_00000006.pt",
    ]
    lines = metrics(finished)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert {"mse", "lr", "grad_norm", "clips_per_s", "data_wait"} <= lines[0].keys()
    assert {"encoder/effective_rank", "encoder/feature_std"} <= lines[-1].keys()
    card = json.loads((finished / "encoder.json").read_text())
    assert card["name"] == "vit" and card["trained"]["step"] == 6
    assert not any("/" in str(v) for k, v in card.items() if k != "trained")
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["objective"]["name"] == "mae" and config["seed"] == 0 and config["threads"] == 1
    assert len(json.loads((finished / "provenance.json").read_text())["rows"]) == 10
    assert list((finished / "tensorboard").iterdir())


def test_it_goes_on_bit_for_bit(finished: Path, copy: Path, videos: Path):
    (copy / "checkpoints" / "step_00000006.pt").unlink()
    run_pretrain(videos, copy, *DROPOUT)
    assert same(weights(copy), weights(finished))
    assert [m["loss"] for m in metrics(copy) if "loss" in m] == [
        m["loss"] for m in metrics(finished) if "loss" in m
    ]


def test_workers_change_nothing(finished: Path, tmp_path: Path, videos: Path):
    run_pretrain(videos, tmp_path / "w", *DROPOUT, "--workers", "2")
    assert same(weights(tmp_path / "w"), weights(finished))


def test_the_seed_matters(finished: Path, tmp_path: Path, videos: Path):
    run_pretrain(videos, tmp_path / "s", *DROPOUT, "--seed", "1")
    assert not same(weights(tmp_path / "s"), weights(finished))


def test_accumulated_micro_batches_are_the_batch(tmp_path: Path, videos: Path):
    run_pretrain(videos, tmp_path / "one")
    run_pretrain(videos, tmp_path / "two", "--accumulate", "2")
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        if "loss" in a:
            assert (
                abs(a["loss"] - b["loss"]) < 1e-4
                and abs(a["grad_norm"] - b["grad_norm"]) < 1e-3 * a["grad_norm"]
            )


def test_more_steps_go_on_and_a_finished_run_stays(copy: Path, videos: Path):
    before = weights(copy)
    run_pretrain(videos, copy, *DROPOUT)
    assert same(weights(copy), before)
    assert run_pretrain(videos, copy, *DROPOUT, "--steps", "8")["step"] == 8


def test_another_run_in_the_same_folder_is_refused(copy: Path, videos: Path):
    before = weights(copy)
    ratio = ("--objective.mask_ratio", "0.5")
    check_refusal(copy, videos, *DROPOUT, *ratio, words=("objective.mask_ratio", "0.9", "0.5"))
    assert same(weights(copy), before)


def test_other_rows_are_another_run_but_another_place_is_not(
    copy: Path, videos: Path, tmp_path: Path
):
    moved = shutil.copytree(videos, tmp_path / "moved")
    run_pretrain(moved, copy, *DROPOUT)
    (moved / "9.mp4").unlink()
    check_refusal(copy, moved, *DROPOUT, words=("hash",))


def test_a_folder_of_something_else_is_refused(videos: Path, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    check_refusal(tmp_path, videos, words=("notes.txt",))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_truncated_checkpoint_is_set_aside_and_the_older_one_used(
    finished, copy: Path, videos: Path, capsys
):
    newest = copy / "checkpoints" / "step_00000006.pt"
    newest.write_bytes(newest.read_bytes()[:5000])
    run_pretrain(videos, copy, *DROPOUT)
    assert same(weights(copy), weights(finished))
    assert tells(capsys.readouterr().err, "step_00000006.pt")
    assert (copy / "checkpoints" / "step_00000006.damaged").stat().st_size == 5000


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(copy: Path, videos: Path):
    before = (copy / "metrics.jsonl").read_text(), (copy / "encoder.safetensors").read_bytes()
    for file in (copy / "checkpoints").iterdir():
        file.write_bytes(file.read_bytes()[:5000])
    check_refusal(copy, videos, *DROPOUT, words=(str(copy),))
    assert before == (
        (copy / "metrics.jsonl").read_text(),
        (copy / "encoder.safetensors").read_bytes(),
    )


def test_a_stranger_among_the_checkpoints_is_set_aside(
    finished: Path, copy: Path, videos: Path, capsys
):
    torch.save({"weights": torch.zeros(1)}, copy / "checkpoints" / "step_00000009.pt")
    run_pretrain(videos, copy, *DROPOUT)
    assert tells(capsys.readouterr().err, "step_00000009.pt", "ssvid.pretrain")


def test_a_finished_run_exports_what_a_kill_left_out(finished: Path, copy: Path, videos: Path):
    for name in ("encoder.safetensors", "encoder.json"):
        (copy / name).unlink()
    run_pretrain(videos, copy, *DROPOUT)
    assert (copy / "encoder.safetensors").read_bytes() == (
        finished / "encoder.safetensors"
    ).read_bytes()
    assert json.loads((copy / "encoder.json").read_text())["trained"]["step"] == 6


def test_its_config_is_a_recipe(finished: Path, tmp_path: Path):
    argv = ["--config", str(finished / "config.yaml"), "--out", str(tmp_path / "again")]
    pretrain(**parse(pretrain, argv))
    assert same(weights(tmp_path / "again"), weights(finished))


def test_warm_start(finished: Path, videos: Path, tmp_path: Path):
    run_pretrain(videos, tmp_path / "w", "--init", str(finished), "--lr", "0", "--steps", "1")
    trained = {k: v for k, v in weights(finished).items() if k.startswith("encoder.")}
    assert same(
        {k: v for k, v in weights(tmp_path / "w").items() if k.startswith("encoder.")}, trained
    )
    newest = str(finished / "checkpoints" / "step_00000006.pt")
    run_pretrain(videos, tmp_path / "c", "--init", newest, "--lr", "0", "--steps", "1")
    assert same(weights(tmp_path / "c"), weights(finished))


def test_warm_start_from_another_model_or_nothing(finished: Path, videos: Path, tmp_path: Path):
    check_refusal(
        tmp_path / "w", videos, "--init", str(finished), "--encoder.depth", "3", words=("vit",)
    )
    (tmp_path / "cut.pt").write_bytes(
        (finished / "checkpoints/step_00000006.pt").read_bytes()[:1000]
    )
    for name in ("absent.pt", "cut.pt"):
        check_refusal(tmp_path / "w", videos, "--init", str(tmp_path / name), words=(name,))


def test_nan_stops_with_step_samples_and_checkpoint(videos: Path, tmp_path: Path):
    flags = ("--steps", "40", "--warmup", "0.5", "--checkpoint_every", "1")
    with pytest.raises(
        RunError, match=r"nan.* \d+.* \d.*step_0000"
    ):  # the loss, the step, samples, a file
        run_pretrain(videos, tmp_path / "n", "--lr", "1e30", *flags)
    assert all(
        v.isfinite().all() for v in weights(tmp_path / "n").values() if v.is_floating_point()
    )


class Cliff(Objective):
    """A finite loss whose gradient is NaN from the third step on."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder, self.steps = encoder, 0

    @property
    def views(self) -> Views:
        return Views(clips=(self.encoder.spec,), augment="none")

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def forward(self, batch: Batch) -> Loss:
        loss = self.encoder(batch["clips"][:, 0]).pooled.square().mean()
        if self.steps >= 2:
            loss = loss + (0.0 * loss).sqrt()  # 0, and the root's slope there is infinite
        return Loss(loss, {})

    def after_step(self, progress: float) -> None:
        self.steps += 1


def test_a_nan_gradient_under_a_finite_loss_is_never_saved(videos: Path, tmp_path: Path):
    argv = pretrain_argv(videos, tmp_path / "n", "--checkpoint_every", "1")
    argv[argv.index("mae")] = "tests.engine.test_run:Cliff"
    argv = [
        a for a, before in zip(argv, ["", *argv], strict=False) if "--objective." not in a + before
    ]
    with pytest.raises(RunError, match=facts("2", "step_00000002.pt")):
        pretrain(**parse(pretrain, argv))
    assert all(
        v.isfinite().all() for v in weights(tmp_path / "n").values() if v.is_floating_point()
    )


def test_bad_files_of_every_process_are_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    met = [[("a.mp4", None, "empty")], [("b.mp4", 1.0, "torn")]]
    monkeypatch.setattr(loop, "gather", lambda mine, world: met)
    first = Quarantine(tmp_path, 1000)
    loop.share_bad_files(met[0], first, World(0, 2, torch.device("cpu")))
    assert len(first) == 2 and "torn" in (tmp_path / "quarantine.jsonl").read_text() and not met[0]


def test_a_collapsed_run_stops(videos: Path, tmp_path: Path):
    flags = ("--picture_every", "2", "--stop_on_collapse", "1e6")
    check_refusal(tmp_path / "c", videos, *flags, words=("2", "1e+06"), error=RunError)
    assert run_pretrain(videos, tmp_path / "c", "--stop_on_collapse", "0.5")["step"] == 6


def test_processes_with_other_flags_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributed, "gather", lambda mine, world: [mine, mine | {"lr": 2.0}])
    with pytest.raises(UserError, match=facts("1", "--lr", "2.0", "1.0")):
        distributed.agree({"lr": 1.0, "seed": 0}, World(0, 2, torch.device("cpu")))


def test_clips_longer_than_their_videos_are_told_of(videos: Path, tmp_path: Path, capsys):
    run_pretrain(videos, tmp_path / "long", "--encoder.stride", "100")
    assert (
        len(
            [
                line
                for line in capsys.readouterr().err.splitlines()
                if tells(line, "warning", "100%")
            ]
        )
        == 1
    )
    assert metrics(tmp_path / "long")[0]["padded"] == 1.0


def test_clips_that_make_no_blocks_and_no_token(videos: Path, tmp_path: Path):
    net = [
        "--encoder",
        "resnet18_2d3d",
        "--encoder.size",
        "32",
        "--encoder.stride",
        "1",
        "--objective",
        "dpc",
    ]
    data = [
        "--data",
        "folder",
        "--data.root",
        str(videos),
        "--out",
        str(tmp_path / "d"),
        "--workers",
        "0",
    ]
    argv = [
        *net,
        "--objective.blocks",
        "3",
        "--objective.predicted",
        "1",
        *data,
        "--batch_size",
        "2",
        "--steps",
        "1",
    ]
    with pytest.raises(UserError, match=facts("4", "3")):
        pretrain(**parse(pretrain, [*argv, "--clip.frames", "4"]))
    with pytest.raises(UserError, match=facts("s3d", "4", "64")):
        ClipChange(frames=4, size=64).apply_to(create_encoder("s3d"))


@for_each("name", ["dpc", "memdpc"])
def test_videos_too_short_for_all_blocks(tmp_path: Path, name: str):
    for i in range(3):
        write_video(tmp_path / f"in/{i}.mp4", squares(i, frames=5))
    (tmp_path / "in/bad.mp4").write_bytes(b"no")
    encoder = create_encoder("resnet18_2d3d", frames=2, size=32, stride=1)
    objective = registry.objectives[name](encoder, blocks=3, predicted=1)
    with pytest.raises(UserError, match=facts("6", "1", "4", "5")):
        objective.check_data(folder(str(tmp_path / "in")), objective.views, batch_size=2)
    write_video(tmp_path / "in/long.mp4", squares(9, frames=6))
    objective.check_data(folder(str(tmp_path / "in")), objective.views, batch_size=2)


def test_a_bad_file_is_replaced_and_listed(videos: Path, tmp_path: Path):
    damaged = shutil.copytree(videos, tmp_path / "v")
    (damaged / "3.mp4").write_bytes(b"")
    result = run_pretrain(damaged, tmp_path / "r")
    assert result["bad_files"] == 1 and result["step"] == 6
    assert "3.mp4" in (tmp_path / "r" / "quarantine.jsonl").read_text()
    (damaged / "4.mp4").write_bytes(b"no video")
    check_refusal(tmp_path / "r2", damaged, words=("2", "10", "--max_bad"), error=RunError)


def test_short_videos(videos: Path, tmp_path: Path):
    mixed = shutil.copytree(videos, tmp_path / "v")
    write_video(mixed / "short.mp4", squares(1, frames=2))
    run_pretrain(mixed, tmp_path / "pad")
    run_pretrain(mixed, tmp_path / "drop", "--short_videos", "drop")
    check_refusal(tmp_path / "error", mixed, "--short_videos", "error", words=("short.mp4",))


def test_clip_flags_override_the_encoder_and_are_kept(videos: Path, tmp_path: Path):
    run_pretrain(videos, tmp_path / "c", "--clip.fps", "5", "--clip.frames", "2", "--steps", "1")
    spec = json.loads((tmp_path / "c" / "encoder.json").read_text())["spec"]
    assert spec == {"frames": 2, "fps": 5.0, "stride": None, "size": 16, "modality": "rgb"}


def test_sgd_and_mae_st_and_colour(videos: Path, tmp_path: Path):
    flags = ["--optimizer", "sgd", "--objective.mask", "random", "--objective.repeat", "2"]
    flags += ["--objective.mask_ratio", "0.75"]
    assert (
        run_pretrain(videos, tmp_path / "c", *flags, "--objective.augment", "resized_flip_colour")[
            "step"
        ]
        == 6
    )


def test_no_worker_outlives_the_run(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Even where something still holds the batches, as a kept traceback does."""
    held, others = [], set(multiprocessing.active_children())

    def train_and_hold(trained: loop.Trained, batches: Iterator[Batch], *options: Any) -> dict:
        held.append(iter(batches))
        return loop.train(trained, held[0], *options)

    monkeypatch.setattr(run, "train", train_and_hold)
    run_pretrain(videos, tmp_path / "out", "--steps", "2", "--workers", "1")
    assert held and set(multiprocessing.active_children()) <= others
