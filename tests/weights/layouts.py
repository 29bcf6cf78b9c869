"""Small state dicts as the published code would save them, written down from its key lists and from nothing of ours."""

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssvid.errors import UserError
from tests.helpers import facts

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
DEPTH, DEC_DEPTH, DIM, DEC_DIM, PATCH = (
    2,
    1,
    64,
    64,
    4,
)  # 64: one head, so that a width tells the heads


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


def filled(shapes: Shapes) -> State:
    generator = torch.Generator().manual_seed(3)
    return OrderedDict(
        (key, 0.2 * torch.randn(shape, generator=generator)) for key, shape in shapes.items()
    )


def videomae() -> State:
    shapes: Shapes = {"mask_token": (1, 1, DEC_DIM)}
    shapes |= affine("encoder.patch_embed.proj", DIM, 3, 2, PATCH, PATCH)
    shapes |= {
        f"encoder.blocks.{i}.{key}": shape for i in range(DEPTH) for key, shape in SHAPES.items()
    }
    shapes |= affine("encoder.norm", DIM)
    shapes |= {
        f"decoder.blocks.{i}.{key}": shape
        for i in range(DEC_DEPTH)
        for key, shape in SHAPES.items()
    }
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
    at = f"{theirs}.attention.attention"
    q, k, v = (part.clone() for part in state[f"{ours}.attn.qkv.weight"].split(DIM))
    bias = {n: state[f"{ours}.attn.{n}_bias"] for n in "qv"}
    if version == 4:
        made = {f"{at}.q_bias": bias["q"], f"{at}.v_bias": bias["v"]}
        made |= {f"{at}.query.weight": q, f"{at}.key.weight": k, f"{at}.value.weight": v}
    else:
        made = {f"{at}.query.weight": q, f"{at}.query.bias": bias["q"], f"{at}.key.weight": k}
        made |= {f"{at}.value.weight": v, f"{at}.value.bias": bias["v"]}
    for name, theirs_of in HF.items():
        made |= {
            f"{theirs}.{theirs_of}.{leaf}": state[f"{ours}.{name}.{leaf}"]
            for leaf in ("weight", "bias")
        }
    return made


def hf_trunk(version: int, state: State) -> State:
    made = {
        f"videomae.embeddings.patch_embeddings.projection.{leaf}": state[
            f"encoder.patch_embed.proj.{leaf}"
        ]
        for leaf in ("weight", "bias")
    }
    for i in range(DEPTH):
        made |= hf_block(version, f"videomae.encoder.layer.{i}", state, f"encoder.blocks.{i}")
    return made


def huggingface(version: int, norm: bool = True) -> State:
    state = videomae()
    made = {"mask_token": state["mask_token"], **hf_trunk(version, state)}
    if norm:
        made |= {
            f"videomae.layernorm.{leaf}": state[f"encoder.norm.{leaf}"]
            for leaf in ("weight", "bias")
        }
    made["encoder_to_decoder.weight"] = state["encoder_to_decoder.weight"]
    for i in range(DEC_DEPTH):
        made |= hf_block(version, f"decoder.decoder_layers.{i}", state, f"decoder.blocks.{i}")
    for name in ("norm", "head"):
        made |= {
            f"decoder.{name}.{leaf}": state[f"decoder.{name}.{leaf}"] for leaf in ("weight", "bias")
        }
    return made


def huggingface_finetuned(version: int) -> State:
    tuned = videomae_finetuned()
    made = {**hf_trunk(version, videomae()), "fc_norm.weight": tuned["fc_norm.weight"]}
    made |= {"fc_norm.bias": tuned["fc_norm.bias"], "classifier.weight": tuned["head.weight"]}
    return {**made, "classifier.bias": tuned["head.bias"]}


def mae_st_block(at: str) -> Shapes:
    shapes: Shapes = {}
    for key, shape in SHAPES.items():
        if key == "attn.qkv.weight":
            for part in "qkv":
                shapes |= affine(f"{at}.attn.{part}", DIM, DIM)
        elif not key.endswith("_bias"):
            shapes[f"{at}.{key}"] = shape
    return shapes


