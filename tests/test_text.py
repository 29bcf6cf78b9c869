"""Text towers: how sentences become rows and vectors; the joint space saved and loaded."""

import json
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.shapes import Row
from ssvid.text import Tower, create_tower
from ssvid.text.joint import ProductSpace
from ssvid.text.joint_files import load_joint, save_joint
from ssvid.text.words import MILNCE, TAN, collect_words
from ssvid.weights.encoders import load_encoder
from tests.helpers import command, facts, for_each, sentence

WORDS = ["add", "the", "onion", "don't", "Stir"]
SMALL = {"dim": 4, "width": 3, "hidden": 5}


@pytest.fixture
def list_(tmp_path: Path) -> str:
    np.save(tmp_path / "words.npy", np.array(WORDS))
    return str(tmp_path / "words.npy")


def words(list_: str | None = None, **kwargs: object) -> Tower:
    torch.manual_seed(0)
    return create_tower("words", words=list_, **{**SMALL, **kwargs}).eval()


def are_close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def refused(*words: str):  # noqa: ANN201
    """One sentence that names these."""
    return pytest.raises(UserError, match=facts(*words))


def test_mil_nces_way_drops_unknown_words_and_sees_padding(list_: str):
    tower = words(list_, **{**MILNCE, "length": 4})
    rows = tower.tokens(["Stir zzz the onion!", "don't, stir", "zzz"]).tolist()
    assert rows == [[5, 2, 3, 0], [4, 0, 0, 0], [0, 0, 0, 0]]  # case matters
    assert (
        tower.tokens(["the " * 9]).tolist() == [[2] * 4]
        and not tower.can_encode("zzz")
        and tower.can_encode("zzz the")
    )
    assert tower.measure("the " * 4 + "zzz") == (4, 4, "words") and tower.measure("the " * 5).is_cut
    longer = words(list_, **{**MILNCE, "length": 5})
    with torch.no_grad():
        tower.table.weight[0] = longer.table.weight[0] = 100  # padding wins, where there is any
        full = ["the the the the"]
        assert are_close(tower(["the"]), longer(["the"])) and not are_close(
            tower(full), longer(full)
        )


def test_tans_way_keeps_unknown_words_in_place_and_masks_padding(list_: str):
    tower = words(list_, **{**TAN, "length": 4})
    assert tower.tokens(["Add zzz THE", "stir"]).tolist() == [
        [1, 0, 2, 0],
        [0, 0, 0, 0],
    ]  # the list has Stir alone
    assert not tower.can_encode("zzz stir") and not tower.can_encode("")
    longer = words(list_, **{**TAN, "length": 9})
    with torch.no_grad():
        tower.table.weight[0] = longer.table.weight[0] = 100
        assert are_close(tower(["add zzz the"]), longer(["add the"])), (
            "padding and unknown words are not seen"
        )
        x = tower.first(tower.table.weight[[1, 2]]).relu().amax(0)
        torch.testing.assert_close(tower(["add the"])[0], tower.last(x))
        nothing = tower.last(tower.first(tower.table.weight[0]).relu())
        torch.testing.assert_close(tower(["zzz"])[0], nothing)  # all its rows are valid


def test_no_vector_of_a_sentence_depends_on_its_neighbours(list_: str):
    tower = words(list_, **TAN)
    torch.testing.assert_close(tower(["add", "the onion don't"])[0], tower(["add"])[0])


def test_hashed_words_have_the_same_row_everywhere():
    tower = words(buckets=7, length=3)
    assert tower.tokens(["Onion onion"]).tolist() == [[1 + zlib.crc32(b"onion") % 7] * 2 + [0]]
    assert tower.tokens(["onion"])[0, 0] == 2, (
        "changed: runs that were trained would read other words"
    )
    assert tower.can_encode("zzz") and not tower.can_encode("!?")
    assert tower.table.weight.shape == (8, 3) and tower.table.weight.requires_grad


