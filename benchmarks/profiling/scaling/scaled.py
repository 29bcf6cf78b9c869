"""An objective on an encoder, n processes -> memory and traffic of a step, counted: almost nothing
is computed.

The encoder is counted on tensors without numbers, one clip and two. The rest of the objective is
run on a stand-in that gives zeros of the right shape: without numbers too, or with them where a
loss picks by value.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.profiling.scaling.traffic import Part, Sent, Traffic, playing, synchronising
from benchmarks.profiling.speed.counted import fake
from benchmarks.profiling.speed.pairs import saved_bytes
from ssvid import create_encoder, registry
from ssvid.encoder import Encoder
from ssvid.nn.position import cached_table
from ssvid.nn.queue import Queue
from ssvid.nn.sync_bn import synchronise
from ssvid.objective import Objective
from ssvid.shapes import Bag, Batch, Clip, Features, Grid, Index, Window

FITTED = (2, 3, 4)  # processes: what grows with them is a parabola through these
CHECKED = 5  # processes, of which the parabola must be right without having seen them
SAID = 12  # sentences of a window


class Subject(NamedTuple):
    """What is counted. Clips, or windows, are those of one process."""

    objective: str
    encoder: str = ""  # "": none, it lives on stored features
    clips: int = 32
    options: dict[str, Any] = {}  # of the objective
    net: dict[str, Any] = {}  # of the encoder
    sync_bn: bool = True
    note: str = ""  # what tells it from others of the same objective and encoder

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.objective, self.encoder, self.note)))

    def made(self) -> Objective:
        torch.manual_seed(0)
        encoder = create_encoder(self.encoder, **self.net) if self.encoder else None
        return registry.objectives[self.objective](encoder, **self.options)

    @property
    def by_value(self) -> bool:
        """Its loss takes numbers out of tensors (masks, a queue's fill), which those without
        numbers have not.
        """
        return self.objective not in ("mae", "partial_mae", "dpc", "memdpc")


class Call(NamedTuple):
    """One pass of clips through an encoder."""

    clip: tuple[int, ...]
    kept: int | None  # tokens; None: all
    learns: bool
    training: bool


class Pass(NamedTuple):
    """What it costs: `each` for every clip, `once` whatever their number."""

    each: float
    once: float
    flops: float  # of a clip
    traffic: Traffic


class Head(NamedTuple):
    """What the objective costs beside its encoders."""

    kept: int  # bytes for backward
    gathered: int  # bytes of the largest gather, of one process
    flops: int
    traffic: Traffic
    calls: list[Call]


class StandIn(Encoder):
    """Zeros of the shape of another encoder's features.

    It has a batch norm where that one has some.
    """

    def __init__(self, like: Encoder, dtype: torch.dtype, calls: list[Call]) -> None:
        super().__init__()
        self.dim, self.depth, self.spec, self.tubelet, self.can_skip = (
            like.dim,
            like.depth,
            like.spec,
            like.tubelet,
            like.can_skip,
        )
        self.shape, self.dtype, self.calls = like.grid, dtype, calls
        norms = [m for m in like.modules() if isinstance(m, nn.BatchNorm3d | nn.BatchNorm2d)]
        self.norm = nn.BatchNorm3d(1) if norms else None
        self.one = nn.Parameter(torch.zeros(()), any(p.requires_grad for p in like.parameters()))
        self.train(like.training)

    def grid(self, T: int, H: int, W: int) -> Grid:
        return self.shape(T, H, W)

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        kept = None if visible is None else visible.shape[1]
        learns = torch.is_grad_enabled() and self.one.requires_grad
        self.calls.append(Call(tuple(clip.shape), kept, learns, self.training))
        grid = self.grid(*clip.shape[2:])
        tokens = torch.zeros(len(clip), grid.n if kept is None else kept, self.dim) + self.one
        tokens = tokens.to(self.dtype)  # neither keeps anything
        return Features(tokens, tokens.mean(1), grid)


def stand_in(objective: Objective, dtype: torch.dtype) -> list[Call]:
    """Each encoder replaced; the list that their calls will be in."""
    calls: list[Call] = []
    for parent in list(objective.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Encoder):
                setattr(parent, name, StandIn(child, dtype, calls))
    return calls


def batch_of(objective: Objective, clips: int) -> Batch:
    """As the engine gives it, of one process.

    The clips are all the same zero, which takes no room.
    """
    views = objective.views
    each = torch.arange(clips)
    batch: dict[str, Any] = {"index": each, "epoch": each, "label": each % 2, "seed": 0}
    batch["video_id"] = [str(i) for i in range(clips)]
    if views.clips:
        spec = views.clips[0]
        shape = (clips, len(views.clips), 3, spec.frames, spec.size, spec.size)
        batch["clips"] = torch.zeros((1,) * 6).expand(shape)
    if isinstance(views.text, Bag):
        batch["sentences"] = [
            [f"cut onion {i} into {k} rings" for k in range(views.text.sentences)]
            for i in range(clips)
        ]
    if isinstance(views.text, Window):
        batch |= window_of(objective, clips, views.text.seconds)
    return batch  # type: ignore[return-value]


def window_of(objective: Objective, clips: int, seconds: int) -> dict[str, Any]:
    """SAID sentences, one after the other, in the middle of a video."""
    starts = torch.arange(SAID).float() * seconds / SAID
    spans = torch.stack([starts, starts + seconds / SAID], 1).expand(clips, SAID, 2)
    return {
        "features": torch.zeros(clips, seconds, objective.aligner.video_in.in_features),  # type: ignore[union-attr, arg-type]
        "video_padding_mask": torch.zeros(clips, seconds, dtype=torch.bool),
        "text_padding_mask": torch.zeros(clips, SAID, dtype=torch.bool),
        "spans_s": spans,
        "span_fractions": (spans + seconds) / (3 * seconds),
        "sentences": [[f"sentence {k} of window {i}" for k in range(SAID)] for i in range(clips)],
    }


@contextlib.contextmanager
def hollow() -> Iterator[None]:
    """Tensors without numbers; tables that are kept from step to step must not mix the two kinds."""
    cached_table.cache_clear()
    with FakeTensorMode():
        yield
    cached_table.cache_clear()


def cast(half: bool) -> torch.autocast:
    """As --precision auto on a GPU."""
    return torch.autocast("cpu", torch.bfloat16, enabled=half)


def given(subject: Subject, half: bool) -> torch.dtype:
    """Of the encoder's tokens under autocast."""
    if not subject.encoder:
        return torch.float32
    with hollow(), cast(half), torch.no_grad():
        net = create_encoder(subject.encoder, **subject.net)
        return net(torch.zeros(1, 3, net.spec.frames, net.spec.size, net.spec.size)).tokens.dtype


def head(subject: Subject, world: int, half: bool = True) -> Head:
    dtype, real = given(subject, half), subject.made()
    with playing(world), contextlib.nullcontext(real) if subject.by_value else fake(real) as made:
        calls = stand_in(made, dtype)
        if world > 1 and subject.sync_bn:
            synchronise(made)
        for queue in (module for module in made.modules() if isinstance(module, Queue)):
            queue.pushed += len(queue.keys)  # full, as in all but the first steps
            queue.check_step = lambda n: None  # type: ignore[method-assign]  # 3 times 32 keys do not fill 2048 evenly
        batch = batch_of(made, subject.clips)

        def step() -> None:
            with cast(half):
                loss = made(batch)
            loss.total.backward()

        with Sent(world) as sent, FlopCounterMode(display=False) as flops:
            kept = saved_bytes(step)
            made.after_step(0.5)
    return Head(kept, sent.largest_gather, flops.get_total_flops(), sent.traffic, calls)


def passed(subject: Subject, call: Call, world: int, half: bool = True) -> Pass:
    """One clip and two: what is kept of weights, cast to half precision, does not grow with them."""
    with playing(world), hollow():
        made = create_encoder(subject.encoder, **subject.net)
        if world > 1 and subject.sync_bn:
            synchronise(made)
        made.train(call.training)
        kept = []
        for clips in (1, 2):
            clip = torch.zeros(clips, *call.clip[1:])
            visible = (
                None if call.kept is None else torch.zeros(clips, call.kept, dtype=torch.int64)
            )
            with Sent(world) as sent, FlopCounterMode(display=False) as flops:
                kept.append(saved_bytes(partial(through, made, clip, visible, call.learns, half)))
    each = kept[1] - kept[0]
    return Pass(each, kept[0] - each, flops.get_total_flops() / clips, sent.traffic)


def through(
    encoder: Encoder, clip: Tensor, visible: Tensor | None, learns: bool, half: bool
) -> None:
    with torch.set_grad_enabled(learns), cast(half):
        tokens = encoder(clip, visible).tokens
    if learns:
        tokens.float().sum().backward()


def merged(parts: list[Traffic]) -> Traffic:
    found: Traffic = {}
    for traffic in parts:
        for kind, part in traffic.items():
            before = found.get(kind, Part(0, 0))
            found[kind] = Part(before.messages + part.messages, before.bytes + part.bytes)
    return found


def parabola(values: list[int]) -> tuple[float, float, float]:
    """a + b n + c n n through the values of FITTED processes."""
    x, y = (torch.tensor(numbers, dtype=torch.float64) for numbers in (FITTED, values))
    a, b, c = torch.linalg.solve(torch.stack([x**0, x, x * x], 1), y).tolist()
    return a, b, c


def weights(subject: Subject) -> tuple[dict[str, int], dict[str, Traffic]]:
    """Bytes that lie there whatever is learnt from; and what DDP sends of them. float32; AdamW has
    two moments.
    """
    made = subject.made()
    trained = sum(p.numel() for p in made.parameters() if p.requires_grad)
    with playing(2):
        traffic = synchronising(made, 2)
    lies = {
        "parameters": 4 * sum(p.numel() for p in made.parameters()),
        "buffers": sum(b.numel() * b.element_size() for b in made.buffers()),
        "gradients": 4 * trained,
        "buckets": traffic["all_reduce"].bytes,  # DDP's copies of them
        "moments": 8 * trained,
    }
    parts = {"gradients": {"all_reduce": traffic["all_reduce"]}}
    if "broadcast" in traffic:
        parts["buffers"] = {"broadcast": traffic["broadcast"]}
    return lies, parts


def counted(subject: Subject) -> dict[str, Any]:
    """A line of the file: bytes that lie there, that a step keeps, and that it sends; numbers of
    one process.
    """
    lies, sent = weights(subject)
    heads = {n: head(subject, n) for n in (1, *FITTED, CHECKED)}
    same_payload(subject, heads)
    made = {n: passes(subject, heads[n], n) for n in (1, 2)}
    sent |= {"batch norm": merged([one.traffic for one, _ in made[2]]), "rows": heads[2].traffic}
    return {
        "part": "counted",
        "name": subject.name,
        "objective": subject.objective,
        "encoder": subject.encoder,
        "clips": subject.clips,
        "queue": queue_of(subject),
        **lies,
        "activations": round(activations(made[2])),
        "activations_alone": round(activations(made[1])),
        "kept_alone": heads[1].kept,
        "kept": [round(x) for x in parabola([heads[n].kept for n in FITTED])],
        f"kept_at_{CHECKED}": heads[CHECKED].kept,
        "gathered": heads[2].gathered,
        "encoder_gflops": round(sum(one.flops * call.clip[0] for one, call in made[1]) / 1e9),
        "gflops": [round(x / 1e9, 3) for x in parabola([heads[n].flops for n in FITTED])],
        "sent": {part: traffic for part, traffic in sent.items() if traffic},
    }


def sends(subject: Subject, world: int, half: bool) -> Traffic:
    """All that a process brings in a step, counted."""
    made = head(subject, world, half)
    norms = [one.traffic for one, _ in passes(subject, made, world, half)]
    return merged([*weights(subject)[1].values(), made.traffic, *norms])


def passes(subject: Subject, made: Head, world: int, half: bool = True) -> list[tuple[Pass, Call]]:
    known = {call: passed(subject, call, world, half) for call in set(made.calls)}
    return [(known[call], call) for call in made.calls]


def activations(made: list[tuple[Pass, Call]]) -> float:
    """Bytes that the encoders keep."""
    return float(sum(one.each * call.clip[0] + one.once for one, call in made))


def queue_of(subject: Subject) -> int | None:
    """Keys of its shortest queue."""
    return min(
        (len(part.keys) for part in subject.made().modules() if isinstance(part, Queue)),
        default=None,
    )


def same_payload(subject: Subject, heads: dict[int, Head]) -> None:
    """What a process brings does not depend on how many others there are: else no formula of ours
    holds.
    """
    first = heads[2].traffic
    for n in (*FITTED, CHECKED):
        if heads[n].traffic != first:
            raise AssertionError(f"{subject.name}: {heads[n].traffic} among {n}, {first} among 2")
