"""A data set or a mixture -> what is in it, what is in it twice, and what it shares with tests.

python -m ssvid.data.corpus --data NAME --data.root ROOT
python -m ssvid.data.corpus --config RECIPE --benchmarks ucf101=ROOT --out CLEAN.csv

Only the train split is examined, because pretraining reads no other. Of several copies the first
one stays, and a clip that a test shows goes.
"""

import csv
import io
import os
import statistics
from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from ssvid.data import fingerprints
from ssvid.data.captions import list_captions
from ssvid.data.clean_list import check_listable, write_clean_list
from ssvid.data.datasets.mixture import build_data
from ssvid.data.fingerprints import Fingerprint
from ssvid.data.leaks import list_copies, list_leaks
from ssvid.data.manifest import Manifest
from ssvid.data.preprocess.pool import run_all
from ssvid.errors import UserError, check_range
from ssvid.files import write_text_whole
from ssvid.log import log
from ssvid.registry import datasets

COLUMNS = ("kind", "clip", "source", "twin", "where", "share")


class Twin(NamedTuple):
    """A clip of the corpus that is shown by another clip as well."""

    # bytes, near, path or name: how it was recognised; scene: near, but a cut of the same film
    kind: str
    row: int  # of the train split
    path: str  # the other clip
    where: str  # where the other clip is: corpus, or the benchmark as the user named it
    share: float = 1.0  # of the frames of one clip that are in the other


def describe_corpus(
    data: Manifest,  # a data set, or a mixture
    *,
    # NAME=ROOT of a data set whose test split is compared with the corpus; or a csv of clips
    benchmarks: list[str] | None = None,
    near: bool = True,  # decode frames of every clip to find copies in another encoding or size
    pairs: str | None = None,  # csv file for the list of all clips that are there twice
    out: str | None = None,  # csv file for the clips without those copies, which --data csv takes
    workers: int = 0,  # processes; 0: one for each CPU
) -> dict[str, Any]:
    """Tell what a corpus holds, by source and cleanliness, and find copies in it and in tests."""
    check_range(0, 1_000, workers=workers)
    train = data.split("train")
    if not len(train):
        raise UserError(f"{data.title} has no clips in the train split, the only one that is read.")
    tests = open_benchmarks(benchmarks or [])
    for file, flag in ((pairs, "pairs"), (out, "out")):
        check_new(file, flag)
    if out is not None:
        check_listable(data)
    workers = workers or len(os.sched_getaffinity(0))
    twins = find_same_files(train, tests)
    prints: dict[int, Fingerprint] = {}
    unreadable = 0
    if near:
        others = set(range(len(train))).difference(list_rows(twins))
        prints = read_fingerprints(train, others, workers, "corpus")
        unreadable = len(list(filter(attrgetter("why"), prints.values())))
        twins += find_near(train, list(prints.values()), tests, workers)
    removed_rows = list_rows(twins)
    result: dict[str, Any] = describe_train(data, train, prints)
    result["twins"] = count_twins(twins, tests)
    result |= {"removable": len(removed_rows), "unreadable": unreadable}
    if pairs is not None:
        write_pairs(Path(pairs), train, twins)
        result["pairs"] = pairs
    if out is not None:
        write_clean_list(Path(out), data, train, removed_rows, prints)
        result["out"] = out
    log.info(format_corpus(result))
    return result


def open_benchmarks(named: Sequence[str]) -> dict[str, Manifest]:
    """The test split of each benchmark, by the text that names it."""
    tests: dict[str, Manifest] = {}
    for text in named:
        name, equals, root = text.partition("=")
        if not equals:
            name, root = "csv", text
        if text in tests:
            raise UserError(f"--benchmarks {text} stands twice: give it once.")
        if not root or (not equals and not text.endswith(".csv")):
            raise UserError(
                f"--benchmarks {text} is no NAME=ROOT: NAME is a data set "
                f"({', '.join(datasets.names())}), ROOT what its --data.root is; or give a csv."
            )
        test = build_data(f"--benchmarks {text}", {"name": name, "root": root}).split("test")
        if not len(test):
            raise UserError(f"--benchmarks {text} has no clips in the test split.")
        tests[text] = test
    return tests


def check_new(file: str | None, flag: str) -> None:
    """Raise a UserError if a file exists already, or its folder does not."""
    if file is None:
        return
    if Path(file).exists():
        raise UserError(f"--{flag} {file} exists: name a new file.")
    if not Path(file).absolute().parent.is_dir():
        raise UserError(f"--{flag} {file} lies in no folder that exists: make it first.")


def list_rows(twins: Sequence[Twin]) -> list[int]:
    """The rows of the train split that are there twice or in a test, in order."""
    copies = (twin for twin in twins if twin.kind != "scene")
    return sorted(set(map(attrgetter("row"), copies)))


def find_same_files(train: Manifest, tests: dict[str, Manifest]) -> list[Twin]:
    """Copies byte by byte, and clips of a test by its path, its video id or its bytes."""
    twins = []
    for row, first in list_copies(train):
        twins.append(Twin("bytes", row, str(train.path(first)), "corpus"))
    for name, test in tests.items():
        for leak in list_leaks(train, test):
            kind = "bytes" if leak.why == "content" else leak.why
            twins.append(Twin(kind, leak.row, str(test.path(leak.test_row)), name))
    return twins


def read_fingerprints(
    data: Manifest, rows: Sequence[int] | set[int], workers: int, title: str
) -> dict[int, Fingerprint]:
    """The fingerprint of each of these rows, with a progress bar."""
    clips = fingerprints.list_clips(data, sorted(rows))
    prints = run_all(fingerprints.take_fingerprint, clips, workers, title)
    print_of_row: dict[int, Fingerprint] = {}
    for fingerprint in sorted(prints, key=attrgetter("row")):
        print_of_row[fingerprint.row] = fingerprint
        if fingerprint.why:
            log.info(f"{data.path(fingerprint.row)} cannot be compared: {fingerprint.why}.")
    return print_of_row


