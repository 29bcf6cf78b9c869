"""Objective, encoder, number of processes -> memory and traffic of a training step.

This file counts both and computes almost nothing. The encoder runs on tensors without values, once
on one clip and once on two. The objective around it runs on a stand-in encoder, which returns
zeros of the right shape. The objective's own tensors have no values either, unless its loss selects
by value.
"""

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.profiling.scaling.batches import CLASSES, build_batch
from benchmarks.profiling.scaling.traffic import Part, Sent, Traffic, play_process, synchronising
from benchmarks.profiling.speed.counted import fake_copy
from benchmarks.profiling.speed.pairs import saved_bytes
from ssvid import create_encoder, registry
from ssvid.encoder import Encoder
from ssvid.nn.position import cached_table
from ssvid.nn.queue import Queue
from ssvid.nn.sync_bn import synchronise
from ssvid.objective import Objective
from ssvid.shapes import Clip, Features, Grid, Index

FITTED = (2, 3, 4)  # numbers of processes: a parabola is fitted through their counts
# Objectives whose loss selects nothing by value.
FREE_OF_VALUES = ("mae", "partial_mae", "dpc", "memdpc", "masked_distillation")
CHECKED = 5  # number of processes that the parabola must predict, though it was not fitted to it


class Subject(NamedTuple):
    """An objective, its encoder and its batch: one line of the scaling study."""

    objective: str
    encoder: str = ""  # "": the objective has no encoder and trains on stored features
    clips: int = 32  # clips, or windows, of one process
    options: dict[str, Any] = {}  # of the objective
    net: dict[str, Any] = {}  # of the encoder
    sync_bn: bool = True
    note: str = ""  # distinguishes subjects with the same objective and encoder

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.objective, self.encoder, self.note)))

    def build(self) -> Objective:
        torch.manual_seed(0)
        encoder = create_encoder(self.encoder, **self.net) if self.encoder else None
        objective: Objective = registry.objectives[self.objective](encoder, **self.options)
        objective.set_classes(CLASSES)
        return objective

    @property
    def needs_values(self) -> bool:
        """Its loss reads values out of tensors (masks, how full a queue is).

        Tensors without values cannot give them.
        """
        return self.objective not in FREE_OF_VALUES


class Call(NamedTuple):
    """One pass of clips through an encoder."""

    clip: tuple[int, ...]  # shape B C T H W
    visible: int | None  # visible tokens of a clip; None: all
    learns: bool
    training: bool


class Pass(NamedTuple):
    """What a Call costs."""

    clip_bytes: float  # saved for backward for every clip
    fixed_bytes: float  # saved for backward once, whatever the number of clips
    flops: float  # of a clip
    traffic: Traffic


class Head(NamedTuple):
    """What the objective costs beside its encoders."""

    saved: int  # bytes for backward
    gathered: int  # bytes that one process gives to the largest gather
    flops: int
    traffic: Traffic
    calls: list[Call]


class StandIn(Encoder):
    """Returns zeros of the shape of a real encoder's features, and records its calls.

    It has a batch norm where the real encoder has some.
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype, calls: list[Call]) -> None:
        super().__init__()
        self.dim, self.depth, self.spec = encoder.dim, encoder.depth, encoder.spec
        self.tubelet, self.can_skip = encoder.tubelet, encoder.can_skip
        self.layer_dim = encoder.layer_dim
        self.shape, self.dtype, self.calls = encoder.grid, dtype, calls
        norm_types = nn.BatchNorm3d | nn.BatchNorm2d
        has_norm = any(isinstance(module, norm_types) for module in encoder.modules())
        self.norm = nn.BatchNorm3d(1) if has_norm else None
        trains = any(p.requires_grad for p in encoder.parameters())
        self.one = nn.Parameter(torch.zeros(()), trains)
        self.train(encoder.training)

    def grid(self, T: int, H: int, W: int) -> Grid:
        return self.shape(T, H, W)

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        tokens_visible = None if visible is None else visible.shape[1]
        learns = torch.is_grad_enabled() and self.one.requires_grad
        self.calls.append(Call(tuple(clip.shape), tokens_visible, learns, self.training))
        grid = self.grid(*clip.shape[2:])
        n = grid.n if tokens_visible is None else tokens_visible
        tokens = torch.zeros(len(clip), n, self.dim) + self.one  # saves nothing for backward
        tokens = tokens.to(self.dtype)  # saves nothing either
        of_layer = torch.zeros(len(clip), n, self.layer_dim or self.dim).to(self.dtype) + self.one
        maps = (of_layer,) * len(layers or ())
        return Features(tokens, tokens.mean(1), grid, maps)


def replace_encoders(objective: Objective, dtype: torch.dtype) -> list[Call]:
    """Puts a StandIn in place of each encoder. Returns the list that will receive their calls."""
    calls: list[Call] = []
    for parent in list(objective.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Encoder):
                setattr(parent, name, StandIn(child, dtype, calls))
    return calls


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Tensors that are made inside have shapes but no values.

    Position tables stay cached from step to step. The cache is cleared before and after, so that
    it never mixes tensors with and without values.
    """
    cached_table.cache_clear()
    with FakeTensorMode():
        yield
    cached_table.cache_clear()


