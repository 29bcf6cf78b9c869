"""A linear map is the same number whichever library multiplies."""

import torch
from torch import nn

from ssvid.nn import linear as module
from ssvid.nn.linear import apply_linear, map_linear, uses_one_dnn


def test_both_libraries_give_one_map_and_inference_decides():
    torch.manual_seed(0)
    net = nn.Linear(512, 520)
    x = torch.randn(2, 9, 512)
    plain = net(x)
    assert torch.equal(apply_linear(net, x), plain), "torch's own product while gradients may flow"
    assert not uses_one_dnn(x, net.weight)
    with torch.inference_mode():
        assert uses_one_dnn(x, net.weight) and not uses_one_dnn(x, net.weight[:511])
        assert not uses_one_dnn(x.double(), net.weight.double())
        assert not uses_one_dnn(x[:0], net.weight)
        with torch.autocast("cpu", torch.bfloat16):
            assert apply_linear(net, x).dtype == torch.bfloat16
        mapped = apply_linear(net, x)
        assert type(mapped) is torch.Tensor and mapped.layout is torch.strided
        torch.testing.assert_close(mapped, plain.detach(), rtol=1e-5, atol=1e-5)
        bare = map_linear(x, net.weight)
        torch.testing.assert_close(bare + net.bias, mapped, rtol=1e-5, atol=1e-5)
        assert apply_linear(net, x[:0]).shape == (0, 9, 520)


def test_small_maps_stay_with_torch(monkeypatch):
    net, x = nn.Linear(8, 8), torch.randn(3, 8)
    with torch.inference_mode():
        assert torch.equal(apply_linear(net, x), net(x)) and not uses_one_dnn(x, net.weight)
        monkeypatch.setattr(module, "LARGE", 64)
        assert uses_one_dnn(x, net.weight)
