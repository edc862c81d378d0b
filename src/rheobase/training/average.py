"""The moving average of a net."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average(AveragedModel):
    """A moving average of a net's weights, and of its buffers of floating point; all else is the net's own.

    So are buffers that begin with what is not finite, as a mask does: there is no mean of infinities.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self._mix = get_ema_multi_avg_fn(decay)
        super().__init__(net, multi_avg_fn=self._mix)
        self._followed = [b.is_floating_point() and bool(b.isfinite().all()) for b in self.module.buffers()]

    def update_parameters(self, model: nn.Module) -> None:
        """Take the net in; the first time it is the average."""
        first = int(self.n_averaged) == 0
        followed = [b for b, follows in zip(self.module.buffers(), self._followed, strict=True) if follows]
        means = [buffer.clone() for buffer in followed]
        super().update_parameters(model)  # which copies all buffers
        if means and not first:
            self._mix(means, followed, self.n_averaged)
            for buffer, mean in zip(followed, means, strict=True):
                buffer.copy_(mean)
