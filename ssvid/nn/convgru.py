"""Maps of a sequence -> states with memory: the convolutional GRU of DPC and MemDPC.

DPC is arXiv:1909.04656.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

Maps = Float[Tensor, "B T C h w"]
State = Float[Tensor, "L B D h w"]


class Cell(nn.Module):
    """One step. The update gate is the fraction that is *new*, unlike that of torch.nn.GRU."""

    def __init__(self, ins: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.update, self.reset, self.out = (
            nn.Conv2d(ins + hidden, hidden, kernel, padding=kernel // 2) for _ in range(3)
        )

    def forward(
        self, x: Float[Tensor, "B C h w"], state: Float[Tensor, "B D h w"]
    ) -> Float[Tensor, "B D h w"]:
        joined = torch.cat([x, state], dim=1)
        update, reset = self.update(joined).sigmoid(), self.reset(joined).sigmoid()
        new = self.out(torch.cat([x, state * reset], dim=1)).tanh()
        # Under autocast the types differ.
        return torch.lerp(state, new.to(state.dtype), update.to(state.dtype))


class ConvGRU(nn.Module):
    """`dropout` is applied to each new state, and the next step takes the result."""

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
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init_orthogonal(module, gain)

    def forward(
        self, x: Maps, state: State | None = None
    ) -> tuple[Float[Tensor, "B T D h w"], State]:
        """All states of the last layer, and the last state of every layer.

        `state`: the first state of every layer; None: zeros.
        """
        if state is None:
            state = x.new_zeros(len(self.cells), len(x), self.hidden, *x.shape[3:])
        last = []
        for cell, cell_state in zip(self.cells, state, strict=True):
            states = []
            for step in x.unbind(1):
                cell_state = self.dropout(cell(step, cell_state))
                states.append(cell_state)
            x = torch.stack(states, dim=1)
            last.append(cell_state)
        return x, torch.stack(last)


def init_orthogonal(conv: nn.Conv2d, gain: float = 1.0) -> nn.Conv2d:
    nn.init.orthogonal_(conv.weight, gain)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
