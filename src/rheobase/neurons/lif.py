"""Leaky integrate-and-fire neurons, with one state or two, whose dynamics the engines know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rheobase import kernels
from rheobase.kernels.spec import HALF, How, Ran, Spec
from rheobase.neurons.base import Neuron, State, altered, leaves
from rheobase.neurons.numbers import declare, learned, number, plain, told, values
from rheobase.surrogate import SHAPES, ATan, Surrogate

RESETS = ("soft", "hard", "none", "delayed")
SURROGATE = ("surrogate_width", "surrogate_height")

_ELSEWHERE = {
    "beta": "decay is what snnTorch calls beta",
    "tau": "decay = 1 - 1/tau, and with SpikingJelly's decay_input=True also input_scale = 1/tau",
    "alpha": "current_decay is what snnTorch calls alpha (rb.CubaLIF)",
    "v_threshold": "threshold is what SpikingJelly calls v_threshold",
    "v_reset": "reset='soft' or 'hard' is what SpikingJelly chooses by v_reset (another than 0: threshold - v_reset)",
    "reset_mechanism": "reset='delayed' is snnTorch's 'subtract', 'hard' its 'zero', 'none' its 'none'",
    "surrogate_function": "surrogate is what SpikingJelly calls surrogate_function",
    "spike_grad": "surrogate is what snnTorch calls spike_grad",
    "learn_beta": "learn=('decay',) is what snnTorch calls learn_beta",
    "learn_threshold": "learn=('threshold',) is what snnTorch calls learn_threshold",
    "step_mode": "time is the first axis of every input, and there is nothing to switch",
    "init_hidden": "there is no hidden state: see run",
}
"""What other libraries call an argument."""

Number = float | Tensor
"""One number, one a channel `[C]` (axis 2 of the currents), or one a neuron (the currents without time and batch)."""


class LIF(Neuron):
    """Leaky integrate-and-fire neuron.

    u[t] = decay v[t-1] + input_scale I[t];  s[t] = u[t] >= threshold;  by the reset
    soft: v[t] = u[t] - threshold s[t];  hard: v[t] = u[t] (1 - s[t]);  none: v[t] = u[t];
    delayed: v[t] = u[t], and u[t] = decay u[t-1] + input_scale I[t] - threshold s[t-1].
    In the backward pass ds/du = surrogate.derivative(u - threshold).

    Args:
        decay: share of the potential kept from step to step, in [0, 1].
        threshold: potential at which it fires, > 0.
        reset: "soft" (subtract the threshold), "hard" (to zero), "none", or "delayed" (subtract it a step later).
        detach_reset: whether the reset counts as a constant in the backward pass.
        surrogate: a shape of `rheobase.surrogate`; default `ATan(2.0)`.
        input_scale: factor on the current, > 0.
        learn: names of the numbers to learn, of decay, threshold and input_scale.
        own: numbers that a subclass adds.

    A number is a float, or a tensor: one a channel `[C]` (axis 2 of the currents), or one a neuron (the shape of the
    currents without time and batch). All of it may be assigned at any time, and travels with the state_dict.

    Raises:
        ValueError, TypeError: an argument outside its range; the error names it.
    """

    kind = "LIF"
    dynamics: ClassVar[tuple[str, ...]] = ("decay", "threshold", "input_scale", *SURROGATE)
    resets: Sequence[str] = RESETS

    decay = number("decay", "Share of the potential kept from step to step.")
    threshold = number("threshold", "Potential at which it fires.")
    input_scale = number("input_scale", "Factor on the current.")
    surrogate_width = number("surrogate_width", "Value of the surrogate's width parameter.")
    surrogate_height = number("surrogate_height", "Factor on the surrogate's formula.")

    def __init__(
        self,
        decay: Number = 0.5,
        threshold: Number = 1.0,
        reset: str = "soft",
        detach_reset: bool = True,
        surrogate: Surrogate | None = None,
        input_scale: Number = 1.0,
        learn: Sequence[str] = (),
        **own: Number,
    ) -> None:
        super().__init__()
        for name in own:
            if name not in self.dynamics or name in LIF.dynamics:
                raise TypeError(f"{type(self).__name__} takes no {name!r}: {_ELSEWHERE.get(name, 'see its arguments')}")
        declare(self, {**own, "decay": decay, "threshold": threshold, "input_scale": input_scale}, learn)
        self.reset = reset
        self.detach_reset = detach_reset
        self.surrogate = ATan(2.0) if surrogate is None else surrogate

    def _may_have(self, rule: kernels.Rule) -> None:
        if isinstance(rule, str | type) or not hasattr(rule, "why_not"):
            raise TypeError(
                f"{type(self).__name__}: rule must be an object, such as rheobase.rules.Membrane(), got {rule!r}"
            )

    @property
    def reset(self) -> str:
        """What a spike does to the potential."""
        return self._reset

    @reset.setter
    def reset(self, value: str) -> None:
        if value not in self.resets:
            raise ValueError(f"{type(self).__name__}: reset must be one of {', '.join(self.resets)}, got {value!r}")
        self._reset = value

    @property
    def detach_reset(self) -> bool:
        """Whether the reset counts as a constant in the backward pass."""
        return self._detach_reset

    @detach_reset.setter
    def detach_reset(self, value: bool) -> None:
        if value not in (True, False):
            raise ValueError(f"{type(self).__name__}: detach_reset must be true or false, got {value!r}")
        self._detach_reset = bool(value)

    @property
    def surrogate(self) -> Surrogate:
        """Shape of the surrogate derivative."""
        return self._shape(plain(self.surrogate_width), plain(self.surrogate_height))  # type: ignore[call-arg]

    @surrogate.setter
    def surrogate(self, value: Surrogate) -> None:
        if not isinstance(value, Surrogate):
            raise TypeError(f"{type(self).__name__}: surrogate must be one of rheobase.surrogate, got {value!r}")
        self._shape = type(value)
        self.surrogate_width = value.parameter
        self.surrogate_height = value.height

    def spec(self) -> Spec:
        """The neuron in one description; its numbers are live tensors."""
        if type(self).surrogate is LIF.surrogate:
            shape, numbers = self._shape.name, values(self, self.dynamics)
        else:  # a subclass has one of its own
            own, numbers = self.surrogate, values(self, [name for name in self.dynamics if name not in SURROGATE])
            shape = own.name
            numbers |= zip(SURROGATE, map(torch.as_tensor, (own.parameter, own.height)), strict=True)
        return Spec(How(self.kind, self.reset, self.detach_reset, shape), numbers)

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step: the definition.

        Raises:
            ValueError: a gradient is wanted, and the neuron has a rule: that knows sequences.
        """
        if (
            self.rule is not None
            and torch.is_grad_enabled()
            and any(getattr(each, "requires_grad", False) for each in (current, *leaves(state), *self.parameters()))
        ):
            raise ValueError(
                f"the rule {self.rule.name!r} has no gradient of single steps: call the neuron with [T, B, ...], got "
                f"a step of {list(current.shape)}; where none is wanted, call it within torch.no_grad()"
            )
        spikes, state, _ = kernels.stepper(self.spec(), current)(current, state)
        return spikes, state

    @property
    def native(self) -> bool:
        """Whether it does what the engines do: not where a step, or a run, is its own."""
        return not altered(self, LIF, "step", "run")

    @property
    def rests(self) -> bool:
        """Whether it starts from zeros: not where its initial state is its own, and may look at the current."""
        return type(self).initial_state in _AT_REST and "initial_state" not in self.__dict__

    @property
    def uniform(self) -> bool:
        """Whether each of them does with its currents what any other would, and hears nothing of the others."""
        return self.native and self.rests and not any(number.dim() for number in self.spec().numbers.values())

    def _ran(
        self, currents: Tensor, state: State, watch: bool = False, spec: Spec | None = None, **options: Any
    ) -> Ran:
        """By an engine, with what it can do along (see `kernels.fire`); by the definition where a step is its own."""
        if spec is None and altered(self, LIF, "step"):
            if self.rule is not None:
                raise ValueError(
                    f"the rule {self.rule.name!r} cannot be used here: {type(self).__name__} has a step of its own"
                )
            return super()._ran(currents, state, watch)
        self.check(currents)
        spec = spec or self.spec()
        if state is not None:
            self._check_state(state, self._rest(currents[0]))
        elif not self.rests:
            state = self.initial_state(currents[0].float() if currents.dtype in HALF else currents[0])
        ran = kernels.fire(spec, currents, state, rule=self.rule, **options)
        if not watch:
            return ran
        potentials = self.potentials(ran.drive, state, spec)
        return ran._replace(potentials=potentials if self.rule is None else potentials.detach())

    def potentials(self, currents: Tensor, state: State = None, spec: Spec | None = None) -> Tensor:
        """Potentials before the reset `[T, B, ...]`, at least float32, from a state (None: rest), by the definition."""
        spec = spec or self.spec()
        x = currents.float() if currents.dtype in HALF else currents
        state = self.initial_state(x[0]) if state is None else state
        (_, potentials), _ = kernels.reference.unroll(kernels.stepper(spec, x[0]), x, state)
        return potentials

    def _rest(self, current: Tensor) -> Any:
        """What a state must be like."""
        return current

    @classmethod
    def _named(cls) -> str:
        """The kind of neuron that it is, or is a subclass of."""
        return next(c.__name__ for c in cls.__mro__ if c.__module__ == __name__)

    def get_extra_state(self) -> Tensor:
        """What travels with the state_dict besides numbers: text, as integers, since all that is in it is a tensor.

        Of 32 bits, so that the states of many can be summed before they are divided by their number.
        """
        about = {
            "neuron": self._named(),
            "reset": self.reset,
            "detach_reset": self.detach_reset,
            "surrogate": self.spec().how.surrogate,
        }
        return torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8).int()

    def set_extra_state(self, state: Any) -> None:
        """Take that back; also of averaged states, or smaller floats, where all of them were alike.

        Raises:
            ValueError: it is of another neuron, with a surrogate that is not known here, or no such text.
        """
        try:
            about = json.loads(bytes(round(one) for one in state.tolist()))
        except (ValueError, OverflowError, AttributeError, TypeError) as error:
            raise ValueError(
                f"_extra_state is not what a {self._named()} keeps (kind, reset, surrogate): it was changed, or is a "
                "mean of neurons that differ: take one neuron's"
            ) from error
        if about["neuron"] != self._named():
            raise ValueError(f"the state is of a {about['neuron']}, and this is a {type(self).__name__}")
        if about["surrogate"] not in SHAPES:
            raise ValueError(f"the state has the surrogate {about['surrogate']}: import the module that defines it")
        self.reset, self.detach_reset = about["reset"], about["detach_reset"]
        self._shape = SHAPES[about["surrogate"]]

    def extra_repr(self) -> str:
        """The arguments."""
        numbers = {name: told(getattr(self, name)) for name in self.dynamics if name not in SURROGATE}
        scale, spec = numbers.pop("input_scale"), self.spec()
        width, height = (spec.numbers[name] for name in SURROGATE)
        if width.is_meta or width.dim() or height.dim() or min(width, height) <= 0:  # (the last: not loaded yet)
            shape = f"{SHAPES[spec.how.surrogate].__name__}({told(width)}, {told(height)})"
        else:
            shape = str(self.surrogate)
        found = [f"{name}={value}" for name, value in numbers.items()]
        found += [f"reset={self.reset!r}, detach_reset={self.detach_reset}, surrogate={shape}, input_scale={scale}"]
        learn = learned(self, self.dynamics)
        return ", ".join(found + ([f"learn={learn}"] if learn else []))


