"""Small state dicts as the published code would save them.

They are written from its key lists, without any code of ours. Those of CoCLR are in
coclr_layouts.py.
"""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor

from ssvid.errors import UserError
from tests.helpers import facts

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
DEPTH, DEC_DEPTH, PATCH = 2, 1, 4
DIM = DEC_DIM = 64  # one head, which the width shows
LEAVES = ("weight", "bias")


def refusal(*words: str):  # noqa: ANN201
    """The block ends in a UserError whose message names each of `words`."""
    return pytest.raises(UserError, match=facts(*words))


def assert_same(ours: State, theirs: State) -> None:
    """The same keys in the same order, and the same tensors."""
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype and torch.equal(ours[key], value), key


def affine(name: str, *shape: int) -> Shapes:
    """A weight of this shape, and its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


SHAPES: Shapes = {
    **affine("norm1", DIM),
    **{"attn.q_bias": (DIM,), "attn.v_bias": (DIM,), "attn.qkv.weight": (3 * DIM, DIM)},
    **affine("attn.proj", DIM, DIM),
    **affine("norm2", DIM),
    **affine("mlp.fc1", 4 * DIM, DIM),
    **affine("mlp.fc2", DIM, 4 * DIM),
}


def add_prefix(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + key: shape for key, shape in shapes.items()}


def copy_module(state: State, ours: str, theirs: str) -> State:
    """The weight and bias of the module `ours` under the name `theirs`."""
    return {f"{theirs}.{leaf}": state[f"{ours}.{leaf}"] for leaf in LEAVES}


def filled(shapes: Shapes) -> State:
    generator = torch.Generator().manual_seed(3)
    return OrderedDict(
        (key, 0.2 * torch.randn(shape, generator=generator)) for key, shape in shapes.items()
    )


def videomae() -> State:
    shapes: Shapes = {"mask_token": (1, 1, DEC_DIM)}
    shapes |= affine("encoder.patch_embed.proj", DIM, 3, 2, PATCH, PATCH)
    for i in range(DEPTH):
        shapes |= add_prefix(f"encoder.blocks.{i}.", SHAPES)
    shapes |= affine("encoder.norm", DIM)
    for i in range(DEC_DEPTH):
        shapes |= add_prefix(f"decoder.blocks.{i}.", SHAPES)
    shapes |= affine("decoder.norm", DEC_DIM) | affine("decoder.head", 6 * PATCH * PATCH, DEC_DIM)
    return filled({**shapes, "encoder_to_decoder.weight": (DEC_DIM, DIM)})


def videomae_encoder() -> State:
    return OrderedDict(
        (k.removeprefix("encoder."), v) for k, v in videomae().items() if k.startswith("encoder.")
    )


def videomae_finetuned() -> State:
    named = {
        k.replace("norm.", "fc_norm.", 1) if k[:5] == "norm." else k: v
        for k, v in videomae_encoder().items()
    }
    return OrderedDict({**named, **filled(affine("head", 5, DIM))})


HF = {
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
HF |= {"norm1": "layernorm_before", "norm2": "layernorm_after"}


def hf_block(version: int, theirs: str, state: State, ours: str) -> State:
    prefix = f"{theirs}.attention.attention"
    q, k, v = (part.clone() for part in state[f"{ours}.attn.qkv.weight"].split(DIM))
    bias = {n: state[f"{ours}.attn.{n}_bias"] for n in "qv"}
    if version == 4:
        tensors = {f"{prefix}.q_bias": bias["q"], f"{prefix}.v_bias": bias["v"]}
        tensors |= {
            f"{prefix}.query.weight": q,
            f"{prefix}.key.weight": k,
            f"{prefix}.value.weight": v,
        }
    else:
        tensors = {
            f"{prefix}.query.weight": q,
            f"{prefix}.query.bias": bias["q"],
            f"{prefix}.key.weight": k,
        }
        tensors |= {f"{prefix}.value.weight": v, f"{prefix}.value.bias": bias["v"]}
    for name, theirs_of in HF.items():
        tensors |= copy_module(state, f"{ours}.{name}", f"{theirs}.{theirs_of}")
    return tensors


def hf_trunk(version: int, state: State) -> State:
    patch = "videomae.embeddings.patch_embeddings.projection"
    tensors = copy_module(state, "encoder.patch_embed.proj", patch)
    for i in range(DEPTH):
        tensors |= hf_block(version, f"videomae.encoder.layer.{i}", state, f"encoder.blocks.{i}")
    return tensors


def huggingface(version: int, norm: bool = True) -> State:
    state = videomae()
    tensors = {"mask_token": state["mask_token"], **hf_trunk(version, state)}
    if norm:
        tensors |= copy_module(state, "encoder.norm", "videomae.layernorm")
    tensors["encoder_to_decoder.weight"] = state["encoder_to_decoder.weight"]
    for i in range(DEC_DEPTH):
        tensors |= hf_block(version, f"decoder.decoder_layers.{i}", state, f"decoder.blocks.{i}")
    for name in ("norm", "head"):
        tensors |= copy_module(state, f"decoder.{name}", f"decoder.{name}")
    return tensors


def huggingface_finetuned(version: int) -> State:
    tuned = videomae_finetuned()
    tensors = {**hf_trunk(version, videomae()), "fc_norm.weight": tuned["fc_norm.weight"]}
    tensors |= {"fc_norm.bias": tuned["fc_norm.bias"], "classifier.weight": tuned["head.weight"]}
    return {**tensors, "classifier.bias": tuned["head.bias"]}


def mae_st_block(prefix: str) -> Shapes:
    shapes: Shapes = {}
    for key, shape in SHAPES.items():
        if key == "attn.qkv.weight":
            for part in "qkv":
                shapes |= affine(f"{prefix}.attn.{part}", DIM, DIM)
        elif not key.endswith("_bias"):
            shapes[f"{prefix}.{key}"] = shape
    return shapes


def mae_st(cls: bool = True, separable: bool = True, decoder: bool = True) -> State:
    """2 x 2 places; 8 slots, as 16 frames give."""

    def positions(prefix: str, dim: int) -> Shapes:
        if not separable:
            return {prefix: (1, 32 + cls, dim)}
        token = {f"{prefix}_class": (1, 1, dim)} if cls else {}
        return {f"{prefix}_spatial": (1, 4, dim), f"{prefix}_temporal": (1, 8, dim), **token}

    shapes: Shapes = {"cls_token": (1, 1, DIM)} if cls else {}
    shapes |= {"decoder_cls_token": (1, 1, DEC_DIM)} if cls and decoder else {}
    shapes |= positions("pos_embed", DIM)
    if decoder:
        shapes |= {"mask_token": (1, 1, DEC_DIM)} | positions("decoder_pos_embed", DEC_DIM)
    shapes |= affine("patch_embed.proj", DIM, 3, 2, PATCH, PATCH)
    for i in range(DEPTH):
        shapes |= mae_st_block(f"blocks.{i}")
    shapes |= affine("norm", DIM)
    if not decoder:
        return filled({**shapes, **affine("head", 5, DIM)})
    shapes |= affine("decoder_embed", DEC_DIM, DIM)
    for i in range(DEC_DEPTH):
        shapes |= mae_st_block(f"decoder_blocks.{i}")
    shapes |= affine("decoder_norm", DEC_DIM)
    return filled(
        {**shapes, **affine("decoder_pred", 3 * PATCH * PATCH, DEC_DIM)}
    )  # pixels of one frame


def dpc(blocks: tuple[int, ...] = (2, 2, 2, 2), width: int = 8, running: bool = False) -> State:
    shapes: Shapes = {}

    def norm(prefix: str, n: int) -> None:
        for leaf in (
            "weight",
            "bias",
            *(("running_mean", "running_var", "num_batches_tracked") if running else ()),
        ):
            shapes[f"{prefix}.{leaf}"] = () if leaf == "num_batches_tracked" else (n,)

    shapes["backbone.conv1.weight"] = (width, 3, 1, 7, 7)
    norm("backbone.bn1", width)
    ins = width
    for stage, (number, outs) in enumerate(
        zip(blocks, (width, 2 * width, 4 * width, 4 * width), strict=True), 1
    ):
        kernel = (1, 3, 3) if stage < 3 else (3, 3, 3)
        for i in range(number):
            prefix = f"backbone.layer{stage}.{i}"
            shapes[f"{prefix}.conv1.weight"] = (outs, ins, *kernel)
            norm(f"{prefix}.bn1", outs)
            shapes[f"{prefix}.conv2.weight"] = (outs, outs, *kernel)
            norm(f"{prefix}.bn2", outs)
            if i == 0 and stage > 1:
                shapes[f"{prefix}.downsample.0.weight"] = (outs, ins, 1, 1, 1)
                norm(f"{prefix}.downsample.1", outs)
            ins = outs
    cell = {f"{gate}_gate": (ins, 2 * ins, 1, 1) for gate in ("reset", "update", "out")}
    for name in ("ConvGRUCell_00", "cell_list.0"):
        for gate, shape in cell.items():
            shapes |= affine(f"agg.{name}.{gate}", *shape)
    for layer in (0, 2):
        shapes |= affine(f"network_pred.{layer}", ins, ins, 1, 1)
    state = filled(shapes)
    for key in state:
        if "cell_list.0" in key:
            state[key] = state[key.replace("cell_list.0", "ConvGRUCell_00")]
        if key.endswith("running_var"):
            state[key] = state[key].abs() + 0.5
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
    return OrderedDict((f"module.{key}", value) for key, value in state.items())


def memdpc(slots: int = 5) -> State:
    """DPC's net with two GRUs, a memory first and no `module.`; `network_pred` ends in slots."""
    tensors = OrderedDict(
        (key.removeprefix("module."), value) for key, value in dpc(running=True).items()
    )
    dim = tensors["network_pred.0.weight"].shape[0]
    before = {key: value for key, value in tensors.items() if key.startswith("backbone.")}
    ways: State = {}
    for way in "fb":
        for key, value in tensors.items():
            if key.startswith("agg."):
                ways[f"agg_{way}{key[3:]}"] = value
    after = {key: tensors[key] for key in ("network_pred.0.weight", "network_pred.0.bias")}
    last = filled(affine("network_pred.2", slots, dim, 1, 1))
    return OrderedDict({**filled({"mb": (slots, dim)}), **before, **ways, **after, **last})
