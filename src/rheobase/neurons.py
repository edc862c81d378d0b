"""Spiking neurons: sequence in, sequence out, from rest at each call.

`neuron(currents)` maps `[T, B, ...]` to spikes of the same shape. No module keeps a state between calls; who streams
passes it by hand: `spikes, state = neuron.run(currents, state)`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rheobase import kernels
from rheobase.kernels import reference
from rheobase.surrogate import KINDS, ATan, Surrogate

State = Any  # a tensor, or a tuple of tensors


class _Stream(NamedTuple):
    given: dict[nn.Module, State]
    taken: dict[nn.Module, State]


class _Local(threading.local):
    stream: _Stream | None = None  # set only while `streaming`, for the thread that does: no state between calls


_local = _Local()


@contextmanager
def streaming(states: dict[nn.Module, State]) -> Iterator[dict[nn.Module, State]]:
    """Within it, the neurons in `states` start from there (None: rest); the dict yielded takes their new states."""
    stream = _Stream(states, {})
    before, _local.stream = _local.stream, stream
    try:
        yield stream.taken
    finally:
        _local.stream = before


class Neuron(nn.Module):
    """Base class. A neuron of your own defines `step`; it then works everywhere, on the reference engine.

    A step maps the current `[B, ...]` and a state (a tensor, or a tuple of them) to the output `[B, ...]` and the
    next state. `initial_state` gives the state at rest; by default zeros like the current.
    """

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step."""
        raise NotImplementedError(f"{type(self).__name__} defines no step(current, state)")

    def initial_state(self, current: Tensor) -> State:
        """State at rest for a current `[B, ...]`."""
        return torch.zeros_like(current)

    def run(self, currents: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Outputs `[T, B, ...]` and the state after the last step, from `state` (default: rest)."""
        self.check(currents)
        if state is None:
            state = self.initial_state(currents[0])
        return reference.unroll(self.step, currents, state)

    def forward(self, currents: Tensor) -> Tensor:
        """Outputs `[T, B, ...]`, from rest."""
        return self._through(self.run, currents)

    @property
    def _streamed(self) -> bool:
        stream = _local.stream
        return stream is not None and self in stream.given

    def _through(self, run: Callable[[Tensor, State], tuple[Any, State]], currents: Tensor) -> Any:
        """Outputs of `run` from rest or, while `streaming`, from and to the stream's state."""
        stream = _local.stream
        if stream is None or self not in stream.given:
            return run(currents, None)[0]
        if self in stream.taken:
            raise RuntimeError(
                f"{type(self).__name__} is called twice in one pass: to stream, give each place its own neuron"
            )
        outputs, stream.taken[self] = run(currents, stream.given[self])
        return outputs

    def check(self, currents: Tensor) -> None:
        """Refuse what is not `[T, B, ...]` floating point with T >= 1.

        Raises:
            TypeError: not a floating point tensor.
            ValueError: fewer than two axes, or no time step.
        """
        name = type(self).__name__
        if not isinstance(currents, Tensor) or not currents.is_floating_point():
            got = currents.dtype if isinstance(currents, Tensor) else type(currents).__name__
            raise TypeError(f"{name}: currents must be a floating point tensor, got {got}")
        if currents.dim() < 2 or currents.shape[0] == 0:
            raise ValueError(f"{name}: currents must be [T, B, ...] with T >= 1, got shape {list(currents.shape)}")


def _number(owner: str, name: str, value: float, low: float, high: float, ends: str) -> float:
    """`value` if it lies in the interval, else a clear error."""
    inside = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    inside = inside and (value >= low if ends[0] == "[" else value > low) and value <= high
    if not inside:
        raise ValueError(f"{owner}: {name} must be a number in {ends[0]}{low}, {high}{ends[1]}, got {value!r}")
    return float(value)


_DYNAMICS = ("step", "run", "forward", "initial_state")


class LIF(Neuron):
    """Leaky integrate-and-fire neuron.

    u[t] = decay v[t-1] + input_scale I[t];  s[t] = u[t] >= threshold;
    soft reset: v[t] = u[t] - threshold s[t];  hard reset: v[t] = u[t] (1 - s[t]).
    In the backward pass ds/du = surrogate.derivative(u - threshold).

    Args:
        decay: share of the potential kept from step to step, in [0, 1].
        threshold: potential at which it fires, > 0.
        reset: "soft" (subtract the threshold) or "hard" (to zero).
        detach_reset: whether the reset counts as a constant in the backward pass.
        surrogate: a shape of `rheobase.surrogate`.
        input_scale: factor on the current, > 0.

    `decay`, `threshold`, `input_scale`, `reset` and `surrogate` may be assigned at any time. The numbers, and that of
    the surrogate's shape, are float32 in the buffer `constants`, so they travel with the state_dict.

    Raises:
        ValueError, TypeError: an argument outside its range; the error names it.
    """

    constants: Tensor
    native = True  # whether it does what the engines implement: false for a subclass with dynamics of its own

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.native = all(getattr(cls, name) is getattr(LIF, name) for name in _DYNAMICS)

    def __init__(
        self,
        decay: float = 0.5,
        threshold: float = 1.0,
        reset: str = "soft",
        detach_reset: bool = True,
        surrogate: Surrogate | None = None,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.reset = reset
        self.detach_reset = bool(detach_reset)
        self.register_buffer("constants", torch.zeros(6))
        self.decay = decay
        self.threshold = threshold
        self.input_scale = input_scale
        self.surrogate = ATan(2.0) if surrogate is None else surrogate

    def _get(self, index: int) -> float:
        # the shortest decimal that is this float32: 0.9 comes back as 0.9
        return float(str(np.float32(self.constants[index].item())))

    @property
    def reset(self) -> str:
        """What a spike does to the potential: "soft" or "hard"."""
        return self._reset

    @reset.setter
    def reset(self, value: str) -> None:
        if value not in ("soft", "hard"):
            raise ValueError(f"{type(self).__name__}: reset must be 'soft' or 'hard', got {value!r}")
        self._reset = value

    @property
    def decay(self) -> float:
        """Share of the potential kept from step to step."""
        return self._get(0)

    @decay.setter
    def decay(self, value: float) -> None:
        self.constants[0] = _number(type(self).__name__, "decay", value, 0, 1, "[]")

    @property
    def threshold(self) -> float:
        """Potential at which it fires."""
        return self._get(1)

    @threshold.setter
    def threshold(self, value: float) -> None:
        self.constants[1] = _number(type(self).__name__, "threshold", value, 0, math.inf, "()")

    @property
    def input_scale(self) -> float:
        """Factor on the current."""
        return self._get(2)

    @input_scale.setter
    def input_scale(self, value: float) -> None:
        self.constants[2] = _number(type(self).__name__, "input_scale", value, 0, math.inf, "()")

    @property
    def surrogate(self) -> Surrogate:
        """Shape of the surrogate derivative."""
        return KINDS[self._kind](self._get(3), self._get(4))  # type: ignore[call-arg]

    @surrogate.setter
    def surrogate(self, value: Surrogate) -> None:
        if not isinstance(value, Surrogate):
            raise TypeError(f"{type(self).__name__}: surrogate must be one of rheobase.surrogate, got {value!r}")
        self._kind = value.kind
        self.constants[5] = value.kind
        self.constants[3] = value.parameter
        self.constants[4] = value.height

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        self._kind = int(self.constants[5])

    def _apply(self, fn: Any, recurse: bool = True) -> LIF:
        # model.half() and the like must not round the constants: they follow the device, not the dtype
        constants = self.constants
        super()._apply(fn, recurse)
        if not constants.is_meta:
            self.constants = constants.to(self.constants.device)
        return self

    @property
    def kind(self) -> int:
        """Number of the surrogate's shape, as kernels know it."""
        return self._kind

    def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One time step: the definition."""
        return reference.lif_step(current, state, self.constants, self._kind, self.reset == "soft", self.detach_reset)

    def run(self, currents: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Spikes `[T, B, ...]` and the potentials after the last step, `[B, ...]`, from `state` (default: rest)."""
        if not self.native:
            return super().run(currents, state)
        (spikes, _), final = self._fire(currents, state)
        return spikes, final

    def forward(self, currents: Tensor) -> Tensor:
        """Spikes `[T, B, ...]`, from rest."""
        return self.fused(currents)[0] if self.native else super().forward(currents)

    def fused(self, currents: Tensor, **fused: Any) -> tuple[Tensor, Tensor | None]:
        """`forward` with what `kernels.fire` can do along, and the drive if that is kept; of a `native` neuron only."""
        run = partial(self._fire, keep_state=self._streamed, **fused)
        outputs: tuple[Tensor, Tensor | None] = self._through(run, currents)
        return outputs

    def _fire(
        self, currents: Tensor, state: State, keep_state: bool = True, **fused: Any
    ) -> tuple[tuple[Tensor, Tensor | None], State]:
        self.check(currents)
        if state is not None and state.shape != currents.shape[1:]:
            raise ValueError(
                f"{type(self).__name__}: state must be {list(currents.shape[1:])}, as the currents of one step, "
                f"got {list(state.shape)}"
            )
        spikes, final, drive = kernels.fire(
            currents,
            state,
            self.constants,
            kind=self._kind,
            soft=self.reset == "soft",
            detach=self.detach_reset,
            keep_state=keep_state,
            **fused,
        )
        return (spikes, drive), final

    def extra_repr(self) -> str:
        """The arguments."""
        return (
            f"decay={self.decay:g}, threshold={self.threshold:g}, reset={self.reset!r}, "
            f"detach_reset={self.detach_reset}, surrogate={self.surrogate}, input_scale={self.input_scale:g}"
        )


class IF(LIF):
    """Integrate-and-fire neuron: LIF that forgets nothing (decay = 1). Arguments as in `LIF`."""

    def __init__(
        self,
        threshold: float = 1.0,
        reset: str = "soft",
        detach_reset: bool = True,
        surrogate: Surrogate | None = None,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__(1.0, threshold, reset, detach_reset, surrogate, input_scale)


class Integrator(Neuron):
    """Neuron without spikes, for readouts: v[t] = decay v[t-1] + input_scale I[t], and v[t] is the output.

    Args:
        decay: share of the potential kept from step to step, in [0, 1].
        input_scale: factor on the current, > 0.
    """

    def __init__(self, decay: float = 1.0, input_scale: float = 1.0) -> None:
        super().__init__()
        self.decay = _number("Integrator", "decay", decay, 0, 1, "[]")
        self.input_scale = _number("Integrator", "input_scale", input_scale, 0, math.inf, "()")

    def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One time step."""
        v = self.decay * state + self.input_scale * current
        return v, v

    def extra_repr(self) -> str:
        """The arguments."""
        return f"decay={self.decay:g}, input_scale={self.input_scale:g}"
