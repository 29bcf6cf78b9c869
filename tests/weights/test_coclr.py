"""CoCLR's checkpoints: whole objectives, trimmed files, queues, and the published key lists."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from objectives.coclr import CoCLR
from objectives.infonce import InfoNCE
from ssvid import create_encoder, load_encoder, registry
from ssvid.encoder import Encoder
from ssvid.encoders.s3d import S3D
from ssvid.engine.warm_start import warm_start
from ssvid.hub import open_encoder
from ssvid.nn.batchnorm import ensure_statistics
from ssvid.results.provenance import describe_encoder
from ssvid.weights.__main__ import weights
from ssvid.weights.coclr import COCLR, INFONCE, UBERNCE
from ssvid.weights.files import WeightsFile, read_weights
from ssvid.weights.published import PublishedFile, identify_file
from tests.helpers import for_each
from tests.reference.cases import Case, discover
from tests.weights.coclr_layouts import (
    KEY_DIM,
    KEYS,
    coclr,
    coclr_odd,
    infonce,
    s3d,
    ubernce,
)
from tests.weights.layouts import State, assert_same, refusal

SMALL = {"dim": KEY_DIM, "queue": KEYS}


def saved(folder: Path, state: State, **beside: object) -> Path:
    torch.save({"epoch": 3, "state_dict": state, **beside}, folder / "epoch3.pth.tar")
    return folder / "epoch3.pth.tar"


def identify(state: State) -> PublishedFile:
    published = identify_file(WeightsFile(Path("epoch3.pth.tar"), state, "state_dict", {}))
    assert published is not None
    return published


def small() -> Encoder:
    return create_encoder("s3d", width=0.125)


@for_each(
    "make, build",
    [
        (infonce, lambda: InfoNCE(small(), **SMALL)),
        (ubernce, lambda: InfoNCE(small(), positives="label", **SMALL)),
        (coclr, lambda: CoCLR(small(), sampler="random", **SMALL)),
    ],
)
def test_a_whole_objective_starts_from_the_file(make: Callable, build: Callable, tmp_path: Path):
    state, objective = make(), build()
    entries = {
        "best_acc": np.float64(0.5),
        "iteration": 7,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
    }
    warm_start(objective, str(saved(tmp_path, state, **entries)))
    assert torch.equal(objective.head[0].weight, state["encoder_q.2.weight"][..., 0, 0, 0])
    assert torch.equal(objective.key_head[2].weight, state["encoder_k.4.weight"][..., 0, 0, 0])
    assert torch.equal(objective.key_encoder.stem[3][4].bias, state["encoder_k.0.Conv_2c.bn2.bias"])
    assert torch.equal(objective.queue.keys, state["queue"].T)
    assert objective.exported_encoders()["encoder"].licence == "Apache-2.0"
    if make is coclr:
        assert torch.equal(objective.sampler_head[2].bias, state["sampler.4.bias"])
        assert torch.equal(objective.second.keys, state["queue_second"].T) and objective.queue.full
        assert objective.queue.source.tolist() == list(range(40, 40 + KEYS))
    layout = {infonce: INFONCE, ubernce: UBERNCE, coclr: COCLR}[make]
    assert_same(layout.to_theirs(objective.state_dict()), state)


@for_each("make", [ubernce, coclr])
@for_each("there, pushed", [(0, 0), (4, 4), (KEYS, KEYS + 2)])
def test_the_count_of_keys_is_told_by_the_pointer_and_the_marks(
    make: Callable, there: int, pushed: int
):
    ours = identify(make(there)).ours
    counts = [value for key, value in ours.items() if key.endswith(".pushed")]
    assert len(counts) == (2 if make is coclr else 1) and {int(x) for x in counts} == {pushed}
    assert "queue.filled" not in ours and all(
        x.shape == () and x.dtype == torch.int64 for x in counts
    )


@for_each("pushed, pointer, there", [(0, 0, 0), (4, 4, 4), (8, 0, 8), (10, 2, 8), (27, 3, 8)])
def test_marks_follow_from_the_count(pushed: int, pointer: int, there: int):
    objective = CoCLR(small(), sampler="random", **SMALL)
    for queue in (objective.queue, objective.second):
        queue.pushed.fill_(pushed)
    theirs = COCLR.to_theirs(objective.state_dict())
    assert theirs["queue_ptr"].tolist() == [pointer]
    assert theirs["queue_label"].tolist() == [1] * there + [-1] * (KEYS - there)
    objective.second.pushed.add_(1)
    with refusal("second.pushed"):
        COCLR.to_theirs(objective.state_dict())


def test_marks_that_no_count_gives_are_kept_and_leave_the_encoder(tmp_path: Path):
    state, objective = coclr_odd(), CoCLR(small(), sampler="random", **SMALL)
    head = objective.head[0].weight.clone()
    warm_start(objective, str(saved(tmp_path, state)))
    assert torch.equal(objective.head[0].weight, head), "the encoder alone"
    assert torch.equal(objective.encoder.stem[2][1].bias, state["encoder_q.0.Conv_2b.bn.bias"])
    assert torch.equal(objective.key_encoder.stem[2][1].bias, objective.encoder.stem[2][1].bias)


CUTS: dict[str, Callable[[str], bool]] = {
    "the query's net": lambda key: key.startswith("encoder_q.0."),
    "the query": lambda key: key.startswith("encoder_q."),
    "no second names": lambda key: ".block" not in key,
    "no queues": lambda key: not key.startswith("queue"),
    "no heads": lambda key: key.split(".")[1:2] not in (["2"], ["4"]),
    "no key encoder": lambda key: not key.startswith("encoder_k."),
    "no sampler": lambda key: not key.startswith("sampler."),
}


@pytest.mark.parametrize(
    "make, cut",
    [
        *((coclr, cut) for cut in CUTS),
        (infonce, "the query"),
        (infonce, "no queues"),
        (ubernce, "no heads"),
    ],
)
def test_a_trimmed_file_is_read_and_written_back(make: Callable, cut: str, tmp_path: Path):
    state = {key: x for key, x in make().items() if CUTS[cut](key)}
    file = saved(tmp_path, state)
    loaded = load_encoder(file)
    assert (
        loaded.name == "s3d"
        and loaded.kwargs == {"width": 0.125}
        and loaded.licence == "Apache-2.0"
    )
    assert torch.equal(loaded.stem[3][3].weight, state["encoder_q.0.Conv_2c.conv2.weight"])
    published = identify_file(read_weights(file))
    assert published is not None
    whole = state.keys() == make().keys() or cut == "no second names"
    assert (published.net.objective is not None) == (
        whole or (cut == "no sampler" and make is coclr)
    )
    assert ("head.2.weight" in published.ours) == (cut not in ("the query's net", "no heads"))
    weights(str(file), to=published.layout.name, out=str(tmp_path / "again.pth"))
    assert_same(torch.load(tmp_path / "again.pth", weights_only=True)["state_dict"], state)


def test_the_encoder_alone_is_taken_out(tmp_path: Path):
    weights(str(saved(tmp_path, coclr(gating=True))), to="coclr-s3d", out=str(tmp_path / "net.pth"))
    assert_same(torch.load(tmp_path / "net.pth", weights_only=True)["state_dict"], s3d(gating=True))


@for_each(
    "make, to, lack",
    [
        (infonce, "coclr", "queue_vname"),
        (infonce, "ubernce", "queue.label"),
        (ubernce, "infonce", "queue.label"),
        (coclr, "infonce", "queue.source"),
        (s3d, "ubernce", "queue.label"),
    ],
)
def test_one_method_is_not_written_as_another(make: Callable, to: str, lack: str, tmp_path: Path):
    with refusal(lack):
        weights(str(saved(tmp_path, make())), to=to, out=str(tmp_path / "x.pth"))
    assert not (tmp_path / "x.pth").exists()


def test_files_that_are_not_whole_or_of_other_shapes(tmp_path: Path):
    state = coclr()
    del (
        state["encoder_k.0.Mixed_4c.branch1.1.bn2.weight"],
        state["encoder_k.0.block4.2.branch1.1.bn2.weight"],
    )
    with refusal("2787", "2", "encoder_k.0.Mixed_4c.branch1.1.bn2.weight"):
        load_encoder(saved(tmp_path, state))
    loaded = create_encoder("s3d", weights=saved(tmp_path, state), partial=True)
    assert torch.equal(
        loaded.state_dict()["stem.2.0.weight"], state["encoder_q.0.Conv_2b.conv.weight"]
    )
    for key, shape in {"encoder_q.2.weight": (8, 8), "queue": (8,), "queue_ptr": (2,)}.items():
        with refusal("epoch3.pth.tar", "CoCLR"):
            identify({**coclr(), key: torch.zeros(shape)})
    key = "sampler.0.block5.2.branch0.0.bn.bias"
    with refusal(key):
        identify({**coclr(), key: coclr()[key] + 1})
    with refusal("1", "queue_second"):
        identify({**infonce(), "queue_second": torch.zeros(KEY_DIM, KEYS)}).require_complete()


def test_gates_are_seen_in_the_file(tmp_path: Path):
    gated, plain = tmp_path / "gated", tmp_path / "plain"
    for folder, state in ((gated, infonce(gating=True)), (plain, infonce())):
        folder.mkdir()
        saved(folder, state)
    loaded = load_encoder(gated / "epoch3.pth.tar")
    assert loaded.name == "s3d" and loaded.kwargs == {"width": 0.125, "gating": True}
    gate = infonce(gating=True)["encoder_q.0.Mixed_4d.gating_b2.fc.weight"]
    assert torch.equal(loaded.mixed4[2].gates[2].linear.weight, gate)
    assert create_encoder("s3d", weights=gated / "epoch3.pth.tar").kwargs == {
        "width": 0.125,
        "gating": True,
    }
    with refusal("s3d", "gating", "False", "True"):
        create_encoder("s3d", gating=True, weights=plain / "epoch3.pth.tar")
    with refusal("s3dg"):  # MIL-NCE's
        create_encoder("s3dg", weights=gated / "epoch3.pth.tar")
    with refusal("--encoder.gating", "True"):
        warm_start(InfoNCE(small(), **SMALL), str(gated / "epoch3.pth.tar"))


def test_what_the_file_does_not_tell_is_said(tmp_path: Path, capsys):
    file = saved(tmp_path, infonce())
    report = weights(str(file))
    assert (report["encoder"], report["objective"], report["settings"]) == ("s3d", "infonce", SMALL)
    assert weights(str(saved(tmp_path, ubernce())))["settings"] == {**SMALL, "positives": "label"}
    load_encoder(file)
    assert capsys.readouterr().err.count("RGB or flow") == 3


def test_a_net_without_statistics_is_said_and_no_good_frozen(tmp_path: Path, capsys):
    loaded = load_encoder(saved(tmp_path, infonce(running=False)))
    assert "without batch-norm statistics" in capsys.readouterr().err
    with refusal("--calibrate_bn"):
        ensure_statistics(loaded, "epoch3.pth.tar", None)


@for_each("head", ["final_fc.0.", "final_fc.1.", "final_bn."])
def test_inside_a_classifier(head: str, tmp_path: Path):
    state = {f"backbone.{key}": x for key, x in s3d().items()}
    state |= {f"{head}{x}": torch.zeros(3) for x in ("weight", "bias")}
    loaded = load_encoder(saved(tmp_path, state))
    assert torch.equal(
        loaded.mixed3[0].branches[0][0].weight, s3d()["Mixed_3b.branch0.0.conv.weight"]
    )


def listed() -> list[Case]:
    """Cases with the whole key list of a net with S3D, of the published size."""
    cases = []
    for case in discover():
        weights = case.meta.get("weights")
        keys = weights.get("keys", []) if isinstance(weights, dict) else []
        if any("Mixed_5c" in key[0] for key in keys):
            cases.append(case)
    return cases


def nothing(key: str, shape: list[int], dtype: str) -> Tensor:
    """An untrained file's, without memory: columns of the queue begin at -1."""
    begin = -1 if key in ("queue_label", "queue_vname") else 0
    return torch.tensor(begin, dtype=getattr(torch, dtype)).expand(shape)


