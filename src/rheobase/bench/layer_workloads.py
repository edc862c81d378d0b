"""Single layers, forward and backward: LIF, and norm with LIF."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.bench.harness import Call, Case, Table, measure
from rheobase.bench.rivals import NEURONS, Layer, Neuron, layers

SAMPLE = 0.02  # seconds


def backward(layer: Layer, x: Tensor, grad: Tensor) -> Call:
    """Forward and backward of a layer, down to the gradient of its input."""

    def call() -> None:
        x.grad = None
        layer(x).backward(grad)

    return call


def cases(neuron: Neuron, call: Callable[[Layer], Call]) -> list[Case]:
    """Our neuron and its rivals, each under `call`."""
    found = [Case("rheobase", partial(call, neuron.ours()))]
    for name, layer, why_not in layers(neuron):
        found.append(Case(name, partial(call, layer) if layer else None, why_not))
    return found


def _loop(compiled: bool) -> Layer:
    """The definition, step by step in plain torch with autograd."""
    lif = rb.LIF()

    def layer(currents: Tensor) -> Tensor:
        with rb.engine("reference"):
            spikes: Tensor = lif(currents)
            return spikes

    return torch.compile(layer) if compiled else layer


def _copies(x: Tensor) -> Call:
    """Copy the least bytes.

    Forward reads the currents and writes the spikes; backward reads the spikes' gradient and the currents, and writes
    the currents' gradient: five passes over memory, which are two copies and a half.
    """
    a = x.detach()
    b = torch.empty_like(a)
    half = len(a) // 2

    def call() -> None:
        b.copy_(a)
        b.copy_(a)
        b[:half].copy_(a[:half])

    return call


def lif(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """One LIF layer, against a plain loop, the least bytes, and other libraries' layers."""
    for shape in [(10, 32, 1024)] if quick else [(10, 32, 65536), (100, 64, 512)]:
        x, grad = torch.randn(shape).requires_grad_(), torch.randn(shape)
        for number, neuron in enumerate(NEURONS):
            rows = cases(neuron, partial(backward, x=x, grad=grad))
            if number == 0:
                rows.insert(1, Case("torch loop", partial(backward, _loop(False), x, grad)))
                if compiled:
                    rows.insert(2, Case("torch.compile of the loop", partial(backward, _loop(True), x, grad)))
                rows.append(Case("copy of the least bytes", partial(_copies, x)))
            size = " x ".join(map(str, shape))
            yield measure(f"{neuron.title}, forward and backward, T x B x N = {size}", rows, repeats, least=SAMPLE)


class _NormLIF(nn.Module):
    """What a spiking ResNet puts after a convolution, on `[T*B, C, H, W]`."""

    def __init__(self, channels: int, steps: int) -> None:
        super().__init__()
        self.fire = rb.Fire(rb.CurrentNorm(channels), rb.LIF())
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.fire(x.unflatten(0, (self.steps, -1)))
        return spikes.flatten(0, 1)


def norm(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """CurrentNorm and LIF at the shapes of a CIFAR ResNet-18, channels last, against BatchNorm2d and ReLU."""
    steps, batch = 4, 16
    shapes = [(16, 8)] if quick else [(64, 32), (128, 16), (256, 8), (512, 4)]
    for dtype, (channels, size) in itertools.product((torch.float32, torch.bfloat16), shapes):
        x = torch.randn(steps * batch, channels, size, size).contiguous(memory_format=torch.channels_last).to(dtype)
        x.requires_grad_()
        grad = torch.randn_like(x)
        twin = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        rows = [
            Case("rheobase", partial(backward, _NormLIF(channels, steps), x, grad)),
            Case("BatchNorm2d and ReLU", partial(backward, twin, x, grad)),
        ]
        name = f"{str(dtype).removeprefix('torch.')}, T={steps}, B={batch}, {channels} x {size} x {size}"
        yield measure(f"CurrentNorm and LIF, forward and backward, {name}", rows, repeats, least=SAMPLE)
