"""Two rows of answers to the same clips -> their difference: its test, and the interval inverted.

The test is the sign flip over groups (Fisher 1935): if two rows are equally good, the difference of
each group is as likely to have one sign as the other. The p-value of a difference d is the share of
sign patterns whose total is at least as far from zero as the observed total, after d has been taken
from every clip. All d that are not rejected make the interval. For a pattern, these d lie between
the means of its two halves, the groups with either sign (Hartigan 1969). So the interval is read
off the sorted means of the halves, and test and interval cannot contradict each other.

What else is drawn at random (the weights of untrained twins, the seeds of pretraining, few labels)
adds a half-width by Student's t. Independent half-widths add like the legs of a right triangle
(Zou and Donner 2008). The numbers of several nets also differ because the test groups are few;
that part is taken off before it is added, since the groups' own half-width holds it, but the whole
is never narrower than Student's interval of the nets alone. The p-value is the smallest level whose
interval leaves out zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy.special import stdtrit
from torch import Tensor

from ssvid.randomness import uniform
from ssvid.statistics.groups import GroupSums, join_groups
from ssvid.statistics.scores import measure_variance

EXACT = 15  # groups of which all sign patterns are tried
PATTERNS = 2**14  # of more groups: drawn patterns, the observed one among them
BITS = 24  # signs that are read off one uniform number
POWER = 0.8
LEAST_LEVEL = 1e-12  # where the search for a p-value ends
ROUNDING = 1e-12  # means closer than this are the same


@dataclass(frozen=True)
class Spread:
    """How far numbers of nets, or of draws of labels, lie apart.

    `variance`: of one of them; `noise`: the part of it that the choice of the test groups explains;
    `freedom`: the degrees of freedom with which it was estimated; `count`: how many the number of
    the row is the mean of.
    """

    variance: float = 0.0
    noise: float = 0.0
    freedom: int = 0
    count: int = 0

    @classmethod
    def measure(cls, numbers: Sequence[float], noise: float = 0.0) -> "Spread":
        if len(numbers) < 2:
            return cls(count=len(numbers))
        variance = torch.tensor(numbers, dtype=torch.float64).var().item()
        return cls(variance, min(noise, variance), len(numbers) - 1, len(numbers))

    def make_leg(self, share: float) -> "Leg":
        """`share`: of the variance of one number, by which the difference varies."""
        std = math.sqrt(share * (self.variance - self.noise))
        return Leg(std, math.sqrt(share * self.variance), self.freedom)


class Leg(NamedTuple):
    """A source of chance beside the test groups."""

    std: float  # of the difference, by this source alone
    std_with_noise: float  # by this source and the test groups together
    freedom: int


def compare_rows(
    ours: GroupSums,
    theirs: GroupSums,
    *,
    our_nets: Spread = Spread(),
    their_nets: Spread = Spread(),
    paired: Sequence[Spread] = (),
    largest: float = 1.0,
) -> "Difference":
    """The difference of two rows, whose groups are the same.

    `our_nets`, `their_nets`: of rows that are means over independent nets; a count of one is a
    single net, and of zero no net at all. A single net beside several is taken to be drawn as
    widely as they are. `paired`: of differences of numbers that belong together, such as those of
    the same draw of labels. `largest`: that the difference can be.
    """
    legs = []
    for spread in paired:
        if spread.freedom:
            legs.append(spread.make_leg(1 / spread.count))
    both = (our_nets, their_nets)
    for spread, other in (both, both[::-1]):
        if spread.freedom:
            legs.append(spread.make_leg(1 / spread.count + (other.count == 1)))
    return Difference(GroupSums(ours.value - theirs.value, ours.weight), tuple(legs), largest)


class Difference:
    """A difference of two rows, with all that may be asked of it. `level`: such as 0.05."""

    def __init__(self, sums: GroupSums, legs: tuple[Leg, ...] = (), largest: float = 1.0) -> None:
        """`largest`: that the difference can be; 2 for a difference of differences."""
        self.estimate, self.groups = sums.mean, len(sums.value)
        self.sums, self.legs, self.largest = join_groups(sums), legs, largest

    def find_interval(self, level: float) -> tuple[float, float]:
        """The differences that are not rejected at this level."""
        if not 0 < level < 1:
            return -math.inf, math.inf
        below, above = self.find_half_widths(level)
        return max(self.estimate - below, -self.largest), min(self.estimate + above, self.largest)

    def find_half_widths(self, level: float) -> tuple[float, float]:
        """(below, above) the estimate; infinite where the groups are too few for the level."""
        lows, highs = self._means_of_halves
        rank = min(math.floor(level * len(lows) + ROUNDING), len(lows) - 1)
        low, high = lows[rank].item(), highs[-1 - rank].item()
        least = self._find_least_width(level)
        below, above = max(self.estimate - low, least), max(high - self.estimate, least)
        for leg in self.legs:
            t = stdtrit(leg.freedom, 1 - level / 2).item()
            least = max(least, t * leg.std_with_noise)
            below, above = math.hypot(below, t * leg.std), math.hypot(above, t * leg.std)
        return max(below, least), max(above, least)

    @cached_property
    def p(self) -> float:
        """The smallest level at which zero is rejected; 1 where it never is."""
        low, high = math.log(LEAST_LEVEL), 0.0
        if not self._rejects_zero(math.exp(high) - LEAST_LEVEL):
            return 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if self._rejects_zero(math.exp(middle)):
                high = middle
            else:
                low = middle
        return math.exp(high)

    def _rejects_zero(self, level: float) -> bool:
        below, above = self.find_half_widths(level)
        return self.estimate - below > 0 or self.estimate + above < 0

    def find_least_gain(self, level: float) -> float | None:
        """The gain that is shown at this level in 80 % of such tests.

        None where none can be, because the groups are too few.
        """
        half = sum(self.find_half_widths(level)) / 2
        if not math.isfinite(half):
            return None
        variance, freedom = measure_variance(self.sums), self.groups - 1
        for leg in self.legs:
            variance += leg.std**2
        return half + math.sqrt(variance) * stdtrit(freedom, POWER).item()

    def _find_least_width(self, level: float) -> float:
        """Of answers that are right or wrong: so many clips may differ though none was seen to.

        It is the count of rare events whose absence has the probability level / 2 (Poisson).
        """
        value, weight = self.sums
        if not torch.equal(value, value.round()):
            return 0.0
        return -math.log(level / 2) / weight.sum().item()

    @cached_property
    def _means_of_halves(self) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"]]:
        """(lower, higher) mean of the two halves of each sign pattern, each list sorted.

        The pattern without a flip has an empty half, whose mean may be anything.
        """
        value, weight = self.sums
        chosen = _draw_patterns(len(value))
        value_of_half, weight_of_half = chosen @ value, chosen @ weight
        first = value_of_half / weight_of_half
        second = (value.sum() - value_of_half) / (weight.sum() - weight_of_half)
        first, second = _snap(first), _snap(second)
        lows, highs = torch.minimum(first, second), torch.maximum(first, second)
        empty = lows.isnan()
        lows, highs = lows.masked_fill(empty, -math.inf), highs.masked_fill(empty, math.inf)
        return lows.sort().values, highs.sort().values


def _snap(means: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """Rounded, so that a mean that is zero but for rounding counts as zero."""
    return (means / ROUNDING).round() * ROUNDING


def find_least_p(groups: int) -> float:
    """The smallest p that so many groups can give."""
    return 1 / min(2 ** (groups - 1), PATTERNS) if groups <= EXACT else 1 / PATTERNS


@lru_cache(maxsize=2)
def _draw_patterns(groups: int) -> Float[Tensor, "P G"]:
    """Which groups keep their sign in each pattern; nothing is flipped in the first.

    A pattern and its opposite say the same, so the first group always keeps its sign.
    """
    if groups <= EXACT:
        numbers = torch.arange(2 ** (groups - 1))[:, None]
        flipped = numbers >> torch.arange(groups - 1) & 1
        keeps = torch.cat([torch.ones_like(numbers), 1 - flipped], dim=1)
        return keeps.double()
    rows, columns = torch.arange(PATTERNS), math.ceil(groups / BITS)
    numbers = (uniform(0, "sign_flip", 0, rows, columns) * 2**BITS).long()
    bits = numbers[..., None] >> torch.arange(BITS) & 1  # P columns BITS
    keeps = bits.flatten(1)[:, :groups].double()
    keeps[0] = 1
    return keeps
