"""encoder, clips -> its batch-norm statistics: a frozen net must not normalise a clip by its neighbours."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from ssvid.encoder import Encoder, evaluating
from ssvid.errors import UserError

RawClip = UInt8[Tensor, "B C T H W"]


def batch_norms(encoder: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def lacks_statistics(encoder: nn.Module) -> bool:
    """True where a frozen forward would normalise by the batch, so that a clip's features depend on its neighbours."""
    return any(norm.running_mean is None for norm in batch_norms(encoder))


def settle(encoder: Encoder, given: str, clips: Iterable[RawClip] | None) -> None:
    """An encoder that lacks statistics gets those of the clips; without clips it is refused."""
    if not lacks_statistics(encoder):
        return
    if clips is None:
        raise UserError(
            f"{given} has batch norm without running statistics, so a clip's features would depend on its "
            "neighbours: measure them with --calibrate_bn 256 (train clips)."
        )
    calibrate(encoder, clips)


def calibrate(encoder: Encoder, clips: Iterable[RawClip]) -> Encoder:
    """Batch-norm statistics measured anew on these (train) clips, in place: the plain average over batches."""
    norms = batch_norms(encoder)
    if not norms:
        return encoder
    seen = 0
    with estimating(encoder, norms), torch.no_grad():
        device = next(encoder.parameters()).device
        for clip in clips:
            encoder(encoder.normalise(clip.to(device)))
            seen += len(clip)
    if not seen:
        raise UserError("Batch norm cannot be measured: no clip of the train split could be read.")
    return encoder


@contextmanager
def estimating(encoder: nn.Module, norms: list[nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """Only batch norm trains (dropout stays off), cumulatively; modes and momenta are put back."""
    momenta = [norm.momentum for norm in norms]
    with evaluating(encoder):
        for norm in norms:
            if (
                norm.running_mean is None
            ):  # built with track_running_stats=False: give it the buffers it lacks
                zeros = torch.zeros(norm.num_features, device=next(encoder.parameters()).device)
                norm.running_mean, norm.running_var = zeros, torch.ones_like(zeros)
                norm.num_batches_tracked = torch.zeros((), dtype=torch.long, device=zeros.device)
                norm.track_running_stats = True
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a cumulative average
            norm.train()
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
