"""Features -> the coordinates in which a head is trained, fixed by the train split alone.

Three habits of real features would otherwise spoil a linear head:

- Some columns barely vary, such as those of a still background behind a video codec. Dividing by
  their std would lift their noise to the size of the signal, so no std counts as less than a
  share of the typical one.
- A few directions may hold nearly all variance. Their variance can be shrunk to that of the next
  direction, after which gradient descent learns the others as well.
- Clips may be few and features wide (S < D / 2). The coordinates are then the span of the train
  clips. Gradient descent from zero never leaves that span, so the heads are the same (up to
  rounding) and 30 000 columns cost what a few hundred do.

Features of more than `WHOLE` numbers, which may be float16 and memory-mapped, are standardised
while they are read, so memory does not grow with them.
"""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.probes.directions import find_directions

CHUNK = 4096  # rows read at once
WHOLE = 2**26  # numbers that are kept standardised in memory: 256 MB
# The least std of a column, as a share of the std where the variance lies: the mean of std^2,
# weighted by std^2. Unlike a median or a plain mean it stays where nearly all columns are a still
# background. Measured on 64 columns of signal beside noise of 1/100 (three seeds, 200 train clips;
# 85.7 without it): 85.2 with 5000 such columns, where a share of the plain mean has 36.3.
LEAST_STD = 0.1
# The share of a second version, which ridge learns where columns are held back: they may be quiet
# and still tell much, or others may be loud noise. It is not zero, because a column that never
# varies in train may do so in test.
FREE_STD = 1e-3


class Standardizer:
    """`shrunk`: the number of dominant directions whose variance is shrunk.

    `least_std`: share of the typical std below which no column's std counts.
    `takes_span`: False where products of clips alone are needed, which the span leaves as they are.
    """

    def __init__(
        self,
        train: Float[Tensor, "S D"],
        shrunk: int = 0,
        least_std: float = LEAST_STD,
        takes_span: bool = True,
    ) -> None:
        self.is_large = train.numel() > WHOLE
        self.mean = self.measure(train, lambda chunk: chunk)[1]
        self.vectors: Tensor | None = None  # D shrunk
        if shrunk:
            variance, vectors, _ = find_directions(train, shrunk + 1)
            self.vectors = vectors[:, :shrunk]
            self.excess = 1 - (variance[shrunk] / variance[:shrunk]).sqrt()  # of each direction
        std = self.measure(train, self.centre)[0]
        typical = (std.pow(4).sum() / std.square().sum().clamp(min=1e-12)).sqrt()
        least = least_std * typical
        self.holds_columns_back = bool((std < least).any())
        self.std = std.clamp(min=max(least.item(), 1e-6))
        # A train clip has a mean square length of 1, so one grid of rates serves every width.
        length = (std / self.std).square().sum().sqrt()
        self.std = self.std * (length if length > 0 else math.sqrt(len(std)))
        self.span: Tensor | None = None  # D S
        if takes_span and len(train) < train.shape[1] // 2:
            self.span = torch.linalg.qr(self(train).T).Q

    def measure(
        self, train: Float[Tensor, "S D"], change: Callable[[Tensor], Tensor]
    ) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
        """(std, mean) of each column of the changed rows."""
        if self.is_large:
            return measure_in_chunks(train, change)
        std, mean = torch.std_mean(change(train.float()), dim=0, correction=0)
        return std, mean

    def centre(self, feats: Float[Tensor, "S D"]) -> Float[Tensor, "S D"]:
        """Features less the mean of train, with the dominant directions shrunk."""
        x = feats.float() - self.mean
        if self.vectors is None:
            return x
        return x - (x @ self.vectors * self.excess) @ self.vectors.T

    def __call__(self, feats: Float[Tensor, "S D"]) -> Float[Tensor, "S K"]:
        x = self.centre(feats) / self.std
        return x if self.span is None else x @ self.span

    def wrap(self, feats: Float[Tensor, "S D"]) -> "Float[Tensor, 'S K'] | Rows":
        """Standardised features; where these would fill the memory, Rows."""
        if self.span is None and feats.numel() > WHOLE:
            return Rows(self, feats)
        return self(feats)


class Rows:
    """Features as they are stored, of which rows are standardised when they are read."""

    def __init__(self, standardizer: Standardizer, feats: Float[Tensor, "S D"]) -> None:
        self.standardizer, self.feats, self.shape = standardizer, feats, feats.shape

    def __len__(self) -> int:
        return len(self.feats)

    def __getitem__(self, rows: Int[Tensor, " B"] | slice) -> Float[Tensor, "B D"]:
        return self.standardizer(self.feats[rows])

    def split(self, size: int) -> Iterator[Float[Tensor, "B D"]]:
        return (self[start : start + size] for start in range(0, len(self), size))

    def __matmul__(self, w: Float[Tensor, "D Q"]) -> Float[Tensor, "S Q"]:
        return torch.cat([chunk @ w for chunk in self.split(CHUNK)])


def measure_in_chunks(
    x: Float[Tensor, "S D"], change: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """(std, mean), computed chunk by chunk in double precision around the first chunk's mean."""
    near = change(x[:CHUNK].float()).double().mean(0)
    first, second = torch.zeros_like(near), torch.zeros_like(near)
    for chunk in x.split(CHUNK):
        offset = change(chunk.float()).double() - near
        first += offset.sum(0)
        second += offset.square().sum(0)
    offset = first / len(x)
    return (second / len(x) - offset.square()).clamp(min=0).sqrt().float(), (near + offset).float()
