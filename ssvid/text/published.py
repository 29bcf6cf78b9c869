"""A published file -> its joint space of clips and sentences."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ssvid.errors import UserError
from ssvid.log import log
from ssvid.nn.prism import AttentionPooler
from ssvid.nn.prompts import VideoPrompts
from ssvid.nn.text_pooling import TextPooling
from ssvid.text import Tower, create_tower
from ssvid.text.blip import BlipText
from ssvid.text.joint import JointSpace, ProductSpace, PromptedSpace
from ssvid.text.matching import MatchingSpace
from ssvid.text.pooled import PooledSpace, make_auxiliary
from ssvid.text.words import MILNCE, read_words
from ssvid.weights.blip import describe_text as describe_blip_text
from ssvid.weights.clip import describe_text
from ssvid.weights.files import read_weights
from ssvid.weights.layout import count_blocks
from ssvid.weights.published import (
    PublishedFile,
    identify_file,
    select_under,
    unknown_layout_error,
)
from ssvid.weights.state_dict import load_state
from ssvid.weights.videoprism_sizes import describe_pooler, describe_tower

BLIP_TABLE = "tower.bert.table.weight"  # of BLIP's word vectors
BLIP_TEMPERATURE = 0.07  # at which BLIP's training begins; files of Hugging Face have none
# Beginnings of our names of weights that no space has: encoders, and what only training needs.
NOT_OF_A_SPACE = ("encoder.", "key_", "video_queue.", "text_queue.", "progress")
DEMO_TEMPERATURE = 0.01  # of VideoPrism's published demo; its files have none


def load_published_joint(path: Path, words: str | None) -> JointSpace:
    """The joint space of a file of MIL-NCE, CLIP, X-CLIP or VideoPrism, in eval mode.

    `words`: the word list of MIL-NCE, or the vocabulary of the others. Raises UserError if the file
    has no joint space, or if the list belongs to another file.
    """
    file = read_weights(path)
    published = identify_file(file)
    if published is None:
        raise unknown_layout_error(file)
    build = SPACES.get(published.net.objective or "")
    if build is None:
        raise UserError(
            f"{path} is {published.description}, which has no space of clips and sentences."
        )
    published.require_complete()
    space = build(published, words)
    state = {}
    for key, x in published.ours.items():
        if not key.startswith(NOT_OF_A_SPACE):
            state[key] = x
    load_state(space, state, path)
    log.info(f"{path}: the text tower of {published.description}; {len(state)} tensors")
    return space.eval()


def build_milnce_space(published: PublishedFile, words: str | None) -> ProductSpace:
    path, state = published.file.path, published.ours
    if words is None:
        raise UserError(
            f"{path} holds the vectors of words but not the words: give their list as well "
            "(s3d_dict.npy of MIL-NCE)."
        )
    table, first, last = (state[f"tower.{name}.weight"] for name in ("table", "first", "last"))
    n_words = len(read_words(words))
    if n_words + 1 != len(table):
        raise UserError(
            f"{words} lists {n_words} words, and {path} has vectors of {len(table) - 1}: the list "
            "belongs to another file."
        )
    sizes = {"dim": len(last), "hidden": len(first), "width": table.shape[1]}
    # MIL-NCE measured its retrieval with 30 words. The tokeniser of the released net reads lower
    # case; training did not.
    reading = {**MILNCE, "length": 30, "lower": published.net.kwargs.get("stem") != "plain"}
    tower = create_tower("words", words=words, trained=False, **sizes, **reading)
    head = nn.Linear(state["head.weight"].shape[1], len(last))
    return ProductSpace(tower, head, cosine=False)


def build_clip_space(published: PublishedFile, words: str | None) -> ProductSpace:
    tower = build_clip_tower(published, words)
    scale = nn.Parameter(torch.zeros(()))
    return ProductSpace(tower, nn.Identity(), cosine=True, scale=scale)


def build_xclip_space(published: PublishedFile, words: str | None) -> PromptedSpace:
    state, tower = published.ours, build_clip_tower(published, words)
    width = len(state["prompts.norm_visual.weight"])
    prompts = VideoPrompts(width, tower.dim, layers=count_blocks(state, "prompts.blocks."))
    layer = published.net.kwargs["image_kwargs"]["depth"]
    scale = nn.Parameter(torch.zeros(()))
    return PromptedSpace(tower, prompts, layer=layer, scale=scale)


def build_videoprism_space(published: PublishedFile, words: str | None) -> PooledSpace:
    """The video-text model of VideoPrism. Its files hold no factor of similarities."""
    state, sizes = published.ours, describe_tower(published.ours)
    tower = create_tower("videoprism_text", vocabulary=words, **sizes)
    check_rows(published, words or "", len(tower.state_dict()["table.weight"]))
    pooler, auxiliary = make_pooler(published)
    state["scale"] = torch.tensor(math.log(1 / DEMO_TEMPERATURE))
    return PooledSpace(tower, pooler, auxiliary, scale=nn.Parameter(torch.zeros(())))


def build_blip_space(published: PublishedFile, words: str | None) -> MatchingSpace:
    """BLIP's retrieval. A file of a trained net may lack its temperature."""
    state = published.ours
    tower = create_tower("blip_text", vocabulary=words, **describe_blip_text(state))
    assert isinstance(tower, BlipText)
    check_rows(published, words or "of this project", tower.pieces.size, BLIP_TABLE)
    state.setdefault("temperature", torch.tensor(BLIP_TEMPERATURE))
    dim, width = state["head.weight"].shape
    return MatchingSpace(
        tower,
        nn.Linear(width, dim),
        nn.Linear(tower.width, 2),
        temperature=nn.Parameter(torch.ones(())),
        pooling=TextPooling(),
        has_cls=True,
    )


