"""A joint space <-> files: `text.safetensors` and its card `text.json` in a run's folder.

Nothing outside the folder is needed to load a space again. A card is data: it names a kind of
space, of tower and of layer from the tables here, and no code.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ssvid.errors import TOO_LARGE, UserError
from ssvid.nn.prism import AttentionPooler, PrismBlock
from ssvid.nn.prompts import VideoPrompts
from ssvid.nn.text_pooling import TextPooling
from ssvid.text import Tower, create_tower
from ssvid.text.blip import BlipText
from ssvid.text.joint import JointSpace, ProductSpace, PromptedSpace
from ssvid.text.matching import MatchingSpace
from ssvid.text.pooled import PooledSpace
from ssvid.text.published import load_published_joint
from ssvid.weights.files import read_weights
from ssvid.weights.state_dict import load_state, read_card, save_with_card

Card = dict[str, Any]
FOLDER_TOWERS = ("bert", "clip")  # towers that come from a folder of Hugging Face's library
PRODUCT, PROMPTED, POOLED, MATCHING = "product", "prompted", "pooled", "matching"
# Towers that read a vocabulary, and not a list of words.
VOCABULARY_TOWERS = ("clip_text", "videoprism_text", "blip_text")
# Layers of a head that have no weights, by their name in a card.
PLAIN_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


def save_joint(space: JointSpace, folder: Path, stem: str = "text") -> Path:
    """Write `stem.safetensors`, `stem.json` and what the tower needs; return the first.

    Raises TypeError if the space or a layer of its head is of no kind that is known here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    card = {"tower": space.tower.name, "arguments": space.tower.write(folder, stem)}
    card |= describe_space(space)
    path = folder / f"{stem}.safetensors"
    save_with_card(space.state_dict(), path, card)
    return path


def describe_space(space: JointSpace) -> Card:
    """What a card tells of a space, beside its tower."""
    if isinstance(space, ProductSpace):
        card: Card = {"head": describe_head(space.head), "cosine": space.cosine}
        return card if space.scale is None else {**card, "scaled": True}
    if isinstance(space, PromptedSpace):
        sizes = {"width": space.prompts.width, "layers": len(space.prompts.blocks)}
        return {"space": PROMPTED, "prompts": sizes, "layer": space.layers[0], "cosine": True}
    if isinstance(space, PooledSpace):
        card = {"space": POOLED, "pooler": space.pooler.sizes, "cosine": True}
        card["auxiliary"] = [block.sizes for block in cast("list[PrismBlock]", [*space.auxiliary])]
        return card if space.scale is None else {**card, "scaled": True}
    if isinstance(space, MatchingSpace):
        card = {"space": MATCHING, "head": describe_head(space.head), "cosine": True}
        card |= {"pooling": asdict(space.pooling), "has_cls": space.has_cls}
        return {**card, "guide_space": space.guide_space}
    raise TypeError(f"a {type(space).__name__} cannot be saved")


def build_space(card: Card, tower: Tower) -> JointSpace:
    """The space that a card describes, with random weights.

    Raises KeyError, TypeError or ValueError where the card is not whole.
    """
    if not isinstance(card["cosine"], bool):
        raise ValueError("cosine is true or false")
    kind = card.get("space", PRODUCT)
    if kind == PRODUCT:
        head = build_head(card["head"])
        return ProductSpace(tower, head, cosine=card["cosine"], scale=build_scale(card))
    if kind == PROMPTED:
        sizes = card["prompts"]
        prompts = VideoPrompts(sizes["width"], tower.dim, layers=sizes["layers"])
        scale = nn.Parameter(torch.zeros(()))
        return PromptedSpace(tower, prompts, layer=int(card["layer"]), scale=scale)
    if kind == POOLED:
        blocks = nn.ModuleList(PrismBlock(**sizes) for sizes in card["auxiliary"])
        pooler = AttentionPooler(**card["pooler"])
        return PooledSpace(tower, pooler, blocks, scale=build_scale(card))
    if kind == MATCHING and isinstance(tower, BlipText):
        return build_matching(card, tower)
    raise ValueError(f"there is no space {kind!r} for the tower {tower.name}")


