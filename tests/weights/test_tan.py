"""TAN's checkpoints: both stages, both names of the text tower, there and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from objectives.tan import TAN
from ssvid import create_encoder
from ssvid.engine.warm_start import warm_start
from ssvid.hub import open_encoder
from ssvid.weights.__main__ import weights
from ssvid.weights.files import read_weights
from ssvid.weights.published import PublishedFile, identify_file
from ssvid.weights.tan import LAYOUTS
from tests.helpers import for_each
from tests.weights.layouts import State, assert_same, refusal

NAMES = {layout.name: layout for layout in LAYOUTS}


def net(**change: Any) -> TAN:
    torch.manual_seed(0)
    return TAN(**{**TAN.tiny_kwargs, **change})


def state_of(name: str, **change: Any) -> State:
    """As published code would write it; the teacher has moved on."""
    cotrained = {"cotrain": "keep"} if name.endswith("cotrained") else {}
    objective = net(**cotrained, **change)
    if objective.teacher is not None:
        for p in objective.teacher.parameters():
            p.data += 0.1
    return NAMES[name].to_theirs(objective.state_dict())


def saved(folder: Path, state: State) -> Path:
    beside = {
        "epoch": 19,
        "best_acc": 1e5,
        "optimizer": {"state": {}, "param_groups": []},
        "iteration": 700,
    }
    torch.save({**beside, "state_dict": state}, folder / "epoch19.pth.tar")
    return folder / "epoch19.pth.tar"


def identify(path: Path) -> PublishedFile:
    published = identify_file(read_weights(path))
    assert published is not None
    return published


@for_each("name", NAMES)
@for_each("change", [{}, {"alignability": True}, {"positions": "sine"}])
def test_a_file_is_known_and_comes_back_the_same(name: str, change: dict[str, Any], tmp_path: Path):
    state = state_of(name, **change)
    if (
        "positions" in change
    ):  # a table without gradient is a buffer: behind the parameters of its module
        state = dict(sorted(state.items(), key=lambda row: row[0].endswith("temporal_pos_embed")))
    path = saved(tmp_path, state)
    published = identify(path)
    assert published.layout.name == name and not published.missing and not published.unexpected
    again = tmp_path / "again.pth.tar"
    report = weights(str(path), to=name, out=str(again))
    back = read_weights(again)
    assert back.wrapper == "state_dict"
    assert_same(back.tensors, state)
    assert report["layout"] == name and report["encoder"] is None and report["objective"] == "tan"
    assert report["settings"]["features"] == 8 and report["settings"]["joint_layers"] == 3
    assert report["settings"].get("positions", "learned") == change.get("positions", "learned")


def test_the_names_of_a_co_trained_file():
    state = state_of("tan-lang_model-cotrained")
    assert {key.split(".")[0] for key in state} == {"online", "target", "lang_model"}
    assert torch.equal(state["lang_model.fc1.weight"], state["online.lang_model.fc1.weight"])
    assert not torch.equal(state["lang_model.fc1.weight"], state["target.lang_model.fc1.weight"])
    assert list(state_of("tan"))[:3] == [
        "temporal_pos_embed",
        "text_temporal_pos_embed",
        "bert.word_embd.weight",
    ]


@for_each("name", NAMES)
def test_its_settings_make_an_objective_that_it_fills(name: str, tmp_path: Path):
    published = identify(saved(tmp_path, state_of(name)))
    options = {
        "buckets": TAN.tiny_kwargs["options"]["buckets"],
        **published.net.settings["options"],
    }
    objective = TAN(**{**published.net.settings, "heads": 2, "options": options})
    warm_start(objective, str(published.file.path))
    assert objective.state_dict().keys() == published.ours.keys()
    assert all(torch.equal(x, published.ours[key]) for key, x in objective.state_dict().items())


@for_each("name", NAMES)
def test_it_begins_a_stage(name: str, tmp_path: Path):
    """Of a co-trained file the student."""
    path = saved(tmp_path, state_of(name))
    first = identify(path).ours
    second = net(cotrain="keep", init=str(path))
    for copy in (second.aligner, second.teacher):
        for key, value in copy.state_dict().items():
            if not key.startswith("head.") or f"aligner.{key}" in first:
                assert torch.equal(value, first[f"aligner.{key}"]), key
    assert net(init=str(path)).aligner.head is None  # one that is not wanted is left out


@for_each(
    "word, use",
    [
        ("epoch19.pth.tar", lambda path: open_encoder(str(path))),
        ("epoch19.pth.tar", lambda path: create_encoder("s3d", weights=path)),
        ("TAN", lambda path: warm_start(net(cotrain="keep"), str(path))),
        (
            "tan-cotrained",
            lambda path: weights(str(path), to="tan-cotrained", out=f"{path}.new.pth"),
        ),
        ("coclr-s3d", lambda path: weights(str(path), to="coclr-s3d", out=f"{path}.new.pth")),
    ],
)
def test_what_it_is_not_is_a_sentence(word: str, use: Callable[[Path], object], tmp_path: Path):
    with refusal(word):
        use(saved(tmp_path, state_of("tan")))


def test_a_second_name_that_differs_and_a_file_in_part_are_refused(tmp_path: Path):
    state = state_of("tan-cotrained")
    state["bert.fc1.bias"] = state["bert.fc1.bias"] + 1
    with refusal("bert.fc1.bias"):
        identify(saved(tmp_path, state))
    state = state_of("tan")
    del state["mlp.weight"]
    with refusal("mlp.weight"):
        warm_start(net(), str(saved(tmp_path, state)))