def make_pooler(published: PublishedFile) -> tuple[AttentionPooler, nn.ModuleList]:
    """The pooler of a video-text file of VideoPrism and the blocks below it, not yet loaded."""
    state, kwargs = published.ours, published.net.kwargs
    pooler = AttentionPooler(**describe_pooler(state))
    count = count_blocks(state, "auxiliary.")
    return pooler, make_auxiliary(count, kwargs["dim"], kwargs["heads"], kwargs["hidden"])


def load_published_pooler(path: Path) -> tuple[AttentionPooler | None, nn.ModuleList | None]:
    """The pooler of a file and the blocks below it; None if it is no video-text file of VideoPrism.

    No vocabulary is needed, because the text side is left out.
    """
    published = identify_file(read_weights(path))
    if published is None or published.net.objective != "video_text":
        return None, None
    published.require_complete()
    modules = make_pooler(published)
    for module, prefix in zip(modules, ("pooler.", "auxiliary."), strict=True):
        load_state(module, select_under(published.ours, prefix), path)
    return modules


def check_rows(
    published: PublishedFile, vocabulary: str, size: int, table: str = "tower.table.weight"
) -> None:
    """Raise a UserError for a vocabulary of another size than the table of vectors."""
    rows = len(published.ours[table])
    if rows != size:
        raise UserError(
            f"The vocabulary {vocabulary} has {size} tokens, and {published.file.path} has "
            f"vectors of {rows}: the vocabulary belongs to another file."
        )


def build_clip_tower(published: PublishedFile, words: str | None) -> Tower:
    """The text side of CLIP for a file. A UserError for a vocabulary of another size."""
    sizes = describe_text(published.ours)
    tower = create_tower("clip_text", vocabulary=words, **sizes)
    check_rows(published, words or "of open_clip", len(tower.words or ()))
    return tower


SPACES: dict[str, Callable[[PublishedFile, str | None], JointSpace]] = {
    "mil_nce": build_milnce_space,
    "clip": build_clip_space,
    "coca": build_clip_space,
    "xclip": build_xclip_space,
    "video_text": build_videoprism_space,
    "litevl_retrieval": build_blip_space,
}
