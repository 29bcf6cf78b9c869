"""Sentences -> one vector each: BERT and CLIP text towers.

They come from local folders in the form of Hugging Face's library.
"""

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
from ssvid.errors import UserError, check_positive
from ssvid.text.tower import Length, Tower
from ssvid.trust import LOCAL


def import_text_library(name: str) -> Any:
    """A module that the extra `text` brings. UserError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"This text model needs {name} ({error}): pip install ssvid[text]."
        ) from error


def import_library() -> Any:
    """The module `transformers`. UserError if it is not installed."""
    library = import_text_library("transformers")
    library.utils.logging.disable_progress_bar()  # it shows one for each file that it opens
    return library


def read_folder(kind: str, folder: str, empty: bool = False) -> tuple[Any, Any, list[str]]:
    """(tokeniser, net of the class `kind`, weights of the net that the folder lacks).

    `empty`: the net has random weights. Raises a UserError for a folder of something else.
    """
    path, library = Path(folder).expanduser(), import_library()
    if not (path / "config.json").is_file():
        raise UserError(f"{path} is no folder of a text model: there is no config.json in it.")
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(str(path), **LOCAL)
        create = getattr(library, kind)
        # Only the classes that choose a class by the folder's config take the second setting.
        trusted = LOCAL if kind.startswith("Auto") else {"local_files_only": True}
        if empty:
            config = library.AutoConfig.from_pretrained(str(path), **LOCAL)
            net = create.from_config(config) if kind.startswith("Auto") else create(config)
            return tokenizer, net, []
        net, loading = create.from_pretrained(
            str(path), dtype=torch.float32, output_loading_info=True, **trusted
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as a text model ({kind}): {reason}.") from error
    return tokenizer, net, sorted(loading["missing_keys"])


class Pretrained(nn.Module):
    """A net and its tokeniser, from a folder.

    `kind`: the class of the library. `length`: how many tokens of a sentence are read, the special
    ones included; the tokens after them are cut off. `empty`: build the net with random weights and
    read none from the folder, because a run has saved the tower's weights and puts them in later.
    `required`: the folder must have every weight of the net whose name begins with one of these.
    """

    def __init__(
        self, kind: str, folder: str, length: int, empty: bool, required: tuple[str, ...]
    ) -> None:
        super().__init__()
        path = Path(folder).expanduser()
        self.tokenizer, self.net, missing = read_folder(kind, folder, empty)
        if missing := [key for key in missing if key.startswith(required)]:
            raise UserError(
                f"{path} lacks weights of {kind}, such as {missing[0]!r}: is it the folder of "
                "another model?"
            )
        longest = self.net.config.max_position_embeddings
        if not 2 < length <= longest:
            raise UserError(
                f"--length {length}: the text model of {path} reads 3 to {longest} tokens."
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

    def measure(self, sentence: str) -> Length:
        ids = self.tokenizer(sentence, add_special_tokens=False, verbose=False).input_ids
        special = self.tokenizer.num_special_tokens_to_add()
        return Length(len(ids), self.length - special, "tokens")

    def can_encode(self, sentence: str) -> bool:
        return bool(set(self.tokens([sentence])[0].tolist()) - set(self.tokenizer.all_special_ids))

    def write(self, folder: Path, name: str) -> None:
        self.net.config.save_pretrained(folder / name)
        self.tokenizer.save_pretrained(folder / name)


def make_projection(width: int, dim: int | None) -> nn.Module:
    """The linear map after a net of this width; the identity if `dim` is None."""
    check_positive(dim=dim)
    return nn.Identity() if dim is None else nn.Linear(width, dim)


class LocalTower(Tower, ABC):
    """What BERT and CLIP share: both come from a local folder."""

    text: Pretrained

    def tokens(self, sentences: Sequence[str]) -> Int[Tensor, "S W"]:
        return self.text.tokens(sentences)

    def measure(self, sentence: str) -> Length:
        return self.text.measure(sentence)

    def can_encode(self, sentence: str) -> bool:
        return self.text.can_encode(sentence)

    def write(self, folder: Path, stem: str) -> dict[str, Any]:
        self.text.write(folder, f"{stem}.model")
        return {**self.kwargs, "folder": f"{stem}.model", "empty": True}


class Bert(LocalTower):
    """Any encoder of the BERT kind."""

    def __init__(
        self,
        *,
        folder: str,
        # pooled: the output of the net's pooler, which reads the first token; mean: the mean over
        # all tokens
        pool: str = "pooled",
        dim: int | None = None,  # width of a linear map after the net; null: no map
        length: int = 32,  # tokens of a sentence that are read, the special ones included
        frozen: bool = False,
        empty: bool = False,  # build the net without the folder's weights, which come from a run
    ) -> None:
        super().__init__()
        if pool not in ("pooled", "mean"):
            raise UserError(f"The tower bert has no pool {pool!r}: take pooled or mean.")
        # The mean over tokens does not use the pooler, so a folder without its weights will do.
        required = ("",) if pool == "pooled" else ("embeddings.", "encoder.")
        self.text = Pretrained("AutoModel", folder, length, empty, required)
        self.averages_tokens, self.frozen = pool == "mean", frozen
        if self.averages_tokens and "pooler" in dict(self.text.net.named_children()):
            self.text.net.pooler = None  # it would get no gradient
        self.text.requires_grad_(not frozen)
        width = self.text.net.config.hidden_size
        self.project, self.dim = make_projection(width, dim), dim or width

    def embed(self, tokens: Int[Tensor, "S W"]) -> Float[Tensor, "S D"]:
        mask = tokens != self.text.tokenizer.pad_token_id
        with evaluating_if(self.frozen, self.text):
            out = self.text.net(input_ids=tokens, attention_mask=mask.long())
        if not self.averages_tokens:
            return self.project(out.pooler_output)
        weight = mask[..., None].to(out.last_hidden_state)
        return self.project((out.last_hidden_state * weight).sum(1) / weight.sum(1))


class Clip(LocalTower):
    """CLIP's text tower with its own projection."""

    def __init__(
        self,
        *,
        folder: str,
        # width of one more linear map; null: no map, so the space is that of CLIP's pictures
        dim: int | None = None,
        length: int = 77,  # tokens of a sentence that are read, the special ones included
        frozen: bool = False,
        empty: bool = False,  # build the net without the folder's weights, which come from a run
    ) -> None:
        super().__init__()
        self.text = Pretrained("CLIPTextModelWithProjection", folder, length, empty, ("",))
        self.frozen = frozen
        self.text.requires_grad_(not frozen)
        width = self.text.net.config.projection_dim
        self.project, self.dim = make_projection(width, dim), dim or width

    def embed(self, tokens: Int[Tensor, "S W"]) -> Float[Tensor, "S D"]:
        # No mask is needed: a token sees only the tokens before it, and the padding comes after the
        # token that is read.
        with evaluating_if(self.frozen, self.text):
            return self.project(self.text.net(input_ids=tokens).text_embeds)


def evaluating_if(frozen: bool, net: nn.Module) -> Any:
    """A context in which a frozen net is in eval mode, so that it drops nothing out."""
    return evaluating(net) if frozen else nullcontext()
