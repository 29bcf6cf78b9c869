"""Files that users have: fitting or not, whole or cut, safe or not, with a licence."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ssvid import create_encoder, load_encoder
from ssvid.hub import open_encoder
from ssvid.results.provenance import describe_encoder
from ssvid.weights.__main__ import weights
from ssvid.weights.encoders import save_encoder
from tests.helpers import command, for_each, run_pretrain, sentence, tells
from tests.weights.layouts import (
    assert_same,
    dpc,
    huggingface,
    mae_st,
    refusal,
    videomae,
    videomae_finetuned,
)

MAE = ["--objective.dec_dim", "64", "--objective.dec_depth", "1", "--objective.dec_heads", "1"]
LIKE = [
    "--encoder.dim",
    "64",
    "--encoder.depth",
    "2",
    "--encoder.heads",
    "1",
    "--encoder.patch",
    "4",
    *MAE,
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save({"model": videomae(), "epoch": 3}, tmp_path / "videomae.pth")
    return tmp_path / "videomae.pth"


def check_refusal(file: Path, *words: str) -> None:
    """An encoder cannot be read from the file, and the message names each of `words`."""
    with refusal(*words):
        load_encoder(file)


def test_what_is_left_out_is_as_the_file_has_it(tmp_path: Path, capsys):
    torch.save({"model": mae_st()}, tmp_path / "m.pth")
    encoder = create_encoder("vit", weights=tmp_path / "m.pth", stride=2, mean=(0.5, 0.5, 0.5))
    assert (
        encoder.kwargs["positions"] == "separable"
        and encoder.kwargs["cls"]
        and encoder.kwargs["bias"] == "qkv"
    )
    assert (
        encoder.mean == (0.5, 0.5, 0.5)
        and encoder.std == (0.225, 0.225, 0.225)
        and encoder.spec.stride == 2
    )
    message = capsys.readouterr().err
    assert tells(message, "36", "0", "25"), (
        message
    )  # matched, missing or unexpected, beside the encoder


def test_a_run_is_described_by_its_own_clip(videos: Path, tmp_path: Path, capsys):
    run = tmp_path / "run"
    flags = ("--clip.frames", "2", "--clip.fps", "5", "--steps", "1")
    run_pretrain(videos, run, *flags)
    clip = {"frames": 2, "size": 16, "fps": 5.0}
    for file in (run, next((run / "checkpoints").iterdir())):
        capsys.readouterr()
        described = weights(str(file))
        assert described["clip"].items() >= clip.items()
        assert described["clip"].get("stride") is None
        assert not {"frames", "size", "stride"} & described["kwargs"].keys()
    weights(str(run))
    assert tells(capsys.readouterr().err, "an exported encoder")


def test_what_does_not_fit_is_one_sentence(file: Path, tmp_path: Path):
    for name, change, words in (
        ("vit_base", {}, ("dim", "64", "768")),
        ("vit", {"positions": "separable"}, ("positions", "sincos", "separable")),
        ("s3d", {}, ("s3d",)),
    ):
        with refusal("videomae.pth", "vit", "64", "2", *words):
            create_encoder(name, weights=file, **change)
    torch.save(
        {"model": {k: v[..., :48] if "patch" not in k else v for k, v in videomae().items()}}, file
    )
    with refusal("videomae.pth", "vit"):
        create_encoder("vit", weights=file)


def test_heads_that_no_tensor_tells(tmp_path: Path):
    encoder = create_encoder("vit", dim=48, depth=1, heads=4, patch=8, frames=4, size=16)
    save_encoder(encoder, tmp_path, "encoder", {})
    weights(str(tmp_path), to="videomae-encoder", out=str(tmp_path / "v.pth"))
    check_refusal(tmp_path / "v.pth", "48", "1", "heads")
    again = create_encoder("vit", weights=tmp_path / "v.pth", heads=4, frames=4, size=16)
    clip = torch.randn(1, 3, 4, 16, 16)
    assert torch.equal(again(clip).tokens, encoder(clip).tokens)


def test_half_of_another_model(file: Path):
    state = videomae()
    halves = {
        k: v
        for i, (k, v) in enumerate(state.items())
        if i % 2 == 0 or "patch_embed" in k or k[:9] == "encoder_t"
    }
    torch.save({"model": halves | {f"backbone.{k}": v for k, v in list(dpc().items())[:20]}}, file)
    check_refusal(file, "videomae.pth", "20")
    assert tells(sentence(command("ssvid.weights", str(file))), "videomae.pth", "20")
    partly = create_encoder("vit", weights=file, partial=True)
    assert torch.equal(
        partly.state_dict()["patch.weight"], state["encoder.patch_embed.proj.weight"]
    )
    torch.save(
        {"model": state | {f"backbone.{k}": v for k, v in list(dpc().items())[:20]}}, file
    )  # whole, and more
    check_refusal(file, "0", "20")
    torch.save({"model": state | {"encoder.blocks.1.mlp.fc1.weight": torch.zeros(128, 64)}}, file)
    check_refusal(file, "blocks.1.mlp.fc1.weight", "128", "256")


def test_a_pretraining_model_without_final_norm_is_partial(tmp_path: Path):
    save_file(huggingface(5, norm=False), tmp_path / "model.safetensors")
    check_refusal(tmp_path / "model.safetensors", "norm.bias")
    encoder = create_encoder("vit", weights=tmp_path / "model.safetensors", partial=True)
    assert torch.equal(encoder.state_dict()["norm.weight"], torch.ones(64))


def test_second_names_that_differ_are_refused(tmp_path: Path):
    state = dict(dpc())
    state["module.agg.cell_list.0.out_gate.bias"] = torch.ones(32)
    torch.save({"state_dict": state}, tmp_path / "d.pth")
    check_refusal(tmp_path / "d.pth", "agg.cell_list.0.out_gate.bias")


class Stranger:
    """Not on the list of what a pickle may hold."""


@for_each(
    "entries",
    [
        {"args": argparse.Namespace(lr=1e-3, betas=[0.9])},
        {"best": np.float64(3)},
        {"n": np.int64(1)},
    ],
)
def test_settings_and_numbers_in_a_pickle_are_read(entries: dict, file: Path):
    torch.save({"model": videomae(), **entries}, file)
    assert load_encoder(file).dim == 64


def test_a_pickle_of_objects_is_refused_and_made_safe(file: Path, tmp_path: Path):
    torch.save({"model": videomae(), "args": Stranger()}, file)
    check_refusal(file, "Stranger", "--trust", "--to", "--out")
    with refusal("--to"):
        weights(str(file), trust=True)
    safe = tmp_path / "safe.pth"
    assert weights(str(file), trust=True, to="videomae", out=str(safe))["keys"] == len(videomae())
    assert load_encoder(safe).dim == 64
    with refusal("safe.pth"):
        weights(str(file), trust=True, to="videomae", out=str(safe))


def test_files_that_are_no_checkpoint(file: Path, tmp_path: Path):
    whole = file.read_bytes()
    save_file(videomae(), file)  # a safetensors file under another name is read
    assert load_encoder(file).dim == 64
    page = (
        b"<!DOCTYPE html><html><body>Please log in to download this file. Thank you.</body></html>"
    )
    for content, words in (
        (whole[: len(whole) // 2], ()),
        (file.read_bytes()[:-100], ()),
        (page, ("<!DOCTYPE html>",)),
        (b"", ()),
    ):
        file.write_bytes(content)
        check_refusal(file, "videomae.pth", *words)
    torch.save({"epoch": 3}, file)
    check_refusal(file, "videomae.pth")
    with refusal("absent.pth"):
        create_encoder("vit", weights=tmp_path / "absent.pth")


def test_entries_that_hold_tensors_are_named_and_can_be_chosen(file: Path, tmp_path: Path):
    other = {"encoder.norm.weight": torch.zeros(3)}
    for content, chosen in (
        ({"model_ema": videomae()}, "model_ema"),
        ({"ema": {"module": videomae()}, "optimizer": {"state": {0: other}}}, "ema.module"),
        ({"target_encoder": videomae(), "encoder": other, "step": torch.tensor(3)}, "encoder"),
        ({"encoder": videomae(), "target_encoder": other, "opt": {}}, "target_encoder"),
    ):
        torch.save(content, file)
        check_refusal(file, "videomae.pth", chosen, "--entry", "--to", "--out")
    out = tmp_path / "chosen.pth"
    weights(str(file), entry="encoder", to="videomae", out=str(out))
    assert load_encoder(out).dim == 64
    with refusal("encoder", "target_encoder", "--entry", "model"):
        weights(str(file), entry="model")


def test_an_unknown_layout_names_the_known_and_its_keys(file: Path):
    torch.save({"a.weight": torch.zeros(3), "b.weight": torch.zeros(3)}, file)
    for load in (
        load_encoder,
        lambda f: create_encoder("vit", weights=f),
        lambda f: weights(str(f)),
    ):
        with refusal("videomae", "dpc", "a.weight", "b.weight") as error:
            load(file)
        assert str(error.value).index("a.weight") < str(error.value).index("videomae,")


def test_the_command_prints_what_a_file_is(file: Path):
    report = json.loads(command("ssvid.weights", str(file)).stdout.splitlines()[-1])
    assert (
        report["layout"] == "videomae"
        and report["encoder"] == "vit"
        and report["licence"] == "CC-BY-NC-4.0"
    )
    assert (
        report["kwargs"] == {"dim": 64, "depth": 2, "heads": 1, "patch": 4}
        and report["dtype"] == "float32"
    )
    assert report["decoder"]["dec_depth"] == 1 and report["parameters"] == sum(
        x.numel() for x in videomae().values()
    )


@for_each(
    "to, lack",
    [
        ("videomae", "pixels.bridge.weight"),
        ("mae_st-finetuned", "encoder.positions.table"),
        ("nothing", "nothing"),
    ],
)
def test_what_a_layout_has_no_place_for_is_refused(to: str, lack: str, tmp_path: Path):
    torch.save({"module": videomae_finetuned()}, tmp_path / "f.pth")
    with refusal(lack):
        weights(str(tmp_path / "f.pth"), to=to, out=str(tmp_path / "x.pth"))
    assert not (tmp_path / "x.pth").exists()


def test_positions_that_leave_no_trace_are_refused_too(tmp_path: Path):
    save_encoder(
        create_encoder("vit", dim=64, depth=1, heads=1, positions="sincos3d"),
        tmp_path,
        "encoder",
        {},
    )
    with refusal("sincos3d", "videomae-encoder", "sincos"):
        weights(str(tmp_path), to="videomae-encoder", out=str(tmp_path / "x.pth"))


def test_a_run_starts_from_a_published_file_and_goes_back(file: Path, videos: Path, tmp_path: Path):
    run = tmp_path / "run"
    run_pretrain(videos, run, *LIKE, "--init", str(file), "--lr", "0", "--steps", "1")
    weights(
        str(run / "checkpoints/step_00000001.pt"), to="videomae", out=str(tmp_path / "back.pth")
    )
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert_same(back["model"], videomae())
    assert back["licence"] == "CC-BY-NC-4.0"
    weights(str(run), to="videomae-encoder", out=str(tmp_path / "e.safetensors"))
    assert torch.equal(
        load_file(tmp_path / "e.safetensors")["norm.weight"], videomae()["encoder.norm.weight"]
    )


def test_a_run_of_another_net_does_not_start(file: Path, videos: Path, tmp_path: Path):
    with refusal("--encoder.positions", "sincos"):
        run_pretrain(
            videos, tmp_path / "a", *LIKE, "--encoder.positions", "sincos3d", "--init", str(file)
        )
    with refusal("--encoder.heads", "1"):
        run_pretrain(videos, tmp_path / "b", *LIKE, "--encoder.heads", "2", "--init", str(file))
    torch.save({"model": mae_st()}, file)
    with refusal("--encoder.bias", "qkv"):
        run_pretrain(videos, tmp_path / "c", *LIKE, "--init", str(file))


def test_the_licence_goes_with_the_weights(file: Path, videos: Path, tmp_path: Path):
    a, b, c = (tmp_path / name for name in "abc")
    run_pretrain(videos, a, *LIKE, "--init", str(file), "--steps", "1")
    run_pretrain(videos, b, *LIKE, "--init", str(a), "--steps", "1")
    run_pretrain(
        videos, c, *LIKE, "--init", str(b / "checkpoints/step_00000001.pt"), "--steps", "1"
    )
    for run in (a, b, c):
        assert json.loads((run / "encoder.json").read_text())["licence"] == "CC-BY-NC-4.0"
        assert load_encoder(run).licence == "CC-BY-NC-4.0"
    again = create_encoder(
        "vit", weights=c / "encoder.safetensors", dim=64, depth=2, heads=1, patch=4
    )
    assert again.licence == "CC-BY-NC-4.0"
    net = create_encoder("resnet18_2d3d", width=8)  # has the names of the published one inside
    save_encoder(net, tmp_path / "d", "encoder", {})
    assert (
        create_encoder("resnet18_2d3d", weights=tmp_path / "d/encoder.safetensors", width=8).licence
        is None
    )
    own_run = tmp_path / "own"
    run_pretrain(videos, own_run, *LIKE, "--steps", "1")
    weights(
        str(own_run / "checkpoints/step_00000001.pt"), to="videomae", out=str(tmp_path / "own.pth")
    )
    assert (
        load_encoder(own_run).licence is None and load_encoder(tmp_path / "own.pth").licence is None
    )


def test_a_result_names_the_licence(file: Path):
    assert describe_encoder(str(file), "v", open_encoder(str(file))).licence == "CC-BY-NC-4.0"
    assert (
        describe_encoder("vit", "v", create_encoder("vit", dim=64, depth=1, heads=1)).licence
        is None
    )


def test_extract_takes_a_published_file(file: Path, videos: Path, tmp_path: Path):
    torch.save({"model_state": mae_st()}, file)  # its positions say that it wants small clips
    out = tmp_path / "f.npz"
    data = [
        "--data",
        "folder",
        "--data.root",
        str(videos),
        "--workers",
        "0",
        "--cache",
        str(tmp_path / "cache"),
    ]
    result = command("ssvid.extract", "--encoder", str(file), *data, "--out", str(out))
    assert json.loads(result.stdout.splitlines()[-1])["dim"] == 64, result.stderr
