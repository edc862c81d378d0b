"""Spikes kept for the backward pass as bytes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from rheobase.compat import saved_tensors_hooked
from rheobase.kernels.registry import settings


class _Kept(NamedTuple):
    tensor: Tensor  # as it is, or as bytes
    version: int
    dtype: torch.dtype


def _pack(x: Tensor) -> _Kept:
    """As bytes, where this is exact: for whole numbers from -128 to 127."""
    values = x.to(torch.int8)
    away = values.to(x.dtype).sub_(x).abs_().sum()  # (several times as fast as torch.equal)
    exact = bool(away == 0)
    return _Kept(values if exact else x, 0 if exact else x._version, x.dtype)


def _unpack(kept: _Kept) -> Tensor:
    if kept.tensor.dtype is not kept.dtype:
        return kept.tensor.to(kept.dtype)
    if kept.tensor._version != kept.version:  # autograd does not look where there are hooks
        raise RuntimeError(
            f"a tensor {list(kept.tensor.shape)} needed for the backward pass was modified by an inplace operation: it "
            f"is at version {kept.tensor._version}, and version {kept.version} was kept"
        )
    return kept.tensor


def keeping(x: Tensor) -> AbstractContextManager[Any]:
    """Within it, autograd keeps x for the backward pass as bytes, where this was asked for and is exact.

    Not under the hooks of somebody else (checkpointing), which ours would hide, nor in what is compiled.
    """
    chosen = settings()
    if not chosen.packed or chosen.name == "reference" or torch.compiler.is_compiling() or saved_tensors_hooked():
        return nullcontext()
    it = (x.data_ptr(), x.shape, x.dtype)  # not x itself: autograd keeps the hook, and the hook what it names

    def keep(saved: Tensor) -> _Kept:
        same = (saved.data_ptr(), saved.shape, saved.dtype) == it
        return _pack(saved) if same else _Kept(saved, saved._version, saved.dtype)

    return saved_tensors_hooks(keep, _unpack)