def mae_st(cls: bool = True, separable: bool = True, decoder: bool = True) -> State:
    """2 x 2 places; 8 slots, as 16 frames give."""

    def where(at: str, dim: int) -> Shapes:
        if not separable:
            return {at: (1, 32 + cls, dim)}
        token = {f"{at}_class": (1, 1, dim)} if cls else {}
        return {f"{at}_spatial": (1, 4, dim), f"{at}_temporal": (1, 8, dim), **token}

    shapes: Shapes = {"cls_token": (1, 1, DIM)} if cls else {}
    shapes |= {"decoder_cls_token": (1, 1, DEC_DIM)} if cls and decoder else {}
    shapes |= where("pos_embed", DIM)
    if decoder:
        shapes |= {"mask_token": (1, 1, DEC_DIM)} | where("decoder_pos_embed", DEC_DIM)
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

    def norm(at: str, n: int) -> None:
        for leaf in (
            "weight",
            "bias",
            *(("running_mean", "running_var", "num_batches_tracked") if running else ()),
        ):
            shapes[f"{at}.{leaf}"] = () if leaf == "num_batches_tracked" else (n,)

    shapes["backbone.conv1.weight"] = (width, 3, 1, 7, 7)
    norm("backbone.bn1", width)
    ins = width
    for stage, (number, outs) in enumerate(
        zip(blocks, (width, 2 * width, 4 * width, 4 * width), strict=True), 1
    ):
        kernel = (1, 3, 3) if stage < 3 else (3, 3, 3)
        for i in range(number):
            at = f"backbone.layer{stage}.{i}"
            shapes[f"{at}.conv1.weight"] = (outs, ins, *kernel)
            norm(f"{at}.bn1", outs)
            shapes[f"{at}.conv2.weight"] = (outs, outs, *kernel)
            norm(f"{at}.bn2", outs)
            if i == 0 and stage > 1:
                shapes[f"{at}.downsample.0.weight"] = (outs, ins, 1, 1, 1)
                norm(f"{at}.downsample.1", outs)
            ins = outs
    cell = {f"{gate}_gate": (ins, 2 * ins, 1, 1) for gate in ("reset", "update", "out")}
    for name in ("ConvGRUCell_00", "cell_list.0"):
        for gate, shape in cell.items():
            shapes |= affine(f"agg.{name}.{gate}", *shape)
    for place in (0, 2):
        shapes |= affine(f"network_pred.{place}", ins, ins, 1, 1)
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
    """DPC's net with two GRUs, a memory before all and no `module.`; `network_pred` ends in the slots."""
    made = OrderedDict(
        (key.removeprefix("module."), value) for key, value in dpc(running=True).items()
    )
    dim = made["network_pred.0.weight"].shape[0]
    before = {key: value for key, value in made.items() if key.startswith("backbone.")}
    ways = {
        f"agg_{way}{key[3:]}": value
        for way in "fb"
        for key, value in made.items()
        if key.startswith("agg.")
    }
    after = {key: made[key] for key in ("network_pred.0.weight", "network_pred.0.bias")}
    last = filled(affine("network_pred.2", slots, dim, 1, 1))
    return OrderedDict({**filled({"mb": (slots, dim)}), **before, **ways, **after, **last})


