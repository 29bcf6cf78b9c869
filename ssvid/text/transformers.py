"""Sentences -> a vector each: BERT and CLIP text towers from local folders, as Hugging Face's library saves them."""

import importlib
from abc import ABC
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn

from ssvid.encoder import evaluating
from ssvid.errors import UserError, positive
from ssvid.text.tower import Tower


def library() -> Any:
    try:
        lib: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(
            f"BERT and CLIP text towers need transformers ({error}): pip install ssvid[text]."
        ) from error
    lib.utils.logging.disable_progress_bar()  # one for each file it opens
    return lib


class Pretrained(nn.Module):
    """A net and its tokeniser, from a folder. `empty`: random weights, for those that a run has saved."""

    def __init__(
        self, kind: str, folder: str, length: int, empty: bool, parts: tuple[str, ...]
    ) -> None:
        super().__init__()
        place, lib = Path(folder).expanduser(), library()
        if not (place / "config.json").is_file():
            raise UserError(f"{place} is no folder of a text model: there is no config.json in it.")
        try:
            self.tokenizer = lib.AutoTokenizer.from_pretrained(str(place), local_files_only=True)
            net = getattr(lib, kind)
            if empty:
                config = lib.AutoConfig.from_pretrained(str(place), local_files_only=True)
                self.net = net.from_config(config) if kind.startswith("Auto") else net(config)
                missing: list[str] = []
            else:
                self.net, told = net.from_pretrained(
                    str(place), local_files_only=True, dtype=torch.float32, output_loading_info=True
                )
                missing = sorted(told["missing_keys"])
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(f"{place} cannot be read as a text model ({kind}): {said}.") from error
        if missing := [key for key in missing if key.startswith(parts)]:
            raise UserError(
                f"{place} lacks weights of {kind}, such as {missing[0]!r}: is it another model's folder?"
            )
        most = self.net.config.max_position_embeddings
        if not 2 < length <= most:
            raise UserError(
                f"--length {length}: the text model of {place} reads 3 to {most} tokens."
            )
        self.length = length

    def tokens(self, sentences: Sequence[str]) -> Int[Tensor, "S W"]:
        ids: Tensor = self.tokenizer(
            list(sentences),
            padding=True,
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        ).input_ids
        return ids

    def can_encode(self, sentence: str) -> bool:
        return bool(set(self.tokens([sentence])[0].tolist()) - set(self.tokenizer.all_special_ids))

    def write(self, folder: Path, name: str) -> None:
        self.net.config.save_pretrained(folder / name)
        self.tokenizer.save_pretrained(folder / name)


def projected(width: int, dim: int | None) -> nn.Module:
    positive(dim=dim)
    return nn.Identity() if dim is None else nn.Linear(width, dim)


class Local(Tower, ABC):
    """What both have that come from a folder."""

    text: Pretrained

    def tokens(self, sentences: Sequence[str]) -> Int[Tensor, "S W"]:
        return self.text.tokens(sentences)

    def can_encode(self, sentence: str) -> bool:
        return self.text.can_encode(sentence)

    def write(self, folder: Path, stem: str) -> dict[str, Any]:
        self.text.write(folder, f"{stem}.model")
        return {**self.kwargs, "folder": f"{stem}.model", "empty": True}


class Bert(Local):
    """Any encoder of the BERT kind."""

    def __init__(
        self,
        *,
        folder: str,
        pool: str = "pooled",  # pooled: the net's own, of its first token; or mean, of all
        dim: int | None = None,  # of a linear map behind it; null: none, the net's own width
        length: int = 32,  # tokens of a sentence that are read
        frozen: bool = False,
        empty: bool = False,
    ) -> None:
        super().__init__()
        if pool not in ("pooled", "mean"):
            raise UserError(f"The tower bert has no pool {pool!r}: take pooled or mean.")
        parts = ("",) if pool == "pooled" else ("embeddings.", "encoder.")
        self.text, self.mean, self.frozen = (
            Pretrained("AutoModel", folder, length, empty, parts),
            pool == "mean",
            frozen,
        )
        if self.mean and "pooler" in dict(self.text.net.named_children()):
            self.text.net.pooler = None  # it would get no gradient
        self.text.requires_grad_(not frozen)
        width = self.text.net.config.hidden_size
        self.project, self.dim = projected(width, dim), dim or width

    def embed(self, tokens: Int[Tensor, "S W"]) -> Float[Tensor, "S D"]:
        seen = tokens != self.text.tokenizer.pad_token_id
        with still(self.text, self.frozen):
            out = self.text.net(input_ids=tokens, attention_mask=seen.long())
        if not self.mean:
            return self.project(out.pooler_output)
        weight = seen[..., None].to(out.last_hidden_state)
        return self.project((out.last_hidden_state * weight).sum(1) / weight.sum(1))


class Clip(Local):
    """CLIP's text tower with its own projection."""

    def __init__(
        self,
        *,
        folder: str,
        dim: int
        | None = None,  # of one more linear map; null: none, the space that it shares with CLIP's pictures
        length: int = 77,  # tokens of a sentence that are read
        frozen: bool = False,
        empty: bool = False,
    ) -> None:
        super().__init__()
        self.text, self.frozen = (
            Pretrained("CLIPTextModelWithProjection", folder, length, empty, ("",)),
            frozen,
        )
        self.text.requires_grad_(not frozen)
        width = self.text.net.config.projection_dim
        self.project, self.dim = projected(width, dim), dim or width

    def embed(self, tokens: Int[Tensor, "S W"]) -> Float[Tensor, "S D"]:
        with still(
            self.text, self.frozen
        ):  # no mask: what is padded stands behind the token that is read
            return self.project(self.text.net(input_ids=tokens).text_embeds)


def still(net: nn.Module, frozen: bool) -> Any:
    """A frozen net drops nothing out, whatever mode it is in."""
    return evaluating(net) if frozen else nullcontext()