@for_each("case", listed())
def test_the_published_key_lists(case: Case):
    theirs = {
        key: nothing(key, shape, dtype) for key, shape, dtype, _ in case.meta["weights"]["keys"]
    }
    published = identify(theirs)
    assert not published.missing and not published.unexpected
    with torch.device("meta"):
        encoder = create_encoder(published.net.encoder, **published.net.kwargs)
        built: torch.nn.Module = encoder
        if published.net.objective is not None:
            kind = {"infonce": InfoNCE, "coclr": CoCLR}[published.net.objective]
            built = kind(
                encoder,
                **published.net.settings,
                **({"sampler": "random"} if kind is CoCLR else {}),
            )
    whole = published.ours if published.net.objective else published.encoder_state()
    assert {k: x.shape for k, x in built.state_dict().items()} == {
        k: x.shape for k, x in whole.items()
    }
    heads = [key for key in theirs if key.startswith("final_") and key.endswith(("weight", "bias"))]
    beside = sum(theirs[key].numel() for key in heads)
    assert sum(p.numel() for p in built.parameters()) + beside == case.meta["weights"]["n_params"]
    again = published.layout.to_theirs(published.ours)
    inside = {k: x.shape for k, x in theirs.items() if k.startswith(published.prefix)}
    assert {published.prefix + k: x.shape for k, x in again.items()} == inside


def test_as_many_parameters_as_the_published_net():
    with torch.device("meta"):
        objective = CoCLR(create_encoder("s3d"), sampler="random")
    assert sum(p.numel() for p in objective.parameters()) == 27_272_544


def test_which_stream_a_file_is_of_the_user_says(tmp_path: Path):
    file = str(saved(tmp_path, infonce()))
    plain, flow = open_encoder(file), open_encoder(f"{file}@flow")
    assert (plain.spec.modality, flow.spec.modality) == ("rgb", "flow")
    assert all(torch.equal(x, plain.state_dict()[key]) for key, x in flow.state_dict().items())
    assert describe_encoder(f"{file}@flow", "a", flow).weights == "trained"
    with refusal("@flow"):
        open_encoder(f"{tmp_path}@flow")
    with refusal("gone.pth"):
        open_encoder(f"{tmp_path}/gone.pth@flow")


def test_a_strangers_function_of_one_net_is_no_size_of_it(tmp_path: Path, monkeypatch):
    """It takes no arguments, so it cannot be made as a file has it."""

    def mine() -> S3D:
        return S3D(width=0.125)

    monkeypatch.setitem(registry.encoders.table, "a_mine", mine)
    assert load_encoder(saved(tmp_path, s3d())).name == "s3d"
