"""Which cell of a sweep is best, and what of damaged files is read. From made-up folders."""

import json
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.reports import sweep_choice, sweep_columns, sweep_page
from ssvid.errors import UserError
from tests.benchmarks.made import pick
from tests.benchmarks.sweeps import GRID, Axes, best_cells, make_page, put, read_choice, score
from tests.helpers import facts, tells


def test_val_chooses_and_never_test(tmp_path: Path):
    pairs = ((0.9, 0.5), (0.3, 0.6), (0.8, 0.55))
    names = put(tmp_path, {"lr": [1, 2, 3]}, [{"a": score(*pair)} for pair in pairs])
    assert best_cells(tmp_path) == [names[1]]
    text = " ".join(sweep_choice.explain_choice(*read_choice(tmp_path)))
    assert tells(text, "60.0", "30.0", "24.0", "35.0", "55.0")
    put(tmp_path / "none", {"lr": [1, 2]}, [{"a": score(0.9, None)}, {"a": score(0.3, None)}])
    assert report.report(tmp_path / "none")["best"] is None
    some = put(tmp_path / "some", {"lr": [1, 2]}, [{"a": score(0.9, None)}, {"a": score(0.3, 0.3)}])
    sweep, choice = read_choice(tmp_path / "some")
    (group,) = choice.groups
    assert pick(group.cells, "hash") == some[1:]
    assert len(sweep_choice.list_missing(sweep, choice, group)) == 1


def test_which_cell_of_the_suite_decides(tmp_path: Path):
    scores = [{"a": score(0.5, None), "b": score(0.5, 0.6), "c": score(0.5, 0.1)}]
    scores += [{"a": score(0.5, None), "b": score(0.5, 0.4), "c": score(0.5, 0.2)}]
    for named, decider, best in (
        (None, "b", 0),
        ("c", "c", 1),
        ("a", "a", None),
        ("gone", "gone", None),
    ):
        folder = tmp_path / str(named)
        names = put(folder, {"lr": [1, 2]}, scores, best=named)
        sweep, choice = read_choice(folder)
        assert best_cells(folder) == ([] if best is None else [names[best]])
        assert choice.decider == decider and bool(choice.reason) == (best is None)
        assert best is None or sweep.suite[0] == decider


def test_ties_go_to_the_first_of_the_sweep_and_are_named(tmp_path: Path):
    vals = (0.4, 0.7, 0.7, 0.7)
    scores = [{"a": score(0.1 * i, val)} for i, val in enumerate(vals)]
    names = put(tmp_path, {"lr": [9, 2, 3, 1]}, scores)
    _, choice = read_choice(tmp_path)
    assert best_cells(tmp_path) == [names[1]]
    assert pick(choice.ties, "name") == ["3", "1"]
    table = sweep_page.make_table(*read_choice(tmp_path))
    assert not any(pick(table.rows, "best"))  # none is better than the others
    axes: Axes = {"seed": [0, 1], "objective": ["mae", "dpc"]}
    names = put(tmp_path / "seeds", axes, [{"a": score(0.5, 0.5)}] * 4)
    # the first of its group is not the first to finish
    (tmp_path / "seeds" / "cells" / names[0] / "row.json").unlink()
    best = read_choice(tmp_path / "seeds")[1].best
    assert best is not None and best.name == "objective mae"


def test_over_seeds_the_mean_val_chooses(tmp_path: Path):
    """The single best val is of a group whose mean is worse."""
    axes: Axes = {"objective": ["mae", "dpc"], "seed": [0, 1]}
    names = put(tmp_path, axes, [{"a": score(0.5, val)} for val in (0.9, 0.3, 0.65, 0.75)])
    best = read_choice(tmp_path)[1].best
    assert best is not None and pick(best.cells, "hash") == names[2:]
    assert best.val == pytest.approx(0.7) and best.name == "objective dpc"
    assert sweep_choice.spread([0.65, 0.75]) == "70.0 +- 7.1"
    assert sweep_choice.spread([0.9, 0.3]) == "60.0 +- 42.4"
    (tmp_path / "cells" / names[3] / "row.json").unlink()
    (tmp_path / "cells" / names[1] / "row.json").unlink()
    best = read_choice(tmp_path)[1].best
    assert best is not None and (len(best.cells), best.planned) == (1, 2)


def test_cells_that_left_count_nowhere(tmp_path: Path):
    names = put(tmp_path, {"lr": [1, 2]}, [{"a": score(0.9, 0.9)}, {"a": score(0.3, 0.3)}])
    content = json.loads((tmp_path / "sweep.json").read_text())
    content["cells"][names[0]]["left"] = True
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    sweep, _ = read_choice(tmp_path)
    assert best_cells(tmp_path) == [names[1]]
    assert (len(sweep.cells), len(sweep.all_cells)) == (1, 2)
    assert len(sweep_columns.comma(sweep).splitlines()) == 2


def test_a_torn_list_of_cells_is_one_sentence(tmp_path: Path):
    for text in ("", "{", "[]", "null", "\x00", '{"cells": [1]}', '{"cells": {"a": 3}}'):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(UserError, match=facts("sweep.json")):
            report.report(tmp_path)


def test_a_torn_row_is_not_a_finished_cell(tmp_path: Path):
    names = put(tmp_path, {"lr": [1, 2]}, [{"a": score(0.9, 0.9)}, {"a": score(0.3, 0.3)}])
    for text in ("", '{"cell": "00', "[]", "null", "\xff", '{"cell": "another"}'):
        (tmp_path / "cells" / names[0] / "row.json").write_bytes(text.encode("latin-1"))
        sweep, _ = read_choice(tmp_path)
        assert (len(sweep.cells), len(sweep.finished)) == (2, 1)
        assert best_cells(tmp_path) == [names[1]]
        (fault,) = sweep.faults
        assert f"cells/{names[0]}/row.json" in fault
    assert fault in make_page(tmp_path).text


def test_scores_are_read_as_far_as_they_go(tmp_path: Path):
    damaged = (None, {}, 3, {"a": None}, {"a": {"test": None}}, {"a": {"test": float("nan")}})
    for i, scores in enumerate(damaged):
        put(tmp_path / str(i), GRID, [scores] * 8)
        sweep, choice = read_choice(tmp_path / str(i))
        assert len(sweep.finished) == 8 and choice.best is None and sweep.suite == []
    assert make_page(tmp_path / "0").tags["tr"] > 8
    half = {"test": 1, "interval": [0.1], "val": "x", "gain": {"difference": 0.1}}
    put(tmp_path / "half", {"lr": [1, 2]}, [{"a": half}] * 2)
    sweep, choice = read_choice(tmp_path / "half")
    read = sweep.finished[0].scores["a"]
    numbers = (read.test, read.interval, read.val, read.gain)
    assert numbers == (1.0, None, None, None) and choice.best is None
