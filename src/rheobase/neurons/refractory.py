"""A LIF in seconds: with a refractory period, a synaptic filter, and spikes at any moment of a step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rheobase.neurons.base import Neuron
from rheobase.neurons.numbers import single
from rheobase.surrogate import spike

TINY = 1e-30
"""What is nothing beside 1: V that by rounding is at the threshold itself, where a LIF never comes, does not fire."""
State = tuple[Tensor, Tensor, Tensor, Tensor]


class RefractoryLIF(Neuron):
    """Leaky integrate-and-fire neuron that rests for a while after each spike: the spiking twin of `SoftLIF`.

    Currents pass two low-passes in a row (an alpha function), each p[t] = k p[t-1] + (1 - k) x[t] with
    k = exp(-dt / synapse), and drive tau_rc dV/dt = -V + gain p + 1, V >= 0, which is solved exactly for a drive that
    is constant in a step. Where V exceeds 1 there is a spike, V is 0 and stays so for tau_ref from that moment,
    inside the step, on: so its rate under a constant current is that of the equation, not of the grid of time.

    Spikes are 0 and 1. The state is (V, seconds that V still rests, the two low-passes). In the backward pass dspike/dV
    is the default surrogate's, and the reset and the moment of a spike count as constants.

    Args:
        dt: duration of a time step, in seconds, > 0 and <= tau_ref.
        tau_rc: time constant of the membrane, in seconds, > 0.
        tau_ref: refractory period, in seconds, > 0.
        gain: factor on currents, > 0.
        synapse: time constant of the synaptic filter, in seconds, >= 0; 0: none.

    Raises:
        ValueError: an argument that is not one number, or out of range.

    Source: Hunsberger and Eliasmith 2016, as Nengo computes it.
    """

    def __init__(
        self,
        dt: float = 0.001,
        tau_rc: float = 0.022,
        tau_ref: float = 0.002,
        gain: float = 1.0,
        synapse: float = 0.002,
    ) -> None:
        super().__init__()
        self.dt = single("RefractoryLIF", "dt", dt)
        self.tau_rc = single("RefractoryLIF", "tau_rc", tau_rc)
        self.tau_ref = single("RefractoryLIF", "tau_ref", tau_ref)
        self.gain = single("RefractoryLIF", "gain", gain)
        self.synapse = single("RefractoryLIF", "synapse", synapse)
        if self.dt > self.tau_ref:
            raise ValueError(
                f"RefractoryLIF: dt must be at most tau_ref ({tau_ref}), else it could fire twice in a step, got {dt}"
            )

    def initial_state(self, current: Tensor) -> State:
        """State at rest for a current `[B, ...]`."""
        v, wait, p, q = (torch.zeros_like(current) for _ in range(4))
        return v, wait, p, q

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step."""
        v, wait, p, q = state
        keep = math.exp(-self.dt / self.synapse) if self.synapse else 0.0
        p = torch.lerp(current, p, keep)
        q = torch.lerp(p, q, keep)
        drive = self.gain * q  # above the threshold
        awake = (self.dt - wait).clamp(min=0)
        u = (v - 1 - (drive + 1 - v) * torch.expm1(awake / -self.tau_rc)).clamp(min=-1)  # V, above the threshold
        s = spike(u - TINY)
        with torch.no_grad():
            since = -self.tau_rc * torch.log1p(-(u / drive).clamp(max=1))
            wait = torch.where(u > TINY, self.tau_ref - since.clamp(max=self.dt), wait - self.dt).clamp(min=0)
        return s, ((u + 1) * (1 - s.detach()), wait, p, q)

    def extra_repr(self) -> str:
        """The arguments."""
        names = ("dt", "tau_rc", "tau_ref", "gain", "synapse")
        return ", ".join(f"{name}={getattr(self, name):g}" for name in names)
