"""Gradient rules other than surrogate BPTT: how a gradient passes a neuron. `neuron.rule = rb.rules.Membrane()`."""

from rheobase.rules.membrane import Membrane
from rheobase.rules.neighborhood import Neighborhood
from rheobase.rules.spike_train import SpikeTrain

__all__ = ["Membrane", "Neighborhood", "SpikeTrain"]
