"""The tensors of VideoPrism in our names -> the sizes of its net, and the shapes that these give.

No tensor of `transformers` shows the number of attention heads unless the file has a pooler.
"""

from typing import Any

import torch
from torch import nn

from ssvid.encoder import build
from ssvid.errors import UserError
from ssvid.nn.prism import AttentionPooler, OffsetNorm, PrismBlock
from ssvid.weights.layout import Net, State, count_blocks

HEADS = {768: 12, 1024: 16, 1408: 16}  # by the width of the published sizes


def split_heads(ours: State) -> State:
    """The biases of attention get a row for each head, as ours have them.

    They stay as they are where nothing shows how many heads there are.
    """
    heads = HEADS.get(len(ours["encoder.norm_space.scale"]))
    if "pooler.per_dim_scale" in ours:  # it is as wide as a head of the pooler, which has as many
        heads = len(ours["pooler.q.weight"]) // len(ours["pooler.per_dim_scale"])
    if heads is None:
        return ours
    return split_biases(ours, heads)


def split_biases(ours: State, heads: int) -> State:
    """Biases of attention with a row for each head of query, key and value.

    A UserError if the heads do not divide the width.
    """
    split: State = {}
    for key, x in ours.items():
        is_bias = key.endswith("attn.qkv_bias")
        if is_bias and (heads < 1 or x.numel() % (3 * heads)):
            raise UserError(
                f"A width of {x.numel() // 3} does not divide into {heads} attention heads."
            )
        split[key] = x.view(3 * heads, -1) if is_bias else x
    return split


def require_heads(ours: State) -> State:
    """Raise UserError if the number of heads is not known, of which an .npz file has an axis."""
    if ours["encoder.space.0.attn.qkv_bias"].ndim == 1:
        raise UserError(
            "No tensor of the file shows its number of attention heads, and an .npz file holds it: "
            "give --heads N as well."
        )
    return ours


def describe(kind: str, ours: State) -> Net:
    """The arguments of `videoprism`, without the heads where no tensor shows them."""
    dim, _, _, patch, _ = ours["encoder.patch.weight"].shape
    frames, side = (
        len(ours["encoder.time_positions"]),
        round(len(ours["encoder.space_positions"]) ** 0.5),
    )
    bias = ours["encoder.space.0.attn.qkv_bias"]
    is_split = bias.ndim == 2
    kwargs = {
        "dim": dim,
        **({"heads": len(bias) // 3} if is_split else {}),
        "hidden": len(ours["encoder.space.0.mlp.fc1.weight"]),
        "space_depth": count_blocks(ours, "encoder.space."),
        "time_depth": count_blocks(ours, "encoder.time."),
        "patch": patch,
        "frames": frames,
        "size": side * patch,
        "table_frames": frames,
        "table_side": side,
    }
    return Net("videoprism", kwargs, objective="video_text" if kind == "text" else None)


def list_parts(kind: str, net: Net, ours: State) -> State:
    """All tensors of a net of these sizes in our names, on the meta device."""
    with torch.device("meta"):
        parts = {"encoder": build("videoprism", {"heads": 1, **net.kwargs})}
        tree = nn.ModuleDict(parts)
        if kind != "encoder":
            tree["pooler"] = AttentionPooler(**describe_pooler(ours))
        if kind == "classifier":
            tree["head"] = nn.Linear(ours["pooler.queries"].shape[1], len(ours["head.bias"]))
        if kind == "text":
            sizes = {key: net.kwargs[key] for key in ("dim", "heads", "hidden")}
            tree["auxiliary"] = make_stack(count_blocks(ours, "auxiliary."), **sizes)
            sizes = describe_tower(ours)
            tower = nn.Module()
            tower.table = nn.Embedding(len(ours["tower.table.weight"]), sizes["dim"])
            tower.cls = nn.Parameter(torch.empty(sizes["dim"]))
            tower.norm = OffsetNorm(sizes["dim"])
            tower.blocks = make_stack(sizes.pop("layers"), **sizes)
            tree["tower"] = tower
    return tree.state_dict()


def make_stack(depth: int, **sizes: Any) -> nn.ModuleList:
    return nn.ModuleList(PrismBlock(**sizes) for _ in range(depth))


def describe_tower(ours: State) -> dict[str, Any]:
    """The arguments of the tower `videoprism_text`."""
    return {
        "dim": len(ours["tower.cls"]),
        "heads": len(ours["tower.blocks.0.attn.qkv_bias"]) // 3,
        "hidden": len(ours["tower.blocks.0.mlp.fc1.weight"]),
        "layers": count_blocks(ours, "tower.blocks."),
        "norms": "primer_hybrid" if "tower.blocks.0.norm1_after.scale" in ours else "pre",
    }


def describe_pooler(ours: State) -> dict[str, Any]:
    """The arguments of its `AttentionPooler`."""
    hidden, dim = ours["pooler.k.weight"].shape
    queries, query_dim = ours["pooler.queries"].shape
    return {
        "dim": dim,
        "heads": hidden // len(ours["pooler.per_dim_scale"]),
        "hidden": hidden,
        "queries": queries,
        "query_dim": query_dim,
        "norms_heads": "pooler.norm_q.scale" in ours,
        "norms_output": "pooler.norm.scale" in ours,
    }