def cast_like_gpu(half: bool) -> torch.autocast:
    """The autocast that `--precision auto` uses on a GPU."""
    return torch.autocast("cpu", torch.bfloat16, enabled=half)


def find_token_dtype(subject: Subject, half: bool) -> torch.dtype:
    """The dtype of the encoder's tokens under autocast."""
    if not subject.encoder:
        return torch.float32
    with without_values(), cast_like_gpu(half), torch.no_grad():
        net = create_encoder(subject.encoder, **subject.net)
        return net(torch.zeros(1, 3, net.spec.frames, net.spec.size, net.spec.size)).tokens.dtype


def count_head(subject: Subject, world: int, half: bool = True) -> Head:
    """Counts what a step of the objective costs beside its encoders, among `world` processes."""
    dtype, real = find_token_dtype(subject, half), subject.build()
    if subject.needs_values:
        mode: contextlib.AbstractContextManager[Objective] = contextlib.nullcontext(real)
    else:
        mode = fake_copy(real)
    with play_process(world), mode as objective:
        calls = replace_encoders(objective, dtype)
        if world > 1 and subject.sync_bn:
            synchronise(objective)
        for module in objective.modules():
            if isinstance(module, Queue):
                fill_queue(module)
        batch = build_batch(objective, subject.clips)

        def run_step() -> None:
            with cast_like_gpu(half):
                loss = objective(batch)
            loss.total.backward()

        with Sent(world) as sent, FlopCounterMode(display=False) as flops:
            saved = saved_bytes(run_step)
            objective.after_step(0.5)
    return Head(saved, sent.largest_gather, flops.get_total_flops(), sent.traffic, calls)


def fill_queue(queue: Queue) -> None:
    """Makes the queue full, as it is in all but the first steps of a run.

    The check of the batch size is switched off: 3 times 32 keys do not fill 2048 evenly.
    """
    queue.pushed += len(queue.keys)
    queue.check_step = lambda n: None  # type: ignore[method-assign]


def count_pass(subject: Subject, call: Call, world: int, half: bool = True) -> Pass:
    """Counts a pass of one clip and of two.

    The difference is what a clip costs: half-precision copies of weights do not grow with clips.
    """
    with play_process(world), without_values():
        encoder = create_encoder(subject.encoder, **subject.net)
        if world > 1 and subject.sync_bn:
            synchronise(encoder)
        encoder.train(call.training)
        saved = []
        for clips in (1, 2):
            clip = torch.zeros(clips, *call.clip[1:])
            visible = None
            if call.visible is not None:
                visible = torch.zeros(clips, call.visible, dtype=torch.int64)
            run = partial(run_encoder, encoder, clip, visible, call.learns, half)
            with Sent(world) as sent, FlopCounterMode(display=False) as flops:
                saved.append(saved_bytes(run))
    clip_bytes = saved[1] - saved[0]
    fixed_bytes = saved[0] - clip_bytes
    return Pass(clip_bytes, fixed_bytes, flops.get_total_flops() / clips, sent.traffic)


def run_encoder(
    encoder: Encoder, clip: Tensor, visible: Tensor | None, learns: bool, half: bool
) -> None:
    with torch.set_grad_enabled(learns), cast_like_gpu(half):
        tokens = encoder(clip, visible).tokens
    if learns:
        tokens.float().sum().backward()


def merge_traffic(traffics: list[Traffic]) -> Traffic:
    """Adds up messages and bytes of each kind of collective."""
    merged: Traffic = {}
    for traffic in traffics:
        for kind, part in traffic.items():
            before = merged.get(kind, Part(0, 0))
            merged[kind] = Part(before.messages + part.messages, before.bytes + part.bytes)
    return merged


