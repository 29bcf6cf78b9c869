"""A bridge to a language model (VideoPrism, arXiv:2402.13217, section 4.4): a frozen encoder and a
frozen causal model, and between them a resampler that learns to put a clip into words.

It learns from captions and from pairs of a question and an answer, by the cross-entropy of the
next token of the answer.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssvid.bridge import ANSWER, Bridge, build_bridge, hash_frozen, save_bridge
from ssvid.encoder import Encoder
from ssvid.errors import UserError, check_positive
from ssvid.hub import open_encoder
from ssvid.objective import Objective
from ssvid.registry import objectives
from ssvid.shapes import Batch, Caption, Loss, Views
from ssvid.text.language import Language

FROZEN = ("encoder.", "language.")  # beginnings of the names of what is saved elsewhere


@objectives.register("bridge")
class BridgeObjective(Objective):
    """Only the resampler learns and is saved; the two nets stay where they lie."""

    brings_encoder = True
    tiny_kwargs = {"queries": 4, "heads": 2, "length": 8, "augment": "none"}
    default_flags = {  # as published, but for the batch and the schedule's end
        "batch_size": 32,
        "optimizer": "adam",
        "betas": [0.9, 0.999],
        "weight_decay": 1e-4,
        "lr": 5e-4,
        "lr_batch": None,
        "min_lr": 0.0,
    }

    def __init__(
        self,
        encoder: Encoder | None = None,
        *,
        vision: str | None = None,  # the run or the published file of the encoder
        language: str | None = None,  # the folder of a causal model of transformers
        queries: int = 256,  # vectors that stand for a clip
        layers: int = 1,  # of the resampler
        heads: int = 8,  # of its attention; they divide the width of the language model
        length: int = ANSWER,  # tokens of a prompt, and of an answer, that are read
        augment: str = "resized",  # a recipe of ssvid.data.augment
    ) -> None:
        super().__init__()
        check_positive(queries=queries, length=length)
        if encoder is not None or vision is None or language is None:
            raise UserError(
                "bridge stands between two trained nets: give --objective.vision RUN, the run or "
                "the file of an encoder, and --objective.language FOLDER, of a causal model of "
                "transformers; leave out --encoder."
            )
        words = Language(language)
        words.check_room(queries, 2 * length)
        sizes = {"queries": queries, "layers": layers, "heads": heads}
        bridge = build_bridge(open_encoder(vision), words, **sizes)
        self.vision, self.length, self.augment = vision, length, augment
        self.encoder, self.language, self.resampler = bridge.encoder, words, bridge.resampler
        self.hashes = hash_frozen(bridge)
        both = bytearray.fromhex("".join(self.hashes.values()))
        self.register_buffer("frozen_hash", torch.frombuffer(both, dtype=torch.uint8))
        self.register_state_dict_post_hook(leave_out_frozen)
        self.register_load_state_dict_pre_hook(check_frozen)
        self.register_load_state_dict_post_hook(excuse_frozen)

    @property
    def bridge(self) -> Bridge:
        return Bridge(self.encoder, self.language, self.resampler)

    @property
    def views(self) -> Views:
        return self.encoder.make_views(self.augment, text=Caption())

    def exported_encoders(self) -> dict[str, Encoder]:
        return {}

    def save_assets(self, folder: Path) -> None:
        save_bridge(self.bridge, self.vision, self.hashes, folder)

    def forward(self, batch: Batch) -> Loss:
        prefix = self.bridge.read_clip(batch["clips"][:, 0])  # B K D
        sentences = [bag[0] for bag in batch["sentences"]]
        words = self.language.read_sentences(sentences, self.length)
        # Of each answer by itself, so that the number of processes changes nothing.
        loss = self.language.score_answers(prefix, words).mean()
        return Loss(loss, {"token_nce": loss.detach()})


def leave_out_frozen(
    module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: dict[str, Any]
) -> None:
    """A checkpoint holds what learns, and the hash of what does not."""
    for key in list(state):
        if key.removeprefix(prefix).startswith(FROZEN):
            del state[key]


def check_frozen(module: nn.Module, state: dict[str, Tensor], prefix: str, *unused: object) -> None:
    """Raise a UserError if a checkpoint belongs to another encoder or language model."""
    saved, here = state.get(f"{prefix}frozen_hash"), dict(module.named_buffers())["frozen_hash"]
    if saved is not None and not torch.equal(saved.to(here), here):
        raise UserError(
            "The checkpoint was trained with another encoder or another language model than those "
            "that --objective.vision and --objective.language name now: give back the former ones, "
            "or name another --out."
        )


def excuse_frozen(module: nn.Module, incompatible: Any) -> None:
    """The two frozen nets are in no checkpoint, so they do not lack in it."""
    missing = [key for key in incompatible.missing_keys if not key.startswith(FROZEN)]
    incompatible.missing_keys[:] = missing
