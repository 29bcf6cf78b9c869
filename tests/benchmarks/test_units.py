"""Seconds and boxes of real files: which clip, which classes, and that tokens under a box are those of the box."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from einops import rearrange

from benchmarks.features.controls import shuffled
from benchmarks.features.person_boxes import People
from benchmarks.features.regions import Regions
from benchmarks.features.sources import make_sources
from benchmarks.features.units import KINDS, keep
from ssvid import registry
from ssvid.data.augment import geometry, recipe
from ssvid.data.decode import read, stamps
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
    still = [(0.0, min(start for start, _, _ in row.segments))]
    for (low, high), moving in [(still[0], False), *(((s, e), True) for s, e, _ in row.segments)]:
        part = read(
            films.path(0), stamps(films.path(0))[round(low * 8) : round(high * 8)]
        ).float()  # T C H W
        assert (part.diff(dim=0).abs().mean() > 1) == moving
    assert len(films.classes) == 4 and {len(row.segments) for row in films.rows} == {6}
    again = registry.datasets["synthetic_films"](
        str(films.root.parent), train=5, val=2, test=2, actors=2, seed=3
    )
    assert again.hash == films.hash and again.root == films.root


def test_seconds_hold_what_covers_their_middle(films):
    units = KINDS["seconds"].make(keep(films, "seconds"), SPEC, 1, 1)
    assert (
        len(units.labels)
        == len(units.clips)
        == sum(math.ceil(row.duration - 1 / 8) for row in films.rows)
    )
    for held, row, (second,) in zip(
        units.labels, units.clips.row, units.clips.locations, strict=True
    ):
        names = {
            name for start, end, name in films.rows[row].segments if start <= second + 0.5 < end
        }
        assert {films.classes[q] for q in held.nonzero()[:, 0].tolist()} == names


def test_boxes_hold_what_their_person_does(films):
    units = KINDS["boxes"].make(keep(films, "boxes"), SPEC, 1, 1)
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
    frames = [(people.row[i], people.locations[i][0]) for i in range(12)]
    twins = [(i, j) for i, j in combinations(range(12), 2) if frames[i] == frames[j]]
    assert twins and all(torch.equal(batch["clips"][i], batch["clips"][j]) for i, j in twins)
    assert batch["clips"].shape == (
        12,
        1,
        3,
        6,
        32,
        32,
    )  # the frame is 64 wide: squeezed, not cropped


def test_the_middle_of_a_boxes_clip_is_its_time(films):
    people = People(films, ClipSpec(frames=5, stride=1, size=32))
    place = next(i for i, at in enumerate(people.locations) if at[0] >= 2)
    path, time_s = films.path(people.row[place]), people.locations[place][0]
    clip = next(iter(eval_loader(people, [place], 1, 0)))["clips"][0, 0]  # C T H W
    frame = geometry(
        read(path, np.array([stamps(path)[0] + time_s])), recipe("whole"), 32, torch.zeros(0)
    )
    assert torch.equal(clip[:, 2:3], frame) and not torch.equal(clip[:, :1], clip[:, 2:3])


@pytest.mark.parametrize("kind", ["several", "seconds", "boxes"])
def test_what_is_wanting_is_one_sentence(kind: str, films):
    bare = films.split("train")
    plain = replace(films, rows=tuple(replace(row, segments=(), boxes=()) for row in films.rows))
    cases = ((bare, kind, "val"), (plain, kind, "with"), (films, "clips", "classes"))
    for data, wanted, fact in cases:
        with pytest.raises(UserError, match=facts(fact)):
            keep(data, wanted)
    if kind != "several":
        with pytest.raises(UserError, match=facts("--clips", "--crops", "1")):
            KINDS[kind].make(keep(films, kind), SPEC, 2, 1)


def test_a_class_of_test_that_train_lacks(films):
    odd = replace(films.rows[-1], segments=((0.0, 1.0, "unheard"),))
    rows = (*films.rows[:-1], odd)
    with pytest.raises(UserError, match=facts("unheard")):
        keep(replace(films, rows=rows, classes=(*films.classes, "unheard")), "seconds")


def test_tokens_under_a_box_are_averaged():
    """A map that holds its own column numbers: a box's value is the middle of its columns."""
    grid = Grid(2, 4, 8)
    column = torch.arange(8).float().expand(2, 4, 8)
    slot = torch.tensor([1.0, 3.0])[:, None, None].expand(2, 4, 8)
    tokens = rearrange(torch.stack([column, slot], -1), "t h w D -> 1 (t h w) D")
    regions = Regions([0, 0], [(1.0, 0.0, 0.0, 0.5, 1.0), (1.0, 0.5, 0.25, 1.0, 0.75)])
    index = torch.tensor([0, 1])
    place, lead, which = regions.shared(index)
    assert (place.tolist(), lead.tolist(), which.tolist()) == ([0], [0], [0, 0])
    found = regions.pool(Features(tokens, tokens.mean(1), grid), (), index, which)
    torch.testing.assert_close(found["box@last"], torch.tensor([[1.5, 2.0], [5.5, 2.0]]))
    torch.testing.assert_close(found["slots@last"][0], torch.tensor([1.5, 1.0, 1.5, 3.0]))


def test_a_box_has_the_same_features_in_any_batch(films):
    """Also shuffled: the order of frames is drawn for the clip, not for the batch."""
    units = KINDS["boxes"].make(keep(films, "boxes"), SPEC, 1, 1)
    net = create_encoder(
        "vit", dim=24, depth=2, heads=2, patch=8, frames=6, stride=1, size=32
    ).eval()
    wanted = ["encoder", "encoder/shuffled", "pixels"]
    sources = make_sources(net, net, (1,), ("mean",), 0, wanted, units.regions)
    batch = next(iter(eval_loader(units.clips, range(8), 8, 0)))
    clips, index = batch["clips"][:, 0], batch["index"]
    for source in sources:
        with torch.inference_mode():
            whole = source.run(clips, index)
            single = [source.run(clips[i : i + 1], index[i : i + 1]) for i in range(8)]
        for name, value in whole.items():
            torch.testing.assert_close(
                value, torch.cat([one[name] for one in single]), rtol=1e-4, atol=1e-4
            )
    assert not torch.equal(shuffled(clips[:1], index[:1], 0), clips[:1])


def test_boxes_have_no_tokens(films):
    units = KINDS["boxes"].make(keep(films, "boxes"), SPEC, 1, 1)
    net = create_encoder("vit", dim=24, depth=2, heads=2, patch=8, frames=6, stride=1, size=32)
    with pytest.raises(UserError, match=facts("probe")):
        make_sources(net, net, (), ("mean",), 0, ["encoder:tokens"], units.regions)


def test_windows_have_the_class_of_their_video(tmp_path):
    """Of the 11 frames of a video windows of 6 begin at 0, 2 and 4; those of test are cut in ten ways."""
    data = registry.datasets["synthetic"](str(tmp_path), train=8, val=4, test=4)
    counts = {
        "windows": {"train": 3, "val": 3, "test": 3},
        "ten_crops": {"train": 3, "val": 3, "test": 30},
    }
    for kind, each in counts.items():
        units = KINDS[kind].make(keep(data, kind), SPEC, 1, 1)
        assert units.labels.tolist() == [int(data.labels[row]) for row in units.clips.row], kind
        for row, of in enumerate(data.rows):
            assert units.clips.row.count(row) == each[of.split], (kind, of.split)
        with pytest.raises(UserError, match=facts("--clips", "--crops", "1")):
            KINDS[kind].make(keep(data, kind), SPEC, 1, 2)
