"""What is counted in a played group is what two real processes send.

The page has no number that is typed by hand.
"""

import json
import re
from operator import attrgetter
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from benchmarks.profiling.__main__ import STUDIES
from benchmarks.profiling.scaling import anchor, batches, estimates, page, scaled, study, workers
from benchmarks.profiling.scaling.traffic import (
    Part,
    Sent,
    collective,
    count_sent_bytes,
    play_process,
)
from benchmarks.profiling.speed.pairs import saved_bytes
from ssvid import create_encoder, registry
from tests.helpers import facts
from tests.warm import run_ranks

pytestmark = pytest.mark.slow  # they measure tools of developers

ROOT = Path(__file__).parents[2]
TINY = {"dim": 24, "depth": 1, "heads": 2, "patch": 8, "frames": 4, "size": 16}
SMALL_DPC = scaled.Subject(
    "dpc", "resnet18_2d3d", 2, {"blocks": 4, "predicted": 2}, {"width": 8, "frames": 3, "size": 64}
)
REAL = ("mae, vit_small", "dpc, resnet18_2d3d", "infonce, s3d, sync_bn false", "mil_nce, s3dg")
MARKED = re.compile(r"<!-- (\w+) -->\n(.*?)\n<!-- end -->", re.DOTALL)


@pytest.fixture(scope="module")
def two() -> dict[str, dict]:
    """A line of each of REAL, from two processes over gloo."""
    ends = run_ranks("-m", "benchmarks.profiling.scaling.anchor", *REAL, timeout=300)
    for end in ends:
        assert end.returncode == 0, ends[0].stderr[-2000:] + ends[1].stderr[-2000:]
    lines = {}
    for output in ends[0].stdout.splitlines():
        if output.startswith("{"):
            line = json.loads(output)
            lines[line["name"]] = line
    return lines


def pick(traffic: dict, field: int, without: str = "") -> dict[str, int]:
    """Kind of collective -> its messages (field 0) or bytes (field 1)."""
    return {kind: part[field] for kind, part in traffic.items() if kind != without}


@pytest.mark.parametrize("name", REAL)
def test_two_real_processes_send_what_was_counted(name: str, two):
    (subject,) = [subject for subject in anchor.ANCHORS if subject.name == name]
    traffic = scaled.count_traffic(subject, 2, half=False)
    measured = two[name]["traffic"]
    assert pick(measured, 1) == pick(traffic, 1)
    assert pick(measured, 0, "exchange") == pick(traffic, 0, "exchange")
    assert 1 <= two[name]["sent"] / count_sent_bytes(traffic, 2) < 1.05, (
        "headers, and the pulse of the processes"
    )


def test_what_each_kind_of_collective_sends():
    sent = {}
    for kind in ("all_reduce", "all_gather", "broadcast", "exchange"):
        sent[kind] = [count_sent_bytes({kind: Part(1, 1200)}, n) for n in (1, 2, 4)]
    assert sent["all_reduce"] == [0, 1200, 1800] and sent["broadcast"] == [0, 600, 900]
    assert sent["all_gather"] == sent["exchange"] == [0, 1200, 3600]
    with pytest.raises(NotImplementedError, match=facts("reduce_scatter")):
        collective("reduce_scatter", (), 2)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_a_played_group_shows_bytes_of_one_process(world: int):
    rows, sums = torch.ones(5, 2), torch.ones(7, dtype=torch.float64)
    with play_process(world), Sent(world) as sent:
        parts = list(map(torch.empty_like, [rows] * world))
        dist.all_gather(parts, rows)
        dist.all_reduce(sums)
        dist.broadcast(sums, 0)
        dist.all_to_all(list(torch.empty(world, 3)), list(torch.ones(world, 3)))
    for part in parts:
        assert torch.equal(part, rows)
    assert sent.traffic == {
        "all_gather": Part(1, 40),
        "all_reduce": Part(1, 56),
        "broadcast": Part(1, 56),
        "exchange": Part(1, 12),
    }
    assert sent.largest_gather == 40 and not dist.is_initialized()


