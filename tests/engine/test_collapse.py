"""The monitors of a collapse."""

import torch
from lightly.utils.debug import std_of_l2_normalized

from ssvid.engine.collapse import effective_rank, std_of_units


def test_spread_is_lightlys_and_a_collapse_has_none():
    features = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(std_of_units(features), std_of_l2_normalized(features))
    alike = features[:1].expand(16, 8)
    assert std_of_units(alike) < 1e-6 and effective_rank(alike) < 1.01 < effective_rank(features)
