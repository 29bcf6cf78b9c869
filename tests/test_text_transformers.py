"""The text towers of Hugging Face's library: equal to its own nets, and whole in a run."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from ssvid.text import create_tower
from ssvid.text.joint_files import load_joint, save_joint
from tests.test_text import assert_same, joint_of, refused

SENTENCES = ["add the onion", "the", "stir the onion and the fish"]
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "add",
    "the",
    "onion",
    "stir",
    "and",
    "fish",
]


@pytest.fixture
def bert(tmp_path: Path) -> str:
    lib = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    config = lib.BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=40, **sizes)
    lib.BertModel(config).save_pretrained(tmp_path / "bert")
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    lib.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


@pytest.fixture
def clip(tmp_path: Path) -> str:
    """A whole CLIP, pictures and all, as they are published; its tokeniser knows letters alone."""
    lib = pytest.importorskip("transformers")
    torch.manual_seed(0)
    letters = [chr(i) for i in range(97, 123)]
    tokens = [*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    sizes = {
        "hidden_size": 12,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    ends = {
        "bos_token_id": len(tokens) - 2,
        "eos_token_id": len(tokens) - 1,
        "pad_token_id": len(tokens) - 1,
    }
    text = {
        **sizes,
        **ends,
        "vocab_size": len(tokens),
        "max_position_embeddings": 40,
        "projection_dim": 8,
    }
    vision = {**sizes, "image_size": 8, "patch_size": 4, "projection_dim": 8}
    config = lib.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    lib.CLIPModel(config).save_pretrained(tmp_path / "clip")
    tokenizer = lib.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    tokenizer.save_pretrained(tmp_path / "clip")
    return str(tmp_path / "clip")


def test_folders_that_hold_no_such_model(bert: str, tmp_path: Path):
    lib = pytest.importorskip("transformers")
    for kwargs, facts_ in (
        ({"folder": str(tmp_path)}, ("config.json",)),
        ({"folder": bert, "length": 41}, ("--length", "41", "3", "40")),
        ({"folder": bert, "pool": "max"}, ("max",)),
    ):
        with refused(*facts_):
            create_tower("bert", **kwargs)
    lib.BertModel.from_pretrained(bert, add_pooling_layer=False).save_pretrained(bert)
    with refused("AutoModel", "pooler.dense"):
        create_tower("bert", folder=bert)
    create_tower("bert", folder=bert, pool="mean")
    Path(bert, "model.safetensors").write_bytes(b"junk")
    with refused(bert):
        create_tower("bert", folder=bert, pool="mean")


@torch.no_grad()
@pytest.mark.parametrize("pool", ["pooled", "mean"])
def test_berts_vectors_are_the_librarys(pool: str, bert: str):
    lib = pytest.importorskip("transformers")
    tower = create_tower("bert", folder=bert, pool=pool).eval()
    net, tokenizer = (
        lib.BertModel.from_pretrained(bert).eval(),
        lib.AutoTokenizer.from_pretrained(bert),
    )
    for text, ours in zip(
        SENTENCES, tower(SENTENCES), strict=True
    ):  # one by one: nothing is padded
        out = net(**tokenizer(text, return_tensors="pt"))
        theirs = out.pooler_output[0] if pool == "pooled" else out.last_hidden_state[0].mean(0)
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert tower.dim == 12 and tower.can_encode("zzz onion") and not tower.can_encode("zzz")
    assert tower.measure("onion " * 40) == (40, 30, "tokens")  # two of 32 are its own


@torch.no_grad()
def test_clips_vectors_are_the_librarys(clip: str):
    lib = pytest.importorskip("transformers")
    tower = create_tower("clip", folder=clip, length=40).eval()
    net, tokenizer = (
        lib.CLIPModel.from_pretrained(clip).eval(),
        lib.AutoTokenizer.from_pretrained(clip),
    )
    for text, ours in zip(SENTENCES, tower(SENTENCES), strict=True):
        out = net.text_projection(
            net.text_model(**tokenizer(text, return_tensors="pt")).pooler_output
        )[0]
        torch.testing.assert_close(ours, out, atol=1e-6, rtol=1e-5)
    assert tower.dim == 8 and tower.can_encode("a") and not tower.can_encode("")


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_every_trained_weight_gets_gradient(kind: str, frozen: bool, request):
    kwargs = {"pool": "mean"} if kind == "bert" else {"length": 40}
    tower = create_tower(
        kind, folder=request.getfixturevalue(kind), dim=5, frozen=frozen, **kwargs
    ).train()
    tower(SENTENCES).sum().backward()
    assert [n for n, p in tower.named_parameters() if p.requires_grad != (p.grad is not None)] == []
    trained = {n.split(".")[0] for n, p in tower.named_parameters() if p.requires_grad}
    assert trained == ({"project"} if frozen else {"project", "text"}) and tower.text.training
    same = torch.equal(tower(SENTENCES), tower(SENTENCES))
    assert same if frozen or kind == "clip" else not same, "dropout of a frozen net is off"


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_a_run_with_a_library_tower_is_whole_by_itself(kind: str, request, tmp_path: Path):
    folder = request.getfixturevalue(kind)
    joint = joint_of(
        create_tower(kind, folder=folder, dim=4, **({"length": 40} if kind == "clip" else {}))
    )
    save_joint(joint, tmp_path / "run")
    shutil.rmtree(folder)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert_same(joint, load_joint(tmp_path / "moved"))
