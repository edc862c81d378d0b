"""The numbers of a neuron's dynamics: each by its name, fixed or learned, within its range.

A fixed one is a buffer of that name. A learned one is computed from the parameter `raw_NAME`, which has no bounds:
sigmoid(raw) for what lies in [0, 1], softplus(raw) for what is positive. All are float32, or float64 in a float64 net;
a change of the model to a smaller dtype leaves them alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Range(NamedTuple):
    """An interval, and whether its ends are in it."""

    low: float
    high: float
    ends: str

    def __str__(self) -> str:
        high = "inf" if self.high == math.inf else f"{self.high:g}"
        return f"{self.ends[0]}{self.low:g}, {high}{self.ends[1]}"

    def holds(self, values: Tensor) -> bool:
        """Whether all values are in it."""
        low = values >= self.low if self.ends[0] == "[" else values > self.low
        return bool((low & (values <= self.high) & values.isfinite()).all())


UNIT, POSITIVE = Range(0, 1, "[]"), Range(0, math.inf, "()")
RANGES = {
    "decay": UNIT,
    "current_decay": UNIT,
    "adaptation_decay": UNIT,
    "threshold": POSITIVE,
    "input_scale": POSITIVE,
    "adaptation": Range(0, math.inf, "[)"),
    "inhibition": Range(-1, 0, "[]"),
    "refractory": Range(0, math.inf, "[)"),
    "surrogate_width": POSITIVE,
    "surrogate_height": POSITIVE,
    **dict.fromkeys(("dt", "tau_rc", "tau_ref", "amplitude", "gain", "smoothing"), POSITIVE),
    **dict.fromkeys(("synapse", "noise"), Range(0, math.inf, "[)")),
}


class Number(property):
    """A neuron's number as an attribute that can be read and assigned at any time."""


def number(name: str, doc: str) -> Number:
    """A neuron's number by its name."""
    return Number(lambda neuron: read(neuron, name), lambda neuron, value: write(neuron, name, value), doc=doc)


