"""CoCLR beside what the reference cases prove: bad inputs, its stages, and what it does before the
queue is full.
"""

import copy
import shutil
from pathlib import Path

import pytest
import torch

from objectives.coclr import CoCLR
from objectives.infonce import InfoNCE
from ssvid import create_encoder, load_encoder
from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.errors import UserError
from ssvid.nn.sources import number_sources
from ssvid.shapes import Row
from tests.helpers import (
    command,
    facts,
    for_each,
    run_pretrain,
    sentence,
    squares,
    tells,
    write_video,
)
from tests.objectives.test_contract import batch_for

NET = [
    "--objective.dim",
    "8",
    "--objective.queue",
    "4",
    "--encoder",
    "resnet18_2d3d",
    "--encoder.width",
    "4",
]
NET += [
    "--encoder.frames",
    "4",
    "--encoder.stride",
    "1",
    "--encoder.size",
    "32",
    "--batch_size",
    "4",
]
MINE = ["--objective", "coclr", "--objective.topk", "2", *NET]
FIRST = ["--objective", "infonce", *NET]
FLOW = ["--clip.modality", "flow"]


def net(**change: object) -> Encoder:
    return create_encoder("resnet18_2d3d", width=4, frames=4, size=32, **change)


def rows(names: list[str], label: str | None = None) -> Manifest:
    return Manifest(tuple(Row(f"{name}.mp4", label) for name in names), Path("."))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Eight, with their flow."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(8):
        write_video(root / f"v{i}.mp4", squares(i))
    made = command(
        "ssvid.data.flow",
        "--data",
        "folder",
        "--data.root",
        str(root),
        "--method",
        "dis",
        "--workers",
        "1",
    )
    assert made.returncode == 0, made.stderr
    return root


@pytest.fixture(scope="module")
def first(videos, tmp_path_factory) -> dict[str, Path]:
    """The InfoNCE stage of either stream."""
    out = tmp_path_factory.mktemp("first")
    run_pretrain(videos, out / "rgb", *FIRST)
    run_pretrain(videos, out / "flow", *FIRST, *FLOW)
    return {"rgb": out / "rgb", "flow": out / "flow"}


def test_the_second_stage_begins_with_both_nets_of_the_first(videos, first, tmp_path):
    before = (first["flow"] / "encoder.safetensors").read_bytes()
    argv = [*MINE, "--objective.init", str(first["rgb"]), "--objective.sampler", str(first["flow"])]
    ran = run_pretrain(videos, tmp_path / "a", *argv)
    assert ran["step"] == 6 and ran["positives"] >= 3  # its own, and two mined
    encoder = load_encoder(tmp_path / "a")
    assert encoder.spec.modality == "rgb"
    assert (first["flow"] / "encoder.safetensors").read_bytes() == before
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b/checkpoints/step_00000006.pt").unlink()
    run_pretrain(
        videos, tmp_path / "b", *argv
    )  # goes on from step 3, its queues filled as they were
    again = load_encoder(tmp_path / "b").state_dict()
    assert all(torch.equal(x, again[k]) for k, x in encoder.state_dict().items())


def test_it_starts_where_the_first_stage_ended(videos, first):
    objective = CoCLR(
        net(stride=1), sampler=str(first["flow"]), init=str(first["rgb"]), dim=8, queue=4, topk=2
    )
    for name, path in (("encoder", "rgb"), ("key_encoder", "rgb"), ("sampler", "flow")):
        published = load_encoder(first[path]).state_dict()
        assert all(
            torch.equal(x, published[k])
            for k, x in objective.get_submodule(name).state_dict().items()
        ), name
    state = torch.load(sorted((first["flow"] / "checkpoints").glob("*.pt"))[-1], weights_only=True)[
        "model"
    ]
    assert torch.equal(objective.sampler_head[0].weight, state["head.0.weight"])


def test_the_second_stage_without_the_first_is_refused(videos, first, tmp_path):
    (tmp_path / "empty").mkdir()
    sampler, flow = "--objective.sampler", str(first["flow"])
    for argv, words in (
        ([*MINE, sampler, str(tmp_path / "gone")], (sampler, str(tmp_path / "gone"))),
        ([*MINE, sampler, str(first["rgb"])], ("--clip.modality", "rgb")),
        ([*MINE, sampler, flow, "--objective.init", flow], (flow, "flow")),
        ([*MINE, sampler, str(tmp_path / "empty")], (str(tmp_path / "empty"),)),
        ([*FIRST, "--objective.queue", "16"], ("16", "8")),  # a queue larger than the videos
    ):
        with pytest.raises(UserError, match=facts(*words)):
            run_pretrain(videos, tmp_path / "a", *argv)
    assert not (tmp_path / "a").exists()


def test_without_the_other_net_it_is_a_control_and_warns(videos, tmp_path, capsys):
    capsys.readouterr()
    run_pretrain(videos, tmp_path / "a", *MINE)
    assert tells(capsys.readouterr().err, "warning", "--objective.sampler", "flow")
    with pytest.raises(UserError, match=facts("--objective.sampler")):
        CoCLR(net())


