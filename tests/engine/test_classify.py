"""The fine-tuning objective: soft targets, mixed clips, rates by depth; and the test over several
views.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from ssvid.data.clips import Clips
from ssvid.data.datasets.folder import folder
from ssvid.engine import optim
from ssvid.engine.classify import Classify, make_smooth_targets
from ssvid.engine.distributed import World
from ssvid.engine.mix import DRAWS, Mix, compute_beta_quantiles, make_box_mask
from ssvid.engine.score import run_test
from ssvid.errors import UserError
from ssvid.hub import create_encoder
from ssvid.randomness import draw
from ssvid.shapes import Batch, Views
from tests.helpers import facts, for_each, write_video

TINY = {"dim": 24, "depth": 2, "heads": 2, "patch": 8, "frames": 4, "stride": 1, "size": 16}
NEVER = Mix(0.0, 0.0, 0.0, 0.0)


def batch_of(n: int, seed: int = 0) -> Batch:
    clips = torch.randn(n, 1, 3, 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    index = torch.arange(n)
    return {
        "clips": clips,
        "index": index,
        "epoch": torch.zeros_like(index),
        "label": index % 3,
        "seed": seed,
    }


def classifier(**change) -> Classify:
    torch.manual_seed(0)
    return Classify(
        create_encoder("vit", **TINY), **{"classes": 3, "mix": NEVER, "head_scale": 50.0} | change
    )


@for_each("smoothing", [0.0, 0.1, 0.7])
def test_smoothed_labels_are_torchs(smoothing: float):
    net, batch = classifier(smoothing=smoothing), batch_of(6)
    logits = net.logits(batch["clips"][:, 0])
    assert logits.std() > 0.1, "else every smoothing gives the same loss"
    expected = F.cross_entropy(logits, batch["label"], label_smoothing=smoothing)
    torch.testing.assert_close(net(batch).total, expected)
    torch.testing.assert_close(
        make_smooth_targets(batch["label"], 3, smoothing).sum(1), torch.ones(6)
    )


def test_beta_is_the_distribution_it_says():
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(compute_beta_quantiles(u, 1.0), u)  # uniform
    torch.testing.assert_close(
        compute_beta_quantiles(u, 0.5), torch.sin(math.pi * u / 2) ** 2, atol=1e-6, rtol=0
    )  # arcsine
    torch.testing.assert_close(
        compute_beta_quantiles(u, 2.0), compute_beta_quantiles(u, 2.0).sort().values
    )
    x = compute_beta_quantiles(u, 2.0)
    torch.testing.assert_close(
        3 * x**2 - 2 * x**3, u, atol=1e-4, rtol=0
    )  # its own distribution function


def test_mixup_by_hand():
    """Pixels and targets in the same shares, drawn from each clip's own coordinates; partners
    mirror each other.
    """
    batch = batch_of(4)
    clips, targets = batch["clips"][:, 0], make_smooth_targets(batch["label"], 3, 0.1)
    mixed, soft = Mix(0.8, 0.0, 1.0, 0.5)(clips, targets, batch)
    share = compute_beta_quantiles(draw(batch, "mix", DRAWS)[:, 2], 0.8).float()
    assert len(share.unique()) == 4
    for i in range(4):
        torch.testing.assert_close(mixed[i], share[i] * clips[i] + (1 - share[i]) * clips[3 - i])
        torch.testing.assert_close(soft[i], share[i] * targets[i] + (1 - share[i]) * targets[3 - i])


def test_cutmix_pastes_what_the_target_says():
    batch = batch_of(16)
    clips = (
        torch.arange(16.0).view(16, 1, 1, 1, 1).expand(16, 3, 4, 16, 20)
    )  # pixels tell whose they are
    targets = torch.eye(16)
    mixed, soft = Mix(0.0, 1.0, 1.0, 0.5)(clips, targets, batch)
    areas = set()
    for i in range(16):
        own = mixed[i] == i
        assert torch.equal(own | (mixed[i] == 15 - i), torch.ones_like(own)), "a pixel of nobody"
        assert torch.equal(own, own[:1, :1].expand_as(own)), "the box is the same in every frame"
        rows, columns = (~own[0, 0]).any(1), (~own[0, 0]).any(0)
        assert torch.equal(~own[0, 0], rows[:, None] & columns[None]) and rows.diff().sum() <= 2, (
            "no box"
        )
        share = own.float().mean()
        torch.testing.assert_close(soft[i, i], share)
        torch.testing.assert_close(soft[i, 15 - i], 1 - share)
        areas.add(float(share))
    assert len(areas) > 8 and min(areas) < 0.5


def test_a_box_has_the_area_asked_for_where_it_fits():
    own = make_box_mask(torch.tensor([0.75]), torch.tensor([[0.5, 0.5]]), 16, 32)
    assert own.mean() == 0.75 and own[0, 8, 16] == 0 and own[0, 0, 0] == 1
    cut = make_box_mask(torch.tensor([0.75]), torch.tensor([[0.0, 0.0]]), 16, 32)
    assert cut.mean() == 1 - 0.25 / 4  # a quarter of it is inside


def test_how_often_each_is_drawn():
    batch = batch_of(2000)
    u = draw(batch, "mix", DRAWS)
    own = Mix(0.8, 1.0, 0.5, 0.25).weights(u, 16, 16)
    flat = own.flatten(1)
    alone, boxes = (flat == 1).all(1), ((flat == 0) | (flat == 1)).all(1)
    assert (
        0.47 < alone.double().mean() < 0.55
    )  # half are left, and some boxes are too small to hold a pixel
    assert 0.2 < (boxes & ~alone).sum() / (~alone).sum() < 0.28
    with pytest.raises(UserError, match=facts("--mixup", "5.0", "0", "2")):
        Mix(5.0, 1.0, 1.0, 0.5)
    with pytest.raises(UserError, match=facts("0.01")):
        Mix(0.8, 0.001, 1.0, 0.5)


def test_clips_of_one_video_are_mixed_each_by_itself():
    batch = batch_of(3)
    clips = torch.randn(6, 3, 4, 16, 16)
    _, soft = Mix(0.8, 0.0, 1.0, 0.5)(clips, torch.eye(6), batch, views=2)
    assert len(soft.diagonal().unique()) == 6


def test_nothing_is_drawn_from_torchs_generator():
    net, batch = classifier(mix=Mix(0.8, 1.0, 1.0, 0.5)), batch_of(4)
    before = torch.get_rng_state()
    first = net(batch).total
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    assert torch.equal(net(batch).total, first) and not torch.equal(
        net(batch_of(4, seed=1)).total, first
    )


def test_the_encoder_may_learn_at_a_share_of_the_heads_rate():
    factors = classifier(encoder_rate=0.1).compute_rate_factors()
    encoder = {name for name, _ in classifier().named_parameters() if name.startswith("encoder.")}
    assert factors.keys() == encoder and set(factors.values()) == {0.1}
    both = classifier(layer_decay=0.5, encoder_rate=0.1).compute_rate_factors()
    decayed = classifier(layer_decay=0.5).compute_rate_factors()
    assert all(both[name] == pytest.approx(0.1 * decayed[name]) for name in encoder)


def test_new_parts_of_an_encoder_learn_at_their_own_rate():
    sizes = {"width": 24, "depth": 2, "heads": 2, "patch": 8, "dim": 16}
    net = create_encoder("xclip", image="clip_vit", image_kwargs=sizes, frames=2, size=16)
    tuned = Classify(net, classes=3, mix=NEVER, new_rate=10.0, encoder_rate=0.1)
    factors = tuned.compute_rate_factors()
    assert factors["encoder.exchanges.0.fc.weight"] == factors["encoder.joiner.positions"] == 1.0
    assert factors["encoder.image.patch.weight"] == 0.1


def test_an_attention_pooler_is_one_query_over_all_tokens():
    """Beside a plain writing: attention, its output map, a norm with an offset scale, the head."""
    net = classifier(pooler={"dim": 24, "heads": 2, "hidden": 12}).double()
    pooler = net.pooler
    assert pooler is not None
    with torch.no_grad():
        for weight in (*pooler.parameters(), *net.head.parameters()):
            weight += 0.3 * torch.randn_like(weight)
    clips = batch_of(3)["clips"][:, 0].double()
    tokens = net.encoder(clips).tokens
    softplus = torch.log1p(pooler.per_dim_scale.exp()) / math.log(2)
    mixed = []
    for head in range(2):
        of_head = slice(6 * head, 6 * head + 6)
        query = pooler.q(pooler.queries)[0, of_head] * softplus / math.sqrt(6)
        weights = (pooler.k(tokens)[..., of_head] @ query).softmax(1)
        mixed.append((weights[..., None] * pooler.v(tokens)[..., of_head]).sum(1))
    pooled = pooler.proj(torch.cat(mixed, 1))
    centred = pooled - pooled.mean(1, keepdim=True)
    assert pooler.norm is not None
    scale, bias = 1 + pooler.norm.scale, pooler.norm.bias
    normed = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt() * scale + bias
    torch.testing.assert_close(net.logits(clips), net.head(normed).float())


@for_each("name", ["vit", "xclip", "s3d"])
def test_every_part_that_learns_gets_gradient_from_the_pooler(name: str):
    with torch.device("meta"):
        tiny = create_encoder(name).tiny_kwargs
    encoder = create_encoder(name, **tiny)
    sizes = {"dim": encoder.dim, "heads": 1, "hidden": 8}
    net = Classify(encoder, classes=3, mix=NEVER, head_scale=50.0, pooler=sizes)
    spec = encoder.spec
    clips = torch.randn(2, 3, spec.frames, spec.size, spec.size)
    net.logits(clips).square().sum().backward()
    for key, weight in net.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, key
        assert weight.requires_grad == ("joiner" not in key), key


def test_rates_of_a_vit_are_beits():
    """Block i of L: decay^(L+1-i); patches and positions decay^(L+1); final norm and head 1."""
    torch.manual_seed(0)
    encoder = create_encoder("vit", **TINY, positions="joint", cls=True)
    net = Classify(encoder, classes=3, mix=NEVER, layer_decay=0.75)
    rates = net.compute_rate_factors()
    optimizer = optim.make("adamw", net, 0.05, (0.9, 0.999), rates, freeze=("encoder.",))
    optim.set_rates(optimizer, 2.0, freeze=False)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    power = {"patch": 3, "positions": 3, "cls": 3, "blocks.0": 2, "blocks.1": 1, "norm": 0}
    for name, p in net.named_parameters():
        inner = name.removeprefix("encoder.")
        expected = next((n for start, n in power.items() if inner.startswith(start)), 0)
        assert rate[id(p)] == 2 * 0.75**expected, name
        plain = p.ndim > 1 and not inner.startswith(("positions", "cls"))
        assert decay[id(p)] == (0.05 if plain else 0.0), name
    optim.set_rates(optimizer, 2.0, freeze=True)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert all(
        rate[id(p)] == (0 if n.startswith("encoder.") else 2) for n, p in net.named_parameters()
    )


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Videos twice as wide as high, that change with time."""
    root = tmp_path_factory.mktemp("wide")
    for i in range(5):
        noise = torch.randint(
            0, 255, (12, 32, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i)
        )
        write_video(root / "ab"[i % 2] / f"{i}.mp4", noise.numpy())
    return root


