"""CLIP's and X-CLIP's files beside the models of `transformers`, and the tokeniser."""

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from safetensors.torch import save_file
from torch.nn import functional as F

from ssvid import create_encoder, load_encoder
from ssvid.engine.warm_start import start_encoder
from ssvid.errors import UserError
from ssvid.text import create_tower
from ssvid.text.bpe import BytePairs
from ssvid.weights.clip import LAYOUTS, describe_text
from ssvid.weights.files import read_weights
from ssvid.weights.published import find_registered_name, identify_file, select_under
from tests.helpers import facts

transformers = pytest.importorskip("transformers")
TEXT = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 1, "vocab_size": 99, "max_position_embeddings": 9}
TEXT |= {"hidden_act": "quick_gelu", "bos_token_id": 97, "eos_token_id": 98, "pad_token_id": 0}
PICTURE = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}
PICTURE |= {"num_attention_heads": 1, "image_size": 32, "patch_size": 16}
PICTURE |= {"hidden_act": "quick_gelu"}
JOINER = {"mit_hidden_size": 64, "mit_intermediate_size": 256, "mit_num_attention_heads": 1}
FRAMES = 3
PRISM = {"space_depth": 2, "time_depth": 1, "patch": 8, "frames": 2, "size": 16}
LAYOUT_OF = {layout.name: layout for layout in LAYOUTS}


def create_model(kind: str) -> Any:
    torch.manual_seed(0)
    shared = {"text_config": TEXT, "projection_dim": 64}
    if kind == "clip":
        config = transformers.CLIPConfig(vision_config=PICTURE, **shared)
        return transformers.CLIPModel(config).eval()
    video = {**PICTURE, **JOINER, "num_frames": FRAMES, "mit_num_hidden_layers": 1}
    config = transformers.XCLIPConfig(vision_config=video, prompt_num_attention_heads=1, **shared)
    return transformers.XCLIPModel(config).eval()


@pytest.mark.parametrize("kind", ["clip", "xclip"])
@torch.no_grad()
def test_a_file_of_hugging_face_gives_its_features_and_goes_back(kind: str, tmp_path: Path):
    model = create_model(kind)
    state = model.state_dict()
    save_file(state, tmp_path / "model.safetensors")
    encoder = load_encoder(tmp_path / "model.safetensors")
    assert encoder.name == ("clip_vit" if kind == "clip" else "xclip")
    clip = torch.randn(2, 3, FRAMES, 32, 32)
    frames = rearrange(clip, "B C T H W -> B T C H W")
    if kind == "clip":
        outputs = model.vision_model(frames.flatten(0, 1))
        theirs = model.visual_projection(outputs.pooler_output).unflatten(0, (2, FRAMES)).mean(1)
    else:
        theirs = model.get_video_features(frames)
        theirs = getattr(theirs, "pooler_output", theirs)
    torch.testing.assert_close(encoder(clip).pooled, theirs, atol=1e-5, rtol=1e-5)
    layout = LAYOUT_OF[f"{kind}-huggingface"]
    again = layout.to_theirs(layout.to_ours(state))
    assert list(again) == list(state)
    assert all(torch.equal(again[key], x) for key, x in state.items())


@torch.no_grad()
def test_another_size_resizes_the_table_and_another_number_of_frames_is_refused():
    from ssvid.encoders.clip import ClipViT
    from ssvid.encoders.xclip import XClip

    sizes = {"width": 64, "depth": 1, "heads": 1, "patch": 8, "dim": 16}
    net = ClipViT(**sizes, frames=2, size=32).eval()
    assert net(torch.randn(1, 3, 2, 48, 32)).grid == (2, 6, 4)
    video = XClip(image="clip_vit", image_kwargs=sizes, frames=2, size=16)
    with pytest.raises(UserError, match=facts("2 frames", "3", "--clip.frames 2")):
        video(torch.randn(1, 3, 3, 16, 16))


