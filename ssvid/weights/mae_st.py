"""mae_st's pretraining checkpoint -> our `mae` objective (layout: facebookresearch/mae_st, CC-BY-NC-4.0).

Theirs has three linears q, k, v where ours has one product with three biases; and one table `pos_embed` may hold the
class token's position in its first row.
"""

import re

import torch
from torch import Tensor

from ssvid.weights.videomae import rename

RENAMED = (  # theirs, ours
    ("patch_embed.proj.", "encoder.patch."),
    ("cls_token", "encoder.cls"),
    ("pos_embed_spatial", "encoder.positions.space"),
    ("pos_embed_temporal", "encoder.positions.time"),
    ("pos_embed_class", "encoder.positions.cls"),
    ("pos_embed", "encoder.positions.table"),
    ("blocks.", "encoder.blocks."),
    ("norm.", "encoder.norm."),
    ("decoder_embed.", "bridge."),
    ("decoder_cls_token", "dec_cls"),
    ("decoder_pos_embed_spatial", "dec_positions.space"),
    ("decoder_pos_embed_temporal", "dec_positions.time"),
    ("decoder_pos_embed_class", "dec_positions.cls"),
    ("decoder_pos_embed", "dec_positions.table"),
    ("decoder_blocks.", "decoder."),
    ("decoder_norm.", "dec_norm."),
    ("decoder_pred.", "to_pixels."),
)


def to_ours(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    ours = {}
    for key, value in theirs.items():
        attention = re.fullmatch(r"(.*\.attn)\.([qkv])\.(weight|bias)", key)
        if attention and attention[3] == "weight":
            if attention[2] == "q":
                fused = torch.cat([theirs[f"{attention[1]}.{n}.weight"] for n in "qkv"])
                ours[rename(attention[1], RENAMED) + ".qkv.weight"] = fused
        elif attention:
            ours[rename(attention[1], RENAMED) + f".{attention[2]}_bias"] = value
        else:
            ours[rename(key, RENAMED)] = value.reshape(-1) if key in ("mask_token", "decoder_cls_token") else value
    for where, cls in (("encoder.positions", "encoder.cls"), ("dec_positions", "dec_cls")):
        table = ours.get(f"{where}.table")
        if table is not None and cls in ours:
            ours[f"{where}.cls"], ours[f"{where}.table"] = table[:, :1], table[:, 1:]
    return ours
