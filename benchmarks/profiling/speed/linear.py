"""Cost of the linear probe: pairs of functions to compare.

Either many heads against nothing but their matrix products, or 13 heads against one plain PyTorch
head.
"""

import math
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.probes.linear import Linear
from benchmarks.probes.standardizer import Standardizer
from benchmarks.profiling.speed.pairs import Case
from ssvid.shapes import Frozen

TRAIN, VAL, DIM, CLASSES, EPOCHS, BATCH = 10_000, 2_000, 768, 100, 20, 256


def split(rows: int, seed: int, spread: float = 0.35) -> Frozen:
    """Class centres plus noise. The centres are the same for every seed; `spread` scales them."""
    centres = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(0)) * spread
    y = torch.arange(rows) % CLASSES
    noise = torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))
    return Frozen({"mean@last": centres[y] + noise}, y, [str(i) for i in range(rows)])


def probe() -> Case:
    """A grid of 13 heads against one plain PyTorch head.

    10 000 x 768 features, 100 classes, 20 epochs with batches of 256.
    """
    train, val, test = split(TRAIN, 1), split(VAL, 2), split(VAL, 3)
    ours = Linear(rates=list_rates(13), weight_decays=(0.0,))
    return Case(
        ours=lambda: ours.run(train, val, test, 0),
        theirs=lambda: plain_head(
            train.feats["mean@last"], train.labels, epochs=EPOCHS, batch=BATCH
        ),
        unit="CPU-seconds; ours trains 13 heads, theirs 1",
    )


def list_rates(heads: int) -> tuple[float, ...]:
    return tuple(10 ** (3 * i / max(1, heads - 1)) for i in range(heads))


def plain_head(x: Tensor, y: Tensor, *, epochs: int, batch: int) -> None:
    head = nn.Linear(x.shape[1], CLASSES)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, epochs * math.ceil(len(x) / batch)
    )
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch):
            loss = F.cross_entropy(head(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def floor(heads: int, rungs: tuple[float, ...], pairs: int) -> Callable[[], Case]:
    """A case: `fit` of so many heads, with the choice on val, against their matrix products.

    A step of the plain side is its two products.
    """

    def case() -> Case:
        train, val = split(TRAIN, 1), split(VAL, 2)
        standardizer = Standardizer(train.feats["mean@last"])
        x, x_val = standardizer(train.feats["mean@last"]), standardizer(val.feats["mean@last"])
        ours = Linear(rates=list_rates(heads), weight_decays=(0.0,), rungs=rungs)
        return Case(
            ours=lambda: ours.fit(x, train.labels, x_val, val.labels, CLASSES, 0),
            theirs=make_products(x, list_legs(heads, rungs)),
            unit=f"CPU-seconds; ours trains {heads} heads, "
            "theirs is the two products of their steps",
            pairs=pairs,
        )

    return case


def list_legs(heads: int, rungs: tuple[float, ...]) -> list[tuple[int, int]]:
    """(heads, steps) of each leg of the race: half of the heads leave at each rung."""
    steps = EPOCHS * math.ceil(TRAIN / BATCH)
    ends = [0]
    for share in (*rungs, 1.0):
        ends.append(round(share * steps))
    legs = []
    for first, last in zip(ends, ends[1:], strict=False):
        legs.append((heads, last - first))
        heads = math.ceil(heads / 2)
    return legs


def make_products(x: Tensor, legs: list[tuple[int, int]]) -> Callable[[], None]:
    """The products X W and X^T G of every step, in the cheapest layout, into allocated memory.

    Batches follow each other in the rows of x. One thread is the cheapest way to compute a product:
    two threads wait for each other.
    """
    work = []
    for heads, steps in legs:
        legs_of_layouts = map(partial(make_leg_step, x, heads), LAYOUTS)
        work.append((min(legs_of_layouts, key=cost), steps))

    def all_steps() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for step, steps in work:
            for i in range(steps):
                step(i)
        torch.set_num_threads(threads)

    return all_steps


# Layouts of weights, then of scores, with N = heads x classes. Scores are B N where none is named.
LAYOUTS = ("D N", "N D", "N D, N B")


def make_leg_step(x: Tensor, heads: int, layout: str) -> Callable[[int], object]:
    """A function that runs the i-th step of so many heads."""
    n, batches = heads * CLASSES, x.split(BATCH)
    draw = torch.Generator().manual_seed(0)
    w, g = (torch.randn(n, width, generator=draw) for width in (DIM, BATCH))
    if layout == "D N":
        w, g = w.T.contiguous(), g.T.contiguous()
    elif layout == "N D":
        g = g.T.contiguous()
    grad, scores = torch.empty_like(w), torch.empty_like(g)

    def step(i: int) -> None:
        batch = batches[i % len(batches)]
        b = len(batch)  # the last batch of an epoch is smaller
        if layout == "D N":
            torch.mm(batch, w, out=scores[:b]), torch.mm(batch.T, g[:b], out=grad)
        elif layout == "N D":
            torch.mm(batch, w.T, out=scores[:b]), torch.mm(g[:b].T, batch, out=grad)
        else:
            torch.mm(w, batch.T, out=scores[:, :b]), torch.mm(g[:, :b], batch, out=grad)

    return step


def cost(step: Callable[[int], object], times: int = 15) -> float:
    """The fastest of some steps, in CPU-seconds, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    spent = []
    for i in range(times):
        began = time.process_time()
        step(i)
        spent.append(time.process_time() - began)
    torch.set_num_threads(threads)
    return min(spent)


HALVING = (0.25, 0.5)  # the probe's own default
CASES: dict[str, Callable[[], Case]] = {
    "probe": probe,
    "linear1": floor(1, (), 9),
    "linear13": floor(13, (), 5),
}
SLOW_CASES: dict[str, Callable[[], Case]] = {
    "linear100": floor(100, (), 2),
    "linear13_halving": floor(13, HALVING, 5),
    "linear100_halving": floor(100, HALVING, 3),
}
