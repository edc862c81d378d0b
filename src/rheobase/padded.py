"""Sequences of different lengths in one batch `[T, B, ...]`: which steps are real, and their mean."""

from __future__ import annotations

import torch
from torch import Tensor


def real_steps(lengths: Tensor, steps: int, batch: int, owner: str) -> Tensor:
    """Which steps of which samples are real, `[T, B]`. A single step is, of all: a mean over time, as in an ANN twin.

    Raises:
        ValueError: lengths are not `[B]` whole numbers from 1 to T (where T is 1, from 1 on).
    """
    whole = isinstance(lengths, Tensor) and lengths.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8)
    most = steps if steps > 1 else torch.inf
    if not whole or lengths.shape != (batch,) or not bool(((lengths >= 1) & (lengths.long() <= most)).all()):
        got = f"{lengths.dtype} {lengths.tolist()}" if isinstance(lengths, Tensor) else repr(lengths)
        raise ValueError(
            f"{owner}: lengths must be [{batch}] whole numbers from 1 {f'to {most}' if steps > 1 else 'on'}, got {got}"
        )
    return torch.arange(steps, device=lengths.device).unsqueeze(1) < lengths.long()


def real_mask(x: Tensor, lengths: Tensor, owner: str) -> Tensor:
    """Which steps of x `[T, B, ...]` are real, `[T, B, 1, ...]`. Errors as in `real_steps`."""
    return real_steps(lengths, x.shape[0], x.shape[1], owner).view(*x.shape[:2], *[1] * (x.dim() - 2))


def real_mean(x: Tensor, lengths: Tensor, owner: str) -> Tensor:
    """Mean over each sample's real steps, `[T, B, ...]` -> `[B, ...]`; a NaN shows, wherever it is.

    Raises:
        ValueError: as `real_steps`.
    """
    real = real_mask(x, lengths, owner)
    return (x * real).sum(0) / real.sum(0)
