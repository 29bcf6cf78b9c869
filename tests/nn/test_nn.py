"""Masks, positions and the transformer."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ssvid.nn.convgru import Cell
from ssvid.nn.masks import (
    BEVT_DRAWS,
    BLOCK_DRAWS,
    bevt_mask,
    block_mask,
    draw_blocks,
    frame_mask,
    random_mask,
    take,
    tube_mask,
)
from ssvid.nn.position import Positions, sincos, sincos3d
from ssvid.nn.transformer import Attention, Block
from ssvid.randomness import uniform
from ssvid.shapes import Grid


def test_tube_hides_the_floor_in_every_slot_at_the_same_places():
    grid = Grid(8, 14, 14)
    visible, drop = tube_mask(torch.rand(3, 196), grid, 0.9)
    assert visible.shape == (3, 8 * 20) and drop.shape == (3, 8 * 176)  # int(0.9 * 196) = 176
    places = drop.view(3, 8, 176) % 196
    assert (places == places[:, :1]).all() and (visible.diff(dim=1) > 0).all()
    assert not torch.equal(visible[0], visible[1])


def test_random_keeps_what_python_floors():
    visible, drop = random_mask(torch.rand(2, 128), 0.9)
    assert visible.shape[1] == 12
    assert torch.equal(
        torch.cat([visible, drop], 1).sort(1).values, torch.arange(128).expand(2, -1)
    )
    assert random_mask(torch.rand(1, 1568), 0.9)[0].shape[1] == 156


def test_frame_hides_whole_slots():
    visible, drop = frame_mask(torch.rand(2, 8), Grid(8, 2, 2), 0.5)
    assert torch.equal(drop.view(2, 4, 4) // 4, drop.view(2, 4, 4)[..., :1].expand(-1, -1, 4) // 4)
    assert set(visible[0].tolist()) | set(drop[0].tolist()) == set(range(32))


def test_bevt_hides_an_exact_number_on_every_grid():
    for grid in (Grid(8, 16, 16), Grid(1, 8, 8), Grid(3, 2, 5), Grid(4, 1, 2)):
        for ratio in (0.3, 0.65, 0.8):
            u = uniform(0, "mask", 1, torch.arange(5), BEVT_DRAWS + grid.n)
            visible, hidden = bevt_mask(u, grid, ratio)
            assert hidden.shape == (5, round(ratio * grid.n))
            assert (hidden.diff(dim=1) > 0).all() and (visible.diff(dim=1) > 0).all()
            both = torch.cat([visible, hidden], 1).sort(1).values
            assert torch.equal(both, torch.arange(grid.n).expand(5, -1))


def test_bevt_hides_the_same_blocks_in_a_window_and_fills_up_at_random():
    grid, ratio = Grid(8, 6, 6), 0.65
    u = uniform(3, "mask", 0, torch.arange(4), BEVT_DRAWS + grid.n)
    u[:, 0] = 0.0  # the shortest window: 4 of 8 frames
    u[:, 1] = 0.8  # which begins at frame int(8 * 0.8) = 6 and wraps around
    u[:, BEVT_DRAWS:] = torch.arange(grid.n) / grid.n  # others are hidden from the first token on
    blocks = draw_blocks(u[:, 2:BEVT_DRAWS].view(4, -1, 4), grid, ratio).flatten(1)
    _, hidden = bevt_mask(u, grid, ratio)
    for clip in range(4):
        expected = set()
        for frame in (6, 7, 0, 1):
            expected |= {36 * frame + int(position) for position in blocks[clip].nonzero()}
        for token in range(grid.n):
            if len(expected) < round(ratio * grid.n):
                expected.add(token)
        assert set(hidden[clip].tolist()) == expected


def test_blocks_are_boxes_of_four_tokens_or_more_until_the_goal():
    grid, goal = Grid(1, 14, 14), round(0.65 * 196)
    u = uniform(0, "boxes", 0, torch.arange(300), 4 * 24).view(300, 24, 4)
    for first in draw_blocks(u[:, :1], grid, 0.65):
        rows, columns = first.any(1), first.any(0)
        height, width = int(rows.sum()), int(columns.sum())
        assert first.sum() == height * width and first.sum() <= goal
        if first.any():
            assert height * width >= 3 and 0.2 <= height / width <= 5  # rounded to whole tokens
            assert (rows.nonzero().diff(dim=0) == 1).all()
    counts = draw_blocks(u, grid, 0.65).sum((1, 2))
    assert counts.max() <= goal and counts.double().mean() > 0.98 * goal


def test_take_follows_the_index():
    x = torch.randn(2, 5, 3)
    index = torch.tensor([[4, 0], [1, 1]])
    assert torch.equal(take(x, index), torch.stack([x[0, [4, 0]], x[1, [1, 1]]]))


def test_sincos_by_hand():
    table = sincos(10, 6)
    assert table[3, 0] == torch.tensor(3.0).sin() and table[3, 1] == torch.tensor(3.0).cos()
    torch.testing.assert_close(table[7, 4], torch.tensor(7 / 10000 ** (4 / 6)).sin())


def test_sincos3d_is_a_sum_of_axes_in_time_major_order():
    table = sincos3d(Grid(2, 3, 4), 16).view(2, 3, 4, 16)
    assert torch.equal(table[1, :, :, :8], sincos(2, 8)[1].expand(3, 4, 8))
    assert torch.equal(table[:, 2, :, 8:12], sincos(3, 4)[2].expand(2, 4, 4))
    assert torch.equal(table[:, :, 3, 12:], sincos(4, 4)[3].expand(2, 3, 4))
    assert sincos3d(Grid(2, 2, 2), 26).shape == (8, 26)


def test_learnt_positions_go_to_other_grids_and_stay_on_their_own():
    for kind in ("separable", "joint"):
        positions = Positions(kind, 8, Grid(4, 3, 3))
        like = torch.zeros(1)
        assert positions(Grid(4, 3, 3), like).shape == (36, 8) and positions(
            Grid(8, 5, 6), like
        ).shape == (240, 8)
        with torch.no_grad():
            [p.fill_(1.0) for p in positions.parameters()]
        assert torch.allclose(positions(Grid(2, 6, 6), like), positions(Grid(4, 3, 3), like)[0])


def test_attention_by_hand():
    torch.manual_seed(0)
    attention = Attention(8, 2, "qkv")
    [torch.nn.init.normal_(p) for p in attention.parameters()]
    x = torch.randn(1, 5, 8)
    bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    q, k, v = F.linear(x, attention.qkv.weight, bias).chunk(3, -1)
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        heads.append((q[..., h] * 4**-0.5 @ k[..., h].transpose(1, 2)).softmax(-1) @ v[..., h])
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(heads, -1)))


def test_dropout_only_in_training():
    torch.manual_seed(0)
    block, x = Block(8, 2, dropout=0.5), torch.randn(1, 4, 8)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_layer_scale_starts_small():
    x = torch.randn(1, 4, 8)
    assert (Block(8, 2, layer_scale=1e-6)(x) - x).abs().max() < 1e-4


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(3, 7),
    st.integers(3, 7),
    st.floats(0.05, 0.95),
    st.integers(0, 999),
)
def test_a_block_is_one_box_of_exactly_so_many_tokens(
    t: int, h: int, w: int, ratio: float, seed: int
):
    grid = Grid(t, h, w)
    u = torch.rand(
        3, BLOCK_DRAWS + grid.n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    visible, drop = block_mask(u, grid, ratio)
    assert drop.shape == (3, int(ratio * grid.n))
    assert torch.equal(
        torch.cat([visible, drop], 1).sort(1).values, torch.arange(grid.n).expand(3, -1)
    )
    for row in drop:
        hidden = torch.zeros(grid.n, dtype=torch.bool).index_fill(0, row, True).view(*grid)
        if not hidden.any():
            continue
        inner = tuple(slice(int(axis.min()) + 1, int(axis.max())) for axis in hidden.nonzero().T)
        assert hidden[inner].all(), "its last shell alone may be broken"


def test_blocks_lie_anywhere_and_are_of_many_shapes():
    u = torch.rand(
        400, BLOCK_DRAWS + 512, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    _, drop = block_mask(u, Grid(8, 8, 8), 0.25)
    often = torch.zeros(512).index_add(0, drop.flatten(), torch.ones(drop.numel())) / 400
    assert 0.05 < often.min() and often.max() < 0.6
    slots = torch.tensor([len((row // 64).unique()) for row in drop])
    assert slots.min() <= 4 and slots.max() == 8


def test_a_recurrent_cell_under_autocast():
    """The state is float32 at the start and the rest bfloat16, as on a GPU by default."""
    cell = Cell(4, 6, 1)
    x, state = torch.randn(2, 4, 3, 3), torch.randn(2, 6, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        half = cell(x, state)
    assert half.dtype == state.dtype and torch.allclose(half, cell(x, state), atol=0.05)
