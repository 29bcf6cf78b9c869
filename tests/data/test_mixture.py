import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ssvid.arguments import Arguments
from ssvid.data.clips import Clips
from ssvid.data.datasets.csv import csv
from ssvid.data.datasets.folder import folder
from ssvid.data.datasets.mixture import mixture
from ssvid.data.loader import train_loader
from ssvid.data.preprocess.flow import compute, flow_file
from ssvid.data.training import training
from ssvid.errors import UserError
from ssvid.nn.queue import Queue
from ssvid.nn.sources import check_batch, check_negatives, check_pairs
from ssvid.pretrain import pretrain
from ssvid.shapes import Caption, ClipSpec, Views
from tests.helpers import command, facts, for_each, sentence, squares, write_video

VIEWS = Views(clips=(ClipSpec(frames=4, stride=1, size=16),), augment="multiscale")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Videos in two class folders, labelled and captioned videos of a csv, and pictures."""
    root = tmp_path_factory.mktemp("corpora")
    for i in range(6):
        write_video(root / "web" / f"{'run' if i % 2 else 'jump'}" / f"{i}.mp4", squares(i))
    lines = ["path,label,split,caption"]
    for i in range(4):
        write_video(root / "lists" / "clips" / f"{i}.mp4", squares(20 + i))
        lines.append(f"clips/{i}.mp4,{'run' if i % 2 else 'swim'},train,a square {i}")
    (root / "lists" / "clean.csv").write_text("\n".join(lines))
    (root / "pictures").mkdir()
    for i in range(5):
        Image.fromarray(squares(40 + i)[0]).save(root / "pictures" / f"{i}.png")
    return root


def describe_parts(root, **changes):
    parts = {
        "web": {"name": "folder", "root": str(root / "web"), "weight": 2, "cleanliness": "noisy"},
        "clean": {"name": "csv", "root": str(root / "lists" / "clean.csv")},
        "still": {"name": "images", "root": str(root / "pictures"), "clip": {"frames": 1}},
    }
    for name, change in changes.items():
        parts[name] = {**parts.get(name, {}), **change}
    return parts


def take_train(parts, order="alternate"):
    return mixture(parts=parts, order=order).split("train")


def same_batches(first, second, but=()):
    for one, two in zip(first, second, strict=True):
        assert one.keys() - set(but) == two.keys() - set(but)
        for key in one.keys() - set(but):
            if isinstance(one[key], torch.Tensor):
                assert torch.equal(one[key], two[key]), key
            else:
                assert one[key] == two[key], key


def test_rows_are_joined_below_one_root_and_say_their_part(corpora):
    data = mixture(parts=describe_parts(corpora))
    assert data.root == corpora and data.classes == ("jump", "run", "swim")
    assert [row.source for row in data.rows[-9:]] == ["clean"] * 4 + ["still"] * 5
    assert all(data.path(i).is_file() for i in range(len(data)))
    by_path = {row.path: row for row in data.rows}
    assert by_path["lists/clips/1.mp4"].label == by_path["web/run/1.mp4"].label == "run"
    assert by_path["lists/clips/1.mp4"].group.startswith("clean/")
    assert len(data.split("train")) + len(data.split("val")) + len(data.split("test")) == 15


def test_the_hash_is_that_of_the_parts_wherever_they_lie(corpora, tmp_path):
    shutil.copytree(corpora / "web", tmp_path / "far" / "away" / "videos")
    moved = describe_parts(corpora, web={"root": str(tmp_path / "far" / "away" / "videos")})
    before = mixture(parts=describe_parts(corpora))
    assert mixture(parts=moved).root != before.root and mixture(parts=moved).hash == before.hash
    renamed = dict(zip(["a", "b", "c"], describe_parts(corpora).values(), strict=True))
    assert mixture(parts=renamed).hash != before.hash


@for_each("order", ["alternate", "mix"])
def test_one_part_gives_the_batches_of_the_plain_data_set(corpora, order):
    plain = folder(str(corpora / "web")).split("train")
    alone = take_train({"web": describe_parts(corpora)["web"]}, order)
    assert [alone.video_id(i) for i in range(len(alone))] == plain.video_ids
    batches = []
    for rows in (plain, alone):
        loader = train_loader(training(rows, VIEWS, seed=1), batch_size=4, steps=4, workers=0)
        batches.append(list(loader))
    same_batches(*batches, but=["source"])
    assert batches[1][0]["source"] == ["web"] * 4 and "source" not in batches[0][0]


def test_parts_with_clips_of_their_own_alternate(corpora):
    rows = take_train(describe_parts(corpora))
    samples = training(rows, VIEWS, seed=0)
    frames_of = {}
    for batch in train_loader(samples, batch_size=4, steps=12, accumulate=2, workers=0):
        (source,) = set(batch["source"])
        frames_of.setdefault(source, set()).add(batch["clips"].shape[3])
    assert frames_of == {"web": {4}, "clean": {4}, "still": {1}}


def test_samples_of_a_mixture_resume_and_are_those_of_workers(corpora):
    rows = take_train(describe_parts(corpora))
    loaders = []
    for options in ({"workers": 0}, {"workers": 2}, {"workers": 0, "start_step": 3}):
        samples = training(rows, VIEWS, seed=0)
        loaders.append(list(train_loader(samples, batch_size=4, steps=6, **options)))
    same_batches(loaders[0], loaders[1])
    same_batches(loaders[0][3:], loaders[2])


def test_a_bad_file_is_replaced_by_a_clip_of_its_own_part(corpora, tmp_path):
    shutil.copytree(corpora / "web", tmp_path / "web")
    videos = sorted((tmp_path / "web").rglob("*.mp4"))
    for path in videos[:-1]:
        path.write_bytes(b"no video")
    parts = describe_parts(corpora, web={"root": str(tmp_path / "web"), "labels": False})
    samples = training(take_train(parts), VIEWS, seed=0)
    for index in samples.members["web"]:
        assert samples[0, int(index)]["source"] == "web"


def test_classes_are_joined_by_name_and_rows_without_one_have_none(corpora):
    rows = take_train(describe_parts(corpora))
    labels = {}
    for row, label in zip(rows.rows, rows.labels.tolist(), strict=True):
        labels.setdefault(row.source, set()).add(label)
    assert labels["still"] == {-1} and labels["clean"] == {1, 2}


def test_clips_with_captions_need_them_in_every_part(corpora):
    views = Views(clips=VIEWS.clips, text=Caption())
    with pytest.raises(UserError, match=facts("caption", "jump")):
        training(take_train(describe_parts(corpora)), views, seed=0)
    clean = {"clean": describe_parts(corpora)["clean"]}
    clean["again"] = {**clean["clean"], "clip": {"frames": 2}}
    samples = training(take_train(clean), views, seed=0)
    batch = next(iter(train_loader(samples, batch_size=2, steps=1, workers=0)))
    assert all(words[0].startswith("a square") for words in batch["sentences"])


def test_mix_refuses_clips_of_two_shapes(corpora):
    with pytest.raises(UserError, match=facts("still", "1 frames", "4 frames", "alternate")):
        training(take_train(describe_parts(corpora), "mix"), VIEWS, seed=0)
    alike = describe_parts(corpora, still={"clip": {"stride": 2}})
    samples = training(take_train(alike, "mix"), VIEWS, seed=0)
    batches = list(train_loader(samples, batch_size=8, steps=3, workers=0))
    assert {len(set(batch["source"])) for batch in batches} != {1}


def test_a_clip_that_cannot_be_is_refused_with_its_part(corpora):
    wrong = take_train(describe_parts(corpora, still={"clip": {"fps": 2, "stride": 3}}))
    with pytest.raises(UserError, match=facts("part still", "fps", "stride")):
        training(wrong, VIEWS, seed=0)


def test_a_part_without_training_clips_is_refused(corpora, tmp_path):
    (tmp_path / "test.csv").write_text(
        f"path,split\n{corpora}/web/run/1.mp4,val\n{corpora}/web/run/3.mp4,test\n"
    )
    parts = describe_parts(corpora, held={"name": "csv", "root": str(tmp_path / "test.csv")})
    samples = training(take_train(parts), VIEWS, seed=0)
    with pytest.raises(UserError, match=facts("train", "part held")):
        train_loader(samples, batch_size=2, steps=1)


def test_a_file_that_one_part_trains_on_and_another_tests_on_is_told(corpora, tmp_path, capfd):
    (tmp_path / "test.csv").write_text(f"path,split\n{corpora}/pictures/1.png,test\n")
    held = {"name": "csv", "root": str(tmp_path / "test.csv")}
    mixture(parts={"still": describe_parts(corpora)["still"], "held": held})
    assert "pictures/1.png" in capfd.readouterr().err


@for_each(
    "change, words",
    [
        ({"weight": 0}, ["web", "weight 0"]),
        ({"weight": -1}, ["web", "weight -1"]),
        ({"weight": float("inf")}, ["web", "weight"]),
        ({"weight": True}, ["web", "weight"]),
        ({"weight": "two"}, ["web", "weight"]),
        ({"name": "foldr"}, ["web", "foldr", "folder"]),
        ({"name": "mixture"}, ["web", "mixture"]),
        ({"name": None}, ["web", "name", "clean"]),
        ({"root": "nowhere/at/all"}, ["web", "nowhere/at/all"]),
        ({"root": 3}, ["web", "root", "3"]),
        ({"root": None}, ["web", "root", "missing"]),
        ({"labls": True}, ["web", "labls", "labels"]),
        ({"labels": "perhaps"}, ["web", "labels", "perhaps"]),
        ({"cleanliness": 3}, ["web", "cleanliness", "3"]),
        ({"clip": {"frame": 1}}, ["web", "frame", "frames"]),
        ({"clip": {"frames": "x"}}, ["web", "clip.frames", "int"]),
        ({"clip": {"frames": True}}, ["web", "clip.frames"]),
        ({"clip": 3}, ["web", "clip"]),
    ],
)
def test_a_wrong_part_is_refused_in_one_sentence(corpora, change, words):
    with pytest.raises(UserError, match=facts(*words)):
        mixture(parts=describe_parts(corpora, web=change))


def test_no_parts_a_wrong_name_and_an_unknown_order_are_refused(corpora, tmp_path):
    with pytest.raises(UserError, match="no parts"):
        mixture(parts={})
    with pytest.raises(UserError, match=facts("a.b", "letters")):
        mixture(parts={"a.b": describe_parts(corpora)["web"]})
    with pytest.raises(UserError, match=facts("--data.order", "shuffle", "alternate")):
        parse_config(corpora, tmp_path, "--data.order", "shuffle")


def parse_config(corpora, tmp_path, *words):
    recipe = tmp_path / "recipe.yaml"
    parts = describe_parts(corpora)
    data = {"name": "mixture", "parts": parts, "order": "alternate"}
    recipe.write_text(yaml.safe_dump({"objective": "mae", "encoder": "vit", "data": data}))
    argv = ["--config", str(recipe), "--steps", "1", *words]
    return Arguments(pretrain, "pretrain").parse(argv)["config"]["data"]


def test_a_recipe_holds_the_mixture_and_a_word_changes_a_part(corpora, tmp_path):
    plain = parse_config(corpora, tmp_path)
    assert plain["parts"] == describe_parts(corpora) and plain["order"] == "alternate"
    words = ["--data.parts.web.weight", "0.5", "--data.parts.still.clip.frames=2"]
    changed = parse_config(corpora, tmp_path, *words, "--data.order", "mix")
    assert changed["parts"]["web"] == {**plain["parts"]["web"], "weight": 0.5}
    assert changed["parts"]["still"]["clip"] == {"frames": 2}
    assert changed["parts"]["clean"] == plain["parts"]["clean"] and changed["order"] == "mix"


def test_a_part_without_a_data_set_and_a_name_twice_are_refused_by_the_command(corpora, tmp_path):
    with pytest.raises(UserError, match=facts("part other", "web")):
        parse_config(corpora, tmp_path, "--data.parts.other.weight", "2")
    argv = ["--objective", "mae", "--encoder", "vit", "--data", "mixture", "--steps", "1"]
    twice = "{a: {name: folder, root: x}, a: {name: folder, root: y}}"
    refused = command("ssvid.extract", "--encoder", "x", "--out", "y", "--data", "mixture",
                      "--data.parts", twice)  # fmt: skip
    for answer in (refused, command("ssvid.pretrain", *argv, "--data.parts", twice)):
        assert sentence(answer).startswith("error: --data.parts ") and "'a' again" in answer.stderr


@for_each("order, refused", [("alternate", True), ("mix", False)])
def test_each_part_fills_its_batches_and_has_negatives_where_they_alternate(
    order, refused, corpora, tmp_path
):
    write_video(tmp_path / order / "0.mp4", squares(1))
    parts = {"web": {"name": "folder", "root": str(corpora / "web")}}
    few = {"name": "csv", "root": str(corpora / "lists" / "clean.csv")}
    one = {"name": "folder", "root": str(tmp_path / order)}
    for part, check, batch_size, words in (
        (few, check_batch, 5, ("--data.parts.clean", "5", "4 videos")),
        (one, check_pairs, 2, ("--data.parts.clean", "one video")),
    ):
        data = mixture(parts={**parts, "clean": part}, order=order)
        assert [len(source) for source in data.list_batch_sources()] == (
            [6, len(data) - 6] if refused else [len(data)]
        )
        if not refused:
            check(data, "clip", batch_size)
            continue
        with pytest.raises(UserError, match=facts(*words)):
            check(data, "clip", batch_size)


def test_a_queue_brings_negatives_from_all_parts(corpora, tmp_path):
    write_video(tmp_path / "one" / "0.mp4", squares(1))
    parts = {"web": {"name": "folder", "root": str(corpora / "web")}}
    parts["one"] = {"name": "folder", "root": str(tmp_path / "one")}
    check_negatives(mixture(parts=parts), "infonce", 2, Queue(4, 2))


def test_messages_name_the_list_and_not_its_folder(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", squares(1))
    (tmp_path / "v.csv").write_text("path,split\na.mp4,train\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=facts("v.csv has one video")):
        check_negatives(csv("v.csv"), "clip", 2)


def test_a_file_names_no_class_in_a_part(corpora, tmp_path):
    part = {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}
    with pytest.raises(UserError, match="class_path"):
        parse_config(corpora, tmp_path, "--data.parts", json.dumps({"a": part}))
    recipe = {"objective": "mae", "data": {"name": "mixture", "parts": {"a": part}}}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match="class_path"):
        Arguments(pretrain, "pretrain").parse(["--config", str(tmp_path / "bad.yaml")])
    (tmp_path / "code.py").write_text("raise SystemExit('imported')")
    named = {"a": {"name": "code:Data", "root": "x"}}
    with pytest.raises(UserError, match=facts("--trust", "code")):
        mixture(parts=named)


def test_drawn_parts_are_drawn_to_suit_their_own_clip(tmp_path):
    drawn = {"name": "synthetic", "root": str(tmp_path), "train": 4, "val": 2, "test": 2}
    parts = {"long": {**drawn, "clip": {"frames": 32, "fps": 8}}, "short": {**drawn, "seed": 1}}
    spec = ClipSpec(frames=4, fps=8.0, size=16)
    views = Views(clips=(spec,), needs_all_frames=True)
    samples = training(mixture(parts=parts).suit(views).split("train"), views, seed=0)
    shapes = [samples[0, int(rows[0])]["clips"].shape[2] for rows in samples.members.values()]
    padded = [samples[0, int(rows[0])]["padded"] for rows in samples.members.values()]
    assert shapes == [32, 4] and padded == [0, 0]


def test_evaluation_reads_every_clip_as_the_encoder_does(corpora):
    rows = take_train(describe_parts(corpora))
    clips = Clips(rows, VIEWS, seed=0, evaluate=1)
    assert np.unique([clips[0, i]["clips"].shape[2] for i in range(len(clips))]).tolist() == [4]


def test_a_csv_may_be_two_parts(corpora):
    listed = {"name": "csv", "root": str(corpora / "lists" / "clean.csv")}
    parts = {"run": {**listed, "where": "label=run"}, "swim": {**listed, "where": "label=swim"}}
    rows = mixture(parts=parts).rows
    assert [(row.source, row.label) for row in rows] == [
        *[("run", "run")] * 2,
        *[("swim", "swim")] * 2,
    ]
    assert len(csv(listed["root"])) == 4


def test_each_part_has_its_own_flow(corpora, monkeypatch):
    rows = take_train({name: describe_parts(corpora)[name] for name in ("web", "clean")})
    plain = folder(str(corpora / "web")).split("train")
    assert flow_file(rows, 0) == flow_file(plain, 0)
    flow = Views(clips=(ClipSpec(frames=4, stride=1, size=16, modality="flow"),))
    (corpora / "web" / ".flow").mkdir()
    with pytest.raises(UserError, match=facts("lists/.flow")):
        training(rows, flow, seed=0)
    with pytest.raises(UserError, match=facts("each part")):
        compute(rows)