def fit_parabola(values: list[int]) -> tuple[float, float, float]:
    """a, b, c of a + b n + c n n through the values that belong to FITTED processes."""
    x = torch.tensor(FITTED, dtype=torch.float64)
    y = torch.tensor(values, dtype=torch.float64)
    a, b, c = torch.linalg.solve(torch.stack([x**0, x, x * x], 1), y).tolist()
    return a, b, c


def count_weights(subject: Subject) -> tuple[dict[str, int], dict[str, Traffic]]:
    """Bytes that are in memory all the time, and what DDP sends of them.

    Weights are float32, and AdamW has two moments.
    """
    objective = subject.build()
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    with play_process(2):
        traffic = synchronising(objective, 2)
    resident = {
        "parameters": count_bytes(objective.parameters()),
        "buffers": count_bytes(objective.buffers()),
        "gradients": 4 * trained,
        "buckets": traffic["all_reduce"].bytes,  # DDP's copies of the gradients
        "moments": 8 * trained,
    }
    sent = {"gradients": {"all_reduce": traffic["all_reduce"]}}
    if "broadcast" in traffic:
        sent["buffers"] = {"broadcast": traffic["broadcast"]}
    return resident, sent


def count_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def count_subject(subject: Subject) -> dict[str, Any]:
    """The subject's line of the results file, with the numbers of one process.

    Bytes that are in memory all the time, bytes that a step saves, and bytes that it sends.
    """
    resident, sent = count_weights(subject)
    heads = {n: count_head(subject, n) for n in (1, *FITTED, CHECKED)}
    check_payload(subject, heads)
    alone = count_passes(subject, heads[1], 1)
    paired = count_passes(subject, heads[2], 2)
    sent["batch norm"] = merge_passes(paired)
    sent["rows"] = heads[2].traffic
    flops = sum(encoder_pass.flops * call.clip[0] for encoder_pass, call in alone)
    saved = fit_parabola([heads[n].saved for n in FITTED])
    head_flops = fit_parabola([heads[n].flops for n in FITTED])
    return {
        "part": "counted",
        "name": subject.name,
        "objective": subject.objective,
        "encoder": subject.encoder,
        "clips": subject.clips,
        "queue": shortest_queue(subject),
        **resident,
        "activations": round(sum_activations(paired)),
        "activations_alone": round(sum_activations(alone)),
        "kept_alone": heads[1].saved,
        "kept": list(map(round, saved)),
        f"kept_at_{CHECKED}": heads[CHECKED].saved,
        "gathered": heads[2].gathered,
        "encoder_gflops": round(flops / 1e9),
        "gflops": [round(x / 1e9, 3) for x in head_flops],
        "sent": {part: traffic for part, traffic in sent.items() if traffic},
    }


def count_traffic(subject: Subject, world: int, half: bool) -> Traffic:
    """Everything that a process sends in a step."""
    head = count_head(subject, world, half)
    norms = merge_passes(count_passes(subject, head, world, half))
    return merge_traffic([*count_weights(subject)[1].values(), head.traffic, norms])


def merge_passes(passes: list[tuple[Pass, Call]]) -> Traffic:
    """The traffic of all passes: an encoder sends only what its synchronised batch norms need."""
    return merge_traffic([encoder_pass.traffic for encoder_pass, _ in passes])


def count_passes(
    subject: Subject, head: Head, world: int, half: bool = True
) -> list[tuple[Pass, Call]]:
    """The cost of each call that the objective makes; equal calls are counted once."""
    costs = {call: count_pass(subject, call, world, half) for call in set(head.calls)}
    return [(costs[call], call) for call in head.calls]


def sum_activations(passes: list[tuple[Pass, Call]]) -> float:
    """Bytes that the encoders save for backward."""
    total = 0.0
    for encoder_pass, call in passes:
        total += encoder_pass.clip_bytes * call.clip[0] + encoder_pass.fixed_bytes
    return float(total)


def shortest_queue(subject: Subject) -> int | None:
    """Keys of the objective's shortest queue; None without a queue."""
    lengths = []
    for module in subject.build().modules():
        if isinstance(module, Queue):
            lengths.append(len(module.keys))
    return min(lengths, default=None)


def check_payload(subject: Subject, heads: dict[int, Head]) -> None:
    """Checks that what a process sends does not depend on the number of processes.

    The formulas of the study hold only then. Raises AssertionError where it depends on it.
    """
    first = heads[2].traffic
    for n in (*FITTED, CHECKED):
        if heads[n].traffic != first:
            raise AssertionError(f"{subject.name}: {heads[n].traffic} among {n}, {first} among 2")
