"""Maps of a sequence -> maps that remember: the convolutional GRU of DPC (arXiv:1909.04656) and MemDPC."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

Maps = Float[Tensor, "B T C h w"]
State = Float[Tensor, "L B D h w"]


class Cell(nn.Module):
    """One step. The update gate says how much is *new*: the other way round than torch.nn.GRU."""

    def __init__(self, ins: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.update, self.reset, self.out = (
            nn.Conv2d(ins + hidden, hidden, kernel, padding=kernel // 2) for _ in range(3)
        )

    def forward(
        self, x: Float[Tensor, "B C h w"], state: Float[Tensor, "B D h w"]
    ) -> Float[Tensor, "B D h w"]:
        both = torch.cat([x, state], dim=1)
        update, reset = self.update(both).sigmoid(), self.reset(both).sigmoid()
        new = self.out(torch.cat([x, state * reset], dim=1)).tanh()
        return torch.lerp(
            state, new.to(state.dtype), update.to(state.dtype)
        )  # under autocast they are of two kinds


class ConvGRU(nn.Module):
    """`dropout` falls on each new state, and what is left of it is what recurs."""

    def __init__(
        self,
        ins: int,
        hidden: int,
        *,
        kernel: int = 1,
        layers: int = 1,
        dropout: float = 0.1,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.cells = nn.ModuleList(
            Cell(ins if i == 0 else hidden, hidden, kernel) for i in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        for conv in (m for m in self.modules() if isinstance(m, nn.Conv2d)):
            orthogonal(conv, gain)

    def forward(
        self, x: Maps, state: State | None = None
    ) -> tuple[Float[Tensor, "B T D h w"], State]:
        """(the last layer's states, B T D h w; every layer's last state, L B D h w). No state: zeros."""
        if state is None:
            state = x.new_zeros(len(self.cells), len(x), self.hidden, *x.shape[3:])
        last = []
        for cell, now in zip(self.cells, state, strict=True):
            states = []
            for step in x.unbind(1):
                now = self.dropout(cell(step, now))
                states.append(now)
            x = torch.stack(states, dim=1)
            last.append(now)
        return x, torch.stack(last)


def orthogonal(conv: nn.Conv2d, gain: float = 1.0) -> nn.Conv2d:
    nn.init.orthogonal_(conv.weight, gain)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
