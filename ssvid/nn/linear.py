"""x, weight, bias -> their linear map, by the library that is faster for it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGE = 2**18  # numbers of a weight matrix, from which on copies of x cost less than they gain


def apply_linear(linear: nn.Linear, x: Tensor) -> Tensor:
    return map_linear(x, linear.weight, linear.bias)


def map_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`. In inference on a CPU oneDNN multiplies large float32 matrices.

    For a pass of xclip_b32 on two cores of an AMD EPYC that took 0.88 of the CPU-seconds of torch's
    own product (MKL). For training the gain was lost in backward, so `torch.inference_mode`
    decides.
    """
    if uses_one_dnn(x, weight):
        return F.linear(x.to_mkldnn(), weight, bias).to_dense()
    return F.linear(x, weight, bias)


def uses_one_dnn(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()  # first: a graph cannot ask for the mode of inference
        and torch.is_inference_mode_enabled()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and weight.numel() >= LARGE
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )
