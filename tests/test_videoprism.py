"""VideoPrism's encoder and text side: what is left out, resized, split and refused."""

from pathlib import Path

import pytest
import sentencepiece
import torch
import torch.nn.functional as F
from torch import Tensor

from ssvid import create_encoder
from ssvid.encoders.videoprism import VideoPrism
from ssvid.engine.warm_start import start_encoder
from ssvid.errors import UserError
from ssvid.nn.position import resize_grid, resize_rows
from ssvid.nn.prism import AttentionPooler
from ssvid.nn.transformer import recompute_blocks
from ssvid.shapes import Features, Grid
from ssvid.text import create_tower
from ssvid.text.joint_files import load_joint, save_joint
from ssvid.text.pieces import PAD, Pieces, canonicalise
from ssvid.text.pooled import PooledSpace, make_auxiliary
from tests.helpers import facts, for_each

TEXT = {"letters": True, "dim": 16, "layers": 1, "heads": 2, "length": 12}
SENTENCES = ["a red ball moves left", "a blue box grows", "two cats", "Stop, now!"]


def create_net(**changes) -> VideoPrism:
    torch.manual_seed(0)
    net = create_encoder("videoprism", **{**VideoPrism.tiny_kwargs, "time_depth": 2, **changes})
    assert isinstance(net, VideoPrism)
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.1 * torch.randn_like(weight)  # norms and biases begin at nothing
    return net.eval()


def create_space() -> PooledSpace:
    torch.manual_seed(1)
    tower = create_tower("videoprism_text", **TEXT)
    pooler = AttentionPooler(24, 2, hidden=32, query_dim=16)
    scale = torch.nn.Parameter(torch.tensor(1.5))
    return PooledSpace(tower, pooler, make_auxiliary(1, 24, 2, 32), scale=scale).eval()


def pick(tokens: Tensor, visible: Tensor) -> Tensor:
    return tokens.gather(1, visible[..., None].expand(-1, -1, tokens.shape[-1]))


@torch.no_grad()
@for_each(
    "visible",
    [
        ([0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]),  # tubes
        ([0, 1, 2, 3, 5, 9, 13, 14], [15, 3, 4, 7, 6, 5, 10, 0]),  # ragged, and out of order
        ([3], [8]),
    ],
)
def test_dropped_tokens_are_as_if_they_were_masked(visible: tuple[list[int], list[int]]):
    net, clip, index = create_net(), torch.rand(2, 3, 4, 16, 16), torch.tensor(visible)
    padding = torch.ones(2, 16, dtype=torch.bool).scatter(1, index, False)
    masked = net.encode_padded(clip, padding).tokens
    dropped = net(clip, index, layers=(1, 3))
    torch.testing.assert_close(dropped.tokens, pick(masked, index), atol=2e-6, rtol=1e-5)
    assert not torch.allclose(dropped.tokens, pick(net(clip).tokens, index), atol=1e-3)
    assert [tuple(x.shape) for x in dropped.layers] == [(2, len(visible[0]), 24)] * 2


@torch.no_grad()
def test_layers_are_tokens_in_their_order():
    net, clip = create_net(), torch.rand(2, 3, 4, 16, 16)
    index = torch.tensor([[3, 0, 7, 9], [1, 2, 5, 15]])
    features = net(clip, index, layers=(1, 2, 3))
    torch.testing.assert_close(net.norm_time(features.layers[2]), features.tokens)
    one_frame = net(clip[:, :, :1], layers=(1,)).layers[0]  # space sees each frame by itself
    torch.testing.assert_close(net(clip, layers=(1,)).layers[0][:, :4], one_frame)


@torch.no_grad()
def test_time_is_read_and_frames_are_not_mixed_before_it():
    net, clip = create_net(), torch.rand(1, 3, 4, 16, 16)
    changed = clip.clone()
    changed[:, :, 3] = torch.rand(1, 3, 16, 16)
    before, after = net(clip, layers=(1,)), net(changed, layers=(1,))
    assert torch.equal(before.layers[0][:, :12], after.layers[0][:, :12])
    assert not torch.allclose(before.tokens[:, :4], after.tokens[:, :4])


