"""Frozen -> Frozen: several splits one behind the other."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from ssvid.shapes import Frozen


def join_splits(splits: Sequence[Frozen]) -> Frozen:
    """The rows of all splits, which have the same poolings. A single split is not copied."""
    if len(splits) == 1:
        return splits[0]
    tables: dict[str, list[Tensor]] = defaultdict(list)
    labels: list[Tensor] = []
    groups: list[str] = []
    for frozen in splits:
        labels.append(frozen.labels)
        groups += frozen.groups
        for pooling in splits[0].feats:
            tables[pooling].append(frozen.feats[pooling])
    feats = {pooling: torch.cat(of_splits) for pooling, of_splits in tables.items()}
    return Frozen(feats, torch.cat(labels), groups)