def test_data_that_it_cannot_learn_from_is_refused(tmp_path):
    objective = InfoNCE(net(), dim=8, queue=8)
    objective.check_data(rows([f"clip{i}a" for i in range(8)]), objective.views, 4)
    with pytest.raises(UserError, match=facts("--objective.queue", "8", "7")):
        objective.check_data(rows([f"clip{i}a" for i in range(7)]), objective.views, 4)
    with pytest.raises(UserError, match=facts("8", "3")):
        objective.check_data(rows([f"clip{i}a" for i in range(8)]), objective.views, 3)
    with pytest.raises(UserError):
        objective.check_data(
            rows([f"v_Run_g01_c0{i}" for i in range(1, 9)]), objective.views, 4
        )  # eight cuts of one film
    uber = InfoNCE(net(), dim=8, queue=8, positives="label")
    names = [f"clip{i}a" for i in range(8)]
    uber.check_data(rows(names, "run"), uber.views, 4)
    with pytest.raises(UserError, match=facts("8")):
        uber.check_data(rows(names), uber.views, 4)


@for_each("entry", [CoCLR, InfoNCE])
def test_a_batch_of_one_clip_is_a_sentence(entry):
    objective = entry(net(), **entry.tiny_kwargs)
    with pytest.raises(UserError):
        objective(batch_for(objective, clips=1))


def test_flow_that_is_missing_stops_the_command(tmp_path):
    for i in range(4):
        write_video(tmp_path / "set" / f"v{i}.mp4", squares(i))
    argv = [
        "--objective",
        "infonce",
        *NET,
        *FLOW,
        "--data",
        "folder",
        "--data.root",
        str(tmp_path / "set"),
    ]
    ended = command(
        "ssvid.pretrain", *argv, "--out", str(tmp_path / "a"), "--steps", "2", "--workers", "0"
    )
    assert tells(sentence(ended), "ssvid.data.flow")


def test_until_the_queue_is_full_nothing_is_mined_or_learnt(videos, first):
    objective = CoCLR(
        net(stride=1), sampler=str(first["flow"]), dim=8, queue=4, topk=2, augment="none"
    )
    batch, mined = batch_for(objective), []
    for step in range(3):
        batch["video_id"] = [f"{step}a", f"{step}b"]
        loss = objective(batch)
        mined.append((loss.skip, float(loss.parts["positives"])))
        objective.after_step(0.0)
    assert mined == [(True, 1.0), (True, 1.0), (False, 3.0)]


def test_clips_of_one_film_are_positives_and_are_not_mined():
    objective = CoCLR(net(), sampler="random", dim=2, queue=4, topk=1)
    device = torch.device("cpu")
    objective.queue.get_buffer("source").copy_(
        number_sources(["v_Run_g01_c01", "v_Run_g01_c02", "b", "c"], device)
    )
    objective.second.keys.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]))
    objective.queue.pushed.fill_(4)
    right = objective.find_positives(
        number_sources(["v_Run_g01_c05"], device), torch.tensor([[1.0, 0.0]])
    )
    assert right.tolist() == [[True, True, True, True, False]]
    objective.queue.pushed.fill_(3)
    right = objective.find_positives(
        number_sources(["v_Run_g01_c05"], device), torch.tensor([[1.0, 0.0]])
    )
    assert right.tolist() == [[True, True, True, False, False]]


def test_a_step_drops_its_own_keys_nine_times_in_ten():
    objective = CoCLR(net(), sampler="random", dim=2, queue=4, topk=1)
    dropped = [objective.drops_own_key(0, step) for step in range(2000)]
    assert 0.88 < sum(dropped) / 2000 < 0.92
    alone = objective.without_own_key(torch.tensor([[True, False, False], [True, True, False]]))
    assert alone.tolist() == [[True, False, False], [False, True, False]]


def test_the_sampler_keeps_its_statistics():
    objective = CoCLR(net(), sampler="random", dim=8, queue=4, topk=2).train()
    before = copy.deepcopy(objective.sampler.state_dict())
    objective(batch_for(objective))
    assert all(torch.equal(x, before[k]) for k, x in objective.sampler.state_dict().items())
    assert objective.sampler.training, "put back as it was"


def test_weights_from_outside_reach_the_encoder_of_keys_too(videos, first, tmp_path):
    """`--init` fills what is exported, and the slow copy begins there."""
    ran = run_pretrain(
        videos, tmp_path / "a", *FIRST, "--init", str(first["rgb"]), "--lr", "0", "--min_lr", "0"
    )
    assert ran["step"] == 6
    state = torch.load(
        sorted((tmp_path / "a" / "checkpoints").glob("*.pt"))[-1], weights_only=True
    )["model"]
    torch.testing.assert_close(state["key_encoder.conv1.weight"], state["encoder.conv1.weight"])
    assert torch.equal(
        state["encoder.conv1.weight"], load_encoder(first["rgb"]).state_dict()["conv1.weight"]
    )
