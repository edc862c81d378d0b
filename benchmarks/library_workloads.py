"""The public library benchmark, corrected (W1), and the LIF layer as T grows (W2).

W1 is `open-neuromorphic/snn-library-benchmarks`: a linear layer and one LIF, batch 16, 500 steps; the loss is the sum
of the spikes. Corrected: every library runs all steps with time first, the linear layer is applied to all steps at
once, and the weights make the neurons fire (as published some never did).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Call, Case, Table, measure
from benchmarks.layer_workloads import backward, cases, rate
from benchmarks.rivals import NEURONS, Build, Neuron


def library(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """W1 and W2, for each neuron that a rival has."""
    steps, batch = (20, 4) if quick else (500, 16)
    for size in (32,) if quick else (512, 1024, 4096):
        x = torch.randn(steps, batch, size)
        for neuron in NEURONS:
            rounds = min(repeats, 5) if size > 1024 else repeats
            yield _linear_and_lif(neuron, x, rounds)
    size = 256 if quick else 1 << 16
    for steps in (8,) if quick else (8, 32, 128):
        x, grad = torch.randn(steps, 1, size).requires_grad_(), torch.randn(steps, 1, size)
        for neuron in NEURONS:
            rows = cases(neuron, partial(backward, x=x, grad=grad))
            yield measure(f"W2: {neuron.title}, forward and backward, T={steps}, N={size}", rows, repeats)


def _linear_and_lif(neuron: Neuron, x: Tensor, repeats: int) -> Table:
    size = x.shape[2]
    # currents of standard deviation 0.8 in units of the neuron's own input scale
    weight = nn.Parameter(torch.randn(size, size) * (0.8 / neuron.ours().input_scale / size**0.5))
    rows = cases(neuron, partial(_call, x=x, weight=weight))
    rows.insert(1, Case("linear layer alone", partial(_call, nn.Identity, x, weight)))
    steps, batch, _ = x.shape
    fired = rate(neuron, F.linear(x, weight))
    title = f"W1: linear and {neuron.title}, n={size}, T={steps}, B={batch}, firing rate {fired:.1%}"
    return measure(title, rows, repeats)


def _call(build: Build, x: Tensor, weight: nn.Parameter) -> Call:
    """Forward, sum, and backward down to the weights."""
    layer = build()

    def call() -> None:
        weight.grad = None
        layer(F.linear(x, weight)).sum().backward()

    return call
