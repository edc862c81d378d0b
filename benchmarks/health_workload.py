"""What it costs to look at a net's health and to tune it, against a training step on the same batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheobase as rb
from benchmarks.harness import Call, Case, Table, measure
from benchmarks.network_workloads import images

NETS: dict[str, tuple[str, dict[str, Any], int, int, int]] = {
    "mlp 256-256": ("mlp", {"layers": "256-256", "image_size": 28}, 4, 64, 28),
    "plain_convnet of 6 layers, width 16": ("plain_convnet", {"depth": 6, "width": 16}, 4, 32, 32),
    "sew_resnet18, width 16": ("sew_resnet18", {"width": 16}, 4, 32, 32),
    "spiking_resnet50, width 8": ("spiking_resnet50", {"width": 8}, 10, 32, 16),
}
"""By title: name in the registry, options, T, B, pixels a side."""


def busy(call: Call, count: int) -> float:
    """By the process's own clock, which does not count what else the machine does."""
    start = time.process_time()
    for _ in range(count):
        call()
    return time.process_time() - start


def still(net: nn.Module, loss: Callable[[], Tensor]) -> Call:
    """Forward, loss, backward and AdamW; at a rate of 0, so that all cases meet the same net."""
    optimizer = torch.optim.AdamW(net.parameters(), 0.0, weight_decay=0.0)

    def call() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return call


def _step(net: nn.Module, x: Tensor, labels: Tensor) -> Call:
    """A step of cross entropy."""
    return still(net, lambda: F.cross_entropy(rb.readout(net(x)), labels))


def _tune(net: nn.Module, x: Tensor, labels: Tensor) -> Call:
    """Tuning, with a held-out batch as large as the other; then the surrogates are as before."""
    given = {neuron: neuron.surrogate for neuron in net.modules() if isinstance(neuron, rb.LIF)}

    def call() -> None:
        rb.tune(net, x, labels, held_out=(x.flip(0), labels.flip(0)))
        for neuron, surrogate in given.items():
            neuron.surrogate = surrogate

    return call


def _probe(net: nn.Module, x: Tensor, labels: Tensor, preset: Any) -> Call:
    return partial(rb.probe, net, x, labels, preset)


def health(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """A training step, probes, and tuning, on one batch; seconds of the process."""
    for title, (name, options, steps, batch, size) in list(NETS.items())[: 1 if quick else None]:
        torch.manual_seed(0)
        net = rb.models.create(name, classes=10, steps=steps, **options)
        x, labels = images(batch, size), torch.arange(batch) % 10
        cases = [
            Case("training step", partial(_step, net, x, labels)),
            Case("probe, quick", partial(_probe, net, x, labels, "quick")),
            Case("probe", partial(_probe, net, x, labels, "standard")),
            Case("tune", partial(_tune, net, x, labels)),
        ]
        yield measure(f"{title}, T={steps}, B={batch}, {size}x{size}", cases, repeats, warmup=1, clock=busy)
