"""VideoMAE's pretraining checkpoint <-> our `mae` objective (layout: MCG-NJU/VideoMAE, CC-BY-NC-4.0)."""

from torch import Tensor

RENAMED = (  # theirs, ours: the longest match first
    ("encoder.patch_embed.proj.", "encoder.patch."),
    ("encoder_to_decoder.", "bridge."),
    ("decoder.blocks.", "decoder."),
    ("decoder.norm.", "dec_norm."),
    ("decoder.head.", "to_pixels."),
)


def to_ours(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {rename(k, RENAMED): v.reshape(-1) if k == "mask_token" else v for k, v in theirs.items()}


def rename(key: str, table: tuple[tuple[str, str], ...]) -> str:
    for old, new in table:
        if key.startswith(old):
            return new + key[len(old) :]
    return key
