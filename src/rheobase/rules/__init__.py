"""Gradient rules other than surrogate BPTT: how a gradient passes a neuron. `neuron.rule = rb.rules.Membrane()`."""

from rheobase.rules.membrane import Membrane

__all__ = ["Membrane"]
