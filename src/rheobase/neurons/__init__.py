"""Spiking neurons: sequence in, sequence out, from rest at each call.

`neuron(currents)` maps `[T, B, ...]` to spikes of the same shape. No module keeps a state between calls; who streams
passes it by hand: `spikes, state = neuron.run(currents, state)`.
"""

from rheobase.neurons.base import Neuron
from rheobase.neurons.integrator import Integrator
from rheobase.neurons.lif import IF, LIF, AdaptiveLIF, CubaLIF, LateralLIF
from rheobase.neurons.pooled import MaxSpikes
from rheobase.neurons.recurrent import Recurrent
from rheobase.neurons.refractory import RefractoryLIF
from rheobase.neurons.soft import SoftLIF

__all__ = [
    "IF",
    "LIF",
    "AdaptiveLIF",
    "CubaLIF",
    "Integrator",
    "LateralLIF",
    "MaxSpikes",
    "Neuron",
    "Recurrent",
    "RefractoryLIF",
    "SoftLIF",
]