def build_matching(card: Card, tower: BlipText) -> MatchingSpace:
    return MatchingSpace(
        tower,
        cast(nn.Linear, build_head(card["head"])),
        nn.Linear(tower.width, 2),
        temperature=nn.Parameter(torch.ones(())),
        pooling=TextPooling(**card["pooling"]),
        has_cls=bool(card["has_cls"]),
        guide_space=card["guide_space"],
    )


def build_scale(card: Card) -> nn.Parameter | None:
    """The factor of the similarities, if the card has one."""
    return nn.Parameter(torch.zeros(())) if card.get("scaled") else None


def describe_head(head: nn.Module) -> list[Card]:
    """The layers of a head, for its card. TypeError if it has layers of another kind."""
    layers = head if isinstance(head, nn.Sequential) else [head]
    descriptions: list[Card] = []
    for layer in layers:
        if isinstance(layer, nn.Identity):
            continue
        descriptions.append(describe_layer(layer))
    return descriptions


def describe_layer(layer: nn.Module) -> Card:
    if isinstance(layer, nn.Linear):
        sizes = {"in": layer.in_features, "out": layer.out_features}
        return {**sizes, "bias": layer.bias is not None}
    if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:
        return {"layer": "norm", "width": layer.normalized_shape[0], "eps": layer.eps}
    is_exact = getattr(layer, "approximate", "none") == "none"  # of GELU, which has two forms
    for name, kind in PLAIN_LAYERS.items():
        if type(layer) is kind and is_exact:
            return {"layer": name}
    raise TypeError(
        "a head of linear maps, layer norms and activations can be saved, and this one has a "
        f"{type(layer).__name__}"
    )


def build_head(descriptions: list[Card]) -> nn.Module:
    """The head that `describe_head` described, with random weights."""
    layers = [build_layer(description) for description in descriptions]
    if not layers:
        return nn.Identity()
    return nn.Sequential(*layers) if len(layers) > 1 else layers[0]


def build_layer(description: Card) -> nn.Module:
    kind = description.get("layer")
    if kind is None:
        return nn.Linear(description["in"], description["out"], description["bias"])
    if kind == "norm":
        return nn.LayerNorm(description["width"], eps=float(description["eps"]))
    if kind not in PLAIN_LAYERS:
        raise ValueError(f"there is no layer {kind!r}")
    return PLAIN_LAYERS[kind]()


def load_joint(path: str | Path, words: str | None = None) -> JointSpace:
    """The joint space of a run or of a published file, in eval mode.

    `path`: a run folder, its text.json or another export of it, or the published file. `words`: the
    word list, or vocabulary, of the published file. Raises UserError if there is no text tower.
    """
    path = Path(path).expanduser()
    card_file = path / "text.json" if path.is_dir() else path.with_suffix(".json")
    card = read_card(card_file)
    if path.is_dir() and card is None:
        raise UserError(
            f"{path} has no text tower (text.json): take the run of an objective that learns from "
            "text."
        )
    if card is None:
        return load_published_joint(path, words)
    text_card = path.with_name("text.json")
    if "tower" not in card and text_card.exists():
        return load_joint(text_card, words)  # the path named the encoder of a run
    if words is not None:
        raise UserError(f"{path} belongs to a run, which knows its words: leave out {words}.")
    try:
        kwargs = {}
        for key, value in card["arguments"].items():
            kwargs[key] = resolve_path(card_file.parent, key, value)
        space = build_space(card, create_tower(card["tower"], **kwargs))
    except (KeyError, TypeError, ValueError, AttributeError, *TOO_LARGE) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{card_file} describes no text tower: {type(error).__name__} {reason}."
        ) from error
    file = card_file.with_suffix(".safetensors")
    load_state(space, read_weights(file).tensors, file)
    return space.eval()


