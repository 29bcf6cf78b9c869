"""X-CLIP: its loss by hand, its text side, its learning rates, and what it begins from."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from objectives.clip import CLIP
from objectives.xclip import XCLIP
from ssvid import create_encoder, list_encoders
from ssvid.encoder import Encoder
from ssvid.engine.warm_start import start_encoder, warm_start
from ssvid.errors import UserError
from ssvid.shapes import Batch
from ssvid.text import create_tower
from ssvid.text.joint import ProductSpace
from ssvid.text.joint_files import load_joint, save_joint
from ssvid.weights.encoders import save_encoder
from tests.helpers import facts, for_each
from tests.nn.test_contrast import contrast_plainly

WORDS = {"buckets": 64, "width": 8, "hidden": 16, "length": 6}
PICTURE = {"width": 24, "depth": 2, "heads": 2, "patch": 8, "dim": 16}
NO_MIX = {"mixup": 0.0, "cutmix": 0.0}
CLASSES = ("move_left", "move_right", "grow")


def create_net(**kwargs) -> Encoder:
    return create_encoder(
        "xclip", image="clip_vit", image_kwargs=PICTURE, frames=2, size=16, **kwargs
    )


def create_xclip(**changes) -> XCLIP:
    torch.manual_seed(0)
    arguments = {"tower": "words", "options": WORDS, "train": "both", "prompt_layers": 1, **NO_MIX}
    objective = XCLIP(create_net(), **{**arguments, **changes})
    objective.set_classes(CLASSES)
    return objective


def make_batch(clips: int = 3, seed: int = 0) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    index = torch.arange(clips)
    return {
        "clips": torch.randn(clips, 1, 3, 2, 16, 16, generator=draws),
        "index": index,
        "epoch": torch.zeros_like(index),
        "label": index % len(CLASSES),
        "seed": seed,
        "sentences": [[f"red thing {i}"] for i in range(clips)],
    }


@pytest.fixture
def text_run(tmp_path: Path) -> Path:
    """A run of `clip`: its picture net and its text side."""
    torch.manual_seed(3)
    net = create_encoder("clip_vit", **PICTURE, frames=2, size=16)
    objective = CLIP(
        net, tower="clip_text", options={"letters": True, "width": 16, "layers": 1, "heads": 2}
    )
    objective.scale.data.fill_(1.5)
    save_encoder(net, tmp_path / "run", "encoder", {})
    save_joint(objective.joint_space(), tmp_path / "run")
    return tmp_path / "run"


def test_the_loss_is_the_smoothed_cross_entropy_of_prompted_names():
    objective, batch = create_xclip(), make_batch()
    features = objective.encoder(batch["clips"][:, 0], layers=(2,))
    texts = objective.tower(["move left", "move right", "grow"])
    prompts = objective.prompts
    context = prompts.summarise(features.layers[0], 2)
    rows = []
    for video, visual in zip(features.pooled, context, strict=True):
        changed = prompts(texts[None], visual[None])[0]
        rows.append(F.cosine_similarity(video[None], changed, dim=1))
    logits = objective.scale.exp() * torch.stack(rows)
    expected = F.cross_entropy(logits, batch["label"], label_smoothing=0.1)
    torch.testing.assert_close(objective(batch).total, expected)


def test_a_frozen_text_side_is_embedded_once_and_again_when_it_changes(
    text_run: Path, monkeypatch: pytest.MonkeyPatch
):
    objective = create_xclip(tower="clip_text", options=None, text=str(text_run), train="video")
    assert objective.scale.item() == 1.5 and not objective.scale.requires_grad
    calls = []
    plain = objective.tower.embed
    monkeypatch.setattr(objective.tower, "embed", lambda ids: calls.append(1) or plain(ids))
    first = [objective(make_batch()).total for _ in range(2)]
    assert len(calls) == 1 and torch.equal(*first)
    objective.set_classes(("jump", "run", "grow"))
    objective(make_batch())
    assert len(calls) == 2
    other = {key: x + 0.1 for key, x in objective.tower.state_dict().items()}
    objective.tower.load_state_dict(other)
    objective(make_batch())
    assert len(calls) == 3


def test_new_parts_learn_faster(text_run: Path):
    factors = create_xclip(new_rate=10.0).compute_rate_factors()
    slow = {name for name, _ in create_xclip().named_parameters()} - factors.keys()
    assert set(factors.values()) == {10.0}
    assert {name.split(".")[0] for name in slow} == {"encoder", "tower", "scale"}
    assert all(name.startswith(("encoder.image.", "tower.", "scale")) for name in slow)
    learnt = create_xclip(tower="clip_text", options=None, text=str(text_run), prompts="context")
    assert "tower.context" in learnt.compute_rate_factors()
    trained = {name for name, p in learnt.tower.named_parameters() if p.requires_grad}
    assert trained == {"context"}


def test_training_draws_each_frame_from_its_own_part():
    views = create_xclip().views
    assert views.independent_frames and views.augment == "xclip" and views.clips[0].whole


def test_prompts_of_an_earlier_run_are_taken_over(tmp_path: Path):
    earlier = create_xclip()
    save_joint(earlier.joint_space(), tmp_path / "run")
    torch.manual_seed(5)
    again = XCLIP(create_net(), text=str(tmp_path / "run"), train="video", prompt_layers=1)
    for key, x in earlier.prompts.state_dict().items():
        assert torch.equal(again.prompts.state_dict()[key], x)
    with pytest.raises(UserError, match=facts("prompts")):
        XCLIP(create_net(), text=str(tmp_path / "run"), train="video", prompt_layers=2)


def test_weights_of_other_frames_or_sizes(tmp_path: Path):
    """Positions in the frame are resized; a joiner of other frames is refused."""
    save_encoder(create_net(), tmp_path, "encoder", {})
    larger = create_encoder("xclip", image="clip_vit", image_kwargs=PICTURE, frames=2, size=24)
    objective = XCLIP(larger, tower="words", options=WORDS, train="both")
    warm_start(objective, str(tmp_path))
    assert larger.image.positions.shape == (10, 24)
    longer = create_encoder("xclip", image="clip_vit", image_kwargs=PICTURE, frames=4, size=16)
    objective = XCLIP(longer, tower="words", options=WORDS, train="both")
    with pytest.raises(UserError, match=facts("2 frames", "--encoder.frames 2")):
        warm_start(objective, str(tmp_path))


def test_each_side_may_be_frozen(text_run: Path):
    """What CLIP has not learns in every case."""
    arguments = {"tower": "clip_text", "options": None, "text": str(text_run)}
    for train, frozen in (("video", ("tower.", "scale")), ("text", ("encoder.image.",))):
        objective = create_xclip(**arguments, train=train)
        for name, weight in objective.named_parameters():
            assert weight.requires_grad != name.startswith(frozen), name


def test_it_begins_from_a_picture_net_and_is_saved_whole(text_run: Path, tmp_path: Path):
    arguments = {"tower": "clip_text", "options": None, "text": str(text_run), "train": "video"}
    objective = create_xclip(**arguments)
    new_weight = objective.encoder.exchanges[0].fc.weight.clone()
    warm_start(objective, str(text_run))
    pictures = create_encoder(
        "clip_vit", weights=text_run / "encoder.safetensors", **PICTURE, frames=2, size=16
    )
    for key, x in pictures.state_dict().items():
        assert torch.equal(objective.encoder.image.state_dict()[key], x)
    assert torch.equal(objective.encoder.exchanges[0].fc.weight, new_weight)
    save_joint(objective.joint_space(), tmp_path / "x")
    again = load_joint(tmp_path / "x")
    with torch.no_grad():
        features = objective.encoder(make_batch()["clips"][:, 0], layers=again.layers)
        ours, theirs = objective.joint_space(), again
        tables = []
        for space in (ours, theirs):
            texts = space.embed_texts(["a dog sled", "a slam dunk"])
            tables.append(space.compare(space.read_clips(features), texts))
    assert torch.equal(*tables)
    with pytest.raises(UserError, match=facts("tokens", "pooled")):
        again.read_pooled(features.pooled)


@for_each(
    "changes, words",
    [
        ({"train": "video"}, ("frozen", "--objective.text")),
        ({"prompts": "context"}, ("clip_text",)),
        ({"templates": "x.txt"}, ("x.txt", "template")),
        ({"prompts": "template", "templates": "absent.txt"}, ("absent.txt",)),
        ({"options": {**WORDS, "dim": 8}}, ("8", "16")),
    ],
)
def test_what_does_not_fit_is_one_sentence(changes: dict, words: tuple[str, ...]):
    with pytest.raises(UserError, match=facts(*words)):
        create_xclip(**changes)


@for_each(
    "names, words",
    [
        (("Move_Left", "move left"), ("move left",)),
        (("a", "  "), ("empty",)),
        (("0", "1", "17"), ("numbers", "--data.label_map")),
    ],
)
def test_class_names_are_words_that_differ(names: tuple[str, ...], words: tuple[str, ...]):
    objective = create_xclip()
    with pytest.raises(UserError, match=facts(*words)):
        objective.set_classes(names)


@for_each("choice", ["negatives", "positives"])
def test_clips_of_one_sentence_may_be_positives(choice: str):
    torch.manual_seed(0)
    net = create_encoder("clip_vit", **PICTURE, frames=2, size=16)
    objective = CLIP(net, tower="words", options=WORDS, equal_sentences=choice)
    batch = make_batch(4)
    batch["sentences"] = [["a red ball"], ["a red ball"], ["a blue box"], ["a cube"]]
    space = objective.joint_space()
    clips = space.read_clips(net(batch["clips"][:, 0]))
    logits = space.compare(clips, space.embed_texts([bag[0] for bag in batch["sentences"]]))
    pairs = torch.eye(4, dtype=torch.bool)
    if choice == "positives":
        pairs[0, 1] = pairs[1, 0] = True
    expected = contrast_plainly(logits, pairs, torch.zeros_like(pairs))
    torch.testing.assert_close(objective(batch).total, expected)


def test_another_clip_of_a_video_is_no_negative():
    torch.manual_seed(0)
    net = create_encoder("clip_vit", **PICTURE, frames=2, size=16)
    objective = CLIP(net, tower="words", options=WORDS)
    batch = make_batch(4)
    batch["index"] = torch.tensor([0, 1, 2, 1])
    space = objective.joint_space()
    clips = space.read_clips(net(batch["clips"][:, 0]))
    logits = space.compare(clips, space.embed_texts([bag[0] for bag in batch["sentences"]]))
    ignored = torch.zeros(4, 4, dtype=torch.bool)
    ignored[1, 3] = ignored[3, 1] = True
    expected = contrast_plainly(logits, torch.eye(4, dtype=torch.bool), ignored)
    torch.testing.assert_close(objective(batch).total, expected)


def test_the_temperature_is_bounded():
    net = create_encoder("clip_vit", **PICTURE, frames=2, size=16)
    objective = CLIP(net, tower="words", options=WORDS)
    assert objective.scale.exp().item() == pytest.approx(1 / 0.07)
    objective.scale.data.fill_(9.0)
    objective.after_step(0.5)
    assert objective.scale.exp().item() == pytest.approx(100.0)


def test_a_tower_of_names_knows_its_names_alone():
    tower = create_tower("names", names=["a", "b"], dim=4)
    assert torch.equal(tower(["b", "a"]), tower.table.weight.flip(0))
    with pytest.raises(UserError, match=facts("'c'", "clip_text")):
        tower(["c"])
    space = ProductSpace(tower, nn.Identity(), cosine=True)
    assert space.compare({"joint": torch.randn(3, 4)}, tower(["a", "b"])).shape == (3, 2)


@pytest.mark.parametrize("image", list_encoders(per_frame=True))
@torch.no_grad()
def test_it_wraps_every_picture_transformer_of_the_registry(image: str):
    """Without exchange and joiner the mean of the frames is left, in any net of single frames."""
    torch.manual_seed(0)
    sizes = dict(PICTURE)
    if image.startswith("blip"):  # its tokens leave it as wide as they are in the blocks
        sizes["dim"] = sizes.pop("width")
    picture = create_encoder(image, **sizes, frames=2, size=16)
    kwargs = {"image": image, "image_kwargs": sizes, "frames": 2, "size": 16}
    plain = create_encoder("xclip", **kwargs, exchange="none", joiner_layers=0)
    whole = create_encoder("xclip", **kwargs)
    clip = torch.randn(2, 3, 2, 16, 16)
    for net in (plain, whole):
        start_encoder(net, dict(picture.state_dict()), image)
    features = picture(clip)
    torch.testing.assert_close(plain(clip).pooled, features.pooled)
    torch.testing.assert_close(plain(clip).tokens, features.tokens)
    assert not torch.allclose(whole(clip).pooled, features.pooled, atol=1e-3)
    objective = XCLIP(whole, tower="words", options=WORDS, train="both", prompt_layers=1, **NO_MIX)
    objective.set_classes(CLASSES)
    assert torch.isfinite(objective(make_batch()).total)


@torch.no_grad()
def test_the_nets_of_open_clip_have_another_gelu():
    torch.manual_seed(0)
    quick = create_encoder("clip_vit", **PICTURE, frames=2, size=16)
    exact = create_encoder("clip_vit_h14", **PICTURE, frames=2, size=16)
    exact.load_state_dict(quick.state_dict())
    clip = torch.randn(1, 3, 2, 16, 16)
    assert not torch.allclose(quick(clip).pooled, exact(clip).pooled, atol=1e-4)
