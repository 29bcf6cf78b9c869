"""Small state dicts as the published code would save them, written down from its key lists and from nothing of ours."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

State = dict[str, Tensor]
DEPTH, DEC_DEPTH, DIM, DEC_DIM, PATCH = 2, 1, 64, 64, 4  # 64: one head, so that a width tells the heads
SHAPES = {
    "norm1.weight": (DIM,),
    "norm1.bias": (DIM,),
    "attn.q_bias": (DIM,),
    "attn.v_bias": (DIM,),
    "attn.qkv.weight": (3 * DIM, DIM),
    "attn.proj.weight": (DIM, DIM),
    "attn.proj.bias": (DIM,),
    "norm2.weight": (DIM,),
    "norm2.bias": (DIM,),
    "mlp.fc1.weight": (4 * DIM, DIM),
    "mlp.fc1.bias": (4 * DIM,),
    "mlp.fc2.weight": (DIM, 4 * DIM),
    "mlp.fc2.bias": (DIM,),
}


def filled(shapes: dict[str, tuple[int, ...]]) -> State:
    generator = torch.Generator().manual_seed(3)
    return OrderedDict((key, 0.2 * torch.randn(shape, generator=generator)) for key, shape in shapes.items())


def videomae() -> State:
    shapes = {"mask_token": (1, 1, DEC_DIM), "encoder.patch_embed.proj.weight": (DIM, 3, 2, PATCH, PATCH)}
    shapes["encoder.patch_embed.proj.bias"] = (DIM,)
    shapes |= {f"encoder.blocks.{i}.{key}": shape for i in range(DEPTH) for key, shape in SHAPES.items()}
    shapes |= {"encoder.norm.weight": (DIM,), "encoder.norm.bias": (DIM,)}
    shapes |= {f"decoder.blocks.{i}.{key}": shape for i in range(DEC_DEPTH) for key, shape in SHAPES.items()}
    shapes |= {"decoder.norm.weight": (DEC_DIM,), "decoder.norm.bias": (DEC_DIM,)}
    shapes |= {"decoder.head.weight": (6 * PATCH * PATCH, DEC_DIM), "decoder.head.bias": (6 * PATCH * PATCH,)}
    return filled({**shapes, "encoder_to_decoder.weight": (DEC_DIM, DIM)})


def videomae_encoder() -> State:
    return OrderedDict((k.removeprefix("encoder."), v) for k, v in videomae().items() if k.startswith("encoder."))


def videomae_finetuned() -> State:
    named = OrderedDict(
        (k.replace("norm.", "fc_norm.", 1) if k[:5] == "norm." else k, v) for k, v in videomae_encoder().items()
    )
    return OrderedDict([*named.items(), *filled({"head.weight": (5, DIM), "head.bias": (5,)}).items()])


HF = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


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
    for name in ("attn.proj", "mlp.fc1", "mlp.fc2", "norm1", "norm2"):
        made |= {f"{theirs}.{HF[name]}.{leaf}": state[f"{ours}.{name}.{leaf}"] for leaf in ("weight", "bias")}
    return made


def hf_trunk(version: int, state: State) -> State:
    made = {
        f"videomae.embeddings.patch_embeddings.projection.{leaf}": state[f"encoder.patch_embed.proj.{leaf}"]
        for leaf in ("weight", "bias")
    }
    for i in range(DEPTH):
        made |= hf_block(version, f"videomae.encoder.layer.{i}", state, f"encoder.blocks.{i}")
    return made


def huggingface(version: int, norm: bool = True) -> State:
    state = videomae()
    made = {"mask_token": state["mask_token"], **hf_trunk(version, state)}
    if norm:
        made |= {f"videomae.layernorm.{leaf}": state[f"encoder.norm.{leaf}"] for leaf in ("weight", "bias")}
    made["encoder_to_decoder.weight"] = state["encoder_to_decoder.weight"]
    for i in range(DEC_DEPTH):
        made |= hf_block(version, f"decoder.decoder_layers.{i}", state, f"decoder.blocks.{i}")
    for name in ("norm", "head"):
        made |= {f"decoder.{name}.{leaf}": state[f"decoder.{name}.{leaf}"] for leaf in ("weight", "bias")}
    return made


def huggingface_finetuned(version: int) -> State:
    tuned = videomae_finetuned()
    made = {**hf_trunk(version, videomae()), "fc_norm.weight": tuned["fc_norm.weight"]}
    made |= {"fc_norm.bias": tuned["fc_norm.bias"], "classifier.weight": tuned["head.weight"]}
    return {**made, "classifier.bias": tuned["head.bias"]}


def mae_st_block(at: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for key, shape in SHAPES.items():
        if key == "attn.qkv.weight":
            for part in "qkv":
                shapes |= {f"{at}.attn.{part}.weight": (DIM, DIM), f"{at}.attn.{part}.bias": (DIM,)}
        elif not key.endswith("_bias"):
            shapes[f"{at}.{key}"] = shape
    return shapes


def mae_st(cls: bool = True, separable: bool = True, decoder: bool = True) -> State:
    """2 x 2 places; 8 slots, as 16 frames give."""

    def where(at: str, dim: int) -> dict[str, tuple[int, ...]]:
        if not separable:
            return {at: (1, 32 + cls, dim)}
        return {f"{at}_spatial": (1, 4, dim), f"{at}_temporal": (1, 8, dim)} | (
            {f"{at}_class": (1, 1, dim)} if cls else {}
        )

    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, DIM)} if cls else {}
    shapes |= {"decoder_cls_token": (1, 1, DEC_DIM)} if cls and decoder else {}
    shapes |= where("pos_embed", DIM)
    if decoder:
        shapes |= {"mask_token": (1, 1, DEC_DIM)} | where("decoder_pos_embed", DEC_DIM)
    shapes |= {"patch_embed.proj.weight": (DIM, 3, 2, PATCH, PATCH), "patch_embed.proj.bias": (DIM,)}
    for i in range(DEPTH):
        shapes |= mae_st_block(f"blocks.{i}")
    shapes |= {"norm.weight": (DIM,), "norm.bias": (DIM,)}
    if not decoder:
        return filled({**shapes, "head.weight": (5, DIM), "head.bias": (5,)})
    shapes |= {"decoder_embed.weight": (DEC_DIM, DIM), "decoder_embed.bias": (DEC_DIM,)}
    for i in range(DEC_DEPTH):
        shapes |= mae_st_block(f"decoder_blocks.{i}")
    shapes |= {"decoder_norm.weight": (DEC_DIM,), "decoder_norm.bias": (DEC_DIM,)}
    pixels = 3 * PATCH * PATCH  # of one frame
    return filled({**shapes, "decoder_pred.weight": (pixels, DEC_DIM), "decoder_pred.bias": (pixels,)})


def dpc(blocks: tuple[int, ...] = (2, 2, 2, 2), width: int = 8, running: bool = False) -> State:
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(at: str, n: int) -> None:
        for leaf in ("weight", "bias", *(("running_mean", "running_var", "num_batches_tracked") if running else ())):
            shapes[f"{at}.{leaf}"] = () if leaf == "num_batches_tracked" else (n,)

    shapes["backbone.conv1.weight"] = (width, 3, 1, 7, 7)
    norm("backbone.bn1", width)
    ins = width
    for stage, (number, outs) in enumerate(zip(blocks, (width, 2 * width, 4 * width, 4 * width), strict=True), 1):
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
            shapes |= {f"agg.{name}.{gate}.weight": shape, f"agg.{name}.{gate}.bias": (ins,)}
    for place in (0, 2):
        shapes |= {f"network_pred.{place}.weight": (ins, ins, 1, 1), f"network_pred.{place}.bias": (ins,)}
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
    made = OrderedDict((key.removeprefix("module."), value) for key, value in dpc(running=True).items())
    dim = made["network_pred.0.weight"].shape[0]
    before = {key: value for key, value in made.items() if key.startswith("backbone.")}
    ways = {f"agg_{way}{key[3:]}": value for way in "fb" for key, value in made.items() if key.startswith("agg.")}
    after = {key: made[key] for key in ("network_pred.0.weight", "network_pred.0.bias")}
    last = filled({"network_pred.2.weight": (slots, dim, 1, 1), "network_pred.2.bias": (slots,)})
    return OrderedDict({**filled({"mb": (slots, dim)}), **before, **ways, **after, **last})


MADE: dict[str, tuple[str | None, Callable[[], State]]] = {  # name -> (entry of the file, state dict)
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
}
