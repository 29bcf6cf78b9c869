"""Seconds and boxes of real files: their clips, their classes, and the tokens under a box."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from einops import rearrange

from benchmarks.features.controls import shuffle_frames
from benchmarks.features.person_boxes import People
from benchmarks.features.regions import Regions
from benchmarks.features.sources import FrozenNet, SourceMaker
from benchmarks.features.units import KINDS, select_usable_rows
from ssvid import registry
from ssvid.data.augment import crop_frames, get_recipe
from ssvid.data.decode import read, read_timestamps
from ssvid.data.loader import eval_loader
from ssvid.errors import UserError
from ssvid.hub import create_encoder
from ssvid.shapes import ClipSpec, Features, Grid
from tests.helpers import facts

SPEC = ClipSpec(frames=6, stride=1, size=32)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("films")
    return registry.datasets["synthetic_films"](str(root), train=5, val=2, test=2, actors=2, seed=3)


def test_a_film_is_what_its_row_says(films):
    """While it acts a shape moves, and between acts nothing does."""
    row = films.rows[0]
    times = read_timestamps(films.path(0))
    spans = [(start, end, True) for start, end, _ in row.segments]
    spans.append((0.0, min(spans)[0], False))
    for low, high, moving in spans:
        clip = read(films.path(0), times[round(low * 8) : round(high * 8)]).float()  # T C H W
        assert (clip.diff(dim=0).abs().mean() > 1) == moving
    assert len(films.classes) == 4 and {len(row.segments) for row in films.rows} == {6}
    again = registry.datasets["synthetic_films"](
        str(films.root.parent), train=5, val=2, test=2, actors=2, seed=3
    )
    assert again.hash == films.hash and again.root == films.root


def test_seconds_hold_what_covers_their_middle(films):
    units = KINDS["seconds"].make_units(select_usable_rows(films, "seconds"), SPEC, 1, 1)
    seconds = 0
    for row in films.rows:
        seconds += math.ceil(row.duration - 1 / 8)
    assert len(units.labels) == len(units.clips) == seconds
    for classes, row, (second,) in zip(
        units.labels, units.clips.row, units.clips.locations, strict=True
    ):
        middle, segments = second + 0.5, films.rows[row].segments
        names = {name for start, end, name in segments if start <= middle < end}
        assert {films.classes[q] for q in classes.nonzero()[:, 0].tolist()} == names


def test_boxes_hold_what_their_person_does(films):
    units = KINDS["boxes"].make_units(select_usable_rows(films, "boxes"), SPEC, 1, 1)
    assert (
        len(units.labels) == sum(len(row.boxes) for row in films.rows)
        and (units.labels.sum(1) == 1).all()
    )
    box = sorted(films.rows[0].boxes)[0]
    assert (
        units.clips.locations[0] == box[:5]
        and films.classes[int(units.labels[0].float().argmax())] == box.labels[0]
    )


def test_boxes_of_a_frame_share_its_clip(films):
    people = People(films, SPEC)
    batch = next(iter(eval_loader(people, range(12), 12, 0)))
    twins = 0
    for i, j in combinations(range(12), 2):
        if (people.row[i], people.locations[i][0]) == (people.row[j], people.locations[j][0]):
            twins += 1
            assert torch.equal(batch["clips"][i], batch["clips"][j])
    assert twins
    # The frame is 64 wide: it is squeezed, not cropped.
    assert batch["clips"].shape == (12, 1, 3, 6, 32, 32)


def test_the_middle_of_a_boxes_clip_is_its_time(films):
    people = People(films, ClipSpec(frames=5, stride=1, size=32))
    index_of_box = next(i for i, box in enumerate(people.locations) if box[0] >= 2)
    path, time_s = films.path(people.row[index_of_box]), people.locations[index_of_box][0]
    clip = next(iter(eval_loader(people, [index_of_box], 1, 0)))["clips"][0, 0]  # C T H W
    frame = crop_frames(
        read(path, np.array([read_timestamps(path)[0] + time_s])),
        get_recipe("whole"),
        32,
        torch.zeros(0),
    )
    assert torch.equal(clip[:, 2:3], frame) and not torch.equal(clip[:, :1], clip[:, 2:3])


def remove_classes(row):
    return replace(row, segments=(), boxes=())


@pytest.mark.parametrize("kind", ["several", "seconds", "boxes"])
def test_what_is_wanting_is_one_sentence(kind: str, films):
    bare = films.split("train")
    plain = replace(films, rows=tuple(map(remove_classes, films.rows)))
    cases = ((bare, kind, "val"), (plain, kind, "with"), (films, "clips", "classes"))
    for data, kind_asked, fact in cases:
        with pytest.raises(UserError, match=facts(fact)):
            select_usable_rows(data, kind_asked)
    if kind != "several":
        with pytest.raises(UserError, match=facts("--clips", "--crops", "1")):
            KINDS[kind].make_units(select_usable_rows(films, kind), SPEC, 2, 1)


def test_a_class_of_test_that_train_lacks(films):
    odd = replace(films.rows[-1], segments=((0.0, 1.0, "unheard"),))
    rows = (*films.rows[:-1], odd)
    with pytest.raises(UserError, match=facts("unheard")):
        select_usable_rows(
            replace(films, rows=rows, classes=(*films.classes, "unheard")), "seconds"
        )


def test_tokens_under_a_box_are_averaged():
    """A map that holds its own column numbers: a box's value is the middle of its columns."""
    grid = Grid(2, 4, 8)
    column = torch.arange(8).float().expand(2, 4, 8)
    slot = torch.tensor([1.0, 3.0])[:, None, None].expand(2, 4, 8)
    tokens = rearrange(torch.stack([column, slot], -1), "t h w D -> 1 (t h w) D")
    regions = Regions([0, 0], [(1.0, 0.0, 0.0, 0.5, 1.0), (1.0, 0.5, 0.25, 1.0, 0.75)])
    index = torch.tensor([0, 1])
    first_row, lead, clip_of_box = regions.find_shared_clips(index)
    assert (first_row.tolist(), lead.tolist(), clip_of_box.tolist()) == ([0], [0], [0, 0])
    pooled = regions.pool(Features(tokens, tokens.mean(1), grid), (), index, clip_of_box)
    torch.testing.assert_close(pooled["box@last"], torch.tensor([[1.5, 2.0], [5.5, 2.0]]))
    torch.testing.assert_close(pooled["slots@last"][0], torch.tensor([1.5, 1.0, 1.5, 3.0]))


