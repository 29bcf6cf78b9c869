"""Encoder, clips -> the batch-norm statistics of the encoder.

A frozen net needs them, because it must not normalise a clip by its neighbours in the batch.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from ssvid.encoder import Encoder, evaluating
from ssvid.errors import UserError

RawClip = UInt8[Tensor, "B C T H W"]


def list_batch_norms(encoder: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    kind = nn.modules.batchnorm._BatchNorm
    return [m for m in encoder.modules() if isinstance(m, kind)]


def lacks_statistics(encoder: nn.Module) -> bool:
    """Whether a batch norm of the net has no running statistics.

    In eval mode it would normalise by the batch, so that features of a clip depend on its
    neighbours.
    """
    return any(norm.running_mean is None for norm in list_batch_norms(encoder))


def ensure_statistics(encoder: Encoder, source: str, clips: Iterable[RawClip] | None) -> None:
    """Measure the statistics on the clips if the encoder lacks them.

    `source`: what the user named the encoder by. Raises UserError if it lacks statistics and there
    are no clips.
    """
    if not lacks_statistics(encoder):
        return
    if clips is None:
        raise UserError(
            f"{source} has batch norm without running statistics, so a clip's features would "
            "depend on its neighbours: measure them with --calibrate_bn 256 (train clips)."
        )
    calibrate(encoder, clips)


def calibrate(encoder: Encoder, clips: Iterable[RawClip]) -> Encoder:
    """Measure batch-norm statistics on (train) clips, in place: the plain average over batches.

    Raises UserError if there is no clip.
    """
    norms = list_batch_norms(encoder)
    if not norms:
        return encoder
    n_clips = 0
    with estimating_statistics(encoder, norms), torch.no_grad():
        device = next(encoder.parameters()).device
        for clip in clips:
            encoder(encoder.normalise(clip.to(device)))
            n_clips += len(clip)
    if not n_clips:
        raise UserError("Batch norm cannot be measured: no clip of the train split could be read.")
    return encoder


@contextmanager
def estimating_statistics(
    encoder: nn.Module, norms: list[nn.modules.batchnorm._BatchNorm]
) -> Iterator[None]:
    """A context in which only batch norm is in train mode, so that dropout stays off.

    It averages over all batches. Modes and momenta are restored at the end.
    """
    momenta = []
    for norm in norms:
        momenta.append(norm.momentum)
    with evaluating(encoder):
        for norm in norms:
            # Built with track_running_stats=False: it gets the buffers that it lacks.
            if norm.running_mean is None:
                zeros = torch.zeros(norm.num_features, device=next(encoder.parameters()).device)
                norm.running_mean, norm.running_var = zeros, torch.ones_like(zeros)
                norm.num_batches_tracked = torch.zeros((), dtype=torch.long, device=zeros.device)
                norm.track_running_stats = True
            norm.reset_running_stats()
            norm.momentum = None  # torch then computes a cumulative average
            norm.train()
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
