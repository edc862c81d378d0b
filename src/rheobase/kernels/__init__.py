"""The hot loops: one definition (`reference.py`), the engines for it, and the choice between them."""

from __future__ import annotations

import threading
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from rheobase.kernels import reference
from rheobase.kernels.time import repeat, static
from rheobase.surrogate import BUILT_IN

try:
    from rheobase.kernels import ops, packing

    _MISSING = None
except ImportError as _error:
    if (_error.name or "").split(".")[0] not in ("numba", "llvmlite"):
        raise
    _MISSING = f"Numba cannot be imported ({_error})"
    warnings.warn(f"rheobase runs on its slow reference engine, as {_MISSING}", RuntimeWarning, stacklevel=2)

EngineName = Literal["auto", "reference", "numba"]


@dataclass(frozen=True)
class _Settings:
    name: EngineName = "auto"
    fused: bool = True
    packed: bool = False


class _Local(threading.local):
    def __init__(self) -> None:
        self.settings = _Settings()  # of this thread
        self.before: list[_Settings] = []


_local = _Local()


class engine:  # noqa: N801  (reads as a statement: with rb.engine("reference"): ...)
    """Choose the engine within a `with` block.

    Args:
        name: "auto" (the fastest that can), "reference" (the definition, plain torch), or "numba" (CPU kernels;
            an error where they cannot).
        fused: whether a norm and a neuron may run as one operator.
        packed: whether `PerStep` keeps spikes for its module's weight gradient as bytes: exact, a quarter of the
            memory of float32, and some more time. CPU only; what is not small whole numbers is kept as it is, and so
            is all under the hooks of somebody else (checkpointing).

    Raises:
        ValueError: an unknown name.
    """

    def __init__(self, name: EngineName = "auto", *, fused: bool = True, packed: bool = False) -> None:
        if name not in get_args(EngineName):
            raise ValueError(f"engine: name must be one of {get_args(EngineName)}, got {name!r}")
        self._chosen = _Settings(name, fused, packed)

    def __enter__(self) -> None:
        _local.before.append(_local.settings)
        _local.settings = self._chosen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _local.settings = _local.before.pop()


class Norm(NamedTuple):
    """The norm in front of a neuron: weight (x - mean) / sqrt(var + eps) + bias.

    With a momentum, mean and var are taken from the currents, and those given here are running ones that follow.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    eps: float
    momentum: float | None


def _obstacle(currents: Tensor, constants: Tensor, kind: int) -> str | None:
    """Why the Numba engine cannot take these currents, or None."""
    if not currents.is_cpu:
        return f"it runs on the CPU, and the currents are on {currents.device}"
    if currents.dtype not in (torch.float32, torch.bfloat16):
        return f"it takes float32 and bfloat16, and the currents are {currents.dtype}"
    if constants.requires_grad:
        return "it has no gradient of a neuron's constants"
    if kind >= BUILT_IN:
        return "it knows only the surrogates of rheobase.surrogate"
    return _MISSING


def _numba(currents: Tensor, constants: Tensor, kind: int) -> bool:
    name = _local.settings.name
    if name == "reference":
        return False
    obstacle = _obstacle(currents, constants, kind)
    if obstacle is not None and name == "numba":
        raise RuntimeError(f"the numba engine was asked for, but {obstacle}")
    return obstacle is None


def can_fuse(currents: Tensor, residual: Tensor | None, skip: Tensor | None, constants: Tensor, kind: int) -> bool:
    """Whether `fire` may be called with a norm, this residual and this skip."""
    if not _local.settings.fused or currents.dim() < 3 or not _numba(currents, constants, kind):
        return False
    if residual is not None and static(currents):
        return False
    others = (residual, skip)
    return all(o is None or (o.shape == currents.shape and o.dtype == currents.dtype) for o in others)


def keeping(x: Tensor) -> AbstractContextManager[Any]:
    """Within it, autograd keeps x for the backward pass in its smallest exact form, where this was asked for."""
    settings = _local.settings
    if not settings.packed or settings.name == "reference" or torch.compiler.is_compiling() or _MISSING is not None:
        return nullcontext()
    return packing.keeping(x) if packing.can_keep(x) else nullcontext()


def fire(
    currents: Tensor,
    state: Tensor | None,
    constants: Tensor,
    *,
    kind: int,
    soft: bool,
    detach: bool,
    norm: Norm | None = None,
    residual: Tensor | None = None,
    skip: Tensor | None = None,
    keep_state: bool = True,
    keep_drive: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Spikes of LIF neurons over a sequence of currents `[T, B, ...]`, and if kept the final state and the drive.

    With a norm (only where `can_fuse`) the currents go through it first, then a residual is added: that drives the
    neuron; and a skip is added to its spikes.
    """
    if norm is None and not _numba(currents, constants, kind):
        dtype = currents.dtype
        if dtype in (torch.bfloat16, torch.float16):  # states are float32 in every engine
            currents = currents.float()
        state = torch.zeros_like(currents[0]) if state is None else state

        def step(current: Tensor, v: Tensor) -> tuple[Tensor, Any]:
            return reference.lif_step(current, v, constants, kind, soft, detach)

        spikes, final = reference.unroll(step, currents, state)
        return spikes.to(dtype), final, None
    *given, momentum = norm or (None, None, None, None, 0.0, None)
    *affine, eps = given
    inputs = (currents, residual, skip, state, constants, *affine, eps, kind, soft, detach, keep_state, keep_drive)
    if momentum is None:
        spikes, final, drive = ops.apply(ops.fire, ops.Fire, *inputs)
    else:
        spikes, final, drive, _, _ = ops.apply(ops.norm_fire, ops.NormFire, *inputs, momentum)
    if keep_drive and static(currents):
        drive = repeat(drive.squeeze(0), currents.shape[0])
    return spikes, final if keep_state else None, drive if keep_drive else None
