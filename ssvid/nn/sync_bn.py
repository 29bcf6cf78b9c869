"""Batch norm over the clips of all processes, on any backend.

SyncBatchNorm of torch refuses the CPU.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """Batch norm of torch on the global batch.

    Every process must bring the same number of values. There are two passes: mean, then variance.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # any number of axes behind the channels

    def forward(self, input: Tensor) -> Tensor:
        is_single = not dist.is_initialized() or dist.get_world_size() == 1
        if is_single or (not self.training and self.running_mean is not None):
            return super().forward(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        axes, shape = [a for a in range(x.ndim) if a != 1], (1, -1, *[1] * (x.ndim - 2))
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = all_reduce(x.sum(axes)) / count  # C
        centred = x - mean.view(shape)
        var = all_reduce(centred.square().sum(axes)) / count
        if self.training and self.running_mean is not None:
            self._update_statistics(mean.detach(), var.detach() * count / (count - 1))
        out = centred * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            out = torch.addcmul(self.bias.view(shape), out, self.weight.view(shape))
        return out.to(input.dtype)

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, var: Tensor) -> None:
        assert (
            self.running_mean is not None
            and self.running_var is not None
            and self.num_batches_tracked is not None
        )
        self.num_batches_tracked += 1
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(var, weight)


def synchronise(module: nn.Module) -> None:
    """Replace every batch norm inside by one over all processes, in place.

    Parameters and keys stay the same.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            new = SyncBatchNorm(
                child.num_features,
                child.eps,
                child.momentum,
                child.affine,
                child.track_running_stats,
            )
            new.train(child.training)
            new._parameters, new._buffers = child._parameters, child._buffers
            setattr(module, name, new)
        else:
            synchronise(child)