def resolve_path(folder: Path, key: str, value: Any) -> Any:
    """The argument `key` of a tower. Its files and folders lie in the run folder."""
    if key not in ("words", "folder", "vocabulary") or value is None:
        return value
    if not isinstance(value, str) or Path(value).is_absolute() or ".." in Path(value).parts:
        raise ValueError(f"{key} {value!r} leaves the folder of the run")
    return str(folder / value)


class TextSide(NamedTuple):
    """A text tower and what was trained beside it.

    `scale`: the logarithm of the factor of its similarities.
    """

    tower: Tower
    scale: Tensor | None  # None: it is new, or was trained without a factor
    prompts: VideoPrompts | None = None  # what changes its sentences by a clip
    pooled: PooledSpace | None = None  # what pools the tokens of a clip
    matching: MatchingSpace | None = None  # what says whether a sentence matches a clip


def load_text_side(path: str, words: str | None) -> TextSide:
    """The text side of a run or of a published file, ready to be trained on."""
    space = load_joint(path, words)
    scale = dict(space.named_parameters()).get("scale")
    prompts = space.prompts.train() if isinstance(space, PromptedSpace) else None
    pooled = space.train() if isinstance(space, PooledSpace) else None
    matching = space.train() if isinstance(space, MatchingSpace) else None
    factor = None if scale is None else scale.detach()
    return TextSide(space.tower.train(), factor, prompts, pooled, matching)


def require_blip_text(tower: Tower, width: int, text: str | None) -> BlipText:
    """The tower, if it is BLIP's and looks at tokens of this width; else a UserError."""
    if not isinstance(tower, BlipText):
        raise UserError(
            f"{text} has the text side {tower.name}, and one that looks at clips is needed: take a "
            "file of BLIP or a run of litevl_retrieval."
        )
    if tower.bert.context_dim != width:
        raise UserError(
            f"The text side looks at tokens of width {tower.bert.context_dim}, and those of the "
            f"encoder have {width}: take an encoder of that width."
        )
    return tower


def choose_text_side(
    name: str, words: str | None, text: str | None, options: dict[str, Any], **sizes: Any
) -> TextSide:
    """As `choose_tower`, with the factor of a text side that was loaded.

    A run or a file tells by itself what its tower is, whatever the `name`.
    """
    if text is None or name in FOLDER_TOWERS:
        return TextSide(choose_tower(name, words, text, options, **sizes), None)
    refuse_options(text, options)
    return load_text_side(text, words)


def choose_tower(
    name: str,
    words: str | None,
    text: str | None,
    options: dict[str, Any],
    reads: dict[str, Any] | None = None,
    **sizes: Any,
) -> Tower:
    """The tower for the flags --objective.tower, .words, .text and .options.

    `reads`: how the publication of the objective reads words, whoever trained their table. `sizes`:
    arguments of a new tower. Raises UserError if the flags contradict each other.
    """
    if name in VOCABULARY_TOWERS:
        return create_tower(name, vocabulary=words, **{**sizes, **options})
    if name != "words":
        if words is not None:
            raise UserError(
                f"--objective.words {words} belongs to the tower words; {name} has its own words."
            )
        if text is None and name in FOLDER_TOWERS:
            raise UserError(
                f"--objective.tower {name} needs --objective.text: the folder of the model."
            )
        folder = {} if text is None else {"folder": text}
        return create_tower(name, **{**sizes, **folder, **options})
    if text is None:
        return create_tower(name, words=words, **{**(reads or {}), **sizes, **options})
    refuse_options(text, options)
    trained = load_joint(text, words).tower.train()
    if reads is None or trained.name != name:
        return trained
    tower = create_tower(name, **{**trained.kwargs, **reads})
    load_state(tower, trained.state_dict(), text)
    return tower


def refuse_options(text: str, options: dict[str, Any]) -> None:
    """Raise a UserError for arguments of a tower that comes from a file with its own."""
    if options:
        raise UserError(
            f"--objective.text {text} says what its tower is: leave out --objective.options."
        )
