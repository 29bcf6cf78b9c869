"""Fine-tuning from end to end: its files, how it resumes, what it refuses, and that it learns."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssvid import cli
from ssvid.cli import parse
from ssvid.encoders.vit import ViT
from ssvid.engine.checkpoint import read
from ssvid.errors import UserError
from ssvid.finetune import finetune
from ssvid.hub import create_encoder
from ssvid.registry import encoders
from ssvid.results import Leak
from ssvid.results.provenance import check_leak
from ssvid.weights.__main__ import open_source
from ssvid.weights.encoders import hash_encoder, load_encoder, save_encoder
from tests.helpers import command, facts, for_each, metrics, squares, tells, write_video
from tests.warm import run_ranks

TINY = {"dim": 24, "depth": 2, "heads": 2, "patch": 8, "frames": 4, "stride": 1, "size": 16}


@encoders.register("test_small_vit")
def small_vit() -> ViT:
    return ViT(**TINY)


def save_start(run: Path) -> Path:
    """An encoder as if it had been pretrained."""
    torch.manual_seed(5)
    save_encoder(create_encoder("vit", **TINY), run, "encoder", {})
    return run


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    return save_start(tmp_path_factory.mktemp("start") / "mine")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("labelled"))


def write_data(root: Path) -> Path:
    """Squares without red (a) or without blue (b): 8 train, 4 val, 6 test, one unlabelled."""
    lines, n = ["path,label,split,group"], 0
    for split, count in (("train", 8), ("val", 4), ("test", 6)):
        for i in range(count):
            label, n = "ab"[i % 2], n + 1
            frames = squares(n)
            frames[..., 0 if label == "a" else 2] = 0
            write_video(root / f"{split}{i}.mp4", frames)
            lines.append(f"{split}{i}.mp4,{label},{split},{split}_{i // 2}")
    write_video(root / "free.mp4", squares(99))
    (root / "rows.csv").write_text("\n".join([*lines, "free.mp4,,train,free"]) + "\n")
    return root / "rows.csv"


SMALLEST = "--steps 6 --batch_size 4 --lr 0.01 --lr_batch 4 --dropout 0.3 --workers 0 --threads 1"
SMALLEST += " --log_every 1 --checkpoint_every 3 --test_clips 2 --test_crops 2 --twins 0"


def argv(start: Path, data: Path, out: Path, *more: str) -> list[str]:
    """The smallest run. Later flags win."""
    flags = ["--encoder", str(start), "--data", "csv", "--data.root", str(data), "--out", str(out)]
    return [*flags, *SMALLEST.split(), *more]


def run(start: Path, data: Path, out: Path, *more: str) -> dict[str, Any]:
    """In this process: faults are exceptions."""
    return finetune(**parse(finetune, argv(start, data, out, *more)))


def weights(out: Path, step: int = 6) -> dict[str, torch.Tensor]:
    return read(out / "checkpoints" / f"step_{step:08d}.pt")["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def done(start, data, tmp_path_factory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """As a user runs it: the last line, the result and the folder."""
    out = tmp_path_factory.mktemp("tuned") / "t"
    ended = command("ssvid.finetune", *argv(start, data, out))
    assert ended.returncode == 0, ended.stderr[-2000:]
    return (
        json.loads(ended.stdout.splitlines()[-1]),
        json.loads((out / "result.json").read_text()),
        out,
    )


def test_it_ends_in_one_line_and_a_result(done, start, data):
    last, result, out = done
    assert {"top1", "interval", "chance", "val_top1", "out"} <= last.keys()
    assert last["result"] == str(out / "result.json")
    assert (
        last["step"] == 6
        and last["top1"] == result["top1"]
        and last["val_top1"] == result["val_top1"]
    )
    assert last["weights"] == result["encoder"]["weights"] == "trained"
    assert (
        result["kind"] == "fine-tuning"
        and result["controls"] == {}
        and result["leak"] == {"checked": False}
    )
    assert result["chance"] == result["majority"] == 0.5
    low, high = result["interval"]
    assert low <= result["top1"] <= high
    test = result["test"]
    right = [p == y for p, y in zip(test["predictions"]["encoder"], test["labels"], strict=True)]
    assert result["top1"] == sum(right) / 6 and test["paths"] == [f"test{i}.mp4" for i in range(6)]
    matrix = np.array(result["confusion"])
    assert matrix.sum(1).tolist() == [3, 3] and matrix.trace() == sum(right)
    assert (
        result["data"]["clips"] == {"train": 8, "val": 4, "test": 6}
        and result["data"]["groups"]["test"] == 6
    )
    assert result["encoder"]["hash"] == hash_encoder(load_encoder(start))
    assert result["tuned"] == hash_encoder(load_encoder(out)) != result["encoder"]["hash"]
    assert result["protocol"]["clip"]["clips"] == result["protocol"]["clip"]["crops"] == 2
    assert result["protocol"]["training"]["steps"] == 6 and len(result["protocol_hash"]) == 16
    assert (
        result["command"].startswith("python -m ssvid.finetune --encoder ")
        and result["config"]["lr"] == 0.01
    )
    assert result["cost"]["cpu_s"] > 0 and result["data"]["hash"] and result["seed"] == 0


def test_it_goes_on_bit_for_bit(done, start, data, tmp_path):
    _, result, out = done
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    (copy / "checkpoints" / "step_00000006.pt").unlink()
    (copy / "result.json").unlink()
    run(start, data, copy)
    assert same(weights(copy), weights(out))
    again = json.loads((copy / "result.json").read_text())
    assert again["test"] == result["test"] and again["tuned"] == result["tuned"]
    assert [m["loss"] for m in metrics(copy) if "loss" in m] == [
        m["loss"] for m in metrics(out) if "loss" in m
    ]
    moved = Path(shutil.copytree(start, tmp_path / "elsewhere"))
    run(moved, data, copy)  # the same weights at another place


def test_another_run_in_the_folder_is_refused(done, start, data, tmp_path):
    _, _, out = done
    before = (out / "result.json").read_text()
    with pytest.raises(UserError, match=facts("batch_size", "4", "8")):
        run(start, data, out, "--batch_size", "8")
    save_encoder(create_encoder("vit", **TINY), tmp_path / "other", "encoder", {})
    with pytest.raises(UserError, match=facts("encoder", "hash")):
        run(tmp_path / "other", data, out)
    assert (out / "result.json").read_text() == before


def test_the_head_learns_alone_at_first(start, data, tmp_path):
    run(
        start,
        data,
        tmp_path / "h",
        "--steps",
        "4",
        "--head_warmup",
        "0.5",
        "--checkpoint_every",
        "1",
        "--keep_checkpoints",
        "9",
    )
    began = {f"encoder.{k}": v for k, v in load_encoder(start).state_dict().items()}
    heads = []
    for step in (1, 2, 3):
        state = weights(tmp_path / "h", step)
        heads.append(state["head.weight"])
        encoder = {k: v for k, v in state.items() if k.startswith("encoder.")}
        if step <= 2:
            assert same(encoder, began), f"the encoder moved at step {step}"
        else:
            assert all(
                not torch.equal(encoder[k], began[k]) for k in encoder if k.endswith("weight")
            )
    assert not torch.equal(heads[0], heads[1])


def test_it_learns(start, data, tmp_path):
    """Colours, from eight clips."""
    plain = (
        "--mixup",
        "0",
        "--cutmix",
        "0",
        "--smoothing",
        "0",
        "--dropout",
        "0",
        "--augment",
        "none",
    )
    result = run(
        start,
        data,
        tmp_path / "l",
        *plain,
        "--batch_size",
        "8",
        "--steps",
        "40",
        "--layer_decay",
        "1",
    )
    rows = [m for m in metrics(tmp_path / "l") if "loss" in m]
    assert rows[0]["loss"] == pytest.approx(0.693, abs=0.01) and rows[-1]["loss"] < 0.1
    assert rows[-1]["train_top1"] == 1.0 and result["top1"] == result["val_top1"] == 1.0


def test_convolutions_with_batch_norm_keep_their_statistics(data, tmp_path):
    torch.manual_seed(0)
    save_encoder(
        create_encoder("resnet18_2d3d", width=8, frames=2, stride=1, size=32),
        tmp_path / "r",
        "encoder",
        {},
    )
    result = run(tmp_path / "r", data, tmp_path / "t", "--steps", "3", "--repeat", "2")
    assert result["step"] == 3
    before, after = (
        load_encoder(tmp_path / "r").state_dict(),
        load_encoder(tmp_path / "t").state_dict(),
    )
    assert not torch.equal(before["bn1.running_mean"], after["bn1.running_mean"])


DROPPING = ("--drop_tokens", "0.5", "--dense_last", "0.3", "--recompute", "true")


def test_tokens_are_dropped_in_training_alone(done, start, data, tmp_path):
    """With clips mixed; killed it goes on the same, and the protocol says what was dropped."""
    _, plain, _ = done
    run(start, data, tmp_path / "t", *DROPPING)
    result = json.loads((tmp_path / "t" / "result.json").read_text())
    kept = weights(tmp_path / "t")
    (tmp_path / "t" / "checkpoints" / "step_00000006.pt").unlink()
    run(start, data, tmp_path / "t", *DROPPING)
    assert same(weights(tmp_path / "t"), kept)
    training = result["protocol"]["training"]
    assert (training["drop_tokens"], training["dense_last"]) == (0.5, 0.3)
    assert result["protocol_hash"] != plain["protocol_hash"] and result["tuned"] != plain["tuned"]
    assert "--drop_tokens 0.5 --dense_last 0.3 --recompute true" in result["command"]
    still = ("--lr", "0", "--min_lr", "0", "--head_scale", "50", "--steps", "2")
    answers = []
    for name, more in (("dropped", DROPPING), ("dense", ())):
        run(start, data, tmp_path / name, *still, *more)
        answers.append(
            json.loads((tmp_path / name / "result.json").read_text())["test"]["predictions"]
        )
    assert answers[0] == answers[1]
    losses = [
        [m["loss"] for m in metrics(tmp_path / name) if "loss" in m]
        for name in ("dropped", "dense")
    ]
    assert (
        losses[0][0] != losses[1][0] and losses[0][1] == losses[1][1]
    )  # the last one of two steps is dense


OFF = ("--drop_tokens", "0", "--dense_last", "0", "--recompute", "false")


@for_each("flags", [OFF, ("--recompute", "true")])
def test_flags_that_change_no_number_are_no_other_protocol(flags, done, start, data, tmp_path):
    _, plain, out = done
    run(start, data, tmp_path / "t", *flags)
    result = json.loads((tmp_path / "t" / "result.json").read_text())
    assert result["protocol_hash"] == plain["protocol_hash"]
    assert "drop_tokens" not in plain["config"]
    assert same(weights(tmp_path / "t"), weights(out))


def test_what_it_was_trained_on_goes_along(done, start, data, tmp_path):
    """A later probe of the tuned encoder finds clips of both trainings."""
    from ssvid.data.datasets.csv import csv

    _, _, out = done
    manifest = csv(str(data))
    assert check_leak(str(out), manifest.split("test")) == Leak(checked=True, clips=0, first=[])
    assert check_leak(str(out), manifest.split("train")).clips == 8  # not the unlabelled one
    cheat = Path(shutil.copytree(start, tmp_path / "cheat"))
    rows = [["test3.mp4", None, "train", "", ""]]
    (cheat / "provenance.json").write_text(
        json.dumps({"root": str(data.parent), "hash": "x", "rows": rows})
    )
    run(cheat, data, tmp_path / "t", "--steps", "1")
    found = {"checked": True, "clips": 1, "first": ["test3.mp4"]}
    assert json.loads((tmp_path / "t" / "result.json").read_text())["leak"] == found
    assert check_leak(str(tmp_path / "t"), manifest.split("test")) == Leak(**found)


def test_a_name_begins_with_random_weights(data, tmp_path):
    small = ("--clip.frames", "2", "--clip.size", "24", "--steps", "1")
    assert run(Path("test_small_vit"), data, tmp_path / "n", *small)["weights"].startswith("random")
    spec = json.loads((tmp_path / "n" / "encoder.json").read_text())["spec"]
    assert (spec["frames"], spec["size"]) == (2, 24)
    first = json.loads((tmp_path / "n" / "result.json").read_text())["encoder"]["hash"]
    run(
        Path("test_small_vit"), data, tmp_path / "n", *small
    )  # the same draw of weights, or it would be refused
    run(Path("test_small_vit"), data, tmp_path / "m", *small, "--seed", "1")
    assert json.loads((tmp_path / "m" / "result.json").read_text())["encoder"]["hash"] != first


@for_each(
    "rows, fact",
    [
        ("train0.mp4,,train,g val0.mp4,,val,h test0.mp4,,test,i", "train"),
        ("train0.mp4,a,train,g train1.mp4,b,train,h", "split"),
        ("train0.mp4,a,train,g val0.mp4,a,val,h test0.mp4,a,test,i", "a"),
        ("train0.mp4,a,train,g train1.mp4,b,train,h val0.mp4,a,val,i test0.mp4,c,test,j", "c"),
    ],
)
def test_labels_that_cannot_be_learnt(rows, fact, start, data, tmp_path):
    file = data.parent / f"{tmp_path.name}.csv"
    file.write_text("path,label,split,group\n" + rows.replace(" ", "\n") + "\n")
    with pytest.raises(UserError, match=facts(fact)):
        run(start, file, tmp_path / "o")
    assert not (tmp_path / "o").exists()


@for_each(
    "flags, said",
    [
        (("--head_warmup", "1.5"), "--head_warmup | 1.5 | 0 | 1"),
        (("--layer_decay", "0"), "--layer_decay | 0.0 | 0"),
        (("--layer_decay", "2"), "--layer_decay | 2.0 | 0 | 1"),
        (("--smoothing", "-1"), "--smoothing | -1.0"),
        (("--mixup", "9"), "--mixup | 9.0 | 0 | 2"),
        (("--mix_prob", "2"), "--mix_prob | 2.0"),
        (("--test_clips", "0"), "--test_clips | 0"),
        (("--test_crops", "-1"), "--test_crops | -1"),
        (("--repeat", "0"), "--repeat | 0"),
        (("--clip.fps", "5", "--clip.stride", "2"), "--clip.fps | --clip.stride"),
        (("--drop_tokens", "1.0"), "--drop_tokens | 1.0 | 1"),
        (("--drop_tokens", "0.5", "--clip.size", "20"), "--clip.size | 20 | 8 | 16 | 24"),
        (("--drop_tokens", "0.5", "--encoder", "resnet18_2d3d"), "--drop_tokens | can_skip"),
        (("--dense_last", "0.5"), "--dense_last | 0.5 | --drop_tokens"),
        (("--recompute", "true", "--encoder", "resnet18_2d3d"), "--recompute"),
        (("--encoder", "runs/absent"), "runs/absent"),
        (("--head_warmupp", "0"), "--head_warmupp"),
    ],
)
def test_flags_that_cannot_be(flags, said, start, data, tmp_path):
    with pytest.raises(UserError, match=facts(*said.split(" | "))) as error:
        run(start, data, tmp_path / "o", *flags)
    assert "\n" not in str(error.value) and not (tmp_path / "o").exists()


def test_encoders_that_cannot_be_tuned(start, data, tmp_path, capsys):
    net = create_encoder("resnet18_2d3d", width=8, frames=2, stride=1, size=32, running_stats=False)
    save_encoder(net, tmp_path / "r", "encoder", {})
    refusals = ((tmp_path / "r", tmp_path / "o", "batch norm"), (start, start, str(start)))
    for encoder, out, fact in refusals:
        with pytest.raises(SystemExit) as ended:
            cli.run_command("finetune", argv(encoder, data, out))
        last = capsys.readouterr().err.splitlines()[-1]
        assert ended.value.code == 2 and last.startswith("error: ") and tells(last, fact)


def test_its_checkpoint_points_to_its_folder(done):
    _, _, out = done
    with pytest.raises(UserError, match=facts("ssvid.finetune")):
        open_source(out / "checkpoints" / "step_00000006.pt", trust=False)


def test_two_processes_end_as_one(start, data, tmp_path):
    """Up to rounding, where no clips are mixed: a partner comes from the same process."""
    plain = ("--mixup", "0", "--cutmix", "0", "--dropout", "0", "--twins", "1", "--steps", "3")
    ended, silent = run_ranks("-m", "ssvid.finetune", *argv(start, data, tmp_path / "two", *plain))
    assert ended.returncode == silent.returncode == 0, ended.stderr[-2000:]
    assert len(ended.stdout.splitlines()) == 1 and not silent.stdout
    run(start, data, tmp_path / "one", *plain)
    one, two = weights(tmp_path / "one", 3), weights(tmp_path / "two", 3)
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-4, rtol=1e-3, msg=key)
    found = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    assert "random" in found[0]["test"]["correct"]
    assert found[0]["test"] == found[1]["test"] and found[0]["val_top1"] == found[1]["val_top1"]
