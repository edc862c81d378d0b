"""Engines by name, and the choice between them."""

from __future__ import annotations

import importlib
import logging
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rheobase.compat import transformed

if TYPE_CHECKING:
    from rheobase.kernels.spec import How

Running = tuple[Tensor, Tensor, float]
"""Running mean and variance of a norm, and the weight of the newest values in them."""

_log = logging.getLogger("rheobase")


@dataclass(frozen=True)
class Engine:
    """What can run neurons: functions of the inputs of `ops.py`, whose currents are dense.

    Attributes:
        name: what `rheobase.engine` calls it.
        devices: types of torch's devices that it runs on.
        why_not: from how a neuron works and its currents to the reason why it cannot take them, or None.
        moments: (x, running) -> mean and sum of squared deviations of each channel, float64; running statistics follow.
        forward: (inputs, how, keep_state, keep_drive) -> `ops.Outputs`.
        backward: (inputs, how, grads, drive, learned) -> `ops.Gradients`.
        norm_backward: (grad, x, weight, mean, m2, sums, eps, samples, out) -> out, the gradient of x.
        recur: (inputs, how, before, weight, bias) -> `recurrent.Steps`; None where a neuron that hears itself through
            a linear layer runs step by step.
        recur_backward: (inputs, how, grads, steps, weight, learned) -> `ops.Gradients`.
        rules: what computes the backward pass of a gradient rule, by the rule's name; its arguments are the rule's
            matter. A rule that is not there runs in plain torch.
        queue: () -> a context in which it may wait with what it gives until its end, where Python's time between two
            functions would cost.
        operators: whether the operators reach it by its name; a gradient rule is called directly.
        rule: whether it is a gradient rule, for one call.
        kept: tensors that `forward` of a rule has for `backward`, which gets them last; autograd takes them from here.
    """

    name: str
    devices: tuple[str, ...]
    why_not: Callable[[How, Tensor], str | None]
    moments: Callable[..., Any]
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    norm_backward: Callable[..., Any]
    recur: Callable[..., Any] | None = None
    recur_backward: Callable[..., Any] | None = None
    rules: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict, hash=False)
    queue: Callable[[], AbstractContextManager[Any]] = nullcontext
    operators: bool = True
    rule: bool = False
    kept: list[Tensor] = field(default_factory=list, hash=False, compare=False)


_MODULES = {"numba": "rheobase.kernels.numba.engine"}
"""Where each engine is, as its `ENGINE`; in the order in which they are tried."""

_found: dict[str, Engine | str] = {}
"""What there is, or why not."""


def load() -> None:
    """Import the engines. (Not at their first use: that may be within `torch.compile`.)"""
    for name, module in _MODULES.items():
        try:
            _found[name] = importlib.import_module(module).ENGINE
        except Exception as error:  # whatever a broken installation raises: ImportError, OSError, AttributeError
            _found[name] = f"{name.capitalize()} cannot be imported ({type(error).__name__}: {error})"
            warnings.warn(
                f"rheobase runs on its slow reference engine, as {_found[name]}", RuntimeWarning, stacklevel=2
            )


def by_name(name: str) -> Engine:
    """An engine.

    Raises:
        RuntimeError: it cannot be had.
    """
    engine = _found[name]
    if isinstance(engine, str):
        raise RuntimeError(f"the {name} engine was asked for, but {engine}")
    return engine


NAMES = ("auto", "reference", *_MODULES)


@dataclass(frozen=True)
class Settings:
    """What `engine` chooses."""

    name: str = "auto"
    fused: bool = True
    packed: bool = False


class _Local(threading.local):
    def __init__(self) -> None:
        self.settings = Settings()  # of this thread
        self.before: list[Settings] = []


_local = _Local()


def settings() -> Settings:
    """Those of this thread."""
    return _local.settings


class engine:  # noqa: N801  (reads as a statement: with rb.engine("reference"): ...)
    """Choose the engine within a `with` block; what is not given stays as it is around it.

    Args:
        name: "auto" (the fastest that can; which one, and why not another, is told once by the logger "rheobase"),
            "reference" (the definition, plain torch), or "numba" (CPU kernels; an error where they cannot). Neurons of
            one's own, and without spikes, are their own definition whatever is chosen.
        fused: whether a norm and a neuron may run as one operator.
        packed: whether `PerStep` keeps spikes for its module's weight gradient as bytes: exact, a quarter of the
            memory of float32, and some more time. What is not small whole numbers is kept as it is, and so is all
            under the hooks of somebody else (checkpointing).

    Raises:
        ValueError: an unknown name.
    """

    def __init__(self, name: str | None = None, *, fused: bool | None = None, packed: bool | None = None) -> None:
        if name is not None and name not in NAMES:
            raise ValueError(f"engine: name must be one of {NAMES}, got {name!r}")
        given = {"name": name, "fused": fused, "packed": packed}
        self._chosen: dict[str, Any] = {key: value for key, value in given.items() if value is not None}

    def __enter__(self) -> None:
        _local.before.append(_local.settings)
        _local.settings = replace(_local.settings, **self._chosen)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _local.settings = _local.before.pop()


def choose(how: How, x: Tensor) -> Engine | None:
    """The engine for a neuron and its currents, or None for the definition.

    Raises:
        RuntimeError: one was asked for by name, and it cannot.
    """
    wanted = _local.settings.name
    if wanted == "reference":
        return None
    if wanted != "auto":
        engine = by_name(wanted)
        reason = _why_not(engine, how, x, x.device.type)
        if reason is not None:
            raise RuntimeError(f"the {wanted} engine was asked for, but {reason}")
        return engine
    device = x.device.type
    for engine in _found.values():  # type: ignore[assignment]
        if isinstance(engine, str) or device not in engine.devices:
            continue
        reason = _why_not(engine, how, x, device)
        if reason is None:
            return engine
        if reason not in _said and not torch.compiler.is_compiling():
            _said.add(reason)
            _log.warning("the slower reference engine runs, as the %s engine does not: %s", engine.name, reason)
    return None


def of_rule(name: str, how: How, x: Tensor) -> Callable[..., Tensor] | None:
    """What the engine for a neuron and its currents has for the backward pass of a rule, or None for plain torch."""
    by = choose(how, x)
    return None if by is None else by.rules.get(name)


_said: set[str] = set()


def _why_not(engine: Engine, how: How, x: Tensor, device: str) -> str | None:
    if device not in engine.devices:
        return f"it runs on {' and '.join(engine.devices)}, and the currents are on {x.device}"
    looked = transformed()
    return engine.why_not(how, x) if looked is None else f"{looked} sees through the definition only"