def test_a_published_dictionarys_table_is_frozen_and_a_list_of_ones_own_is_not(
    list_: str, tmp_path: Path
):
    (tmp_path / "own.txt").write_text("add\nthe\n\ndon't\n")
    tower = words(str(tmp_path / "own.txt"))
    assert tower.table.weight.shape == (4, 3) and tower.table.weight.requires_grad
    assert tower.tokens(["Don't add"])[0, :2].tolist() == [3, 1]
    assert (
        not words(list_).table.weight.requires_grad
        and words(list_, trained=True).table.weight.requires_grad
    )
    frozen = words(list_).train()
    frozen(["add the"]).sum().backward()
    assert frozen.table.weight.grad is None and frozen.first.weight.grad is not None


@for_each(
    "text, fact",
    [
        (b"", "list.txt"),
        (b"add\nred onion\n", "red onion"),
        (b"add\nStir\n", "Stir | lower"),  # sentences are read in lower case
        (b"\xff\xfe\x00", "list.txt"),
    ],
)
def test_word_lists_that_are_none(text: bytes, fact: str, tmp_path: Path):
    (tmp_path / "list.txt").write_bytes(text)
    with refused(*fact.split(" | ")):
        words(str(tmp_path / "list.txt"))


def test_other_word_arrays_and_arguments_are_refused(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    np.save(tmp_path / "b.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "c.npy").write_bytes(b"junk")
    for name in ("a.npy", "b.npy", "c.npy", "gone.txt"):
        with refused(name):
            words(str(tmp_path / name))
    for name, kwargs, facts_ in (
        ("words", {"padding": "hidden"}, ("hidden", "seen", "masked")),
        ("word", {}, ("word", "words", "bert", "clip")),
        ("words", {"depth": 3}, ("words", "depth")),
    ):
        with refused(*facts_):
            create_tower(name, **kwargs)


def joint_of(tower: Tower, cosine: bool = False) -> ProductSpace:
    return ProductSpace(tower, nn.Linear(6, tower.dim), cosine=cosine).eval()


def assert_same(ours: ProductSpace, again: ProductSpace) -> None:
    pooled, sentences = torch.randn(3, 6), ["add the onion", "don't", "zzz"]
    assert torch.equal(ours.embed_videos(pooled), again.embed_videos(pooled)) and torch.equal(
        ours.embed_texts(sentences), again.embed_texts(sentences)
    )
    assert ours.cosine == again.cosine and not again.training


@torch.no_grad()
@pytest.mark.parametrize(
    "kwargs", [{"buckets": 9}, {"list": True}, {"list": True, **TAN, "trained": True}]
)
def test_a_run_folder_is_whole_by_itself(kwargs: dict, list_: str, tmp_path: Path):
    """Moved away, and the word list it was made from gone."""
    arguments = {key: value for key, value in kwargs.items() if key != "list"}
    joint = joint_of(
        words(list_ if "list" in kwargs else None, **arguments), cosine="list" in kwargs
    )
    path = save_joint(joint, tmp_path / "run")
    shutil.move(tmp_path / "run", tmp_path / "moved")
    Path(list_).unlink()
    for name in (
        "moved",
        "moved/text.json",
        "moved/text.safetensors",
        "moved/encoder.safetensors",
    ):
        (tmp_path / "moved" / "encoder.json").write_text('{"name": "vit"}')
        again = load_joint(tmp_path / name)
        assert_same(joint, again)
    assert again.tower.table.weight.requires_grad == joint.tower.table.weight.requires_grad
    second = save_joint(again, tmp_path / "again")
    assert second.read_bytes() == (tmp_path / "moved" / path.name).read_bytes()


def test_vectors_of_a_cosine_space_have_length_one():
    joint = joint_of(words(), cosine=True)
    for x in (joint.embed_videos(torch.randn(3, 6)), joint.embed_texts(["add", "onion"])):
        torch.testing.assert_close(x.norm(dim=1), torch.ones(len(x)))
    joint.cosine = False
    assert not are_close(joint.embed_texts(["add"]).norm(), torch.ones(()))


@torch.no_grad()
def test_heads_of_several_layers_or_none_are_kept(tmp_path: Path):
    for name, head in (
        ("two", nn.Sequential(nn.Linear(6, 5, bias=False), nn.Linear(5, 4))),
        ("none", nn.Identity()),
        ("deep", nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5, eps=1e-3), nn.GELU())),
    ):
        save_joint(ProductSpace(words(), head, cosine=False), tmp_path / name)
        again = load_joint(tmp_path / name)
        pooled = torch.randn(2, 6)
        assert torch.equal(again.head(pooled), head(pooled))
    for head in (nn.GELU(approximate="tanh"), nn.Bilinear(6, 6, 4)):
        with pytest.raises(TypeError, match=facts(type(head).__name__)):
            save_joint(ProductSpace(words(), head, cosine=False), tmp_path / "x")


