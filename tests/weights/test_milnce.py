"""MIL-NCE's checkpoints: both stems, both forms of file, objectives, joint space, other words."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from objectives.mil_nce import MilNCE
from ssvid import create_encoder, load_encoder
from ssvid.encoder import Encoder
from ssvid.encoders.s3d import MIXED, scale_width
from ssvid.encoders.s3dg import SamePool
from ssvid.engine.warm_start import warm_start
from ssvid.text.joint_files import load_joint
from ssvid.weights.__main__ import weights
from tests.helpers import for_each
from tests.weights.layouts import Shapes, State, affine, filled, refusal

WORDS = ["add", "the", "onion", "don't"]
WIDTH, DIM, HIDDEN, VECTOR = (
    0.125,
    6,
    10,
    5,
)  # of the net, of the space, inside the tower, of a word
OPTIONS = {"width": VECTOR, "hidden": HIDDEN}


def milnce(stem: str = "s2d") -> State:
    """As the published class registers them, from its key list."""
    shapes: Shapes = {}

    def conv(prefix: str, ins: int, outs: int, *kernels: tuple[int, int, int]) -> None:
        for i, kernel in enumerate(kernels, 1):
            shapes[f"{prefix}.conv{i}.weight"] = (outs, ins if i == 1 else outs, *kernel)
            for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                shapes[f"{prefix}.bn{i}.{leaf}"] = () if leaf == "num_batches_tracked" else (outs,)

    def wide(n: int) -> int:
        return scale_width(n, WIDTH)

    point, split = ((1, 1, 1),), ((1, 3, 3), (3, 1, 1))
    conv("conv1", *((24, wide(64), (2, 4, 4)) if stem == "s2d" else (3, wide(64), (3, 7, 7))))
    conv("conv_2b", wide(64), wide(64), *point)
    conv("conv_2c", wide(64), wide(192), *split)
    shapes |= affine("gating.fc", wide(192), wide(192))
    ins = wide(192)
    for name, (b0, b1, b2, b3) in MIXED.items():
        prefix = f"mixed_{name}"
        conv(f"{prefix}.conv_b0", ins, wide(b0), *point)
        for k, (first, second) in (("1", b1), ("2", b2)):
            conv(f"{prefix}.conv_b{k}_a", ins, wide(first), *point)
            conv(f"{prefix}.conv_b{k}_b", wide(first), wide(second), *split)
        conv(f"{prefix}.conv_b3_b", ins, wide(b3), *point)
        outs = [wide(n) for n in (b0, b1[1], b2[1], b3)]
        for b, n in enumerate(outs):
            shapes |= affine(f"{prefix}.gating_b{b}.fc", n, n)
        ins = sum(outs)
    shapes |= affine("fc", DIM, ins) | {"text_module.word_embd.weight": (1 + len(WORDS), VECTOR)}
    shapes |= affine("text_module.fc1", HIDDEN, VECTOR) | affine("text_module.fc2", DIM, HIDDEN)
    state = filled(shapes)
    state |= {key: x.abs() + 0.5 for key, x in state.items() if key.endswith("running_var")}
    state |= {key: torch.tensor(7) for key in state if key.endswith("num_batches_tracked")}
    return OrderedDict(state)


def saved(folder: Path, form: str) -> tuple[Path, State]:
    """released: the tensors alone. training: wrapped, with a prefix and the plain stem."""
    if form == "released":
        state = milnce()
        torch.save(state, folder / "s3d_howto100m.pth")
        return folder / "s3d_howto100m.pth", state
    state = OrderedDict((f"module.{key}", x) for key, x in milnce("plain").items())
    torch.save(
        {"epoch": 3, "state_dict": state, "optimizer": {}, "scheduler": {}},
        folder / "epoch0003.pth.tar",
    )
    return folder / "epoch0003.pth.tar", state


def words(folder: Path, list_: list[str] = WORDS) -> str:
    np.save(folder / "s3d_dict.npy", np.array(list_))
    return str(folder / "s3d_dict.npy")


def small(stem: str = "s2d") -> Encoder:
    return create_encoder("s3dg", stem=stem, width=WIDTH, frames=16, size=64)


@for_each("form", ["released", "training"])
def test_the_encoder_has_the_files_stem_and_clips(form: str, tmp_path: Path):
    file, state = saved(tmp_path, form)
    loaded = load_encoder(file)
    spec = loaded.spec
    published = (32, 10.0, 200) if form == "released" else (16, 5.0, 224)
    assert loaded.name == "s3dg" and (spec.frames, spec.fps, spec.size) == published
    key = "mixed_4d.conv_b2_b.conv2.weight"
    theirs = state[key] if form == "released" else state[f"module.{key}"]
    assert torch.equal(loaded.mixed4[2].branches[2][1][3].weight, theirs)
    chosen = create_encoder("s3dg", weights=file, frames=8, fps=2.0, size=64)
    assert (chosen.spec.frames, chosen.spec.fps) == (8, 2.0) and chosen.cells == (
        form == "released"
    )
    other = "plain" if form == "released" else "s2d"
    with refusal("stem", loaded.kwargs.get("stem", "s2d"), other):
        create_encoder("s3dg", weights=file, stem=other)


@for_each("form", ["released", "training"])
def test_a_whole_objective_starts_from_the_file(form: str, tmp_path: Path):
    file, state = saved(tmp_path, form)
    stem = "s2d" if form == "released" else "plain"
    objective = MilNCE(small(stem), dim=DIM, words=words(tmp_path), options=OPTIONS)
    warm_start(objective, str(file))
    state = {key.removeprefix("module."): x for key, x in state.items()}
    assert torch.equal(objective.tower.table.weight, state["text_module.word_embd.weight"])
    assert torch.equal(objective.head.weight, state["fc.weight"])
    with refusal("--encoder.stem", stem):
        warm_start(MilNCE(small("plain" if stem == "s2d" else "s2d"), dim=DIM), str(file))
    alone = MilNCE(small(stem), dim=DIM)  # hashed words: the encoder alone
    warm_start(alone, str(file))
    assert torch.equal(alone.encoder.stem[0][1].bias, state["conv1.bn1.bias"])
    assert not torch.equal(alone.head.weight, state["fc.weight"])


@torch.no_grad()
def test_the_joint_space_of_a_file_is_the_published_product(tmp_path: Path):
    file, state = saved(tmp_path, "released")
    joint = load_joint(file, words(tmp_path))
    rows = torch.tensor([3, 4, 0])  # onion don't; zzz is dropped, and padding is seen
    x = (
        state["text_module.word_embd.weight"][rows] @ state["text_module.fc1.weight"].T
        + state["text_module.fc1.bias"]
    )
    x = x.relu().amax(0) @ state["text_module.fc2.weight"].T + state["text_module.fc2.bias"]
    torch.testing.assert_close(joint.embed_texts(["Onion zzz DON'T!"])[0], x)
    pooled = torch.randn(2, len(state["fc.weight"][0]))
    torch.testing.assert_close(
        joint.embed_videos(pooled), pooled @ state["fc.weight"].T + state["fc.bias"]
    )
    assert not joint.tower.table.weight.requires_grad and joint.tower.first.weight.requires_grad


def test_words_that_do_not_belong_to_the_file(tmp_path: Path):
    file, _ = saved(tmp_path, "released")
    with refusal("s3d_dict.npy"):
        load_joint(file)
    with refusal("s3d_dict.npy", "3", "s3d_howto100m.pth", "4"):
        load_joint(file, words(tmp_path, WORDS[:3]))
    with refusal("5", "4"):
        MilNCE(small(), dim=DIM, text=str(file), words=words(tmp_path, [*WORDS, "pan"]))


def test_the_tower_alone_is_taken_from_the_file(tmp_path: Path):
    file, state = saved(tmp_path, "released")
    objective = MilNCE(small(), dim=DIM, text=str(file), words=words(tmp_path))
    assert torch.equal(objective.tower.last.weight, state["text_module.fc2.weight"])
    assert not torch.equal(objective.head.weight, state["fc.weight"]) and objective.tower.training
    with refusal("--objective.dim", "6"):
        MilNCE(small(), text=str(file), words=words(tmp_path))


def test_files_that_are_cut_or_of_other_shapes(tmp_path: Path):
    state = milnce()
    net = OrderedDict(
        (key, x) for key, x in state.items() if not key.startswith(("fc.", "text_module."))
    )
    torch.save(net, tmp_path / "net.pth")
    assert torch.equal(load_encoder(tmp_path / "net.pth").stem[0][1].bias, state["conv1.bn1.bias"])
    weights(str(tmp_path / "net.pth"), to="milnce", out=str(tmp_path / "again.pth"))
    assert list(torch.load(tmp_path / "again.pth", weights_only=True)) == list(net)
    with refusal("net.pth"):
        load_joint(tmp_path / "net.pth", words(tmp_path))
    torch.save({**state, "conv1.conv1.weight": torch.zeros(8, 12, 2, 4, 4)}, tmp_path / "odd.pth")
    with refusal("odd.pth", "12"):
        load_encoder(tmp_path / "odd.pth")
    del net["gating.fc.bias"]
    torch.save(net, tmp_path / "less.pth")
    with refusal("1", "gating.fc.bias"):
        load_encoder(tmp_path / "less.pth")


@for_each("size", range(1, 9))
@for_each(
    "kernel, stride", [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2))]
)
def test_pools_are_as_tensorflow_pads_them(
    kernel: tuple[int, ...], stride: tuple[int, ...], size: int
):
    """Zeros left and right, then windows that may end outside: of what a ReLU gave."""
    x = torch.randn(2, 3, size, size + 1, size).relu()
    room = [k - s for k, s in zip(kernel, stride, strict=True)]
    pad: list[int] = []
    for r in reversed(room):
        pad += [r // 2, r - r // 2]
    theirs = F.max_pool3d(F.pad(x, pad), kernel, stride, ceil_mode=True)
    assert torch.equal(SamePool(kernel, stride)(x), theirs)


@torch.no_grad()
@for_each("stem", ["s2d", "plain"])
def test_the_grid_of_both_stems(stem: str):
    encoder = small(stem).eval()
    for shape in ((16, 64, 64), (5, 33, 47), (3, 32, 96)):
        clip = torch.rand(1, 3, *shape)
        features = encoder(clip)
        assert features.grid == encoder.grid(*shape)
        torch.testing.assert_close(features.pooled, features.tokens.mean(1))
    assert encoder.normalise(
        torch.full((1, 3, 1, 1, 1), 255, dtype=torch.uint8)
    ).unique().tolist() == [1.0]
    with refusal("both", "s2d", "plain"):
        create_encoder("s3dg", stem="both")


def test_a_clip_of_one_frame_has_no_cell():
    with refusal("1", "s3dg"):
        small()(torch.rand(1, 3, 1, 32, 32))
