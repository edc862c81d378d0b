"""A rate neuron that trains an ANN, whose spiking twin is a LIF with a refractory period."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheobase.kernels.spec import HALF
from rheobase.neurons.base import strange
from rheobase.neurons.numbers import single
from rheobase.neurons.refractory import RefractoryLIF

EDGE = 40.0
"""log(softplus(y)) is y below -EDGE, and softplus(y) is y above EDGE, to the last digit of float64."""


class SoftLIF(nn.Module):
    """Rate neuron: how often a LIF neuron fires under a constant current, with its threshold smoothed.

    The drive is J = gain x + 1 and the threshold 1, so that it fires from x = 0 on. With
    j = smoothing softplus((J - 1) / smoothing), which goes to max(J - 1, 0) as smoothing goes to 0,
    y(x) = amplitude / (tau_ref + tau_rc log(1 + 1/j)): spikes a second, times the amplitude.

    In training, where J > 1, the output is max(y + amplitude noise n, 0), with n standard normal for each value and
    call: rates that are told by spikes vary. Gradients are those without noise. The n come from torch's generator, as
    what dropout draws: in a run they are a function of (seed, step, process). In evaluation there is no noise.

    It keeps no state and takes each value by itself: `[T, B, ...]` -> `[T, B, ...]` in nets of ours (T is 1 in an ANN
    twin), `[B, ...]` -> `[B, ...]` in an ANN of torch. Values and gradients are finite for all finite x.

    Args:
        tau_rc: time constant of the membrane, in seconds, > 0.
        tau_ref: refractory period, in seconds, > 0.
        amplitude: of a spike, > 0; outputs are below amplitude / tau_ref.
        gain: factor on x, > 0.
        smoothing: width of the threshold, > 0.
        noise: standard deviation of the rates in training, in spikes a second, >= 0.

    Raises:
        ValueError: an argument that is not one number, or out of range.
        TypeError: in the forward pass, an x that is not a floating point tensor.

    Source: Hunsberger and Eliasmith 2016; the defaults are those of their networks for MNIST and SVHN.
    """

    def __init__(
        self,
        tau_rc: float = 0.022,
        tau_ref: float = 0.002,
        amplitude: float = 0.063,
        gain: float = 1.0,
        smoothing: float = 0.02,
        noise: float = 10.0,
    ) -> None:
        super().__init__()
        self.tau_rc = single("SoftLIF", "tau_rc", tau_rc)
        self.tau_ref = single("SoftLIF", "tau_ref", tau_ref)
        self.amplitude = single("SoftLIF", "amplitude", amplitude)
        self.gain = single("SoftLIF", "gain", gain)
        self.smoothing = single("SoftLIF", "smoothing", smoothing)
        self.noise = single("SoftLIF", "noise", noise)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, in the shape and dtype of x."""
        if (got := strange(x)) is not None:
            raise TypeError(f"SoftLIF: x must be a dense floating point tensor, got {got}")
        wide = x.float() if x.dtype in HALF else x
        y = self.amplitude / (self.tau_ref + self.tau_rc * _softplus(-self._log_drive(wide)))
        if self.training and self.noise:
            with torch.no_grad():
                n = torch.randn(y.shape, dtype=y.dtype, device=y.device)  # (randn_like draws in the order of memory)
                noisy = torch.add(y, n, alpha=self.amplitude * self.noise).clamp_(min=0)
                away = torch.where(wide > 0, noisy - y, 0)
            y = y + away
        return y.to(x.dtype)

    def _log_drive(self, x: Tensor) -> Tensor:
        """log j: j itself would be 0 where its rate is not (log(1 + 1/j) is softplus(-log j))."""
        y = x * (self.gain / self.smoothing)
        soft = _softplus(y.clamp(min=-EDGE)).log() - F.relu(-EDGE - y)
        return soft + math.log(self.smoothing)

    def spiking(self, dt: float = 0.001, synapse: float = 0.002) -> RefractoryLIF:
        """Its spiking twin, of whose spikes each stands for amplitude / dt.

        Args:
            dt: duration of a time step, in seconds, > 0 and <= tau_ref.
            synapse: time constant of the synaptic filter on its input, in seconds; 0: none.
        """
        return RefractoryLIF(dt, self.tau_rc, self.tau_ref, self.gain, synapse)

    def extra_repr(self) -> str:
        """The arguments."""
        names = ("tau_rc", "tau_ref", "amplitude", "gain", "smoothing", "noise")
        return ", ".join(f"{name}={getattr(self, name):g}" for name in names)


def _softplus(x: Tensor) -> Tensor:
    return F.softplus(x, threshold=EDGE)
