"""X-CLIP (Ni et al. 2022, arXiv:2208.02816): the class of a clip is the sentence that fits it best.

The names of the classes are read by a text tower, and each clip changes them before they are
compared with it (video-specific prompts). So labels are words, and a trained net also knows labels
that it never saw.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder
from ssvid.engine.mix import Mix, make_smooth_targets
from ssvid.errors import UserError, check_positive, check_range
from ssvid.nn.precise import raise_precision
from ssvid.nn.prompts import VideoPrompts
from ssvid.objective import SMALL_BATCH, Objective, require
from ssvid.registry import objectives
from ssvid.shapes import Batch, Loss, Views
from ssvid.text import create_tower
from ssvid.text.clip import ClipText
from ssvid.text.joint import JointSpace, ProductSpace, PromptedSpace
from ssvid.text.joint_files import TextSide, choose_text_side
from ssvid.text.sides import Sides, freeze, is_frozen
from ssvid.text.tower import Tower
from ssvid.text.wording import BARE, read_templates, word_classes
from ssvid.weights.state_dict import load_state

CONTEXT = 16  # learnt tokens before a name, as in CoOp
TEMPLATE = ("a video of {}.",)
PARTS = ("prompts.", "tower.context")  # that CLIP has not, beside those of the encoder


@objectives.register("xclip")
class XCLIP(Objective):
    """Cross-entropy over the classes, whose logits are similarities of a clip and their names.

    The text side is frozen by default, as published: its names are embedded once, and again when
    they or its weights change.
    """

    tiny_kwargs = {
        "tower": "words",
        "options": {"buckets": 16, "width": 8, "hidden": 16, "length": 6},
        "train": "both",
        "prompt_layers": 1,
        "mixup": 0.0,
        "cutmix": 0.0,
    }
    default_flags = {"encoder": {"name": "xclip_tiny"}, "clip": {}, **SMALL_BATCH}
    # No vocabulary and no trained text side is needed.
    small_settings = {"tower": "words", "train": "both"}
    preset_flags = {
        "one_gpu": {  # as published for Kinetics-400 with ViT-B/32
            "encoder": {"name": "xclip_b32"},
            "betas": [0.9, 0.98],
            "weight_decay": 0.001,
            "lr": 8e-6,
            "lr_batch": 256,
            "epochs": 30,
        },
    }

    def __init__(
        self,
        encoder: Encoder,
        *,
        # how a class becomes text: its bare name; the name in `templates`; the name after learnt
        # tokens (CoOp, arXiv:2109.01134); or the bare name, which the clip changes
        prompts: Literal["name", "template", "context", "video"] = "video",
        templates: str | None = None,  # template: a file with a sentence a line, {} for the name
        prompt_layers: int = 2,  # video: blocks that change a name by the clip
        # clip_text | words | bert | clip, or names: a learnt vector for each class, without text
        tower: str = "clip_text",
        # clip_text: its vocabulary; words: a word list; null: that of an installed open_clip
        words: str | None = None,
        # a run or a published file (CLIP's, X-CLIP's) whose text side to load, with its prompts if
        # it has any; bert, clip: the folder of the model
        text: str | None = None,
        # further arguments of the text tower: letters, layers, width, heads, length, ...
        options: dict[str, Any] | None = None,
        train: Sides = "video",  # the sides that learn; what CLIP has not always does
        new_rate: float = 10.0,  # learning rate of what CLIP has not, relative to the others
        smoothing: float = 0.1,  # label smoothing
        mixup: float = 0.8,  # alpha of mixup; 0: no mixup
        cutmix: float = 1.0,  # alpha of cutmix; 0: no cutmix
        switch_prob: float = 0.5,  # probability of cutmix instead of mixup, if both are on
        temperature: float = 0.07,  # of the softmax, at the start; a loaded text side has its own
        augment: str = "xclip",  # a recipe of ssvid.data.augment
    ) -> None:
        super().__init__()
        check_positive(prompt_layers=prompt_layers, temperature=temperature, new_rate=new_rate)
        check_range(0, 1, smoothing=smoothing)
        self.encoder, self.augment = encoder, augment
        self.smoothing, self.new_rate = smoothing, new_rate
        self.mix = Mix(mixup, cutmix, 1.0, switch_prob)
        self.templates = choose_templates(prompts, templates)
        self.classes: tuple[str, ...] = ()
        self.wordings: list[list[str]] = []
        # What the frozen tower made of the wordings, and from what.
        self.embedded: tuple[object, Tensor] | None = None
        self.tower: Tower | None = None  # `set_classes` builds the tower `names`
        trained_prompts = None
        start = torch.tensor(-math.log(temperature))
        if tower != "names":
            side = choose_text_side(tower, words, text, options or {}, dim=encoder.dim)
            check_text_side(side, encoder, text, train)
            start = start if side.scale is None else side.scale
            trained_prompts = side.prompts
            self.tower = add_context(side.tower) if prompts == "context" else side.tower
            if train == "video" and prompts != "context":
                freeze(self.tower)
        self.scale = nn.Parameter(start.clone(), requires_grad=train != "video")
        self.prompts = None
        if prompts == "video":
            self.prompts = make_prompts(encoder, prompt_layers, trained_prompts)
        if train == "text":
            freeze_known_parts(self.encoder)

    @property
    def views(self) -> Views:
        is_whole = self.encoder.spec.whole
        return self.encoder.make_views(self.augment, independent_frames=is_whole)

    def exported_encoders(self) -> dict[str, Encoder]:
        return {"encoder": self.encoder}

    def joint_space(self) -> JointSpace:
        assert self.tower is not None, "set_classes builds the tower of names"
        if self.prompts is None:
            return ProductSpace(self.tower, nn.Identity(), cosine=True, scale=self.scale)
        layer = self.encoder.depth
        return PromptedSpace(self.tower, self.prompts, layer=layer, scale=self.scale)

    def check_data(self, data: Manifest, views: Views, batch_size: int) -> None:
        """Raise a UserError if a clip has no label, or if there are fewer than two classes."""
        unlabelled = [row.path for row in data.rows if row.label is None]
        if unlabelled:
            raise UserError(
                f"xclip learns from labels, and {len(unlabelled)} of {len(data)} training clips of "
                f"{data.title} have none, first {unlabelled[0]}."
            )
        if len({row.label for row in data.rows}) < 2:
            raise UserError(f"{data.title}: xclip needs two classes or more in the train split.")

    def set_classes(self, names: Sequence[str]) -> None:
        self.classes, self.wordings = tuple(names), word_classes(names, self.templates)
        if self.tower is None:
            sentences = list(itertools.chain.from_iterable(self.wordings))
            self.tower = create_tower("names", names=sentences, dim=self.encoder.dim)

    def compute_rate_factors(self) -> dict[str, float]:
        """The parts that CLIP has not learn `new_rate` times as fast."""
        parts = (*PARTS, *(f"encoder.{part}" for part in self.encoder.new_parts))
        if self.tower is not None and self.tower.name == "names":
            parts = (*parts, "tower.")
        names = dict(self.named_parameters())
        return {name: self.new_rate for name in names if name.startswith(parts)}

    def forward(self, batch: Batch) -> Loss:
        clips = batch["clips"][:, 0]
        labels = batch["label"].to(clips.device)
        targets = make_smooth_targets(labels, len(self.classes), self.smoothing)
        clips, targets = self.mix(clips, targets, batch)
        space = self.joint_space()
        features = self.encoder(clips, layers=space.layers or None)
        texts = self.embed_classes(space)
        logits = raise_precision(space.compare(space.read_clips(features), texts))  # B Q
        loss = -(targets * logits.log_softmax(-1)).sum(-1).mean()
        # A mixed clip counts for the class with the larger weight.
        top1 = (logits.argmax(-1) == targets.argmax(-1)).double().mean()
        return Loss(loss, {"train_top1": top1.detach()})

    def embed_classes(self, space: JointSpace) -> Float[Tensor, "Q E"]:
        """The vectors of the classes. A frozen tower computes them once."""
        if not is_frozen(space.tower):
            return embed_wordings(space, self.wordings)
        weights = tuple((weight._version, weight.device) for weight in space.tower.parameters())
        key = (self.wordings, weights)
        if self.embedded is None or self.embedded[0] != key:
            with torch.no_grad():
                self.embedded = (key, embed_wordings(space, self.wordings))
        return self.embedded[1]


def embed_wordings(space: JointSpace, wordings: list[list[str]]) -> Float[Tensor, "Q E"]:
    return space.average_texts(torch.stack([space.embed_texts(texts) for texts in wordings]))


def choose_templates(prompts: str, templates: str | None) -> tuple[str, ...]:
    """The sentences in which a name stands. A UserError for a file that nothing reads."""
    if prompts == "template":
        return TEMPLATE if templates is None else read_templates(templates, "xclip")
    if templates is not None:
        raise UserError(f"--objective.templates {templates} needs --objective.prompts template.")
    return BARE


def check_text_side(side: TextSide, encoder: Encoder, text: str | None, train: str) -> None:
    """Raise a UserError if the text side does not suit the encoder, or would stay random."""
    if side.tower.dim != encoder.dim:
        raise UserError(
            f"The text side gives {side.tower.dim} numbers and {encoder.name} gives {encoder.dim}: "
            "xclip compares the two, so take an encoder and a text side of one width."
        )
    if train == "video" and text is None:
        raise UserError(
            "xclip keeps its text side frozen, and this one has random weights: give "
            "--objective.text FILE (of CLIP, X-CLIP or a run of clip), or --objective.train both."
        )


def freeze_known_parts(encoder: Encoder) -> None:
    """Freeze all but the parts that weights of a picture net lack."""
    for name, weight in encoder.named_parameters():
        if not name.startswith(encoder.new_parts):
            weight.requires_grad_(False)


def add_context(tower: Tower) -> Tower:
    """The frozen tower with learnt tokens. A UserError for a tower that takes none."""
    if not isinstance(tower, ClipText):
        raise UserError("xclip with prompts context needs the tower clip_text.")
    return tower.add_context(CONTEXT)


def make_prompts(encoder: Encoder, layers: int, trained: VideoPrompts | None) -> VideoPrompts:
    """What changes the names by the tokens of the encoder's last block.

    It is that of the text side, where one was trained; a UserError if that is of another form.
    """
    require("xclip with prompts video", encoder, has_layers=True)
    prompts = VideoPrompts(encoder.layer_dim or encoder.dim, encoder.dim, layers=layers)
    if trained is not None:
        source = "The text side of --objective.text"
        load_state(prompts, dict(trained.state_dict()), source, name="the prompts of this xclip")
    return prompts