class IF(LIF):
    """Integrate-and-fire neuron: LIF that forgets nothing (decay = 1). Arguments as in `LIF`, but for decay."""

    def __init__(self, threshold: Number = 1.0, *rest: Any, **options: Any) -> None:
        if "decay" in options or "decay" in options.get("learn", ()):
            raise TypeError("IF takes no decay, nor learns it: it is 1; use LIF")
        super().__init__(1.0, threshold, *rest, **options)


class _TwoStates(LIF):
    """A LIF with a state beside the potential."""

    def initial_state(self, current: Tensor) -> State:
        """State at rest for a current `[B, ...]`."""
        return torch.zeros_like(current), torch.zeros_like(current)

    def _rest(self, current: Tensor) -> Any:
        return current, current


class CubaLIF(_TwoStates):
    """LIF with current-based synapses: i[t] = current_decay i[t-1] + I[t], and input_scale i[t] charges it.

    The state is (i, v).

    Args:
        current_decay: share of the synaptic current kept from step to step, in [0, 1].
        rest, options: as in `LIF`, from decay on; current_decay can be learned too.
    """

    kind = "CubaLIF"
    dynamics = ("current_decay", *LIF.dynamics)
    current_decay = number("current_decay", "Share of the synaptic current kept from step to step.")

    def __init__(self, current_decay: Number = 0.5, *rest: Any, **options: Any) -> None:
        super().__init__(*rest, **options, current_decay=current_decay)

    def _watched(self, current: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        output, (i, v) = self.step(current, state)
        return output, (i, v), v


class AdaptiveLIF(_TwoStates):
    """LIF that tires: it fires at threshold + adaptation a[t], with a[t] = adaptation_decay a[t-1] + s[t-1].

    The state is (v, a), with a as the next step will find it. A soft reset subtracts `threshold`.

    Args:
        adaptation_decay: share of a kept from step to step, in [0, 1].
        adaptation: how much it raises the potential at which it fires, >= 0.
        rest, options: as in `LIF`, from decay on, but no delayed reset; both numbers above can be learned too.

    Source: Bellec et al. 2020 (a long short-term memory in spiking networks).
    """

    kind = "AdaptiveLIF"
    dynamics = ("adaptation_decay", "adaptation", *LIF.dynamics)
    resets = RESETS[:3]
    adaptation_decay = number("adaptation_decay", "Share of the adaptation kept from step to step.")
    adaptation = number("adaptation", "How much the adaptation raises the potential at which it fires.")

    def __init__(self, adaptation_decay: Number = 0.9, adaptation: Number = 0.1, *rest: Any, **options: Any) -> None:
        super().__init__(*rest, **options, adaptation_decay=adaptation_decay, adaptation=adaptation)


class LateralLIF(_TwoStates):
    """LIF in a group of which few win: a spike of one takes charge from the others, and makes them refractory.

    With g = (1 - wait / refractory)^2, the gain of inputs while it recovers from a spike (1 without `refractory`):
    u[t] = max(decay v[t-1] + input_scale g I[t], -threshold);  s[t] = u[t] >= threshold;
    v[t] = max(min(u[t] - threshold s[t], threshold) + inhibition threshold (number of others that fire), -threshold).
    A group is the channels of a place (axis 2 of the currents): of a layer of units, all. A spike sets `wait`, with
    inhibition that of its whole group, to refractory - 1; else it falls by one a step, down to 0. State (v, wait).

    Args:
        inhibition: charge in thresholds that a spike adds to each of the others, in [-1, 0]; one number.
        refractory: steps until inputs count in full again, >= 0; one number.
        rest, options: as in `LIF`, from decay on; the reset is "soft".

    Raises:
        ValueError: more than one inhibition or refractory time, or one of them to be learned.

    Source: Lee, Delbruck and Pfeiffer 2016, on a grid of time.
    """

    kind = "LateralLIF"
    dynamics = ("inhibition", "refractory", *LIF.dynamics)
    resets = ("soft",)
    inhibition = number("inhibition", "Charge in thresholds that a spike adds to each other one of its group.")
    refractory = number("refractory", "Steps until inputs count in full again.")

    def __init__(self, inhibition: Number = 0.0, refractory: Number = 0.0, *rest: Any, **options: Any) -> None:
        learn = options.get("learn", ())
        for name, value in (("inhibition", inhibition), ("refractory", refractory)):
            if name in learn or (isinstance(value, Tensor) and value.dim()):
                raise ValueError(f"LateralLIF: {name} must be one number, and cannot be learned, got {value!r}")
        super().__init__(*rest, **options, inhibition=inhibition, refractory=refractory)

    @property
    def uniform(self) -> bool:
        """Not these."""
        return False

    def check(self, currents: Tensor) -> None:
        """As for any neuron; and there must be channels, which are its group."""
        super().check(currents)
        if currents.dim() < 3:
            raise ValueError(f"LateralLIF: currents must be [T, B, C, ...], got shape {list(currents.shape)}")


_AT_REST = (Neuron.initial_state, _TwoStates.initial_state)
