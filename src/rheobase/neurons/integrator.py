"""A neuron without spikes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rheobase.kernels.spec import fitted
from rheobase.neurons.base import Neuron
from rheobase.neurons.lif import Number
from rheobase.neurons.numbers import declare, learned, number, told


class Integrator(Neuron):
    """Leaky integrator without spikes, for readouts: v[t] = decay v[t-1] + input_scale I[t], and v[t] is the output.

    Args:
        decay: share of the potential kept from step to step, in [0, 1]; a number, or a tensor as in `LIF`.
        input_scale: factor on the current, > 0.
        learn: which of the two to learn.
    """

    dynamics = ("decay", "input_scale")
    decay = number("decay", "Share of the potential kept from step to step.")
    input_scale = number("input_scale", "Factor on the current.")

    def __init__(self, decay: Number = 1.0, input_scale: Number = 1.0, learn: Sequence[str] = ()) -> None:
        super().__init__()
        declare(self, {"decay": decay, "input_scale": input_scale}, learn)

    def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One time step."""
        decay, scale = (fitted(name, getattr(self, name), current) for name in self.dynamics)
        v = decay * state + scale * current
        return v, v

    def extra_repr(self) -> str:
        """The arguments."""
        learn = learned(self, self.dynamics)
        found = ", ".join(f"{name}={told(getattr(self, name))}" for name in self.dynamics)
        return f"{found}, learn={learn}" if learn else found