def values(neuron: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Several numbers; as an attribute each, so that a subclass may compute them, but past it where it does not."""
    fixed, cls = neuron._buffers, type(neuron)
    found: dict[str, Any] = {}
    for name in names:
        value = fixed.get(name)
        if value is None or type(getattr(cls, name)) is not Number:
            value = getattr(neuron, name)
            if not isinstance(value, Tensor):
                value = torch.as_tensor(value, dtype=torch.float32)
        found[name] = value
    return found


def read(neuron: nn.Module, name: str) -> Tensor:
    """Its value, a live tensor."""
    raw: Tensor | None = neuron._parameters.get(f"raw_{name}")
    if raw is None:
        value = neuron._buffers.get(name)
        if value is not None:
            return value
        raw = _other(neuron, name)  # (torch.nn.utils.prune and parametrize put something else in its place)
        if raw is None:
            raise AttributeError(f"{type(neuron).__name__} has no {name} yet")
    return torch.sigmoid(raw) if RANGES[name] is UNIT else F.softplus(raw) + 1e-30  # (which may round to nothing)


def _other(neuron: nn.Module, name: str) -> Tensor | None:
    """What is in the place of a raw parameter."""
    found: Tensor | None = getattr(neuron, f"raw_{name}", None)
    return found


def write(neuron: nn.Module, name: str, value: Any) -> None:
    """Assign it. A fixed number is a new tensor, so that a backward pass under way keeps the one it began with."""
    raw, old = neuron._parameters.get(f"raw_{name}"), neuron._buffers.get(name)
    if raw is None and old is None and _other(neuron, name) is not None:
        raise ValueError(
            f"{type(neuron).__name__}: {name} is learned, and raw_{name} is pruned or parametrized: undo it"
        )
    found = checked(type(neuron).__name__, name, value, like=raw if old is None else old)
    if raw is None:
        neuron._buffers[name] = found
        return
    if found.shape not in (raw.shape, ()):
        raise ValueError(
            f"{type(neuron).__name__}: {name} is learned, with shape {list(raw.shape)}, got {list(found.shape)}"
        )
    with torch.no_grad():
        raw.copy_(inverse(type(neuron).__name__, name, found))


def spread(neuron: nn.Module, name: str, value: Tensor) -> None:
    """Give a number another shape too, such as one a channel, before it is trained; learned or fixed as it was."""
    if f"raw_{name}" in neuron._parameters:
        raw = inverse(type(neuron).__name__, name, checked(type(neuron).__name__, name, value))
        neuron.register_parameter(f"raw_{name}", nn.Parameter(raw))
    else:
        write(neuron, name, value)


def checked(owner: str, name: str, value: Any, like: Tensor | None = None) -> Tensor:
    """A number, or a tensor of them, as a tensor of its own.

    Raises:
        ValueError: outside its range, or no number.
    """
    double = (torch.get_default_dtype() if like is None else like.dtype) is torch.float64
    dtype, device = torch.float64 if double else torch.float32, None if like is None else like.device
    found = None
    with torch.inference_mode(False):  # (else no backward pass could have it, ever)
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            if value.requires_grad:
                raise ValueError(
                    f"{owner}: {name} is given a tensor that wants a gradient; to learn it: learn=({name!r},)"
                )
            found = value.detach().to(device or value.device, dtype, copy=True)
        elif isinstance(value, Real) and not isinstance(value, bool):
            found = torch.tensor(float(value), dtype=dtype, device=device)
    if found is None or not (found.is_meta or RANGES[name].holds(found)):
        got = repr(value) if found is None or not found.dim() else told(found)
        raise ValueError(f"{owner}: {name} must be a number in {RANGES[name]}, or a tensor of them, got {got}")
    return found


def single(owner: str, name: str, value: Any) -> float:
    """One number as Python's. Errors as `checked`; or there are several."""
    if checked(owner, name, value).dim():
        raise ValueError(f"{owner}: {name} must be one number, got {value!r}")
    return float(value)


def inverse(owner: str, name: str, value: Tensor) -> Tensor:
    """The raw parameter of a value."""
    if RANGES[name] is UNIT:
        raw = torch.logit(value.double())
    else:
        raw = value.double() + torch.log(-torch.expm1(-value.double()))
    if not raw.is_meta and not raw.isfinite().all():
        raise ValueError(f"{owner}: a learned {name} must begin inside {RANGES[name]}, not at its end, got {value}")
    return raw.to(value.dtype)


def declare(neuron: nn.Module, values: dict[str, Any], learn: Sequence[str]) -> None:
    """Give a new neuron its numbers.

    Raises:
        ValueError: a value out of range, or a name in `learn` that it does not have.
    """
    learn = (learn,) if isinstance(learn, str) else tuple(learn)
    owner = type(neuron).__name__
    for name in learn:
        if name not in values or name.startswith("surrogate"):
            able = ", ".join(name for name in values if not name.startswith("surrogate"))
            raise ValueError(f"{owner}: learn must name some of {able}, got {name!r}")
    for name, value in values.items():
        if name in learn:
            raw = inverse(owner, name, checked(owner, name, value))
            neuron.register_parameter(f"raw_{name}", nn.Parameter(raw))
        else:
            setattr(neuron, name, value)


def learned(neuron: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """Which of these numbers it learns."""
    return tuple(name for name in names if f"raw_{name}" in neuron._parameters)


def plain(value: Any) -> Any:
    """A number as Python's, the shortest decimal that is it: 0.9 comes back as 0.9; of several, the tensor."""
    if isinstance(value, Tensor) and value.dim() == 0 and not value.is_meta:
        return float(str(np.float32(value.item()))) if value.dtype is torch.float32 else value.item()
    return value


def told(value: Any) -> str:
    """A number, or what several are like, in a few words."""
    value = plain(value)
    if not isinstance(value, Tensor):
        return f"{value:g}"
    if value.is_meta:
        return f"{list(value.shape)} on meta"
    return f"{list(value.shape)} from {value.min():g} to {value.max():g}"


def widen(values: Tensor) -> Tensor:
    """float32 numbers as the float64 that was meant: 0.9, not 0.8999999762."""
    if values.is_meta:
        return values.double()
    decimals = values.detach().cpu().numpy().astype(str).astype(np.float64)
    return torch.as_tensor(decimals, dtype=torch.float64).reshape(values.shape).to(values.device)


def moved(tensors: dict[str, Tensor | None], names: Sequence[str], move: Callable[[], Any], exact: bool) -> None:
    """Let a module move its tensors, and see to it that those of these names keep their precision."""
    before = {name: tensor for name in names if (tensor := tensors.get(name)) is not None}
    old = {name: tensor.data for name, tensor in before.items()}
    move()
    for name, was in old.items():
        now = tensors[name]
        assert now is not None
        if now.dtype is torch.float64 and was.dtype is torch.float32 and exact:
            right = widen(was).to(now.device)
        elif now.dtype in (torch.float32, torch.float64) or now.is_meta:
            continue
        else:
            right = was.to(now.device)
        if isinstance(now, nn.Parameter):
            now.data = right
        else:
            tensors[name] = right
