import torch

from benchmarks.speed.cases import CASES, decode
from benchmarks.speed.pairs import Case, compare, peak


def work(n):
    return lambda: [torch.randn(200, 200) @ torch.randn(200, 200) for _ in range(n)][0]


def test_the_ratio_is_that_of_the_work():
    got = compare("x", Case(ours=work(20), theirs=work(200)), pairs=3)
    assert 0.02 < got["ratio"] < 0.5
    assert {"case", "ours", "theirs", "ratio", "unit", "memory_ratio"} <= set(got)


def test_peak_counts_what_is_held_at_once():
    big = peak(lambda: torch.zeros(1000, 1000).sum())
    small = peak(lambda: [torch.zeros(100, 1000).sum() for _ in range(10)])
    assert 4_000_000 <= big < 4_100_000 and 400_000 <= small < 600_000


def test_decode_reads_what_the_plain_way_reads():
    case = decode()
    ours, theirs = case.ours(), case.theirs()
    case.close()
    assert torch.equal(ours, theirs.permute(0, 3, 1, 2))
    assert set(CASES) >= {"probe", "decode"}
