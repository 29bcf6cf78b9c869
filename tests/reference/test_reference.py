"""Every case of published numbers under SSVID_REFERENCE, by whichever checker recognises its
content.
"""

import pytest

from tests.reference import (
    check_blip,
    check_classifier,
    check_coclr,
    check_dpc,
    check_infonce,
    check_mae,
    check_memdpc,
    check_milnce,
    check_retrieval,
    check_s3d,
    check_tan,
    check_videoprism,
    check_xclip,
)
from tests.reference.cases import ROOT, Case, discover

CHECKERS = (
    check_blip,
    check_classifier,
    check_coclr,
    check_dpc,
    check_infonce,
    check_mae,
    check_memdpc,
    check_milnce,
    check_retrieval,
    check_s3d,
    check_tan,
    check_videoprism,
    check_xclip,
)


def test_the_cases_are_there():
    if not ROOT.is_dir():
        pytest.skip(f"no reference cases at {ROOT}: set SSVID_REFERENCE")
    assert CASES, f"{ROOT} holds no case"


# Whole networks, which take more than 2 CPU-seconds.
LARGE = {"coclr/full_coclr.json", "coclr/full_infonce.json", "dpc/dpc_full.json", "milnce"}
LARGE |= {"blip", "memdpc/memdpc_eval.json", "memdpc/memdpc_train_nodrop.json"}
CASES = [
    pytest.param(c, marks=pytest.mark.slow if c.name in LARGE else (), id=c.name)
    for c in discover()
]


@pytest.mark.parametrize("case", CASES)
def test_case(case: Case):
    checkers = [c for c in CHECKERS if c.recognises(case)]
    if not checkers and case.unbuilt:
        pytest.skip("this method is not built yet")
    assert len(checkers) == 1, f"{case.name}: recognised by {len(checkers)} checkers"
    checkers[0].check(case)
