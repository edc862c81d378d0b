"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from rheobase.training.recipe import ScheduleOptions


def learning_rate(options: ScheduleOptions, peak: float, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Learning rate of a step (0, 1, ...).

    cosine: peak (1 + cos(pi p)) / 2, p from 0 towards 1; constant: peak; both after a rise peak (step + 1) / w over w
    warmup steps. one_cycle: cosine from peak/25 up to peak at step w - 1, then down to peak/250000 at the last
    step, as torch.optim.lr_scheduler.OneCycleLR.
    """
    total = epochs * steps_per_epoch
    if options.name == "one_cycle":
        share = 0.3 if options.warmup_epochs is None else options.warmup_epochs / epochs
        top = share * total - 1
        if step <= top:
            return _between(peak / 25, peak, step / top if top > 0 else 1.0)
        return _between(peak, peak / 25 / 1e4, (step - top) / max(total - 1 - top, 1))
    warmup = round((options.warmup_epochs or 0) * steps_per_epoch)
    if step < warmup:
        return peak * (step + 1) / warmup
    if options.name == "constant":
        return peak
    return _between(peak, 0.0, (step - warmup) / max(total - warmup, 1))


def _between(start: float, end: float, share: float) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
