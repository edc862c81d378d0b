"""The moving average of a net."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def average(net: nn.Module, decay: float) -> AveragedModel:
    """A moving average of a net's weights, and of its buffers of floating point; all else is the net's own.

    So are the numbers in them that are not finite, as in a mask: there is no mean of infinities.
    """
    average_of = get_ema_multi_avg_fn(decay)

    def mix(means: Sequence[Tensor], values: Sequence[Tensor], count: Tensor | int) -> None:  # of one dtype
        if means[0].is_floating_point():
            average_of(means, values, count)
        for mean, value in zip(means, values, strict=True):
            mean.copy_(mean.where(mean.isfinite(), value) if mean.is_floating_point() else value)

    return AveragedModel(net, multi_avg_fn=mix, use_buffers=True)