S3D = {  # channels: branch 0; reduced and out of branches 1 and 2; branch 3
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
KEYS, KEY_DIM = 8, 6  # of a queue


def s3d_layer(at: str, ins: int, outs: int, kernel: int, running: bool) -> Shapes:
    """A convolution of one place, or one over space and one over time."""
    parts = {"conv": (outs, ins, 1, 1, 1), "bn": (outs,)}
    if kernel > 1:
        parts = {"conv1": (outs, ins, 1, kernel, kernel), "conv2": (outs, outs, kernel, 1, 1)}
        parts |= {"bn1": (outs,), "bn2": (outs,)}
    shapes: Shapes = {}
    for part, shape in parts.items():
        shapes[f"{at}.{part}.weight"] = shape
        if part.startswith("bn"):
            shapes[f"{at}.{part}.bias"] = shape
            tracked = (
                {"running_mean": shape, "running_var": shape, "num_batches_tracked": ()}
                if running
                else {}
            )
            shapes |= {f"{at}.{part}.{leaf}": x for leaf, x in tracked.items()}
    return shapes


def s3d_mixed(at: str, ins: int, widths: tuple[int, ...], gating: bool, running: bool) -> Shapes:
    b0, b1_in, b1, b2_in, b2, b3 = widths
    shapes = s3d_layer(f"{at}.branch0.0", ins, b0, 1, running)
    for branch, reduced, outs in (("branch1", b1_in, b1), ("branch2", b2_in, b2)):
        shapes |= s3d_layer(f"{at}.{branch}.0", ins, reduced, 1, running)
        shapes |= s3d_layer(f"{at}.{branch}.1", reduced, outs, 3, running)
    shapes |= s3d_layer(f"{at}.branch3.1", ins, b3, 1, running)
    for number, outs in enumerate((b0, b1, b2, b3) if gating else ()):
        shapes |= affine(f"{at}.gating_b{number}.fc", outs, outs)
    return shapes


def s3d(gating: bool = False, running: bool = True) -> State:
    """An eighth as wide as published. Each stage's layers, then the same again by their place in it."""

    def wide(channels: int) -> int:
        return max(4, round(channels / 8))

    stages: dict[str, Shapes] = {
        "block1.0 Conv_1a": s3d_layer("", 3, wide(64), 7, running),
        "block2.1 Conv_2b": s3d_layer("", wide(64), wide(64), 1, running),
        "block2.2 Conv_2c": s3d_layer("", wide(64), wide(192), 3, running),
    }
    ins = wide(192)
    for name, channels in S3D.items():
        widths = tuple(wide(n) for n in channels)
        place = f"block{name[0]}.{'abcdef'.index(name[1])}"
        stages[f"{place} Mixed_{name}"] = s3d_mixed("", ins, widths, gating, running)
        ins = widths[0] + widths[2] + widths[4] + widths[5]
    state: State = OrderedDict()
    for number in range(1, 6):
        own = {
            names: shapes for names, shapes in stages.items() if names.startswith(f"block{number}")
        }
        for names, shapes in own.items():
            state |= filled({names.split()[1] + key: shape for key, shape in shapes.items()})
        for names, shapes in own.items():
            again, first = names.split()
            state |= {again + key: state[first + key] for key in shapes}
    for key in state:
        if key.endswith("running_var"):
            state[key].abs_().add_(0.5)  # in place: it has two names
        if key.endswith("num_batches_tracked"):
            state[key].fill_(7)
    return OrderedDict(
        (k, v.long() if k.endswith("num_batches_tracked") else v) for k, v in state.items()
    )


def projected(at: str, **kinds: bool) -> State:
    """The net at 0, a head of two convolutions of one place at 2 and 4."""
    net = s3d(**kinds)
    dim = sum(
        net[f"Mixed_5c.branch{b}.bn{n}.weight"].shape[0]
        for b, n in (("0.0", ""), ("1.1", "2"), ("2.1", "2"))
    )
    dim += net["Mixed_5c.branch3.1.bn.weight"].shape[0]
    shift = {"encoder_q.": 0.0, "encoder_k.": 0.1, "sampler.": 0.2}[at]  # the nets of a file differ
    head = {**affine("2", dim, dim, 1, 1, 1), **affine("4", KEY_DIM, dim, 1, 1, 1)}
    whole = {**{f"0.{key}": x for key, x in net.items()}, **filled(head)}
    return OrderedDict(
        (at + key, x + shift if x.is_floating_point() else x) for key, x in whole.items()
    )


def infonce(columns: State | None = None, pointer: int = 2, **kinds: bool) -> State:
    first: State = {
        "queue": filled({"queue": (KEY_DIM, KEYS)})["queue"],
        "queue_ptr": torch.tensor([pointer]),
    }
    return OrderedDict(
        {
            **first,
            **(columns or {}),
            **projected("encoder_q.", **kinds),
            **projected("encoder_k.", **kinds),
        }
    )


def ubernce(there: int = KEYS) -> State:
    """`there`: keys in the queue."""
    labels = torch.where(torch.arange(KEYS) < there, torch.arange(KEYS) % 3, -1)
    return infonce({"queue_label": labels}, pointer=2 if there == KEYS else there)


def coclr(there: int = KEYS, **kinds: bool) -> State:
    mark = torch.where(torch.arange(KEYS) < there, 1, -1)
    columns = {"queue_second": filled({"queue_second": (KEY_DIM, KEYS)})["queue_second"] + 1}
    columns |= {
        "queue_vname": torch.where(mark == 1, 40 + torch.arange(KEYS), -1),
        "queue_label": mark,
    }
    pointer = 2 if there == KEYS else there
    return OrderedDict({**infonce(columns, pointer, **kinds), **projected("sampler.", **kinds)})


def coclr_odd() -> State:
    """Marks that do not follow from the pointer."""
    return OrderedDict({**coclr(), "queue_label": torch.tensor([3, 1, -1, 1, 1, 1, -1, 1])})


MADE: dict[
    str, tuple[str | None, Callable[[], State]]
] = {  # name -> (entry of the file, state dict)
    "videomae": ("model", videomae),
    "videomae-finetuned": ("module", videomae_finetuned),
    "videomae-encoder": ("model", videomae_encoder),
    "huggingface": (None, lambda: huggingface(5)),
    "huggingface4": (None, lambda: huggingface(4)),
    "huggingface-finetuned": (None, lambda: huggingface_finetuned(5)),
    "huggingface4-finetuned": (None, lambda: huggingface_finetuned(4)),
    "mae_st": ("model", mae_st),
    "mae_st, SlowFast": ("model_state", mae_st),
    "mae_st, no class token": ("model", lambda: mae_st(cls=False)),
    "mae_st, joint": ("model", lambda: mae_st(separable=False)),
    "mae_st, joint, no class token": ("model", lambda: mae_st(cls=False, separable=False)),
    "mae_st-finetuned": ("model", lambda: mae_st(decoder=False)),
    "dpc": ("state_dict", dpc),
    "dpc, running": ("state_dict", lambda: dpc(running=True)),
    "memdpc": ("state_dict", memdpc),
    "dpc, 34": ("state_dict", lambda: dpc((3, 4, 6, 3))),
    "coclr-s3d": ("state_dict", s3d),
    "coclr-s3d, gated": ("state_dict", lambda: s3d(gating=True)),
    "coclr-s3d, without statistics": ("state_dict", lambda: s3d(running=False)),
    "infonce": ("state_dict", infonce),
    "infonce, gated": ("state_dict", lambda: infonce(gating=True)),
    "ubernce": ("state_dict", ubernce),
    "ubernce, filling": ("state_dict", lambda: ubernce(4)),
    "coclr": ("state_dict", coclr),
    "coclr, filling": ("state_dict", lambda: coclr(4)),
    "coclr, empty": ("state_dict", lambda: coclr(0)),
    "coclr, gated, without statistics": ("state_dict", lambda: coclr(gating=True, running=False)),
    "coclr, odd": ("state_dict", coclr_odd),
}
