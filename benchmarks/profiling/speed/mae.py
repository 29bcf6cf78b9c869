"""A pretraining step of our `mae` against Hugging Face's VideoMAE: a pair of functions to compare.

ViT-S, a clip of 16 x 224 x 224, 0.9 of the tubes hidden.
"""

import torch
from torch import nn

from benchmarks.profiling.speed.pairs import DEVICE, Case, steps
from ssvid import create_encoder, registry
from ssvid.errors import UserError
from ssvid.shapes import Batch

CLIP = 1, 3, 16, 224, 224  # B C T H W


def mae() -> Case:
    """Targets, forward and backward, without optimiser and decoding.

    Both sides use the same pixels. Their weights are random.
    """
    try:
        from transformers import VideoMAEConfig, VideoMAEForPreTraining
    except ImportError as error:
        raise UserError("The case mae needs transformers: pip install -e '.[text]'.") from error
    clip = torch.randn(CLIP, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    ours = registry.objectives["mae"](create_encoder("vit_small"), mask_ratio=0.9).to(DEVICE)
    zeros = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    batch: Batch = {"clips": clip[:, None], "index": zeros, "epoch": zeros, "seed": 0}
    theirs = VideoMAEForPreTraining(
        VideoMAEConfig(
            hidden_size=384,
            num_hidden_layers=12,
            num_attention_heads=6,
            intermediate_size=1536,
            decoder_hidden_size=192,
            decoder_num_hidden_layers=4,
            decoder_num_attention_heads=3,
            decoder_intermediate_size=768,
            use_mean_pooling=False,
        )
    )
    torch.nn.Module.to(theirs, DEVICE)  # transformers' own `to` has no type for a device
    theirs.train()
    hidden = torch.zeros(196, dtype=torch.bool)
    hidden[torch.randperm(196, generator=torch.Generator().manual_seed(0))[:176]] = True
    hidden, frames = hidden.repeat(8)[None].to(DEVICE), clip.transpose(1, 2).contiguous()

    def step(module: nn.Module, loss: torch.Tensor) -> None:
        loss.backward()
        module.zero_grad(set_to_none=True)

    return steps(
        lambda: step(ours, ours(batch).total),
        lambda: step(theirs, theirs(pixel_values=frames, bool_masked_pos=hidden).loss),
    )