def test_what_holds_no_text_tower_is_said(tmp_path: Path):
    with refused("text.json"):
        load_joint(tmp_path)
    save_joint(joint_of(words()), tmp_path)
    with refused("x.npy"):
        load_joint(tmp_path, "x.npy")
    card = json.loads((tmp_path / "text.json").read_text())
    (tmp_path / "text.json").write_text(
        json.dumps({**card, "head": [{"in": 7, "out": 4, "bias": True}]})
    )
    with refused("text.safetensors", "head.weight", "6", "7"):
        load_joint(tmp_path)
    del card["cosine"]
    (tmp_path / "text.json").write_text(json.dumps(card))
    with refused("text.json"):
        load_joint(tmp_path)


def test_a_folder_with_a_text_tower_still_has_one_encoder(tmp_path: Path):
    from ssvid import create_encoder
    from ssvid.weights.__main__ import open_source
    from ssvid.weights.encoders import save_encoder

    encoder = create_encoder("s3dg", width=0.125)
    save_encoder(encoder, tmp_path, "encoder", {})
    save_joint(joint_of(words()), tmp_path)
    assert load_encoder(tmp_path).name == open_source(tmp_path, trust=False).net.encoder == "s3dg"


def narrated(*texts: str) -> Manifest:
    sentences = tuple((float(i), i + 1.0, text) for i, text in enumerate(texts))
    rows = [
        Row("a.mp4", split="train", sentences=sentences),
        Row("b.mp4", split="test", sentences=((0.0, 1.0, "pan pan"),)),
    ]
    return Manifest(tuple(rows), Path("clips"))


def test_words_of_a_data_set_are_collected(tmp_path: Path):
    data, out = (
        narrated("Add the onion.", "add the fish", "don't add the pan"),
        tmp_path / "lists" / "words.txt",
    )
    report = collect_words(data, str(out), least=2)
    assert out.read_text() == "add\nthe\n" and (
        report["words"],
        report["left_out"],
        report["sentences"],
    ) == (2, 4, 3)
    assert words(str(out)).tokens(["The zzz add"])[0, :3].tolist() == [2, 1, 0]
    collect_words(data, str(tmp_path / "all.txt"), least=1, lower=False)
    assert (tmp_path / "all.txt").read_text().split() == [
        "the",
        "add",
        "Add",
        "don't",
        "fish",
        "onion",
        "pan",
    ]
    for fact, rows, file, least in (
        (str(out), data, out, 2),  # it exists
        (".txt", data, "words.npy", 2),
        ("--least", data, tmp_path / "none.txt", 9),
    ):
        with refused(fact):
            collect_words(rows, str(file), least=least)


def test_the_command_refuses_data_without_sentences(videos: Path, tmp_path: Path):
    out = str(tmp_path / "words.txt")
    flags = ["--data", "folder", "--data.root", str(videos), "--out", out]
    assert "sentences" in sentence(command("ssvid.text.words", *flags))


def test_without_the_library_it_is_said_what_to_install(monkeypatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in ("bert", "clip"):
        with refused("transformers", "ssvid[text]"):
            create_tower(name, folder=str(tmp_path))
