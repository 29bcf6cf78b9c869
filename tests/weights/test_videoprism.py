"""VideoPrism's files: npz arrays as numpy writes them, and the models of `transformers`."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor

from ssvid import create_encoder, load_encoder
from ssvid.encoders.videoprism import VideoPrism
from ssvid.errors import UserError
from ssvid.text.joint_files import load_joint
from ssvid.text.videoprism import sinusoids
from ssvid.weights.__main__ import weights
from ssvid.weights.encoders import save_encoder
from ssvid.weights.files import read_weights
from ssvid.weights.npz import write_npz
from ssvid.weights.published import identify_file
from ssvid.weights.videoprism import LAYOUTS
from tests.helpers import facts, for_each
from tests.test_videoprism import create_net

LAYOUT_OF = {layout.name: layout for layout in LAYOUTS}
SIZES = {"hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 96}
VISION = {**SIZES, "num_spatial_layers": 2, "num_temporal_layers": 1, "num_auxiliary_layers": 1}
VISION |= {"image_size": 16, "tubelet_size": [1, 8, 8], "num_frames": 4}
TEXT = {**SIZES, "num_hidden_layers": 2, "vocab_size": 30, "max_position_embeddings": 9}


def write_state(net: VideoPrism, path: Path, layout: str = "videoprism") -> dict[str, Tensor]:
    """The weights of a net as a published file."""
    ours = {f"encoder.{key}": x for key, x in net.state_dict().items()}
    theirs = LAYOUT_OF[layout].to_theirs(ours)
    theirs = {LAYOUT_OF[layout].prefix + key: x for key, x in theirs.items()}
    write_npz(path, theirs)
    return theirs


@torch.no_grad()
@for_each("layout", ["videoprism", "videoprism-unstacked"])
def test_a_file_gives_its_encoder_and_goes_back(layout: str, tmp_path: Path):
    net = create_net()
    theirs = write_state(net, tmp_path / "net.npz", layout)
    again = load_encoder(tmp_path / "net.npz")
    clip = torch.rand(1, 3, 4, 16, 16)
    assert torch.equal(again(clip).tokens, net(clip).tokens) and again.licence == "Apache-2.0"
    weights(str(tmp_path / "net.npz"), to=layout, out=str(tmp_path / "copy.npz"))
    copy = read_weights(tmp_path / "copy.npz").tensors
    torch.testing.assert_close(copy, theirs, rtol=0, atol=0)


@torch.no_grad()
def test_another_size_and_length_keep_the_tables_of_the_file(tmp_path: Path):
    write_state(create_net(), tmp_path / "net.npz")
    net = create_encoder("videoprism", weights=tmp_path / "net.npz", frames=2, size=24)
    assert net.spec.frames == 2 and net.kwargs["table_frames"] == 4
    clip = torch.rand(1, 3, 2, 24, 24)
    torch.testing.assert_close(net.eval()(clip).tokens, create_net()(clip).tokens)


def test_arrays_are_mapped_and_not_copied(tmp_path: Path):
    write_state(create_net(), tmp_path / "net.npz")
    file = read_weights(tmp_path / "net.npz")
    published = identify_file(file)
    assert published is not None
    for key in ("params/spatial_pos_emb/emb_var", "params/temporal_ln/scale"):
        storage = file.tensors[key].untyped_storage().data_ptr()
        ours = [x.untyped_storage().data_ptr() for x in published.ours.values()]
        assert storage in ours


def test_compressed_arrays_of_columns_are_read_too(tmp_path: Path):
    theirs = write_state(create_net(), tmp_path / "net.npz")
    arrays = {key: np.asfortranarray(x.numpy()) for key, x in theirs.items()}
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    copy = read_weights(tmp_path / "small.npz").tensors
    torch.testing.assert_close(copy, theirs, rtol=0, atol=0)


def change_file(kind: str, path: Path) -> Path:
    """A damaged copy of a published file."""
    theirs: dict[str, Any] = {key: x.numpy() for key, x in write_state(create_net(), path).items()}
    query = "params/spatial_encoder/transformers_stack/x_layers/self_attention/query/w"
    if kind == "missing":
        del theirs["params/temporal_ln/bias"]
    elif kind == "missing block":
        del theirs[query.replace("self_attention/query/w", "ff_layer/ffn_layer1/linear/kernel")]
    elif kind == "extra":
        theirs["params/other/kernel"] = np.zeros(3, np.float32)
    elif kind == "pickled":
        theirs["params/temporal_ln/bias"] = np.array([{"a": 1}], dtype=object)
    elif kind == "text":
        theirs["params/temporal_ln/bias"] = np.array(["a"])
    elif kind == "shape":
        theirs[query] = theirs[query][..., :1]
    elif kind == "wide":
        theirs["params/temporal_ln/bias"] = np.zeros(25, np.float32)
    elif kind == "flat":
        theirs["params/patch_projection/linear/kernel"] = np.zeros((5, 24), np.float32)
    np.savez(path, **theirs)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-2000])
    elif kind == "changed":
        content = path.read_bytes()
        path.write_bytes(content[:9000] + content[9100:])
    return path


@for_each(
    "kind, words",
    [
        ("missing", ("net.npz", "1 are missing", "temporal_ln.bias")),
        ("missing block", ("net.npz", "1 keys are missing", "ffn_layer1")),
        ("extra", ("net.npz", "1 belong to something else", "other.kernel")),
        ("pickled", ("net.npz", "temporal_ln/bias", "pickled")),
        ("text", ("net.npz", "temporal_ln/bias", "numbers")),
        ("shape", ("net.npz", "self_attention/query/w", "(1, 24, 2, 1)", "(1, 24, 2, 12)")),
        ("wide", ("net.npz", "temporal_ln/bias", "(25,)", "(24,)")),
        ("flat", ("net.npz", "patch_projection/linear/kernel", "(5, 24)")),
        ("cut", ("net.npz", "damaged", "end")),
        ("changed", ("net.npz", "damaged", "parts")),
    ],
)
def test_a_file_that_is_not_whole_is_refused(kind: str, words: tuple[str, ...], tmp_path: Path):
    file = change_file(kind, tmp_path / "net.npz")
    for read in (load_encoder, lambda path: weights(str(path))):
        with pytest.raises(UserError, match=facts(*words)):
            read(file)


def test_what_fits_of_a_wrong_shape_is_loaded_where_the_user_says_so(tmp_path: Path):
    file = change_file("wide", tmp_path / "net.npz")
    net = create_encoder("videoprism", weights=file, partial=True)
    torch.testing.assert_close(net.patch.weight, create_net().patch.weight)


def test_heads_that_no_tensor_shows_are_stated_and_not_guessed(tmp_path: Path):
    net, file = create_net(), tmp_path / "net.safetensors"
    ours = {f"encoder.{key}": x for key, x in net.state_dict().items()}
    save_file(LAYOUT_OF["videoprism-huggingface"].to_theirs(ours), file)
    with pytest.raises(UserError, match=facts("heads=N", "--heads N")):
        load_encoder(file)
    with pytest.raises(UserError, match=facts("--heads N")):
        weights(str(file), to="videoprism", out=str(tmp_path / "new.npz"))
    with pytest.raises(UserError, match=facts("24", "5 attention heads")):
        weights(str(file), to="videoprism", out=str(tmp_path / "new.npz"), heads=5)
    weights(str(file), to="videoprism", out=str(tmp_path / "new.npz"), heads=2)
    with pytest.raises(UserError, match=facts("--heads 2", "new.npz")):
        weights(str(tmp_path / "new.npz"), to="videoprism", out=str(tmp_path / "b.npz"), heads=2)
    clip = torch.rand(1, 3, 4, 16, 16)
    for again in (
        load_encoder(tmp_path / "new.npz"),
        create_encoder("videoprism", weights=file, heads=2).eval(),
    ):
        assert torch.equal(again(clip).tokens, net(clip).tokens)


def test_the_card_of_a_run_stands_for_its_weights(tmp_path: Path, capsys):
    save_encoder(create_net(), tmp_path, "encoder", {})
    card = tmp_path / "encoder.json"
    assert weights(str(card))["file"] == str(tmp_path / "encoder.safetensors")
    (tmp_path / "encoder.safetensors").unlink()
    with pytest.raises(UserError, match=facts("encoder.json is the card", "encoder.safetensors")):
        weights(str(card))
    card.write_text('{"a": 1}')
    with pytest.raises(UserError, match=facts("encoder.json is no card")):
        weights(str(card))
    with pytest.raises(UserError, match=facts("no", "absent.json")):
        weights(str(tmp_path / "absent.json"))


def test_another_size_is_refused(tmp_path: Path):
    write_state(create_net(), tmp_path / "net.npz")
    with pytest.raises(UserError, match=facts("dim is 24, not 768")):
        create_encoder("videoprism_b", weights=tmp_path / "net.npz")


def test_an_archive_of_other_things_is_no_npz(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.txt", "hello")
    with pytest.raises(UserError, match=facts("a.npz")):
        load_encoder(tmp_path / "a.npz")


def create_model(kind: str) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    vision = transformers.VideoPrismVisionConfig(**VISION, num_labels=3)
    if kind == "text":
        text = transformers.VideoPrismTextConfig(**TEXT)
        config = transformers.VideoPrismConfig(
            vision_config=vision.to_dict(), text_config=text.to_dict()
        )
        model = transformers.VideoPrismClipModel(config)
    else:
        name = {"encoder": "VisionModel", "classifier": "ForVideoClassification"}[kind]
        model = getattr(transformers, f"VideoPrism{name}")(vision)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return model.eval()


@pytest.mark.parametrize("kind", ["encoder", "classifier", "text"])
@torch.no_grad()
def test_a_file_of_hugging_face_gives_its_features_and_goes_back(kind: str, tmp_path: Path):
    model = create_model(kind)
    buffers = {name for name, _ in model.named_buffers()}
    state = {key: x for key, x in model.state_dict().items() if key not in buffers}
    save_file(dict(model.state_dict()), tmp_path / "model.safetensors")
    heads = {"heads": 1} if kind == "encoder" else {}
    encoder = create_encoder("videoprism", weights=tmp_path / "model.safetensors", **heads).eval()
    assert isinstance(encoder, VideoPrism)
    clip = torch.rand(2, 3, 4, 16, 16)
    frames = rearrange(clip, "B C T H W -> B T C H W")
    nets = {"encoder": lambda: model, "classifier": lambda: model.vision_model}
    net = nets.get(kind, lambda: model.video_model.vision_model)()
    theirs = net(frames).last_hidden_state
    torch.testing.assert_close(encoder(clip).tokens, theirs, atol=1e-5, rtol=1e-5)
    layout = next(name for name in LAYOUT_OF if is_layout_of(name, kind))
    again = LAYOUT_OF[layout].to_theirs(LAYOUT_OF[layout].to_ours(state))
    torch.testing.assert_close(again, state, rtol=0, atol=0)


def is_layout_of(name: str, kind: str) -> bool:
    suffix = {"encoder": "", "text": "-lvt", "classifier": "-classifier"}[kind]
    return name == f"videoprism{suffix}-huggingface"


@torch.no_grad()
def test_the_text_side_is_that_of_transformers(tmp_path: Path, monkeypatch):
    """Its positions have other periods than the published ones, which ours have."""
    model = create_model("text")
    positions = model.text_model.embeddings.position_embedding
    assert not torch.allclose(
        positions, sinusoids(*positions.shape, torch.device("cpu")), atol=0.01
    )
    positions.copy_(sinusoids(*positions.shape, torch.device("cpu")))
    save_file(dict(model.state_dict()), tmp_path / "model.safetensors")
    ours = LAYOUT_OF["videoprism-lvt-huggingface"].to_ours(dict(model.state_dict()))
    from ssvid.text import published

    real = published.create_tower
    monkeypatch.setattr(
        published,
        "create_tower",
        lambda name, vocabulary, **sizes: widen(real(name, letters=True, **sizes)),
    )
    space = load_joint(tmp_path / "model.safetensors", "a.model")
    assert torch.equal(space.tower.state_dict()["cls"], ours["tower.cls"])
    tokens = torch.tensor([[5, 6, 7, 8], [9, 2, -1, -1]])
    outputs = model.text_model(input_ids=tokens.clamp(min=0), attention_mask=(tokens >= 0).long())
    theirs = outputs.pooler_output
    mine = torch.nn.functional.normalize(space.tower.embed(tokens), dim=1)
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    clip = torch.rand(2, 3, 4, 16, 16)
    features = load_encoder(tmp_path / "model.safetensors")(clip)
    theirs = model.video_model(rearrange(clip, "B C T H W -> B T C H W")).pooler_output[:, 0]
    torch.testing.assert_close(space.read_clips(features)["joint"], theirs, atol=1e-4, rtol=1e-4)


def widen(tower: Any) -> Any:
    """The model of this test has 30 tokens, and no vocabulary."""
    tower.table = torch.nn.Embedding(30, tower.dim)
    return tower


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path, monkeypatch):
    from ssvid.text import published

    save_file(dict(create_model("text").state_dict()), tmp_path / "model.safetensors")
    real = published.create_tower
    monkeypatch.setattr(
        published,
        "create_tower",
        lambda name, vocabulary, **sizes: real(name, letters=True, **sizes),
    )
    with pytest.raises(UserError, match=facts("a.model", "259", "30")):
        load_joint(tmp_path / "model.safetensors", "a.model")