@torch.no_grad()
@pytest.mark.parametrize("gelu", ["quick", "exact"])
def test_messages_and_joiner_wrap_nets_of_either_activation(gelu: str):
    """The nets of OpenAI and of open_clip, each equal to its own pictures' net without them."""
    from ssvid.encoders.xclip import XClip

    sizes = {"width": 64, "depth": 2, "heads": 1, "patch": 8, "dim": 16, "gelu": gelu}
    still = XClip(
        image="clip_vit", image_kwargs=sizes, frames=2, size=16, exchange="none", joiner_layers=0
    )
    clip = torch.randn(1, 3, 2, 16, 16)
    torch.testing.assert_close(still(clip).pooled, still.image(clip).pooled)
    block = still.image.blocks[0]
    x = torch.randn(1, 3, 64)
    activate = quick_gelu if gelu == "quick" else F.gelu
    plain = x + block.fc2(activate(block.fc1(block.norm2(x))))
    torch.testing.assert_close(block.feed(x), plain, atol=1e-6, rtol=1e-6)
    whole = XClip(image="clip_vit", image_kwargs=sizes, frames=2, size=16)
    assert whole(clip).pooled.shape == (1, 16)


def test_drop_path_leaves_whole_videos_out_and_scales_the_others():
    from ssvid.nn.exchange import DropPath

    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.zeros(4000, 2, 3)  # 2000 videos of two frames
    out = drop.train().add(x, x + 1, videos=2000)
    of_video = out.view(2000, -1)
    assert (of_video == of_video[:, :1]).all() and torch.allclose(
        out.unique(), torch.tensor([0, 4 / 3])
    )
    assert abs((of_video[:, 0] == 0).float().mean() - 0.25) < 0.04
    assert torch.equal(drop.eval().add(x, x + 1, videos=2000), x + 1)


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


def test_frames_know_of_each_other_unless_there_is_no_exchange():
    """With an exchange a change of the last frame changes the tokens of the first."""
    from ssvid.encoders.xclip import XClip

    sizes = {"width": 64, "depth": 2, "heads": 1, "patch": 8, "dim": 16}
    clip = torch.randn(1, 3, 2, 16, 16)
    changed = clip.clone()
    changed[:, :, 1] += 1
    for exchange in ("messages", "joint", "divided", "none"):
        net = XClip(image="clip_vit", image_kwargs=sizes, frames=2, size=16, exchange=exchange)
        for module in net.exchanges.parameters():
            torch.nn.init.normal_(module, std=0.05)  # divided attention starts at nothing
        first, same = net(clip).tokens[:, :4], net(changed).tokens[:, :4]
        assert torch.equal(first, same) == (exchange == "none")


@torch.no_grad()
def test_the_text_side_is_that_of_transformers():
    model = create_model("clip")
    ours = LAYOUT_OF["clip-huggingface"].to_ours(dict(model.state_dict()))
    sizes = {"width": 64, "layers": 2, "heads": 1, "length": 9, "dim": 64}
    tower = create_tower("clip_text", letters=True, **sizes).eval()
    tower.table = torch.nn.Embedding(99, 64)
    state = {key.removeprefix("tower."): x for key, x in ours.items() if key.startswith("tower.")}
    tower.load_state_dict(state)
    tokens = torch.tensor([[97, 5, 6, 98, 0, 0, 0, 0, 0], [97, 1, 2, 3, 4, 5, 6, 7, 98]])
    outputs = model.text_model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    theirs = model.text_projection(outputs.pooler_output)
    torch.testing.assert_close(tower.embed(tokens), theirs, atol=1e-5, rtol=1e-5)
    assert F.cosine_similarity(*tower.embed(tokens), dim=0) < 0.999


def test_merges_come_from_the_file_and_long_sentences_are_cut(tmp_path: Path):
    lines = "#version\nd o\ndo g</w>\n"
    (tmp_path / "merges.txt.gz").write_bytes(gzip.compress(lines.encode()))
    pairs = BytePairs(tmp_path / "merges.txt.gz", 8)
    assert pairs.size == 2 * 256 + 2 + 2
    dog = pairs.encode(["Dog"])[0].tolist()
    assert dog[:3] == [pairs.start, 2 * 256 + 1, pairs.end] and not any(dog[3:])
    assert pairs.encode(["a &amp; a"]).equal(pairs.encode(["a & a"]))
    long = pairs.encode(["dog " * 20])[0].tolist()
    assert len(long) == 8 and long[-1] == pairs.end
    with pytest.raises(UserError, match=facts("merges.txt")):
        (tmp_path / "merges.txt").write_text("#version\none two three\n")
        BytePairs(tmp_path / "merges.txt", 8)


