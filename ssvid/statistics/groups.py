"""Answers of clips -> what each group adds to the number."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssvid.randomness import permutation

TOO_FEW_GROUPS = (
    6  # with so many groups or fewer, nothing is shown once Holm's rule has been applied
)
FEW_GROUPS, FEW_ERRORS = 20, 5  # below them the interval of a score is "wide, few sources"
MOST_BLOCKS = 512  # of groups; more are joined
# Weight of each group in each of W draws -> the metric of each draw.
Measure = Callable[[Float[Tensor, "W G"]], Float[Tensor, " W"]]
# Of each clip: right or wrong, or the fraction of its answers that is right.
Correct = Bool[Tensor, " S"] | Float[Tensor, " S"]


class GroupSums(NamedTuple):
    """A number that is the total value over the total weight, split by group.

    For an accuracy they are the right answers and the clips of each group.
    """

    value: Float[Tensor, " G"]
    weight: Float[Tensor, " G"]

    @property
    def mean(self) -> float:
        return (self.value.sum() / self.weight.sum()).item()


def sum_by_group(values: Correct, groups: list[str]) -> GroupSums:
    """(sum of the values, number of clips) of each group; groups are sorted by name."""
    index = torch.tensor(index_groups(groups))
    zeros = torch.zeros(len(set(groups)), dtype=torch.float64)
    values = values.double()
    return GroupSums(
        zeros.index_add(0, index, values), zeros.index_add(0, index, torch.ones_like(values))
    )


def index_groups(groups: list[str]) -> list[int]:
    """The index of each clip's group among the sorted names of all groups."""
    names = {name: i for i, name in enumerate(sorted(set(groups)))}
    return [names[name] for name in groups]


def join_groups(sums: GroupSums) -> GroupSums:
    """At most MOST_BLOCKS blocks of groups, drawn at random once and for all.

    Blocks are as independent as groups are, so tests over them keep their level, and their cost
    does not grow with the number of groups.
    """
    count = len(sums.value)
    if count <= MOST_BLOCKS:
        return sums
    block = permutation(0, 0, count) % MOST_BLOCKS
    zeros = torch.zeros(MOST_BLOCKS, dtype=torch.float64)
    return GroupSums(zeros.index_add(0, block, sums.value), zeros.index_add(0, block, sums.weight))


def take_jackknife(measure: Measure, groups: int) -> Float[Tensor, " G"]:
    """The pseudo-value of each group for a metric that is no average, such as average precision.

    G m - (G - 1) m_g, where m_g is the metric without group g (Tukey 1958), shifted so that their
    mean is the metric m itself. They stand for the groups in every test and interval. No group is
    counted twice, unlike in a bootstrap, which lifts an average precision. Of more than MOST_BLOCKS
    groups whole blocks are left out, and the groups of a block share its pseudo-value. Where the
    metric is not defined without some group, which holds the only positives, it is taken with all.
    """
    blocks = min(groups, MOST_BLOCKS)
    if groups > MOST_BLOCKS:
        block = permutation(0, 0, groups) % MOST_BLOCKS
    else:
        block = torch.arange(groups)
    whole = measure(torch.ones(1, groups, dtype=torch.float64))
    without = torch.ones(blocks, groups, dtype=torch.float64)
    without[block, torch.arange(groups)] = 0
    left_out = measure(without)
    left_out = torch.where(left_out.isnan(), whole, left_out)
    pseudo_values = ((1 - blocks) * left_out)[block]
    return pseudo_values - pseudo_values.mean() + whole


def are_few_sources(sums: GroupSums) -> bool:
    """Whether an interval of this score rests on few sources.

    Either there are few groups, or few of them hold an error, or few a right answer.
    """
    share = sums.value / sums.weight
    with_errors, with_hits = int((share < 1).sum()), int((share > 0).sum())
    return len(share) < FEW_GROUPS or min(with_errors, with_hits) < FEW_ERRORS