def test_the_test_averages_over_clips_and_crops(wide):
    """As by hand, one view at a time, without dropout."""
    data = folder(str(wide))
    net = classifier(classes=2, dropout=0.5)
    views = Views(
        clips=(net.encoder.spec,), augment="none", mean=net.encoder.mean, std=net.encoder.std
    )
    clips = Clips(data, views, seed=0, evaluate=2, crops=3)
    world = World(0, 1, torch.device("cpu"))
    judged = run_test(net.train(), clips, world, views_at_once=12, workers=0, bf16=False)
    assert net.training and judged.readable.all() and not judged.bad_files
    centre = Clips(data, views, seed=0, evaluate=2)
    for row in range(len(data)):
        raw = clips[0, row]["clips"]  # 6 C T H W
        assert raw.shape == (6, 3, 4, 16, 16) and len({clip.numpy().tobytes() for clip in raw}) == 6
        assert torch.equal(raw[[1, 4]], centre[0, row]["clips"]), (
            "three crops of clip 1, then those of clip 2"
        )
        with torch.no_grad():
            each = [
                net.eval().logits(net.encoder.normalise(clip)[None]).softmax(-1)[0] for clip in raw
            ]
        torch.testing.assert_close(judged.scores[row], torch.stack(each).mean(0))


def test_a_file_that_cannot_be_read_gets_no_score(wide, tmp_path):
    import shutil

    root = shutil.copytree(wide, tmp_path / "v")
    (root / "a" / "2.mp4").write_bytes(b"no video")
    data, net = folder(str(root)), classifier(classes=2)
    views = Views(clips=(net.encoder.spec,), augment="none")
    clips = Clips(data, views, seed=0, evaluate=1)
    judged = run_test(
        net, clips, World(0, 1, torch.device("cpu")), views_at_once=2, workers=0, bf16=False
    )
    lost = [i for i, row in enumerate(data.rows) if row.path == "a/2.mp4"]
    assert (~judged.readable).nonzero()[:, 0].tolist() == lost and list(judged.bad_files) == [
        str(root / "a" / "2.mp4")
    ]
