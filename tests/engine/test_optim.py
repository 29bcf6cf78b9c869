"""The optimisers: what each does to a weight, and that each goes on from its state."""

import copy

import pytest
import torch
from torch import nn

from ssvid.engine import optim


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        optim.set_rates(optimizer, 0.01 * (step + 1), freeze=False)
        optimizer.zero_grad()
        net(torch.ones(2, 6)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "adafactor"])
def test_an_optimiser_goes_on_from_its_state(name: optim.Name):
    torch.manual_seed(0)
    net = nn.Linear(6, 4)
    first = optim.make(name, net, 0.05, (0.9, 0.95), {"bias": 0.5})
    train(net, first, 2)
    twin = copy.deepcopy(net)
    second = optim.make(name, twin, 0.05, (0.9, 0.95), {"bias": 0.5})
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for module, optimizer in ((net, first), (twin, second)):
        train(module, optimizer, 2)
    assert torch.equal(net.weight, twin.weight) and torch.equal(net.bias, twin.bias)


def test_a_step_of_adafactor_is_relative_to_the_weights():
    """Without decay, the first step of every number has the size rate * RMS of its tensor."""
    net = nn.Linear(6, 4, bias=False)
    nn.init.constant_(net.weight, 0.5)
    optimizer = optim.make("adafactor", net, 0.0, (0.9, 0.95), {})
    train(net, optimizer, 1)
    torch.testing.assert_close(net.weight, torch.full((4, 6), 0.5 - 0.01 * 0.5))


def test_adafactor_decays_matrices_alone():
    net = nn.Linear(6, 4)
    optimizer = optim.make("adafactor", net, 0.3, (0.9, 0.95), {})
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
