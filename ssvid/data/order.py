"""Positions of the stream -> (epoch, row) of each sample.

This is the only file that says which clip comes when. Nothing is drawn but from coordinates, so the
position alone gives the sample: a run that resumes goes on with the same ones, and n processes have
those of one.
"""

from collections.abc import Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor

from ssvid.randomness import permutation, uniform

Key = tuple[int, int]  # epoch, row
COUNTED = 1 << 20  # draws that are counted at once


class Walk:
    """A walk through the samples of one data set or of several.

    Draw d covers `unit` positions, which are all of one data set. It is drawn by weight from (seed,
    d). The k-th sample that is drawn of a data set of n is row `permutation(epoch)[k % n]` of its
    epoch `k // n`, so each data set walks through its own epochs.
    """

    def __init__(
        self,
        members: Sequence[Sequence[int]],  # of each data set, the numbers of its samples
        weights: Sequence[float],
        seed: int,
        unit: int = 1,
    ) -> None:
        self.members, self.seed, self.unit = members, seed, unit
        shares = torch.tensor(weights, dtype=torch.float64)
        self.limits = (shares / shares.sum()).cumsum(0)
        self.n_counted = 0  # first draws, of which `counts` says how many fell on each data set
        self.counts = [0] * len(members)
        self.order = lru_cache(maxsize=2 * len(members))(partial(permutation, seed))

    def list_keys(self, positions: range) -> list[Key]:
        """The samples at consecutive positions."""
        first = positions.start // self.unit
        drawn = self.draw(first, (positions.stop - 1) // self.unit + 1).tolist()
        counts = self.count_before(first)
        keys, newest = [], -1
        for position in positions:
            number, offset = divmod(position, self.unit)
            data_set = drawn[number - first]
            if number != newest:
                counts[data_set] += 1
                newest = number
            keys.append(self.find_key(data_set, (counts[data_set] - 1) * self.unit + offset))
        return keys

    def find_key(self, data_set: int, k: int) -> Key:
        """The k-th sample that is drawn of a data set."""
        rows = self.members[data_set]
        epoch, offset = divmod(k, len(rows))
        return epoch, int(rows[int(self.order(epoch, len(rows), data_set)[offset])])

    def draw(self, start: int, stop: int) -> Tensor:
        """int64: the data set of each of these draws."""
        if len(self.members) == 1:
            return torch.zeros(stop - start, dtype=torch.int64)
        u = uniform(self.seed, "source", 0, torch.arange(start, stop), 1)[:, 0]
        # The last limit may be rounded to less than 1.
        return torch.searchsorted(self.limits, u, right=True).clamp(max=len(self.members) - 1)

    def count_before(self, number: int) -> list[int]:
        """How many of the draws before this one fell on each data set."""
        if len(self.members) == 1:
            return [number]
        if number < self.n_counted:  # another pass begins
            self.n_counted, self.counts = 0, [0] * len(self.members)
        while self.n_counted < number:
            stop = min(number, self.n_counted + COUNTED)
            drawn = self.draw(self.n_counted, stop).bincount(minlength=len(self.members))
            for data_set, count in enumerate(drawn.tolist()):
                self.counts[data_set] += count
            self.n_counted = stop
        return list(self.counts)