def find_near(
    train: Manifest, prints: list[Fingerprint], tests: dict[str, Manifest], workers: int
) -> list[Twin]:
    """Clips that look like an earlier clip of the corpus that stays, or like one of a test.

    Clips of one group that look alike are cuts of one film and no copies.
    """
    twins: list[Twin] = []
    for name, test in tests.items():
        others = list(read_fingerprints(test, range(len(test)), workers, name).values())
        for pair in fingerprints.compare(prints, others):
            path = str(test.path(others[pair.second].row))
            twins.append(Twin("near", prints[pair.first].row, path, name, pair.share))
    removed_rows = set(list_rows(twins))
    pairs = fingerprints.compare(prints)
    for pair in sorted(pairs, key=attrgetter("second", "first")):
        first, row = prints[pair.first].row, prints[pair.second].row
        path = str(train.path(first))
        if train.groups[first] == train.groups[row]:
            twins.append(Twin("scene", row, path, "corpus", pair.share))
        elif first not in removed_rows:
            twins.append(Twin("near", row, path, "corpus", pair.share))
            removed_rows.add(row)
    return twins


def describe_train(
    data: Manifest, train: Manifest, prints: dict[int, Fingerprint]
) -> dict[str, Any]:
    """The numbers of the corpus: of all, by source, and clips by cleanliness."""
    splits = Counter(row.split for row in data.rows)
    result: dict[str, Any] = {"clips": len(train), "splits": dict(splits)}
    result |= describe_rows(train, range(len(train)), prints)
    if data.mixture is None:
        return result
    total, sources, by_cleanliness = 0.0, {}, Counter[str]()
    for part in data.mixture.parts:
        total += part.weight
    for part in data.mixture.parts:
        rows = [i for i, row in enumerate(train.rows) if row.source == part.name]
        word = part.cleanliness or "not stated"
        by_cleanliness[word] += len(rows)
        stated = {"cleanliness": word, "share_of_draws": part.weight / total}
        sources[part.name] = {**stated, **describe_rows(train, rows, prints)}
    return {**result, "sources": sources, "cleanliness": dict(by_cleanliness)}


def describe_rows(
    train: Manifest, rows: Sequence[int], prints: dict[int, Fingerprint]
) -> dict[str, Any]:
    """The numbers of some clips: hours, labels and captions."""
    seconds, words, n_captioned, n_labelled = [], [], 0, 0
    for i in rows:
        row = train.rows[i]
        length = row.duration or (prints[i].seconds if i in prints else 0.0)
        if length:
            seconds.append(length)
        captions = list_captions(row)
        n_captioned += bool(captions)
        n_labelled += bool(row.classes)
        for caption in captions:
            words.append(len(caption.split()))
    numbers: dict[str, Any] = {"clips": len(rows), "labelled": n_labelled}
    # Clips whose length nobody stated and no frame was read of are left out of the hours.
    numbers |= {"hours": sum(seconds) / 3600, "clips_of_known_length": len(seconds)}
    numbers |= {"captioned": n_captioned / len(rows) if rows else 0.0, "captions": len(words)}
    if words:
        lengths = {"mean": statistics.fmean(words), "median": statistics.median(words)}
        numbers["caption_words"] = {**lengths, "most": max(words)}
    return numbers


def count_twins(twins: Sequence[Twin], tests: dict[str, Manifest]) -> dict[str, dict[str, int]]:
    """Of the corpus itself and of each benchmark: clips by how they were recognised."""
    counts: dict[str, dict[str, int]] = {}
    for name in ("corpus", *tests):
        rows_of_kind: dict[str, set[int]] = {}
        for twin in twins:
            if twin.where == name:
                rows_of_kind.setdefault(twin.kind, set()).add(twin.row)
        counts[name] = {kind: len(rows) for kind, rows in rows_of_kind.items()}
    return counts


def write_pairs(file: Path, train: Manifest, twins: Sequence[Twin]) -> None:
    """A csv with a line for each clip and a clip that shows the same."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for twin in sorted(twins, key=attrgetter("row", "where")):
        clip, source = str(train.path(twin.row)), train.rows[twin.row].source
        writer.writerow([twin.kind, clip, source, twin.path, twin.where, f"{twin.share:.3f}"])
    write_text_whole(file, text.getvalue())


def format_corpus(result: dict[str, Any]) -> str:
    """The numbers in lines for people."""
    lines = []
    for name, numbers in {**result.get("sources", {}), "all": result}.items():
        words = numbers.get("caption_words")
        captions = f"{numbers['captioned']:.0%} with captions"
        if words:
            captions += f" (of {words['median']:g} words, at most {words['most']})"
        cleanliness = numbers.get("cleanliness")
        stated = f", {cleanliness}" if isinstance(cleanliness, str) else ""
        hours = f"{numbers['hours']:.2f} h of {numbers['clips_of_known_length']} clips"
        lines.append(f"{name}: {numbers['clips']} clips{stated}, {hours}, {captions}")
    for name, counts in result["twins"].items():
        kinds = ", ".join(f"{count} by {kind}" for kind, count in counts.items()) or "none"
        where = "twice in the corpus" if name == "corpus" else f"also in the test of {name}"
        lines.append(f"{where}: {kinds}")
    if result["unreadable"]:
        lines.append(f"{result['unreadable']} clips cannot be read, so they were not compared")
    return "\n".join(lines)


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("corpus")