@torch.no_grad()
def test_tables_are_resized_as_pictures_of_many_columns():
    table = torch.randn(16, 5)
    torch.testing.assert_close(resize_rows(table, 1)[0], table.mean(0), atol=0.3, rtol=0)
    for columns in (2, 5):
        halves = resize_rows(table[:, :columns], 8)
        weights = torch.tensor([0.125, 0.375, 0.375, 0.125])
        expected = (weights[:, None] * table[5:9, :columns]).sum(0)
        torch.testing.assert_close(halves[3], expected)
    square = resize_grid(table, Grid(1, 4, 4), Grid(1, 2, 2))
    assert square.shape == (4, 5)
    turned = resize_grid(
        table.view(4, 4, 5).transpose(0, 1).flatten(0, 1), Grid(1, 4, 4), Grid(1, 2, 2)
    )
    torch.testing.assert_close(turned, square.view(2, 2, 5).transpose(0, 1).flatten(0, 1))


@torch.no_grad()
def test_the_picture_net_of_clip_is_a_start_for_space():
    """Patches are equal on normalised pixels; norms and products are those of the picture net."""
    torch.manual_seed(0)
    picture = create_encoder("clip_vit", width=24, depth=1, heads=2, patch=8, dim=16, size=16)
    for weight in picture.parameters():
        weight += 0.1 * torch.randn_like(weight)
    net = create_net(hidden=96)
    start_encoder(net, dict(picture.state_dict()), "clip.pt")
    pixels = torch.rand(1, 3, 1, 8, 8)
    normalised = (pixels - torch.tensor(picture.mean).view(3, 1, 1, 1)) / torch.tensor(
        picture.std
    ).view(3, 1, 1, 1)
    ours = F.conv3d(pixels, net.patch.weight, net.patch.bias)
    theirs = F.conv2d(normalised[:, :, 0], picture.patch.weight)[:, :, None]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(net.space_positions, picture.positions[1:])
    x = torch.randn(5, 24)
    torch.testing.assert_close(
        net.space[0].norm1(x),
        F.layer_norm(x, (24,), picture.blocks[0].norm1.weight, picture.blocks[0].norm1.bias, 1e-6),
    )
    torch.testing.assert_close(
        net.space[0].mlp(x), picture.blocks[0].fc2(F.gelu(picture.blocks[0].fc1(x)))
    )
    larger = create_net(hidden=96, patch=9, size=36)
    start_encoder(larger, dict(picture.state_dict()), "clip.pt")
    flat = torch.full((1, 3, 1, 9, 9), 0.3)
    response = F.conv3d(flat, larger.patch.weight, larger.patch.bias).flatten()
    torch.testing.assert_close(
        response,
        F.conv3d(flat[..., :8, :8], net.patch.weight, net.patch.bias).flatten(),
        atol=1e-5,
        rtol=1e-4,
    )
    with pytest.raises(UserError, match=facts("space_depth 1")):
        start_encoder(create_net(hidden=96, space_depth=2), dict(picture.state_dict()), "clip.pt")


def test_recomputed_blocks_give_the_same_gradients():
    clip = torch.rand(2, 3, 4, 16, 16)
    gradients = []
    for again in (False, True):
        net = create_net()
        if again:
            recompute_blocks(net)
        net(clip, torch.tensor([[0, 3, 7], [4, 5, 6]])).tokens.square().sum().backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in net.parameters()]))
    torch.testing.assert_close(*gradients)


def test_sizes_that_hold_no_token_are_refused():
    for change in ({"size": 7}, {"heads": 5}, {"space_depth": 0}, {"cap": 0.0}):
        with pytest.raises(UserError):
            create_net(**change)


@torch.no_grad()
def test_a_sentence_does_not_depend_on_its_neighbours():
    tower = create_tower("videoprism_text", **TEXT).eval()
    alone = torch.cat([tower([sentence]) for sentence in SENTENCES])
    torch.testing.assert_close(tower(SENTENCES), alone)
    assert torch.equal(tower(["a cat"]), tower(["A, cat!"])), "sentences are made canonical"
    hybrid = create_tower("videoprism_text", **TEXT, norms="primer_hybrid")
    assert len(hybrid.state_dict()) == len(tower.state_dict()) + 4


def test_words_after_a_word_do_not_change_it():
    """The class token alone sees the whole sentence."""
    tower = create_tower("videoprism_text", **TEXT).eval()
    tokens = tower.tokens(["abc", "abd"])
    outputs: list[Tensor] = []
    tower.blocks[-1].register_forward_hook(lambda _, __, x: outputs.append(x))
    tower.embed(tokens)
    rows = outputs[0].view(2, -1, 16)
    torch.testing.assert_close(rows[0, :2], rows[1, :2])
    assert not torch.allclose(rows[0, -1], rows[1, -1])