def test_a_box_has_the_same_features_in_any_batch(films):
    """Also shuffled: the order of frames is drawn for the clip, not for the batch."""
    units = KINDS["boxes"].make_units(select_usable_rows(films, "boxes"), SPEC, 1, 1)
    net = create_encoder(
        "vit", dim=24, depth=2, heads=2, patch=8, frames=6, stride=1, size=32
    ).eval()
    nets = {"encoder": FrozenNet("a net", lambda: net)}
    names = ["encoder", "encoder/shuffled", "encoder/bag", "pixels", "pixels/shuffled"]
    sources = SourceMaker(nets, (1,), ("mean",), 0, units.regions).make_all(names)
    batch = next(iter(eval_loader(units.clips, range(8), 8, 0)))
    clips, index = batch["clips"][:, 0], batch["index"]
    for source in sources:
        with torch.inference_mode():
            whole = source.run(clips, index)
            single = list(map(source.run, clips.split(1), index.split(1)))
        for name, value in whole.items():
            joined = torch.cat([features[name] for features in single])
            torch.testing.assert_close(value, joined, rtol=1e-4, atol=1e-4)
    assert not torch.equal(shuffle_frames(clips[:1], index[:1], 0), clips[:1])


def test_boxes_have_no_tokens(films):
    units = KINDS["boxes"].make_units(select_usable_rows(films, "boxes"), SPEC, 1, 1)
    net = create_encoder("vit", dim=24, depth=2, heads=2, patch=8, frames=6, stride=1, size=32)
    nets = {"encoder": FrozenNet("a net", lambda: net)}
    maker = SourceMaker(nets, (), ("mean",), 0, units.regions)
    with pytest.raises(UserError, match=facts("probe")):
        maker.make("encoder:tokens")


def test_windows_have_the_class_of_their_video(tmp_path):
    """Windows of 6 of the 11 frames of a video begin at 0, 2 and 4; test has them in ten cuts."""
    data = registry.datasets["synthetic"](str(tmp_path), train=8, val=4, test=4)
    counts = {
        "windows": {"train": 3, "val": 3, "test": 3},
        "ten_crops": {"train": 3, "val": 3, "test": 30},
    }
    for kind, expected in counts.items():
        units = KINDS[kind].make_units(select_usable_rows(data, kind), SPEC, 1, 1)
        assert torch.equal(units.labels, data.labels[units.clips.row]), kind
        for row, video in enumerate(data.rows):
            assert units.clips.row.count(row) == expected[video.split], (kind, video.split)
        with pytest.raises(UserError, match=facts("--clips", "--crops", "1")):
            KINDS[kind].make_units(select_usable_rows(data, kind), SPEC, 1, 2)
