"""What is counted without running is what a real step keeps and multiplies; ratios are dense /
dropped.
"""

from functools import partial

import pytest
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.profiling.speed.counted import count_saved, count_step, encoder_flops, run_step
from benchmarks.profiling.speed.pairs import saved_bytes
from benchmarks.profiling.speed.turbo import CLASSES, LONG, PART, Net
from ssvid.nn.transformer import recompute_blocks

pytestmark = pytest.mark.slow  # they measure tools of developers

D, DEPTH, HEADS, PATCH = 48, 2, 3, 8
SMALL = Net(
    "vit", {"dim": D, "depth": DEPTH, "heads": HEADS, "patch": PATCH}, frames=8, size=32, clips=2
)
N, PIXELS = 4 * 4 * 4, 3 * 2 * PATCH * PATCH  # tokens of a clip, values of a token
SETTINGS = [  # task, drop, part, recompute
    ("classification", 0.0, 0.0, False),
    ("video_text", 0.5, PART, False),
    (LONG, 0.75, 0.0, True),
    ("classification", 0.9, PART, True),
]


@pytest.mark.parametrize(("task", "drop", "part", "again"), SETTINGS)
def test_counting_without_running_tells_what_a_real_step_does(task, drop, part, again):
    objective, batch = SMALL.objective(task, drop, part), SMALL.batch(2, 16)
    fake = count_step(objective, partial(SMALL.batch, 2, 16), recompute=again)
    if again:
        recompute_blocks(objective)
    else:
        assert saved_bytes(lambda: run_step(objective, batch)) == fake.bytes
    assert count_saved(objective, batch) == fake.bytes
    with FlopCounterMode(display=False) as real:
        run_step(objective, batch)
    assert real.get_total_flops() == fake.flops
    assert (
        fake.attention == "aten._scaled_dot_product_flash_attention_for_cpu"
    )  # the plain one would keep N x N
    assert fake.tokens == (2 * N if not drop else int(2 * N * (1 - drop) + 1e-9))


def test_blocks_that_recompute_are_counted_by_hand():
    """Patches, each block's input, and all of the one block that is run again."""
    objective = SMALL.objective("classification", 0.0, 0.0)
    block = (
        11 * D + HEADS + 4
    )  # norm1, q, k, v, attention (2 with its sums), norm2, its input, mlp (4); two norms' own
    head = 4 * (D + CLASSES) + 8 + 4  # pooled features, logarithms of scores, label and weight
    plain, again = (
        count_step(objective, partial(SMALL.batch, 1, 8), recompute=flag).bytes
        for flag in (False, True)
    )
    assert again == 4 * N * (PIXELS + DEPTH * D + block)
    assert plain == 4 * N * (PIXELS + DEPTH * (D + block) + D + 2) + head


@pytest.mark.parametrize("drop", [0.0, 0.9])
def test_the_floor_is_the_encoder_to_the_last_flop(drop):
    objective = SMALL.objective("classification", drop, 0.0)
    side = count_step(objective, partial(SMALL.batch, 2, 8))
    assert side.flops - side.floor == 3 * 2 * 2 * D * CLASSES, "only the head is beside it"
    quarter, whole = (encoder_flops(objective.encoder, n, 1) for n in (N // 4, N))
    assert quarter < whole / 4, "attention falls with the square"