def test_a_tower_tells_how_much_it_reads():
    sizes = {"width": 16, "heads": 1, "layers": 1, "dim": 8, "length": 9}
    for changes, most in (({}, 7), ({"class_token": True}, 6), ({"context": 2}, 5)):
        tower = create_tower("clip_text", letters=True, **sizes, **changes)
        assert tower.measure("a bc") == (3, most, "tokens")
        words = "a b c d e f g"
        assert tower.measure(words[: 2 * most - 1]).is_cut is False
        assert tower.measure(words + " h").is_cut is True


def test_the_huge_net_of_open_clip_is_known_by_its_width():
    """open_clip's own configuration says what it is; only its shapes are made."""
    open_clip = pytest.importorskip("open_clip")
    sizes = open_clip.get_model_config("ViT-H-14")
    with torch.device("meta"):
        model = open_clip.CLIP(**sizes)
    state = {key: x for key, x in model.state_dict().items() if key != "attn_mask"}
    layout = LAYOUT_OF["clip"]
    ours = layout.to_ours(state)
    net = layout.describe(ours)
    heads = sizes["vision_cfg"]["width"] // sizes["vision_cfg"]["head_width"]
    assert net.kwargs["heads"] == heads and net.kwargs["gelu"] == "exact" and not net.note
    assert find_registered_name(net) == "clip_vit_h14"
    text = describe_text(ours)
    assert text["heads"] == sizes["text_cfg"]["heads"] and text["gelu"] == "exact"
    with torch.device("meta"):
        encoder = create_encoder("clip_vit_h14")
    shapes = {key: x.shape for key, x in encoder.state_dict().items()}
    assert shapes == {key: x.shape for key, x in select_under(ours, "encoder.").items()}


@torch.no_grad()
def test_coca_of_open_clip_is_a_start_and_its_text_side_is_equal(tmp_path: Path):
    """The released weights were trained with a mask that is shifted by one, which ours has too."""
    coca = pytest.importorskip("open_clip.coca_model")
    torch.manual_seed(0)
    shared = {"width": 64, "heads": 1, "layers": 2, "vocab_size": 30}
    text = {**shared, "context_length": 8, "embed_cls": True, "output_tokens": True}
    vision = {"image_size": 16, "layers": 2, "width": 64, "patch_size": 8, "head_width": 64}
    vision |= {"attentional_pool": True, "attn_pooler_heads": 1, "output_tokens": True}
    decoder = {**shared, "context_length": 9, "attn_pooler_heads": 1}
    model = coca.CoCa(32, decoder, text, vision).eval()
    for weight in model.parameters():
        weight += 0.05 * torch.randn_like(weight)
    torch.save(model.state_dict(), tmp_path / "coca.pt")
    published = identify_file(read_weights(tmp_path / "coca.pt"))
    assert published is not None and published.layout.name == "coca"
    published.require_complete()
    sizes = describe_text(published.ours)
    tower = create_tower("clip_text", letters=True, **sizes).eval()
    tower.table = torch.nn.Embedding(30, 64)
    tower.load_state_dict(select_under(published.ours, "tower."))
    tokens = torch.tensor([[28, 5, 6, 29, 0, 0, 0, 0], [28, 1, 2, 3, 4, 5, 6, 29]])
    theirs = model.text(tokens)[0]
    torch.testing.assert_close(tower.embed(tokens), theirs, atol=1e-5, rtol=1e-5)
    net = create_encoder("videoprism", **{**PRISM, "dim": 64, "heads": 1, "hidden": 256})
    start_encoder(net, published.encoder_state(), "coca.pt")
    block, theirs = net.space[1], model.visual.transformer.resblocks[1]
    x = torch.randn(3, 64)
    ours = block.mlp(block.norm2(x))
    torch.testing.assert_close(ours, theirs.mlp(theirs.ln_2(x)), atol=1e-4, rtol=1e-4)
    # Its norms have another epsilon.
    torch.testing.assert_close(
        net.norm_space(x), model.visual.attn_pool.ln_k(x), atol=1e-4, rtol=1e-4
    )
    with pytest.raises(UserError, match=facts("coca.pt", "--init", "--objective.text")):
        load_encoder(tmp_path / "coca.pt")
