"""The definition of a neuron, in plain torch. Every engine is tested against this file.

u[t] = decay v[t-1] + input_scale I[t];  s[t] = u[t] >= threshold, and by the reset
soft: v = u - threshold s;  hard: v = u (1 - s);  none: v = u;  delayed: v = u, and the next u is less by threshold s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rheobase.compat import apart
from rheobase.kernels.spec import Spec
from rheobase.surrogate import fire

Step = tuple[Tensor, Any, Tensor]  # spikes, state, potential before the reset


def _spike(spec: Spec, x: Tensor) -> Tensor:
    return fire(x, spec.how.surrogate, spec.numbers["surrogate_width"], spec.numbers["surrogate_height"])


def _fire(spec: Spec, current: Tensor, v: Tensor, bar: Tensor) -> Step:
    """Charge by a current, fire at `bar`, reset."""
    threshold = spec.numbers["threshold"]
    u = spec.numbers["decay"] * v + spec.numbers["input_scale"] * current
    if spec.how.reset == "delayed":
        before = _spike(spec, v - threshold)
        u = u - threshold * (before.detach() if spec.how.detach_reset else before)
    s = _spike(spec, u - bar)
    r = s.detach() if spec.how.detach_reset else s
    if spec.how.reset == "soft":
        return s, u - threshold * r, u
    return s, u * (1 - r) if spec.how.reset == "hard" else u, u


def lif(spec: Spec, current: Tensor, v: Tensor) -> Step:
    """Leaky integrate and fire; state v."""
    return _fire(spec, current, v, spec.numbers["threshold"])


def cuba_lif(spec: Spec, current: Tensor, state: tuple[Tensor, Tensor]) -> Step:
    """i[t] = current_decay i[t-1] + I[t] drives a LIF; state (i, v)."""
    i, v = state
    i = spec.numbers["current_decay"] * i + current
    s, v, u = _fire(spec, i, v, spec.numbers["threshold"])
    return s, (i, v), u


def adaptive_lif(spec: Spec, current: Tensor, state: tuple[Tensor, Tensor]) -> Step:
    """A LIF that fires at threshold + adaptation a[t], a[t] = adaptation_decay a[t-1] + s[t-1]; state (v, a)."""
    v, a = state
    s, v, u = _fire(spec, current, v, spec.numbers["threshold"] + spec.numbers["adaptation"] * a)
    return s, (v, spec.numbers["adaptation_decay"] * a + s), u


def lateral_lif(spec: Spec, current: Tensor, state: tuple[Tensor, Tensor]) -> Step:
    """A LIF in competition with the other channels of its place; state (v, steps that it is still refractory)."""
    v, wait = state
    numbers, threshold = spec.numbers, spec.numbers["threshold"]
    gain = (1 - wait / numbers["refractory"].clamp(min=1e-30)).square()
    drive = numbers["input_scale"] * gain * current
    u = torch.maximum(numbers["decay"] * v + drive, -threshold)
    s = _spike(spec, u - threshold)
    r = s.detach() if spec.how.detach_reset else s
    fired = r.sum(1, keepdim=True)
    v = torch.minimum(u - threshold * r, threshold) + numbers["inhibition"] * threshold * (fired - r)
    v = torch.maximum(v, -threshold)
    hit = torch.where(numbers["inhibition"] < 0, fired, r) > 0
    wait = torch.where(hit, numbers["refractory"] - 1, wait - 1).clamp(min=0)
    return s, (v, wait), u


STEPS: dict[str, Callable[[Spec, Tensor, Any], Step]] = {
    "LIF": lif,
    "CubaLIF": cuba_lif,
    "AdaptiveLIF": adaptive_lif,
    "LateralLIF": lateral_lif,
}


INLINED = 8  # steps that are compiled one after the other, a second or so for each


def unroll(step: Callable[[Tensor, Any], tuple[Any, ...]], currents: Tensor, state: Any) -> tuple[list[Tensor], Any]:
    """`step` over the first axis: what it gives besides the state, each `[T, ...]`, and the state after the last step.

    `torch.compile` leaves longer sequences as they are written.
    """
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting() and len(currents) > INLINED:
        found: tuple[list[Tensor], Any] = _apart(step, currents, state)
        return found
    return _unroll(step, currents, state)


def _unroll(step: Callable[[Tensor, Any], tuple[Any, ...]], currents: Tensor, state: Any) -> tuple[list[Tensor], Any]:
    found, versions = [], []
    for current in currents.unbind(0):
        output, state, *more = step(current, state)
        found.append((output, *more))
        versions.append(_version(output))
    if versions != [_version(output) for output, *_ in found]:
        raise ValueError("a neuron's step changed in place what it had given before as its output: give a new tensor")
    return [torch.stack(each) for each in zip(*found, strict=True)], state


def _version(x: Tensor) -> int:
    """How often it was changed in place, as far as torch counts it."""
    return 0 if torch.compiler.is_compiling() or x.is_inference() else x._version


_apart = apart(_unroll)