def test_dpc_by_hand():
    line = scaled.count_subject(SMALL_DPC)
    net = create_encoder("resnet18_2d3d", **SMALL_DPC.net)
    channels = [m.num_features for m in net.modules() if isinstance(m, torch.nn.BatchNorm3d)]
    norm = line["sent"]["batch norm"]["all_reduce"]
    assert tuple(norm) == (4 * len(channels), 4 * 4 * sum(channels)), (
        "mean and spread, forward and backward"
    )
    places = 2 * 2 * 2 * 2  # clips, predicted blocks, a map of 2 x 2
    assert tuple(line["sent"]["rows"]["all_gather"]) == (1, 2 * places * net.dim), (
        "in half precision"
    )
    assert line["gathered"] == 2 * places * net.dim and line["kept"][2] == 0
    assert line["kept"][1] >= 4 * places * places, (
        "its own predictions against the rows of each other process"
    )
    a, b, c = line["kept"]
    assert a + 5 * b + 25 * c == pytest.approx(line["kept_at_5"], abs=3)


def test_a_payload_that_depends_on_the_others_has_no_formula():
    heads = {2: scaled.count_head(SMALL_DPC, 2), 3: scaled.count_head(SMALL_DPC, 3)}
    heads |= dict.fromkeys((4, 5), heads[2]._replace(traffic={"all_gather": Part(1, 1)}))
    with pytest.raises(AssertionError, match="among 4"):
        scaled.check_payload(SMALL_DPC, heads)


@pytest.mark.parametrize(
    "subject", [scaled.Subject("mae", "vit", 2, {"dec_dim": 16, "dec_heads": 2}, TINY), SMALL_DPC]
)
def test_encoder_and_the_rest_are_the_whole(subject):
    """Encoder and head, counted separately, save as many bytes as a real step of both."""
    objective = subject.build()
    batch = batches.build_batch(objective, subject.clips)
    batch["clips"] = batch["clips"].contiguous()
    whole = saved_bytes(lambda: objective(batch).total.backward())
    head = scaled.count_head(subject, 1, half=False)
    parts = head.saved + scaled.sum_activations(scaled.count_passes(subject, head, 1, half=False))
    assert parts == whole


def test_every_objective_is_counted_and_anchored():
    names, lines = set(registry.objectives.names()), study.read_lines()
    assert STUDIES["scaling"] is study.main
    for part, planned in (("counted", study.SUBJECTS), ("anchor", anchor.ANCHORS)):
        names_counted = [line["name"] for line in lines if line["part"] == part]
        assert names_counted == list(map(attrgetter("name"), planned))
        # What a step of `bridge` costs depends on the language model that the user names.
        assert set(map(attrgetter("objective"), planned)) == names - {"bridge"}


def test_the_page_is_made_from_the_file():
    text, lines = (ROOT / page.PAGE).read_text(), study.read_lines()
    tables = dict(MARKED.findall(text))
    assert tables == {name: make(lines) for name, make in page.TABLES.items()}
    prose = re.sub(r"(?m)^    .*$|`[^`]*`|\[[^\]]*\]\([^)]*\)", "", MARKED.sub("", text))
    stated = {estimates.ROOM / 1e9, estimates.SPEED / 1e12}
    stated |= {estimates.WITHIN / 1e9, estimates.BEYOND / 1e9, estimates.MESSAGE * 1e6}
    stated |= {estimates.NODE, *page.WORLDS, *scaled.FITTED, scaled.CHECKED, 1}
    view = workers.VIEWS.clips[0]
    stated |= {workers.QUALITY, view.frames, view.size, view.stride}
    numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?!\w)", prose)
    assert set(map(float, numbers)) <= stated, "a number that is typed by hand"