@torch.no_grad()
def test_a_picture_has_the_first_time_in_training_and_a_shrunk_table_in_inference():
    """As the paper trains on pictures, and as the published code infers."""
    net, picture = create_net(), torch.rand(1, 3, 1, 16, 16)
    alone = create_net(frames=1)
    first, table = net.time_positions[:1], net.time_positions
    weights = net.state_dict()

    def compute_with(row: Tensor) -> Tensor:
        alone.load_state_dict({**weights, "time_positions": row})
        return alone(picture).tokens

    torch.testing.assert_close(net.train()(picture).tokens, compute_with(first))
    torch.testing.assert_close(net.eval()(picture).tokens, compute_with(resize_rows(table, 1)))
    assert not torch.allclose(compute_with(first), net(picture).tokens)
    resized = create_net(picture_time="resize").train()
    torch.testing.assert_close(resized(picture).tokens, net(picture).tokens)
    clip = torch.rand(1, 3, 2, 16, 16)
    torch.testing.assert_close(net.train()(clip).tokens, net.eval()(clip).tokens)


@torch.no_grad()
def test_a_pooled_space_is_saved_whole(tmp_path: Path):
    space = create_space()
    save_joint(space, tmp_path)
    again = load_joint(tmp_path)
    assert isinstance(again, PooledSpace) and again.needs_tokens
    features = Features(torch.randn(2, 8, 24), torch.randn(2, 24), Grid(2, 2, 2))
    clips, texts = space.read_clips(features), space.embed_texts(SENTENCES)
    ours = space.compare(clips, texts)
    assert torch.equal(
        again.compare(again.read_clips(features), again.embed_texts(SENTENCES)), ours
    )
    cosines = ours / space.scale.exp()
    assert cosines.abs().max() <= 1
    frames = space.pool_frames(features)
    alone = space.pooler(space.refine(features.tokens)[:, :4])[:, 0]
    torch.testing.assert_close(frames[:, 0], alone)
    with pytest.raises(UserError, match=facts("pooled")):
        space.read_pooled(torch.randn(2, 24))


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of SentencePiece, trained here."""
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "text.txt").write_text("\n".join(map(canonicalise, 30 * SENTENCES)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "small"),
        vocab_size=24,
        bos_id=-1,
        minloglevel=2,
    )
    return folder / "small.model"


def test_pieces_are_those_of_the_model_and_long_sentences_are_cut(vocabulary: Path):
    pieces = Pieces(vocabulary, 5)
    table = pieces.encode(["two cats", "a red ball moves left", ""])
    assert table.shape[1] == 5 and not (table[1] == PAD).any() and (table[2] == PAD).any()
    assert pieces.model.decode(table[1].tolist()) in "a red ball moves left."
    assert Pieces(None, 3).encode(["ab"]).tolist() == [[3 + 97, 3 + 98, 3 + 46]]


def test_a_tower_tells_how_much_it_reads(vocabulary: Path):
    arguments = {**TEXT, "letters": False, "vocabulary": str(vocabulary), "length": 5}
    tower = create_tower("videoprism_text", **arguments)
    for text, is_cut in (("", False), ("a red ball moves left", True)):
        longer = create_tower("videoprism_text", **{**arguments, "length": 64})
        count = int((longer.tokens([text]) != PAD).sum())
        assert tower.measure(text) == (count, 5, "tokens") and tower.measure(text).is_cut == is_cut


def test_a_run_keeps_its_vocabulary(vocabulary: Path, tmp_path: Path):
    arguments = {**TEXT, "letters": False, "vocabulary": str(vocabulary)}
    tower = create_tower("videoprism_text", **arguments)
    written = tower.write(tmp_path, "text")
    again = create_tower(
        "videoprism_text", **{**written, "vocabulary": str(tmp_path / written["vocabulary"])}
    )
    again.load_state_dict(tower.state_dict())
    assert torch.equal(again(SENTENCES), tower(SENTENCES))


def test_a_vocabulary_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=facts("cc_en.32000", "letters")):
        create_tower("videoprism_text")
    (tmp_path / "a.model").write_bytes(b"no model")
    with pytest.raises(UserError, match=facts("a.model")):
        create_tower("videoprism_text", vocabulary=str(tmp_path / "a.model"))
    with pytest.raises(UserError, match=facts("gone.model")):
        create_tower("videoprism_text", vocabulary=str(tmp_path / "gone.model"))
