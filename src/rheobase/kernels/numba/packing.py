"""Spikes kept for the backward pass as bytes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from rheobase.compat import saved_tensors_hooked
from rheobase.kernels.numba import bytewise, threads
from rheobase.kernels.numba.jit import ELEMENTS, Job
from rheobase.kernels.numba.walk import BLOCK, pieces


class Packed(NamedTuple):
    """A tensor's values as bytes, in storage order."""

    values: Tensor
    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype


def _job(x: Tensor, values: Tensor, wrong: Tensor | None) -> Job:
    sums = 0 if wrong is None else wrong.data_ptr()
    how = {"pieces": pieces(x.numel()), "N": x.numel(), "width": BLOCK, "pitch": BLOCK, "room": BLOCK}
    return Job(**how, x=x.data_ptr(), packed=values.data_ptr(), sums=sums)


def pack(x: Tensor) -> Packed | None:
    """x as bytes, or None where this is not exact, or x has gaps in storage."""
    if x.numel() == 0 or not torch.ops.aten.is_non_overlapping_and_dense(x):
        return None
    values, wrong = x.new_empty(x.numel(), dtype=torch.uint8), x.new_empty(pieces(x.numel()), dtype=torch.float64)
    threads.run(bytewise.pack(ELEMENTS[x.dtype]), _job(x, values, wrong))
    return None if wrong.any() else Packed(values, x.shape, x.stride(), x.dtype)


def unpack(packed: Packed) -> Tensor:
    """The tensor."""
    x = packed.values.new_empty_strided(packed.shape, packed.strides, dtype=packed.dtype)
    threads.run(bytewise.unpack(ELEMENTS[x.dtype]), _job(x, packed.values, None))
    return x


def can_keep(x: Tensor) -> bool:
    """Whether x may be packed: not under the hooks of somebody else (checkpointing), which ours would hide."""
    return x.is_cpu and x.dtype in ELEMENTS and not saved_tensors_hooked()


class _Kept(NamedTuple):
    tensor: Tensor
    version: int


def _unpack(kept: Packed | _Kept) -> Tensor:
    if isinstance(kept, Packed):
        return unpack(kept)
    if kept.tensor._version != kept.version:  # autograd does not look where there are hooks
        raise RuntimeError(
            f"a tensor {list(kept.tensor.shape)} needed for the backward pass was modified by an inplace operation: it "
            f"is at version {kept.tensor._version}, and version {kept.version} was kept"
        )
    return kept.tensor


def keeping(x: Tensor) -> saved_tensors_hooks:
    """Within it, autograd keeps x packed where it can; other tensors as they are."""
    it = (x.data_ptr(), x.shape, x.dtype)  # not x itself: autograd keeps the hook, and the hook what it names

    def keep(saved: Tensor) -> Packed | _Kept:
        packed = pack(saved) if (saved.data_ptr(), saved.shape, saved.dtype) == it else None
        return _Kept(saved, saved._version) if packed is None else packed

    return saved_tensors_hooks(keep, _unpack)
