"""Steps of our `tan` against the plain way it was published in: a pair of functions to compare.

The model has 6 + 6 blocks (e6d6), on 16 windows of 64 s with 12 sentences each. Both sides use the
same weights and stored sentence vectors. Text tower, optimiser and the teacher's moving average are
left out.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.profiling.speed.pairs import DEVICE, Case, steps
from ssvid import registry
from ssvid.shapes import Batch
from ssvid.text import Tower
from ssvid.trust import trust_modules

WINDOWS, SECONDS, SENTENCES, WIDE, SENTENCE_S = 16, 64, 12, 1024, 5
PAIRS = 7
NONE = -6e4  # the logit of what is padding or no positive


class StoredVectors(Tower):
    """Sentence i is row i of a table, which stands for the text tower's stored output."""

    def __init__(self, *, rows: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.table = nn.Parameter(torch.randn(rows, dim), requires_grad=False)

    def tokens(self, sentences: Sequence[str]) -> Tensor:
        return torch.tensor([[int(sentence)] for sentence in sentences])

    def embed(self, tokens: Tensor) -> Tensor:
        return self.table[tokens[:, 0]]

    def can_encode(self, sentence: str) -> bool:
        return True

    def write(self, folder: Any, stem: str) -> dict[str, Any]:
        return {}


def first_stage() -> Case:
    return pair(objective(random_start=False))


def cotrain() -> Case:
    return pair(objective(cotrain="keep"))


def objective(windows: int = WINDOWS, **settings: Any) -> Any:
    torch.manual_seed(0)
    options = {"rows": windows * SENTENCES, "dim": 512} | settings.pop("options", {})
    trust_modules("benchmarks.profiling.speed.tan")  # its tower is named below
    return registry.objectives["tan"](
        None,
        tower="benchmarks.profiling.speed.tan:StoredVectors",
        options=options,
        features=WIDE,
        **settings,
    ).to(DEVICE)


def pair(ours: Any) -> Case:
    batch, theirs = windows(), Plain(ours)

    def our_step() -> None:
        ours(batch).total.backward()
        ours.zero_grad(set_to_none=True)

    def their_step() -> None:
        theirs(batch).backward()
        ours.zero_grad(set_to_none=True)

    return steps(our_step, their_step)._replace(pairs=PAIRS)


def windows(
    n: int = WINDOWS, seconds: int = SECONDS, sentences: int = SENTENCES, wide: int = WIDE
) -> Batch:
    """Windows without padding, whose sentences follow each other."""
    start = SENTENCE_S * torch.arange(sentences, dtype=torch.float32)
    spans = torch.stack([start, start + SENTENCE_S], 1).expand(n, -1, -1).to(DEVICE)
    return {
        "features": torch.randn(n, seconds, wide).to(DEVICE),
        "video_padding_mask": torch.zeros(n, seconds, dtype=torch.bool, device=DEVICE),
        "sentences": number_sentences(n, sentences),
        "spans_s": spans,
        "span_fractions": spans / seconds,
        "text_padding_mask": torch.zeros(n, sentences, dtype=torch.bool, device=DEVICE),
        "index": torch.arange(n),
        "epoch": torch.zeros(n, dtype=torch.int64),
        "seed": 0,
    }


def number_sentences(windows: int, sentences: int) -> list[list[str]]:
    """Each sentence is the number of its row in the table of StoredVectors."""
    numbered = []
    for i in range(windows):
        numbered.append([str(i * sentences + k) for k in range(sentences)])
    return numbered


class Out(NamedTuple):
    """Logits (cosines) of both branches, and those of the head."""

    dual: Tensor  # B E T B N
    joint: Tensor  # B L T B N
    alignable: Tensor | None  # B L N


class Plain:
    """The published sequence of operations, on the parameters of our objective."""

    def __init__(self, ours: Any) -> None:  # our objective; benchmarks must not import its class
        self.ours = ours

    def __call__(self, batch: Batch) -> Tensor:
        ours = self.ours
        text = ours.aligner.tower(list(chain.from_iterable(batch["sentences"])))
        text = text.view(len(batch["sentences"]), -1, text.shape[1])
        online = forward(ours.aligner, batch, text)
        teacher = None
        if ours.teacher is not None:
            with torch.no_grad():
                teacher = forward(ours.teacher, batch, text)
        return loss(ours, batch, online, teacher)


def forward(net: Any, batch: Batch, text: Tensor) -> Out:
    """Both branches, each with its own pre-projections and its own cosines of all pairs.

    The sequence axis comes first.
    """
    video_mask, text_mask = batch["video_padding_mask"], batch["text_padding_mask"]
    T = video_mask.shape[1]
    dual = encode(net.video, project_video(net, batch["features"]).permute(1, 0, 2), video_mask)
    words = net.text_norm(net.text_in(text))
    unit = dual / dual.norm(dim=-1, keepdim=True)
    words_unit = words / words.norm(dim=-1, keepdim=True)
    logits_dual = torch.einsum("astc,bkc->astbk", unit, words_unit)
    both = torch.cat([project_video(net, batch["features"]), words], 1).permute(1, 0, 2)
    joint = encode(net.joint, both, torch.cat([video_mask, text_mask], 1))
    video, sentences = joint[:, :, :T], joint[:, :, T:]
    unit = video / video.norm(dim=-1, keepdim=True)
    words_unit = sentences / sentences.norm(dim=-1, keepdim=True)
    logits_joint = torch.einsum("astc,bskc->astbk", unit, words_unit)
    if net.head is None:
        return Out(logits_dual, logits_joint, None)
    net.head(words)  # the published code computes this and does not use it
    return Out(logits_dual, logits_joint, net.head(sentences)[..., 0])


def project_video(net: Any, features: Tensor) -> Tensor:
    position = net.position_norm(net.positions[None, : features.shape[1]])
    return net.video_norm(net.video_in(features)) + position


def encode(stack: Any, x: Tensor, hidden: Tensor) -> Tensor:
    """N B D -> B L N D, with the attention function that torch.nn has."""
    stages = []
    for block in stack.blocks:
        normed = block.norm1(x)
        stages.append(normed)
        mixed = F.multi_head_attention_forward(
            normed,
            normed,
            normed,
            normed.shape[2],
            block.heads,
            block.qkv.weight,
            block.qkv.bias,
            None,
            None,
            False,
            0.0,
            block.proj.weight,
            block.proj.bias,
            key_padding_mask=hidden,
            need_weights=False,
        )[0]
        x = x + mixed
        wide = block.fc1(block.norm2(x))
        x = x + block.fc2(wide * torch.sigmoid(1.702 * wide))
    stages.append(stack.norm(x))
    return torch.stack(stages[1:], dim=1).permute(2, 1, 0, 3)


def loss(ours: Any, batch: Batch, online: Out, teacher: Out | None) -> Tensor:
    B, T = batch["video_padding_mask"].shape
    temperature, text_padding_mask = ours.temperature, batch["text_padding_mask"]
    step = torch.arange(T, device=DEVICE)[None, None]
    start, end = batch["spans_s"].unbind(-1)
    spoken = (start[..., None] <= step) & (step < end[..., None])
    inside = (spoken & ~text_padding_mask[..., None]).float()  # B N T
    eye = torch.eye(B, device=DEVICE)[:, None, :, None]
    target = inside.permute(0, 2, 1)[:, :, None].repeat(1, 1, B, 1) * eye  # B T B N
    if teacher is not None:
        target = agreement(batch, inside, target, teacher, temperature, eye)
    positives = target[:, :, ~text_padding_mask].reshape(B * T, -1)
    scaled = [online.dual / temperature, online.joint / temperature]
    aligned, label = alignable(ours, batch, scaled)
    losses = []
    for x in scaled:
        logits = x[:, :, :, ~text_padding_mask].permute(1, 0, 2, 3).reshape(x.shape[1], B * T, -1)
        losses.append(branch(logits, positives, aligned if ours.threshold > 0 else None))
    total = (losses[0] + losses[1]) / 2
    if online.alignable is None:
        return total
    head = online.alignable[:, 2][~text_padding_mask]
    decided = label != 2
    target = label[decided]
    weight = torch.ones_like(target) * (1 / target.mean() - 1)
    return total + F.binary_cross_entropy_with_logits(head[decided], target, pos_weight=weight)


def branch(logits: Tensor, positives: Tensor, aligned: Tensor | None) -> Tensor:
    """The loss of one branch. With `aligned` only those sentences count."""
    with_pos, spoken = positives.sum(-1) > 0, positives.sum(-2) > 0
    positive = logits.clone()
    positive[:, ~positives.bool()] = NONE
    seconds = torch.logsumexp(logits, dim=-1) - torch.logsumexp(positive, dim=-1)
    sentences = torch.logsumexp(logits, dim=-2) - torch.logsumexp(positive, dim=-2)
    whole = (seconds[:, with_pos].mean() + sentences[:, spoken].mean()) / 2
    if aligned is None:
        return whole
    aligned_positives = positives.clone()
    aligned_positives[:, ~aligned] = 0
    with_aligned = aligned_positives.sum(-1) > 0
    return (seconds[:, with_aligned].mean() + sentences[:, aligned].mean()) / 2


@torch.no_grad()
def alignable(ours: Any, batch: Batch, both: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Which sentences are alignable by both branches, and labels of the head (2: undecided)."""
    spoken = ~batch["text_padding_mask"]
    best = []
    for x in both:
        diagonal = torch.diagonal(x, dim1=0, dim2=3).permute(0, 1, 3, 2)
        best.append(diagonal[-1][:, spoken].max(0).values)
    first, second = ((x - x.mean()) / x.std() for x in best)
    metric = -(first + second)
    middle = [torch.quantile(x, 0.5) for x in best]
    label = torch.full_like(metric, 2.0)
    label[(best[0] > middle[0]) & (best[1] > middle[1])] = 1.0
    label[(best[0] < middle[0]) & (best[1] < middle[1])] = 0.0
    centre = batch["span_fractions"][spoken].mean(-1)
    label[(centre < ours.trim) | (centre > 1 - ours.trim)] = 0.0
    return metric <= torch.quantile(metric, ours.threshold), label


@torch.no_grad()
def agreement(
    batch: Batch, inside: Tensor, target: Tensor, teacher: Out, temperature: float, eye: Tensor
) -> Tensor:
    """The target of co-training of type keep.

    Every possible span of a sentence is a row of a T x T matrix.
    """
    B, N, T = inside.shape
    length = inside.sum(-1).clamp(min=1).masked_fill(batch["text_padding_mask"], 0)
    box = (torch.arange(T, device=DEVICE) < length[..., None]).float()  # B N T
    roll = torch.stack([box.roll(t, -1) for t in range(T)], 2)  # B N start T
    roll = roll.masked_fill(torch.ones(T, T, dtype=torch.bool, device=DEVICE).tril(-1), 0)
    roll = roll.masked_fill((roll.sum(-1) < length[..., None])[..., None], 0)
    roll[..., 0] = roll[..., -1] = 0
    roll = roll / roll.sum(-1, keepdim=True).clamp(min=1e-3)
    boxes = []
    for logits in (teacher.joint, teacher.dual):
        diagonal = torch.diagonal(logits / temperature, dim1=0, dim2=3)
        diagonal = diagonal.permute(3, 0, 1, 2)  # B L T N
        padding = batch["video_padding_mask"][:, None, :, None]
        padding = padding | batch["text_padding_mask"][:, None, None]
        diagonal = diagonal.masked_fill(padding, NONE)
        prob = diagonal.softmax(-1).div(temperature).softmax(-2)[:, -1]
        start = (prob.permute(0, 2, 1)[:, :, None] * roll).sum(-1).max(-1).indices
        best = roll.gather(2, start[..., None, None].expand(-1, -1, 1, T))[:, :, 0] > 0  # B N T
        boxes.append(best.permute(0, 2, 1)[:, :, None] & eye.bool())  # B T B N
    both, either = boxes[0] & boxes[1], boxes[0] | boxes[1]
    shared, whole = (torch.diagonal(x, dim1=0, dim2=2).permute(2, 0, 1) for x in (both, either))
    agreed = shared.sum(1) / whole.sum(1).clamp(min=1e-5) >= 0.5  # B N
    changed = torch.where(agreed[None, None], either.float(), target)
    block = torch.diagonal(changed, dim1=0, dim2=2)  # T N B
    first = torch.zeros_like(block).scatter_(1, block.argmax(1, keepdim=True), 1)
    first[:, 0] = block[:, 0]
    none = first.sum(0) == 0
    first[:, none] = torch.diagonal(target, dim1=0, dim2=2)[:, none]
    return first.permute(2, 0, 1)[:, :, None].repeat(1, 1, B, 1) * eye
