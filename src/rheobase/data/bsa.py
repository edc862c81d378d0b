"""Ben's spiker algorithm (Schrauwen and Van Campenhout 2003): a signal as spikes that a filter turns back into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

KERNEL = torch.exp(-((torch.arange(24.0) - 12) ** 2) / 25)
"""The filter of Zhang and Li (2019), before it is normalised to the sum 1."""


def bsa(signal: Tensor, *, threshold: float = 0.6, kernel: Tensor | None = None) -> Tensor:
    """Spikes uint8 `[T, ...]` whose sum over kernels follows a signal `[T, ...]`.

        at each step i in turn: where  sum_n |x[i + n] - k[n]| < sum_n |x[i + n]| - threshold,
        a spike at i + 1, and k is taken from x[i ... i + K - 1]

    Each channel by itself. The last K - 1 steps begin no kernel.

    Args:
        signal: of the order of the kernel's sum, 1, and above; nonnegative.
        threshold: by how much a spike must bring the error down: at least 0 and below the kernel's sum, else there
            never is one.
        kernel: `[K]`, nonnegative; it is normalised to the sum 1. Default: `KERNEL`.

    Raises:
        ValueError: a number, shape or kernel of another kind.
    """
    kernel = KERNEL if kernel is None else kernel
    if kernel.dim() != 1 or not len(kernel) or not bool((kernel >= 0).all()) or not bool(kernel.sum() > 0):
        raise ValueError(f"bsa: kernel must be [K], nonnegative and not all 0, got {list(kernel.shape)}: {kernel}")
    if not 0 <= threshold < 1:
        raise ValueError(f"bsa: threshold must be in [0, 1), got {threshold}")
    if signal.dim() < 1 or not bool(torch.isfinite(signal).all()):
        raise ValueError(f"bsa: signal must be [T, ...] and finite, got {list(signal.shape)}")
    left: np.ndarray[Any, Any] = signal.detach().double().cpu().numpy().copy()
    filled = (kernel.double() / kernel.double().sum()).numpy()
    shaped = filled.reshape(-1, *[1] * (left.ndim - 1))
    spikes = np.zeros(left.shape, np.uint8)
    for step in range(len(left) - len(filled) + 1):
        ahead = left[step : step + len(filled)]
        fires = np.abs(ahead - shaped).sum(0) < np.abs(ahead).sum(0) - threshold
        ahead -= shaped * fires
        if step + 1 < len(left):
            spikes[step + 1] = fires
    return torch.from_numpy(spikes)
